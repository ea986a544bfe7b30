//! `ServicePolicy`: how callers treat a Service.
//!
//! Policies merge field by field, from general to specific: built in, on the Service, on one of its ports. Of two at
//! the same step the older one's field holds, and the other is told which fields it lost.

use std::time::Duration;

use outrigger_engine::config::report::At;
use outrigger_proto::outrigger::control::v1 as pb;

use super::http_route::{attempts_of, positive, status_codes};
use super::service::Protocol;
use super::value::{at_most, check, dns_label, dns_subdomain, duration, not_yet};
use super::{CORE, Kind, Name, check_head};

/// A ServicePolicy, checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub name: Name,
    /// The Services, or ports of them, that it speaks of.
    pub targets: Vec<TargetRef>,
    /// What it says.
    pub values: PolicyValues,
}

/// A Service, or one of its ports, as target.
#[derive(Clone, Debug)]
pub struct TargetRef {
    /// As it was written.
    pub written: pb::PolicyTargetReference,
    /// The Service.
    pub service: Name,
    /// One of its ports by name.
    pub section: Option<String>,
}

macro_rules! values {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $path:literal;)*) => {
        /// What a policy says: what is `None` is left to a more general one.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct PolicyValues {
            $($(#[$doc])* pub $field: Option<$type>,)*
        }

        impl PolicyValues {
            /// Takes from `other` what is not set here. The fields that `other` sets and that are set here.
            pub fn or(&mut self, other: &PolicyValues) -> Vec<&'static str> {
                let mut lost = Vec::new();
                $(match (&self.$field, &other.$field) {
                    (_, None) => {}
                    (None, Some(value)) => self.$field = Some(value.clone()),
                    (Some(_), Some(_)) => lost.push($path),
                })*
                lost
            }

            /// How many fields are set.
            pub fn count(&self) -> usize {
                [$(self.$field.is_some()),*].into_iter().filter(|set| *set).count()
            }
        }
    };
}

values! {
    /// How an instance is chosen.
    balancing: Balancing = "balancing";
    /// Connections to all instances together.
    connections: u32 = "limits.connections";
    /// Requests that wait for a connection.
    pending: u32 = "limits.pending";
    /// Requests under way.
    requests: u32 = "limits.requests";
    /// Connections to one instance.
    per_host_connections: u32 = "limits.perHostConnections";
    /// Requests on one connection before it is closed; 0 is any number.
    requests_per_connection: u32 = "limits.requestsPerConnection";
    /// Retries after the first attempt.
    attempts: u32 = "retry.attempts";
    /// What is retried.
    on: Vec<RetryCause> = "retry.on";
    /// Statuses that are retried.
    codes: Vec<u16> = "retry.codes";
    /// gRPC statuses that are retried, as Envoy's tokens.
    grpc_codes: Vec<&'static str> = "retry.grpcCodes";
    /// The base of the wait before a retry.
    backoff_base: Duration = "retry.backoff.base";
    /// The longest wait before a retry.
    backoff_max: Duration = "retry.backoff.max";
    /// Bytes of a body that are kept to be sent again.
    buffer_bytes: u32 = "retry.bufferBytes";
    /// Retries under way, in percent of requests; 100 is no budget.
    budget_percent: u32 = "retry.budget.percent";
    /// For the whole answer, all attempts together; zero is none.
    request: Duration = "timeouts.request";
    /// For each attempt; zero is none.
    attempt: Duration = "timeouts.attempt";
    /// Without a byte in either direction; zero is none.
    stream_idle: Duration = "timeouts.streamIdle";
    /// The longest life of a stream; zero is none.
    max_stream: Duration = "timeouts.maxStream";
    /// Whether `grpc-timeout` is honoured.
    honour_grpc_deadline: bool = "timeouts.grpcDeadline";
    /// For TCP and TLS together.
    connect_timeout: Duration = "connection.connectTimeout";
    /// A connection without a request is closed after so long; zero is never.
    idle_timeout: Duration = "connection.idleTimeout";
    /// The longest life of a connection; zero is any.
    max_duration: Duration = "connection.maxDuration";
    /// TCP keep-alive.
    tcp_keepalive: Keepalive = "connection.tcpKeepalive";
    /// In place of the protocol that the port's `appProtocol` says; `None` is that one, whatever more general policies
    /// say.
    protocol: Option<Protocol> = "connection.protocol";
}

/// `balancing`, replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// How an instance is chosen.
    pub algorithm: Algorithm,
    /// When fewer instances than this are healthy, in percent, all are tried.
    pub panic_percent: u32,
}

impl Default for Balancing {
    fn default() -> Self {
        Balancing { algorithm: Algorithm::LeastRequest { choices: 2 }, panic_percent: 1 }
    }
}

/// `balancing.algorithm`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Of so many, 2 or more, the one with the fewest requests under way.
    LeastRequest {
        /// How many are looked at.
        choices: u32,
    },
    /// One after another.
    RoundRobin,
    /// Any.
    Random,
}

/// `connection.tcpKeepalive`; what is `None` is the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub idle: Option<Duration>,
    /// Between two probes.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection is given up.
    pub probes: Option<u32>,
}

/// `retry.on`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryCause {
    /// No connection was made.
    ConnectFailure,
    /// The instance refused the stream before it processed it.
    Refused,
    /// The connection ended before anything of the request was sent.
    Unread,
    /// gRPC `UNAVAILABLE`.
    Unavailable,
    /// 502, 503 or 504.
    GatewayError,
    /// No answer.
    Reset,
    /// Any 5xx, and no answer.
    ServerError,
}

const CAUSES: [(&str, RetryCause); 7] = [
    ("connectFailure", RetryCause::ConnectFailure),
    ("refused", RetryCause::Refused),
    ("unread", RetryCause::Unread),
    ("unavailable", RetryCause::Unavailable),
    ("gatewayError", RetryCause::GatewayError),
    ("reset", RetryCause::Reset),
    ("5xx", RetryCause::ServerError),
];
const GRPC_CODES: [&str; 5] = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];

impl Policy {
    /// Reads the object. `None` where a part of it was rejected.
    pub fn convert(object: &pb::ServicePolicy, at: &At<'_>) -> Option<Policy> {
        let problems = at.problem_count();
        // `status` is ours to write.
        let pb::ServicePolicy { api_version, kind, metadata, spec, status: _ } = object;
        check_head(Kind::ServicePolicy, api_version, kind, metadata.as_ref(), at);
        let at = at.field("spec");
        let name = Name::of(metadata.as_ref());
        let Some(spec) = spec else {
            at.reject("", "is required");
            return None;
        };
        let pb::ServicePolicySpec {
            target_refs,
            balancing,
            limits,
            retry,
            timeouts,
            connection,
            locality,
            outlier,
            health,
            tls,
            session_persistence,
        } = spec;
        not_yet(&at.field("locality"), locality.is_some(), "", "balancing by locality comes later");
        not_yet(&at.field("outlier"), outlier.is_some(), "", "outlier detection comes later");
        not_yet(&at.field("health"), health.is_some(), "", "active health checks come later");
        not_yet(&at.field("tls"), tls.is_some(), "", "mTLS comes later");
        not_yet(&at.field("sessionPersistence"), session_persistence.is_some(), "", "sticky sessions come later");
        let targets = convert_targets(target_refs, &name, &at.field("targetRefs"));
        let mut values = PolicyValues::default();
        if let Some(message) = balancing {
            values.balancing = convert_balancing(message, &at.field("balancing"));
        }
        if let Some(message) = limits {
            values.limits(message, &at.field("limits"));
        }
        if let Some(message) = retry {
            values.retry(message, &at.field("retry"));
        }
        if let Some(message) = timeouts {
            values.timeouts(message, &at.field("timeouts"));
        }
        if let Some(message) = connection {
            values.connection(message, &at.field("connection"));
        }
        (at.problem_count() == problems).then_some(Policy { name, targets, values })
    }
}

fn convert_targets(messages: &[pb::PolicyTargetReference], policy: &Name, list: &At<'_>) -> Vec<TargetRef> {
    if messages.is_empty() {
        list.reject("", "is required");
    }
    at_most(list, messages, 16);
    let mut targets = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let at = list.index(i);
        let pb::PolicyTargetReference { group, kind, name, namespace, section_name } = message;
        let group = group.as_deref().unwrap_or_default();
        if !["", CORE].contains(&group) {
            at.field("group").reject(group, "must be \"\", the group of Services");
        }
        if kind != "Service" {
            at.field("kind").reject(kind, "must be Service");
        }
        check(&at.field("name"), name, dns_label);
        if let Some(section) = section_name {
            check(&at.field("sectionName"), section, dns_subdomain);
        }
        let other = namespace.as_deref().filter(|other| !other.is_empty() && **other != *policy.namespace);
        let why = "policies of callers in another namespace come later";
        not_yet(&at.field("namespace"), other.is_some(), other.unwrap_or_default(), why);
        let service = Name::new(&policy.namespace, name);
        let section = section_name.clone().filter(|text| !text.is_empty());
        if targets.iter().any(|other: &TargetRef| other.service == service && other.section == section) {
            at.reject(&service, "another reference of this policy names it already");
        }
        targets.push(TargetRef { written: message.clone(), service, section });
    }
    targets
}

fn convert_balancing(message: &pb::Balancing, at: &At<'_>) -> Option<Balancing> {
    let problems = at.problem_count();
    let pb::Balancing { algorithm, choices, panic_percent, key, slow_start } = message;
    not_yet(&at.field("key"), key.is_some(), "", "balancing by a key comes later");
    not_yet(&at.field("slowStart"), slow_start.is_some(), "", "");
    let algorithm_at = at.field("algorithm");
    let choices_at = at.field("choices");
    let algorithm = match algorithm.as_deref().unwrap_or("LeastRequest") {
        "LeastRequest" => {
            let choices = choices.unwrap_or(2);
            if choices < 2 {
                choices_at.reject(choices, "must be at least 2");
            }
            Algorithm::LeastRequest { choices: u32::try_from(choices).unwrap_or(2) }
        }
        other => {
            if let Some(choices) = choices {
                choices_at.reject(choices, "is for LeastRequest only");
            }
            match other {
                "RoundRobin" => Algorithm::RoundRobin,
                "Random" => Algorithm::Random,
                "PeakEWMA" | "RingHash" | "Maglev" | "WeightedRoundRobin" => {
                    not_yet(&algorithm_at, true, other, "");
                    return None;
                }
                _ => {
                    algorithm_at.reject(other, "must be LeastRequest, RoundRobin or Random");
                    return None;
                }
            }
        }
    };
    let panic_percent = panic_percent.unwrap_or(1);
    if !(0..=100).contains(&panic_percent) {
        at.field("panicPercent").reject(panic_percent, "must be 0 to 100");
    }
    let balancing = Balancing { algorithm, panic_percent: u32::try_from(panic_percent).unwrap_or(1) };
    (at.problem_count() == problems).then_some(balancing)
}

/// A number from `least` that fits where the proxy keeps it.
fn number(value: Option<i64>, least: u32, at: &At<'_>) -> Option<u32> {
    let value = value?;
    let found = u32::try_from(value).ok().filter(|value| *value >= least);
    if found.is_none() {
        at.reject(value, format_args!("must be {least} to {}", u32::MAX));
    }
    found
}

impl PolicyValues {
    fn limits(&mut self, message: &pb::Limits, at: &At<'_>) {
        let pb::Limits { connections, pending, requests, per_host_connections, requests_per_connection } = *message;
        self.connections = number(connections, 1, &at.field("connections"));
        self.pending = number(pending, 0, &at.field("pending"));
        self.requests = number(requests, 1, &at.field("requests"));
        self.per_host_connections = number(per_host_connections, 1, &at.field("perHostConnections"));
        self.requests_per_connection = number(requests_per_connection, 0, &at.field("requestsPerConnection"));
    }

    fn retry(&mut self, message: &pb::Retry, at: &At<'_>) {
        let pb::Retry { attempts, on, codes, grpc_codes, backoff, buffer_bytes, budget } = message;
        self.attempts = attempts.and_then(|count| attempts_of(&at.field("attempts"), count));
        let list = at.field("on");
        let cause = |(i, text): (usize, &String)| {
            let found = CAUSES.iter().find(|(name, _)| name == text);
            match found {
                None if text == "perTryTimeout" => not_yet(&list.index(i), true, text, ""),
                None => list
                    .index(i)
                    .reject(text, format_args!("must be one of {}", CAUSES.map(|(name, _)| name).join(", "))),
                Some(_) => {}
            }
            found.map(|(_, cause)| *cause)
        };
        let mut causes: Vec<_> = on.iter().enumerate().filter_map(cause).collect();
        causes.sort();
        causes.dedup();
        self.on = (!on.is_empty()).then_some(causes);
        self.codes = (!codes.is_empty()).then(|| status_codes(codes, &at.field("codes")));
        let list = at.field("grpcCodes");
        let token = |(i, text): (usize, &String)| {
            let found = GRPC_CODES.iter().find(|name| *name == text).copied();
            if found.is_none() {
                list.index(i).reject(text, format_args!("must be one of {}", GRPC_CODES.join(", ")));
            }
            found
        };
        self.grpc_codes = (!grpc_codes.is_empty()).then(|| grpc_codes.iter().enumerate().filter_map(token).collect());
        if let Some(pb::Backoff { base, max }) = backoff {
            let at = at.field("backoff");
            self.backoff_base = base.as_deref().and_then(|text| positive(&at.field("base"), text));
            let max_at = at.field("max");
            self.backoff_max = max.as_deref().and_then(|text| positive(&max_at, text));
            if let (Some(base), Some(max)) = (self.backoff_base, self.backoff_max)
                && max < base
            {
                max_at.reject(format_args!("{max:?}"), "must not be less than base");
            }
        }
        self.buffer_bytes = number(*buffer_bytes, 0, &at.field("bufferBytes"));
        if let Some(pb::RetryBudget { percent, interval, min_retry_rate }) = budget {
            let at = at.field("budget");
            let why = "the budget follows what is under way";
            not_yet(&at.field("interval"), interval.is_some(), interval.as_deref().unwrap_or_default(), why);
            not_yet(&at.field("minRetryRate"), min_retry_rate.is_some(), "", why);
            if let Some(percent) = percent {
                self.budget_percent = u32::try_from(*percent).ok().filter(|percent| *percent <= 100);
                if self.budget_percent.is_none() {
                    at.field("percent").reject(percent, "must be 0 to 100");
                }
            }
        }
    }

    fn timeouts(&mut self, message: &pb::Timeouts, at: &At<'_>) {
        let pb::Timeouts { request, attempt, stream_idle, max_stream, grpc_deadline } = message;
        let read = |field, text: &Option<String>| text.as_deref().and_then(|text| duration(&at.field(field), text));
        self.request = read("request", request);
        self.attempt = read("attempt", attempt);
        self.stream_idle = read("streamIdle", stream_idle);
        self.max_stream = read("maxStream", max_stream);
        self.honour_grpc_deadline = match grpc_deadline.as_deref() {
            None => None,
            Some("Honour") => Some(true),
            Some("Ignore") => Some(false),
            Some(other) => {
                at.field("grpcDeadline").reject(other, "must be Honour or Ignore");
                None
            }
        };
    }

    fn connection(&mut self, message: &pb::Connection, at: &At<'_>) {
        let pb::Connection {
            connect_timeout,
            idle_timeout,
            max_duration,
            tcp_keepalive,
            protocol,
            http2,
            proxy_protocol,
        } = message;
        not_yet(&at.field("http2"), http2.is_some(), "", "");
        let proxy = proxy_protocol.as_deref().unwrap_or("None");
        not_yet(&at.field("proxyProtocol"), proxy != "None", proxy, "");
        self.connect_timeout = connect_timeout.as_deref().and_then(|text| positive(&at.field("connectTimeout"), text));
        self.idle_timeout = idle_timeout.as_deref().and_then(|text| duration(&at.field("idleTimeout"), text));
        self.max_duration = max_duration.as_deref().and_then(|text| duration(&at.field("maxDuration"), text));
        if let Some(pb::TcpKeepalive { idle, interval, probes }) = tcp_keepalive {
            let at = at.field("tcpKeepalive");
            // The kernel counts seconds.
            let seconds = |field, text: &Option<String>| {
                let text = text.as_deref()?;
                let at = at.field(field);
                let value = duration(&at, text)?;
                if value < Duration::from_secs(1) {
                    at.reject(text, "must be at least 1s");
                    return None;
                }
                if value.subsec_nanos() > 0 {
                    at.reject(text, "must be whole seconds");
                    return None;
                }
                Some(value)
            };
            self.tcp_keepalive = Some(Keepalive {
                idle: seconds("idle", idle),
                interval: seconds("interval", interval),
                probes: probes.and_then(|probes| number(Some(probes.into()), 1, &at.field("probes"))),
            });
        }
        self.protocol = match protocol.as_deref() {
            None => None,
            Some("Auto") => Some(None),
            Some("HTTP1") => Some(Some(Protocol::Http1)),
            Some("HTTP2") => Some(Some(Protocol::Http2)),
            Some("TCP") => Some(Some(Protocol::Tcp)),
            Some(other) => {
                at.field("protocol").reject(other, "must be Auto, HTTP1, HTTP2 or TCP");
                None
            }
        };
    }
}
