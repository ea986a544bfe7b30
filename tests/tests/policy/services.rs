//! One Service for each field of `Service` and `ServicePolicy`, and the requests that show what the field does.

use crate::probe::{self, Scene, faults};

/// A Service with its instances, what else there is, and what is to be seen.
pub(crate) struct Case {
    /// The fields whose effect it shows, as `KIND.path` below `spec`.
    pub(crate) shows: &'static [&'static str],
    /// The `spec` of the Service.
    pub(crate) service: &'static str,
    /// The `spec` of a ServicePolicy, without what it speaks of; empty for none.
    pub(crate) policy: &'static str,
    pub(crate) instances: &'static [Instance],
    /// More objects. In all texts `NAME` is the name of the Service, and `$0` the port of the first instance.
    pub(crate) more: &'static str,
    /// What the proxy is to listen for: `[NAMESPACE/]SERVICE[:PORT]`.
    pub(crate) to: &'static [&'static str],
    pub(crate) probe: fn(&Scene<'_>),
}

/// An instance: what runs there, and the Workload that says so.
pub(crate) struct Instance {
    pub(crate) runs: Runs,
    pub(crate) labels: &'static str,
    /// `spec`, without address and ports.
    pub(crate) spec: &'static str,
    pub(crate) status: &'static str,
}

/// What an instance does with connections.
#[derive(Clone, Copy)]
pub(crate) enum Runs {
    Echo,
    /// HTTP/2; the first stream is refused, further ones are answered.
    Http2RefusingOnce,
    /// HTTP/2; every stream is answered.
    Http2,
    /// Sends back what comes.
    Bytes,
    /// Refuses connections.
    Nothing,
    /// Has no place for connections: they are neither accepted nor refused.
    Full,
}

const fn runs(runs: Runs) -> Instance {
    Instance { runs, labels: "", spec: "services: [{name: NAME}]", status: "" }
}

const ECHO: Instance = runs(Runs::Echo);
const UNREADY: Instance = Instance { status: "health: Unhealthy", ..ECHO };
const DRAINING: Instance = Instance { status: "health: Draining", ..ECHO };
const ONE: &[Instance] = &[ECHO];
const TWO: &[Instance] = &[ECHO, ECHO];

/// What cases are like where they say nothing else.
const PLAIN: Case = Case {
    shows: &[],
    service: "ports: [{port: 80, targetPort: web}]",
    policy: "",
    instances: ONE,
    more: "",
    to: &["NAME"],
    probe: |_| {},
};

const fn policy(shows: &'static [&'static str], policy: &'static str, probe: fn(&Scene<'_>)) -> Case {
    Case { shows, policy, probe, ..PLAIN }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        shows: &["Service.ports.name", "Service.ports.port", "Service.ports.targetPort"],
        service: "ports: [{name: a, port: 80, targetPort: web}, {name: b, port: 81, targetPort: $1}, {name: c, port: $0}]",
        instances: &[ECHO, Instance { spec: "", ..ECHO }],
        to: &["NAME", "NAME:b", "NAME:81", "NAME:c"],
        probe: |scene| {
            for (at, name) in ["one", "two", "two", "one"].into_iter().enumerate() {
                scene.expect_at(at, "GET /", &["200 ", &format!("\n{name} GET /\n")]);
            }
        },
        ..PLAIN
    },
    Case {
        shows: &["Service.ports.protocol"],
        service: "ports: [{name: udp, port: 80, protocol: UDP}, {name: tcp, port: 80, protocol: TCP, targetPort: web}]",
        to: &["NAME", "NAME:udp"],
        probe: |scene| {
            scene.expect("GET /", &["200 "]);
            scene.expect_at(1, "GET /", &["503 ", "has no port udp"]);
        },
        ..PLAIN
    },
    Case {
        shows: &["Service.ports.appProtocol"],
        service: "ports: [{port: 80, targetPort: web, appProtocol: http}]",
        probe: |scene| assert_eq!(faults(&["one GET /x"], &scene.ask_by_http2("/x")), ""),
        ..PLAIN
    },
    Case {
        shows: &["Service.ports.appProtocol"],
        service: "ports: [{port: 80, targetPort: web, appProtocol: kubernetes.io/h2c}]",
        instances: &[runs(Runs::Http2)],
        probe: |scene| scene.expect("GET /", &["200 ", "by HTTP/2"]),
        ..PLAIN
    },
    Case {
        shows: &["Service.ports.appProtocol"],
        service: "ports: [{port: 80, targetPort: web, appProtocol: tcp}]",
        instances: &[runs(Runs::Bytes)],
        probe: probe::bytes_pass,
        ..PLAIN
    },
    Case {
        shows: &["Service.selector"],
        service: "selector: {app: NAME}, ports: [{port: 80, targetPort: web}]",
        instances: &[Instance { spec: "", labels: "app: NAME, version: v2", ..ECHO }, ECHO],
        probe: |scene| assert_eq!(scene.names(4), ["one"; 4]),
        ..PLAIN
    },
    Case {
        shows: &["Service.clusterIP"],
        service: "clusterIP: None, ports: [{port: 80, targetPort: web}]",
        more: REDIRECT,
        probe: |scene| scene.expect("GET /", &["200 "]),
        ..PLAIN
    },
    Case {
        shows: &["Service.clusterIPs"],
        service: "clusterIPs: [None], ports: [{port: 80, targetPort: web}]",
        more: REDIRECT,
        probe: |scene| scene.expect("GET /", &["200 "]),
        ..PLAIN
    },
    Case {
        shows: &["Service.publishNotReadyAddresses"],
        service: "publishNotReadyAddresses: true, ports: [{port: 80, targetPort: web}]",
        policy: "balancing: {algorithm: RoundRobin}",
        instances: &[ECHO, UNREADY],
        probe: |scene| assert_eq!(scene.distinct(4), ["one", "two"]),
        ..PLAIN
    },
    // `panicPercent` does not make instances of those that are not ready.
    Case {
        policy: "balancing: {panicPercent: 100}",
        instances: &[UNREADY, Instance { spec: "services: [{name: NAME-ready}]", ..ECHO }],
        more: "---\napiVersion: v1\nkind: Service\nmetadata: {name: NAME-ready}\nspec: {ports: [{port: 80, targetPort: web}]}\n",
        to: &["NAME", "NAME-ready"],
        probe: |scene| {
            scene.expect_at(1, "GET /", &["200 "]);
            scene.expect("GET /", &["503 ", "no healthy upstream"]);
        },
        ..PLAIN
    },
    Case {
        policy: "balancing: {algorithm: RoundRobin, panicPercent: 100}",
        instances: &[ECHO, DRAINING, DRAINING],
        probe: |scene| assert_eq!(scene.names(4), ["one"; 4]),
        ..PLAIN
    },
    Case {
        shows: &["HTTPRoute.parentRefs.sectionName"],
        service: "ports: [{name: a, port: 80, targetPort: web}, {name: b, port: 81, targetPort: web}]",
        more: "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: NAME}\nspec: {parentRefs: [{group: '', kind: Service, name: NAME, sectionName: b}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}]}]}\n",
        to: &["NAME:a", "NAME:b"],
        probe: |scene| {
            scene.expect("GET /", &["200 "]);
            scene.expect_at(1, "GET /", &["302 "]);
        },
        ..PLAIN
    },
    // Of one port, to another one of the same Service.
    Case {
        shows: &["HTTPRoute.parentRefs.port", "HTTPRoute.rules.backendRefs.port"],
        service: "ports: [{name: a, port: 80, targetPort: web}, {name: b, port: 81, targetPort: $1}]",
        instances: &[ECHO, Instance { spec: "", ..ECHO }],
        more: "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: NAME}\nspec: {parentRefs: [{group: '', kind: Service, name: NAME, port: 80}], rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-routed, value: '1'}]}}], backendRefs: [{name: NAME, port: 81}]}]}\n",
        to: &["NAME:a", "NAME:b"],
        probe: |scene| {
            scene.expect("GET /", &["200 ", "\ntwo GET /\n", "x-routed: 1\n"]);
            scene.expect_at(1, "GET /", &["200 ", "\ntwo GET /\n", "!x-routed"]);
        },
        ..PLAIN
    },
    Case {
        shows: &["HTTPRoute.parentRefs.namespace", "HTTPRoute.rules.backendRefs.namespace"],
        instances: TWO,
        more: "---\napiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: far}\nspec: {ports: [{port: 80, targetPort: $1}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: NAME-other, namespace: far}\nspec: {selector: {app: NAME-other}, ports: [{port: 80, targetPort: $1}]}\n---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {name: NAME-other, namespace: far, labels: {app: NAME-other}}\nspec: {addresses: [127.0.0.1]}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: NAME}\nspec: {parentRefs: [{group: '', kind: Service, name: NAME, namespace: far}], rules: [{backendRefs: [{name: NAME-other, namespace: far, port: 80}]}]}\n",
        to: &["far/NAME"],
        probe: |scene| scene.expect("GET /", &["200 ", "\ntwo GET /\n"]),
        ..PLAIN
    },
    Case {
        shows: &["ServicePolicy.targetRefs.sectionName"],
        service: "ports: [{name: a, port: 80, targetPort: web}, {name: b, port: 81, targetPort: web}]",
        policy: "timeouts: {request: 50ms}",
        to: &["NAME:a", "NAME:b"],
        probe: |scene| {
            scene.expect("GET /slow\nx-delay: 200", &["200 "]);
            scene.expect_at(1, "GET /hangs\nx-hang: 1", &["504 "]);
        },
        ..PLAIN
    },
    Case {
        instances: TWO,
        ..policy(&["ServicePolicy.balancing.algorithm"], "balancing: {algorithm: RoundRobin}", |scene| {
            let names = scene.names(8);
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        })
    },
    Case {
        instances: TWO,
        ..policy(&["ServicePolicy.balancing.algorithm"], "balancing: {algorithm: Random}", |scene| {
            let names = scene.names(64);
            assert!(names.windows(2).any(|pair| pair[0] == pair[1]), "{names:?}");
            assert!(names.windows(2).any(|pair| pair[0] != pair[1]), "{names:?}");
        })
    },
    // With two choices, each of the requests would meet the busy instance twice, and go there, in one case of four.
    Case {
        instances: TWO,
        ..policy(
            &["ServicePolicy.balancing.algorithm", "ServicePolicy.balancing.choices"],
            "balancing: {algorithm: LeastRequest, choices: 40}",
            probe::the_idle_instance_is_chosen,
        )
    },
    Case { instances: &[DRAINING], probe: |scene| scene.expect("GET /", &["200 "]), ..PLAIN },
    Case {
        instances: &[DRAINING],
        ..policy(&["ServicePolicy.balancing.panicPercent"], "balancing: {panicPercent: 0}", |scene| {
            scene.expect("GET /", &["503 ", "no healthy upstream"]);
        })
    },
    policy(&["ServicePolicy.limits.connections"], "limits: {connections: 1}", probe::the_second_waits),
    policy(&["ServicePolicy.limits.pending"], "limits: {connections: 1, pending: 1}", probe::one_may_wait),
    policy(&["ServicePolicy.limits.requests"], "limits: {requests: 1}", |scene| {
        let first = scene.send("GET /first\nx-hold: 1");
        assert!(scene.echo(0).waits_with(1));
        scene.expect("GET /second", &["503 ", "x-envoy-overloaded: true\n"]);
        scene.echo(0).release();
        assert!(probe::read(first).starts_with("200 "));
    }),
    Case {
        instances: TWO,
        ..policy(
            &["ServicePolicy.limits.perHostConnections"],
            "limits: {perHostConnections: 1}, balancing: {algorithm: RoundRobin}",
            probe::one_connection_for_each,
        )
    },
    policy(&["ServicePolicy.limits.requestsPerConnection"], "limits: {requestsPerConnection: 1}", |scene| {
        scene.expect("GET /", &["connection 1\n"]);
        scene.expect("GET /", &["connection 2\n"]);
    }),
    policy(
        &["ServicePolicy.retry.attempts", "ServicePolicy.retry.codes"],
        "retry: {attempts: 4, codes: [418], backoff: {base: 1ms}}",
        |scene| {
            scene.expect("GET /four\nx-fail: 418 4", &["200 ", "asked 5\n"]);
            scene.expect("GET /five\nx-fail: 418 9", &["418 ", "asked 5\n"]);
            scene.expect("GET /other\nx-fail: 500 1", &["500 ", "asked 1\n"]);
        },
    ),
    Case {
        instances: &[ECHO, runs(Runs::Nothing)],
        ..policy(
            &["ServicePolicy.retry.on"],
            "retry: {on: [connectFailure], backoff: {base: 1ms}}, balancing: {algorithm: RoundRobin}",
            |scene| assert_eq!(scene.names(6), ["one"; 6]),
        )
    },
    // Without the cause that is meant, every other request fails.
    Case {
        instances: &[ECHO, runs(Runs::Nothing)],
        ..policy(
            &["ServicePolicy.retry.on"],
            "retry: {on: [unavailable]}, balancing: {algorithm: RoundRobin}",
            |scene| {
                let failed = (0..6).filter(|_| scene.ask("GET /").starts_with("503 ")).count();
                assert_eq!(failed, 3);
            },
        )
    },
    Case {
        instances: &[ECHO, runs(Runs::Nothing)],
        ..policy(
            &["ServicePolicy.retry.on"],
            "retry: {on: [unread], backoff: {base: 1ms}}, balancing: {algorithm: RoundRobin}",
            |scene| assert_eq!(scene.names(6), ["one"; 6]),
        )
    },
    Case {
        instances: &[runs(Runs::Http2RefusingOnce)],
        ..policy(
            &["ServicePolicy.retry.on"],
            "retry: {on: [refused], backoff: {base: 1ms}}, connection: {protocol: HTTP2}",
            |scene| scene.expect("GET /", &["200 ", "by HTTP/2"]),
        )
    },
    policy(&["ServicePolicy.retry.on"], "retry: {on: [unavailable], backoff: {base: 1ms}}", |scene| {
        scene.expect("GET /\nx-grpc: 14 1", &["200 ", "asked 2\n", "!grpc-status"]);
        scene.expect("GET /other\nx-grpc: 13 1", &["asked 1\n", "grpc-status: 13\n"]);
    }),
    policy(&["ServicePolicy.retry.on"], "retry: {on: [gatewayError], backoff: {base: 1ms}}", |scene| {
        scene.expect("GET /\nx-fail: 502 1", &["200 ", "asked 2\n"]);
        scene.expect("GET /other\nx-fail: 500 1", &["500 ", "asked 1\n"]);
    }),
    policy(&["ServicePolicy.retry.on"], "retry: {on: [reset], backoff: {base: 1ms}}", |scene| {
        scene.expect("GET /\nx-drop: 1", &["200 ", "asked 2\n"]);
    }),
    policy(&["ServicePolicy.retry.on"], "retry: {on: [5xx], backoff: {base: 1ms}}", |scene| {
        scene.expect("GET /\nx-fail: 507 1", &["200 ", "asked 2\n"]);
    }),
    policy(&["ServicePolicy.retry.grpcCodes"], "retry: {grpcCodes: [internal], backoff: {base: 1ms}}", |scene| {
        scene.expect("GET /\nx-grpc: 13 1", &["200 ", "asked 2\n", "!grpc-status"]);
        scene.expect("GET /other\nx-grpc: 1 1", &["asked 1\n", "grpc-status: 1\n"]);
    }),
    // Waits are random, up to the bound: 100 of them are 12.5 s on an average where one of both has no effect.
    policy(
        &["ServicePolicy.retry.backoff.base", "ServicePolicy.retry.backoff.max"],
        "retry: {attempts: 100, codes: [500], backoff: {base: 1ms, max: 2ms}}",
        probe::retries_are_quick,
    ),
    policy(
        &["ServicePolicy.retry.backoff.max"],
        "retry: {attempts: 100, codes: [500], backoff: {base: 25ms, max: 25ms}}",
        probe::retries_are_quick,
    ),
    policy(
        &["ServicePolicy.retry.bufferBytes"],
        "retry: {codes: [500], bufferBytes: 10, backoff: {base: 1ms}}",
        |scene| {
            scene.expect("POST /small\nx-fail: 500 1\ncontent-length: 5\n\nsmall", &["200 ", "asked 2\n"]);
            scene.expect("POST /large\nx-fail: 500 1\ncontent-length: 16\n\nlarger than that", &["500 ", "asked 1\n"]);
        },
    ),
    // Of twenty that want to be tried again, the budget's least number may; they wait for years, so none makes room.
    policy(
        &["ServicePolicy.retry.budget.percent"],
        "retry: {on: [gatewayError], budget: {percent: 0}, backoff: {base: 99999h}}",
        |scene| probe::retried_of_twenty(scene, 10),
    ),
    policy(
        &["ServicePolicy.retry.budget.percent"],
        "retry: {on: [gatewayError], budget: {percent: 100}, backoff: {base: 99999h}}",
        |scene| probe::retried_of_twenty(scene, 20),
    ),
    policy(&["ServicePolicy.timeouts.request"], "timeouts: {request: 50ms}", |scene| {
        scene.expect("GET /\nx-hang: 1", &["504 "]);
    }),
    policy(
        &["ServicePolicy.timeouts.attempt"],
        "timeouts: {attempt: 300ms}, retry: {on: [gatewayError], backoff: {base: 1ms}}",
        |scene| scene.expect("GET /\nx-hang: 1", &["200 ", "asked 2\n"]),
    ),
    policy(&["ServicePolicy.timeouts.streamIdle"], "timeouts: {streamIdle: 50ms}", |scene| {
        scene.expect("GET /\nx-hang: 1", &["504 ", "stream timeout"]);
    }),
    policy(&["ServicePolicy.timeouts.maxStream"], "timeouts: {maxStream: 50ms}", |scene| {
        scene.expect("GET /\nx-hang: 1", &["504 "]);
    }),
    policy(&["ServicePolicy.timeouts.grpcDeadline"], "timeouts: {grpcDeadline: Honour}", |scene| {
        scene.expect("POST /\ncontent-type: application/grpc\ngrpc-timeout: 50m\nx-hang: 1", &["grpc-status: 4\n"]);
    }),
    // Beside a timeout of the route the shorter one holds, and ends the request as that does.
    policy(&["ServicePolicy.timeouts.grpcDeadline"], "timeouts: {grpcDeadline: Honour, request: 10m}", |scene| {
        scene.expect("POST /\ncontent-type: application/grpc\ngrpc-timeout: 50m\nx-hang: 1", &["grpc-status: 14\n"]);
    }),
    policy(&["ServicePolicy.timeouts.grpcDeadline"], "timeouts: {grpcDeadline: Honour, request: 50ms}", |scene| {
        scene.expect("POST /\ncontent-type: application/grpc\ngrpc-timeout: 10M\nx-hang: 1", &["grpc-status: 14\n"]);
    }),
    policy(&["ServicePolicy.timeouts.grpcDeadline"], "timeouts: {grpcDeadline: Ignore}", |scene| {
        let request = "POST /\ncontent-type: application/grpc\ngrpc-timeout: 1m\nx-delay: 200";
        scene.expect(request, &["200 ", "asked 1\n", "!grpc-status"]);
    }),
    Case {
        instances: &[runs(Runs::Full)],
        ..policy(
            &["ServicePolicy.connection.connectTimeout"],
            "connection: {connectTimeout: 50ms}, timeouts: {request: 4s}, retry: {attempts: 0}",
            |scene| scene.expect("GET /", &["503 "]),
        )
    },
    policy(&["ServicePolicy.connection.idleTimeout"], "connection: {idleTimeout: 50ms}", |scene| {
        scene.expect("GET /", &["200 "]);
        assert!(scene.echo(0).was_left(1));
    }),
    policy(&["ServicePolicy.connection.maxDuration"], "connection: {maxDuration: 100ms}", |scene| {
        scene.expect("GET /", &["200 "]);
        assert!(scene.echo(0).was_left(1));
    }),
    policy(
        &[
            "ServicePolicy.connection.tcpKeepalive.idle",
            "ServicePolicy.connection.tcpKeepalive.interval",
            "ServicePolicy.connection.tcpKeepalive.probes",
        ],
        "connection: {tcpKeepalive: {idle: 7s, interval: 3s, probes: 5}}",
        probe::keepalive_is_set,
    ),
    policy(&["ServicePolicy.connection.protocol"], "connection: {protocol: HTTP1}", |scene| {
        assert_eq!(faults(&["one GET /x"], &scene.ask_by_http2("/x")), "");
    }),
    Case {
        instances: &[runs(Runs::Http2)],
        ..policy(&["ServicePolicy.connection.protocol"], "connection: {protocol: HTTP2}", |scene| {
            scene.expect("GET /", &["200 ", "by HTTP/2"]);
        })
    },
    Case {
        instances: &[runs(Runs::Bytes)],
        ..policy(&["ServicePolicy.connection.protocol"], "connection: {protocol: TCP}", probe::bytes_pass)
    },
];

/// A route of the Service that has no effect if it is no parent.
const REDIRECT: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: NAME}\n\
    spec: {parentRefs: [{group: '', kind: Service, name: NAME}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}]}]}\n";

impl Case {
    /// Its objects; `ports` are those of its instances.
    pub(crate) fn objects(&self, name: &str, ports: &[u16]) -> String {
        let mut text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: NAME}}\nspec: {{{}}}\n", self.service);
        for (index, (Instance { labels, spec, status, .. }, port)) in self.instances.iter().zip(ports).enumerate() {
            text += &format!(
                "---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: NAME-{index}, labels: {{{labels}}}}}\n\
                 spec: {{addresses: [127.0.0.1], ports: {{web: {port}}}, {spec}}}\nstatus: {{{status}}}\n"
            );
        }
        if !self.policy.is_empty() {
            let section = match self.shows.contains(&"ServicePolicy.targetRefs.sectionName") {
                true => ", sectionName: b",
                false => "",
            };
            text += &format!(
                "---\napiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{name: NAME}}\n\
                 spec: {{targetRefs: [{{group: '', kind: Service, name: NAME{section}}}], {}}}\n",
                self.policy
            );
        }
        text += self.more;
        for (index, port) in ports.iter().enumerate() {
            text = text.replace(&format!("${index}"), &port.to_string());
        }
        text.replace("NAME", name)
    }
}
