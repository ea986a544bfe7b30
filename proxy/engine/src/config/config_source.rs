//! `envoy.config.core.v3.ConfigSource`: where resources of a kind come from.

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::envoy::config::core::v3 as core;

use crate::config::grpc_service::GrpcService;
use crate::config::report::At;
use crate::config::time::timeout;
use crate::config::value::{LONGEST, duration};
use crate::{harmless, unsupported};

/// How long a configuration waits for a resource where `initial_fetch_timeout` is not set.
pub const DEFAULT_INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// Where resources come from. Equal sources share a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// Who serves them.
    pub origin: Origin,
    /// What waits for a resource goes on without it after this time (15 s); `None`, written as `0s`: it waits for ever.
    pub initial_fetch_timeout: Option<Duration>,
}

/// Who serves the resources of a [`ConfigSource`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The stream of `dynamic_resources.ads_config`.
    Ads,
    /// A stream for this kind of resource only.
    Grpc(Arc<GrpcSource>),
    /// A file with a `DiscoveryResponse`, as YAML or JSON; read again when it is replaced.
    Path(Arc<FileSource>),
}

impl Origin {
    /// The file with this path.
    pub fn file(path: &str) -> Origin {
        Origin::Path(Arc::new(FileSource { path: path.into(), watched_directory: None, poll_interval: None }))
    }
}

/// `PathConfigSource`: a file, and when it is read again besides when it is replaced itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileSource {
    /// Where it is.
    pub path: Arc<str>,
    /// When something in this directory is moved or written.
    pub watched_directory: Option<Arc<str>>,
    /// Each time that this is over; by default never.
    pub poll_interval: Option<Duration>,
}

/// `ApiConfigSource`: a management server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrpcSource {
    /// Whether the delta variant of the protocol is spoken (`DELTA_GRPC`).
    pub delta: bool,
    /// The servers, at least one, in the order of preference.
    pub services: Vec<GrpcService>,
    /// A bound for our own requests; by default there is none.
    pub rate_limit: Option<RateLimit>,
}

/// `RateLimitSettings`: a token bucket, which starts full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// So many requests at once (100).
    pub max_tokens: u32,
    /// The time after which another request is allowed (100 ms, from a rate of 10 a second).
    pub fill_interval: Duration,
}

impl ConfigSource {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: core::ConfigSource, at: &At<'_>) -> Option<ConfigSource> {
        use core::config_source::ConfigSourceSpecifier;
        let core::ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } =
            message;
        unsupported!(at; authorities = "resources have plain names");
        if resource_api_version == core::ApiVersion::V2 as i32 {
            at.field("resource_api_version").reject("V2", "must be V3");
        }
        let wait_at = at.field("initial_fetch_timeout");
        let initial_fetch_timeout = timeout(initial_fetch_timeout, DEFAULT_INITIAL_FETCH_TIMEOUT, &wait_at);
        let origin = match config_source_specifier {
            Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})) => Origin::Ads,
            Some(ConfigSourceSpecifier::ApiConfigSource(source)) => {
                Origin::Grpc(Arc::new(GrpcSource::convert(source, &at.field("api_config_source"))?))
            }
            Some(ConfigSourceSpecifier::PathConfigSource(source)) => path(source, &at.field("path_config_source"))?,
            Some(ConfigSourceSpecifier::Path(path)) => Origin::file(&not_empty(path, &at.field("path"))?),
            Some(ConfigSourceSpecifier::Self_(_)) => {
                at.field("self").reject("", "not in this version: write ads");
                return None;
            }
            None => {
                at.reject("", "one of ads, api_config_source, path_config_source is required");
                return None;
            }
        };
        Some(ConfigSource { origin, initial_fetch_timeout })
    }
}

/// Refuses a name that says itself where the resource comes from.
pub(crate) fn plain_name(name: &str, at: &At<'_>) {
    if name.starts_with("xdstp:") {
        at.reject(name, "not in this version: resources have plain names");
    }
}

fn path(message: core::PathConfigSource, at: &At<'_>) -> Option<Origin> {
    let core::PathConfigSource { path, watched_directory, poll_interval } = message;
    let path = not_empty(path, &at.field("path"));
    let watched_directory = match watched_directory {
        Some(core::WatchedDirectory { path, watch_modify }) => {
            let at = at.field("watched_directory");
            harmless!(at; watch_modify = "what is written in the directory is noticed, as what is moved there is");
            Some(not_empty(path, &at.field("path"))?.into())
        }
        None => None,
    };
    let interval_at = at.field("poll_interval");
    let poll_interval = duration(poll_interval, &interval_at);
    if poll_interval.is_some_and(|interval| interval.is_zero()) {
        interval_at.reject("0s", "must be greater than 0s");
    }
    Some(Origin::Path(Arc::new(FileSource { path: path?.into(), watched_directory, poll_interval })))
}

fn not_empty(path: String, at: &At<'_>) -> Option<String> {
    if path.is_empty() {
        at.reject("", "must not be empty");
        return None;
    }
    Some(path)
}

impl GrpcSource {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: core::ApiConfigSource, at: &At<'_>) -> Option<GrpcSource> {
        use core::api_config_source::ApiType;
        let core::ApiConfigSource {
            api_type,
            transport_api_version,
            cluster_names,
            grpc_services,
            refresh_delay,
            request_timeout,
            rate_limit_settings,
            set_node_on_first_message_only,
            config_validators,
        } = message;
        unsupported!(at; cluster_names = "write grpc_services", config_validators);
        harmless!(at;
            refresh_delay = "nothing is polled",
            request_timeout = "nothing is polled",
            set_node_on_first_message_only = "the node is always in the first message of a stream only",
        );
        if transport_api_version != core::ApiVersion::V3 as i32 {
            let name = core::ApiVersion::try_from(transport_api_version).map_or("", |version| version.as_str_name());
            at.field("transport_api_version").reject(name, "must be V3");
        }
        let delta = match ApiType::try_from(api_type) {
            Ok(ApiType::Grpc) => Some(false),
            Ok(ApiType::DeltaGrpc) => Some(true),
            Ok(other) => {
                at.field("api_type").reject(other.as_str_name(), "not in this version: write GRPC or DELTA_GRPC");
                None
            }
            Err(_) => {
                at.field("api_type").reject(api_type, "must be GRPC or DELTA_GRPC");
                None
            }
        };
        let list = at.field("grpc_services");
        if grpc_services.is_empty() {
            list.reject("", "at least one is required");
        }
        let services: Vec<GrpcService> = grpc_services
            .into_iter()
            .enumerate()
            .filter_map(|(index, service)| GrpcService::convert(Some(service), &list.index(index)))
            .collect();
        let rate_limit = match rate_limit_settings {
            Some(settings) => Some(RateLimit::convert(settings, &at.field("rate_limit_settings"))?),
            None => None,
        };
        Some(GrpcSource { delta: delta?, services, rate_limit })
    }
}

impl RateLimit {
    fn convert(message: core::RateLimitSettings, at: &At<'_>) -> Option<RateLimit> {
        let core::RateLimitSettings { max_tokens, fill_rate } = message;
        let rate = fill_rate.unwrap_or(10.0);
        let fill_interval = Some(1.0 / rate)
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|interval| *interval <= LONGEST);
        if fill_interval.is_none() {
            at.field("fill_rate").reject(rate, "must be greater than 0, and not so small that none ever comes");
        }
        let max_tokens = max_tokens.unwrap_or(100);
        if max_tokens == 0 {
            at.field("max_tokens").reject(0, "must be greater than 0");
            return None;
        }
        Some(RateLimit { max_tokens, fill_interval: fill_interval? })
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};

    use super::*;
    use crate::config::bootstrap::Bootstrap;
    use crate::config::report::Report;
    use crate::source::Source;

    fn service(cluster: &str) -> core::GrpcService {
        let service = EnvoyGrpc { cluster_name: cluster.to_owned(), ..Default::default() };
        core::GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(service)), ..Default::default() }
    }

    fn convert(message: core::ConfigSource) -> Result<ConfigSource, Vec<String>> {
        let report = Report::new();
        let source = ConfigSource::convert(message, &report.root());
        let problems: Vec<String> = report.into_parts().0.iter().map(ToString::to_string).collect();
        source.filter(|_| problems.is_empty()).ok_or(problems)
    }

    fn api(source: core::ApiConfigSource) -> core::ConfigSource {
        let specifier = core::config_source::ConfigSourceSpecifier::ApiConfigSource(source);
        core::ConfigSource { config_source_specifier: Some(specifier), ..Default::default() }
    }

    #[test]
    fn a_source_waits_as_long_as_it_says() {
        let ads = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {});
        let mut message = core::ConfigSource { config_source_specifier: Some(ads), ..Default::default() };
        let source = convert(message.clone()).unwrap();
        assert_eq!(source.origin, Origin::Ads);
        assert_eq!(source.initial_fetch_timeout, Some(Duration::from_secs(15)));
        message.initial_fetch_timeout = Some(prost_types::Duration::default());
        assert_eq!(convert(message).unwrap().initial_fetch_timeout, None);
    }

    #[test]
    fn a_file_may_say_when_it_is_read_again() {
        let message = |directory: &str, seconds| core::PathConfigSource {
            path: "/cds".to_owned(),
            watched_directory: Some(core::WatchedDirectory { path: directory.to_owned(), ..Default::default() }),
            poll_interval: Some(prost_types::Duration { seconds, nanos: 0 }),
        };
        let source = |message| {
            let specifier = core::config_source::ConfigSourceSpecifier::PathConfigSource(message);
            convert(core::ConfigSource { config_source_specifier: Some(specifier), ..Default::default() })
        };
        let watched_directory = Some("/data".into());
        let expected =
            FileSource { path: "/cds".into(), watched_directory, poll_interval: Some(Duration::from_secs(2)) };
        assert_eq!(source(message("/data", 2)).unwrap().origin, Origin::Path(Arc::new(expected)));
        assert_eq!(
            source(message("/data", 0)).unwrap_err(),
            ["path_config_source.poll_interval: 0s: must be greater than 0s"]
        );
        assert_eq!(
            source(message("", 2)).unwrap_err(),
            ["path_config_source.watched_directory.path: must not be empty"]
        );
    }

    /// SDS, ECDS and names of xdstp: refused where they stand, with the way to write it.
    #[test]
    fn what_is_discovered_later_is_refused_plainly() {
        let text = r#"
node: { id: a, cluster: b }
dynamic_resources:
  cds_config: { self: {} }
  lds_resources_locator: "xdstp://a/envoy.config.listener.v3.Listener/b"
static_resources:
  clusters:
  - name: eds
    type: EDS
    eds_cluster_config: { service_name: "xdstp://a/b", eds_config: { authorities: [{ name: a }], path: /eds } }
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificate_sds_secret_configs: [{ name: default }]
          validation_context_sds_secret_config: { name: ROOTCA }
  listeners:
  - name: in
    address: { pipe: { path: /in } }
    listener_filters: [{ name: l, config_discovery: { config_source: { ads: {} } } }]
    filter_chains:
    - filters: [{ name: n, config_discovery: { config_source: { ads: {} } } }]
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          session_ticket_keys_sds_secret_config: { name: keys }
          common_tls_context: { combined_validation_context: {} }
    - filter_chain_match: { destination_port: 80 }
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: a
          rds: { route_config_name: "xdstp://a/b", config_source: { path: /rds } }
          http_filters: [{ name: h, config_discovery: { config_source: { ads: {} } } }]
"#;
        let problems = Bootstrap::load(&[Source::new("b.yaml", text)]).unwrap_err();
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        for field in [
            "cds_config.self",
            "lds_resources_locator",
            "eds_config.authorities",
            "eds_cluster_config.service_name",
            "tls_certificate_sds_secret_configs",
            "validation_context_sds_secret_config",
            "listener_filters[0].config_discovery",
            "filters[0].config_discovery",
            "session_ticket_keys_sds_secret_config",
            "combined_validation_context",
            "rds.route_config_name",
            "http_filters[0].config_discovery",
        ] {
            let said = problems.iter().any(|problem| {
                problem.split_once(": not in this version").is_some_and(|(path, _)| path.contains(field))
            });
            assert!(said, "{field}: {problems:#?}");
        }
    }

    #[test]
    fn a_management_server_speaks_one_of_two_variants() {
        let message = core::ApiConfigSource {
            api_type: core::api_config_source::ApiType::DeltaGrpc as i32,
            transport_api_version: core::ApiVersion::V3 as i32,
            grpc_services: vec![service("a"), service("b")],
            rate_limit_settings: Some(core::RateLimitSettings { max_tokens: None, fill_rate: Some(4.0) }),
            ..Default::default()
        };
        let Origin::Grpc(source) = convert(api(message.clone())).unwrap().origin else { panic!() };
        assert!(source.delta);
        assert_eq!(source.services.iter().map(|service| &*service.cluster).collect::<Vec<_>>(), ["a", "b"]);
        let limit = RateLimit { max_tokens: 100, fill_interval: Duration::from_millis(250) };
        assert_eq!(source.rate_limit, Some(limit));

        let bad = core::ApiConfigSource {
            api_type: core::api_config_source::ApiType::Rest as i32,
            transport_api_version: 0,
            grpc_services: Vec::new(),
            ..message
        };
        assert_eq!(
            convert(api(bad)).unwrap_err(),
            [
                "api_config_source.transport_api_version: AUTO: must be V3",
                "api_config_source.api_type: REST: not in this version: write GRPC or DELTA_GRPC",
                "api_config_source.grpc_services: at least one is required",
            ]
        );
    }
}
