//! Who we say we are.

use outrigger_proto::envoy::config::core::v3::{BuildVersion, Node, node::UserAgentVersionType};
use outrigger_proto::envoy::r#type::v3::SemanticVersion;

/// What management servers may rely on; nothing that is not so. The wrapper has two names: Envoy's page has one, gRPC
/// and its servers the other.
const FEATURES: [&str; 3] =
    ["xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw", "xds.config.supports-resource-ttl"];

/// The node of the bootstrap as management servers get it: with our name, our version (`1.2.3`) and what we can.
pub fn identify(mut node: Node, version: &str) -> Node {
    node.user_agent_name = "outrigger".to_owned();
    let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse().ok());
    let mut number = || numbers.next().unwrap_or_default();
    let version = SemanticVersion { major_number: number(), minor_number: number(), patch: number() };
    let build = BuildVersion { version: Some(version), metadata: None };
    node.user_agent_version_type = Some(UserAgentVersionType::UserAgentBuildVersion(build));
    for feature in FEATURES {
        if !node.client_features.iter().any(|other| other == feature) {
            node.client_features.push(feature.to_owned());
        }
    }
    node
}
