//! What the suites of the control plane share.

use std::time::Duration;

/// The suites' own program.
pub(crate) const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// Longer than anything here takes, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The shop that the tests apply.
pub(crate) const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: users}
spec: {ports: [{name: http, port: 80, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: users-v2}
spec: {ports: [{name: http, port: 80, appProtocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{group: '', kind: Service, name: users}]
  rules:
  - backendRefs:
    - {name: users, port: 80, weight: 90}
    - {name: users-v2, port: 80, weight: 10}
";
