//! What a route does with a request that it takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrigger_proto::envoy::config::core::v3::RoutingPriority as ProtoPriority;
use outrigger_proto::envoy::config::route::v3 as proto;
use outrigger_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};

use crate::config::report::{At, IsSet};
use crate::config::value::duration;
use crate::matcher::{FieldName, Head, Substitution};
use crate::message::RequestHead;
use crate::resilience::breaker::RoutingPriority;
use crate::resilience::retry::RetryPolicy;
use crate::resilience::timeout::{MaxStreamDuration, RouteTimeouts};
use crate::route::headers::{HeaderMutations, REQUEST, RESPONSE};
use crate::route::redirect::{DirectResponse, Redirect};
use crate::route::rewrite::{HostRewrite, PathRewrite, parse};
use crate::{harmless, unsupported};

/// Envoy's default for `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// What becomes of a request.
#[derive(Debug)]
pub enum Action {
    /// It goes to a cluster.
    Forward(Box<Forward>),
    /// It is answered with another address.
    Redirect(Box<Redirect>),
    /// It is answered with a fixed response.
    Respond(Box<DirectResponse>),
    /// `non_forwarding_action`: for gRPC servers; a proxy has no route for it (404).
    NonForwarding,
}

/// `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    pub(crate) cluster: ClusterChoice,
    /// How long a request may take.
    pub timeouts: RouteTimeouts,
    /// The route's, else the virtual host's.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Which of a cluster's circuit breakers count the request.
    pub priority: RoutingPriority,
    /// Upgrades by name in lower case, that the route allows (`true`) or forbids, whatever the connection manager says.
    pub upgrades: Box<[(Arc<str>, bool)]>,
    /// The status for a cluster that is not there: 503 by default.
    pub cluster_not_found: StatusCode,
    pub(crate) path: Option<PathRewrite>,
    pub(crate) host: HostRewrite,
    /// Whether an authority that is rewritten is appended to `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
}

#[derive(Debug)]
pub(crate) enum ClusterChoice {
    Single(Arc<str>),
    Header(FieldName),
    Weighted(Box<WeightedClusters>),
}

#[derive(Debug)]
pub(crate) struct WeightedClusters {
    clusters: Box<[WeightedCluster]>,
    /// Above zero.
    total: u64,
    /// Whose value chooses instead of chance, where it is a number.
    random_header: Option<FieldName>,
}

/// One of several clusters of a route, with what it adds to the route.
#[derive(Debug)]
pub(crate) struct WeightedCluster {
    name: WeightedName,
    weight: u32,
    pub(crate) host: Option<http::HeaderValue>,
    pub(crate) request: Option<Box<HeaderMutations>>,
    pub(crate) response: Option<Box<HeaderMutations>>,
}

#[derive(Debug)]
enum WeightedName {
    Fixed(Arc<str>),
    Header(FieldName),
}

/// The cluster that was chosen for a request.
#[derive(Clone, Debug)]
pub struct Choice<'r> {
    name: ChosenName<'r>,
    pub(crate) weighted: Option<&'r WeightedCluster>,
}

#[derive(Clone, Debug)]
enum ChosenName<'r> {
    Configured(&'r Arc<str>),
    Requested(Arc<str>),
}

impl Choice<'_> {
    /// The cluster's name; empty where `cluster_header` names a header that the request has not.
    pub fn name(&self) -> &Arc<str> {
        match &self.name {
            ChosenName::Configured(name) => name,
            ChosenName::Requested(name) => name,
        }
    }
}

impl Forward {
    /// Chooses the cluster. `random`: uniform over 64 bits, the same for the whole request.
    pub fn choose(&self, request: &RequestHead, random: u64) -> Choice<'_> {
        match &self.cluster {
            ClusterChoice::Single(name) => Choice { name: ChosenName::Configured(name), weighted: None },
            ClusterChoice::Header(header) => Choice { name: requested(request, header), weighted: None },
            ClusterChoice::Weighted(weighted) => {
                let cluster = weighted.pick(request, random);
                let name = match cluster.map(|cluster| &cluster.name) {
                    Some(WeightedName::Fixed(name)) => ChosenName::Configured(name),
                    Some(WeightedName::Header(header)) => requested(request, header),
                    None => ChosenName::Requested("".into()),
                };
                Choice { name, weighted: cluster }
            }
        }
    }

    /// Whether the authority becomes the name of the upstream host (`auto_host_rewrite`): the router does that, by
    /// [`rewrite_authority`](crate::route::rewrite_authority), once it has chosen a host that has one.
    pub fn auto_host_rewrite(&self) -> bool {
        matches!(self.host, HostRewrite::Auto)
    }

    /// Rejects the clusters that the route (at `at`) names and that are not there.
    pub(crate) fn check_clusters(&self, exists: &dyn Fn(&str) -> bool, at: &At<'_>) {
        let check = |name: &str, at: &At<'_>| {
            if !exists(name) {
                at.reject(name, "there is no such cluster (validate_clusters is on)");
            }
        };
        match &self.cluster {
            ClusterChoice::Single(name) => check(name, &at.field("cluster")),
            ClusterChoice::Header(_) => {}
            ClusterChoice::Weighted(weighted) => {
                let at = at.field("weighted_clusters");
                let list = at.field("clusters");
                for (index, cluster) in weighted.clusters.iter().enumerate() {
                    if let WeightedName::Fixed(name) = &cluster.name {
                        check(name, &list.index(index).field("name"));
                    }
                }
            }
        }
    }

    /// The clusters that the route names itself.
    pub(crate) fn cluster_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let (single, weighted) = match &self.cluster {
            ClusterChoice::Single(name) => (Some(name), &[][..]),
            ClusterChoice::Header(_) => (None, &[][..]),
            ClusterChoice::Weighted(weighted) => (None, &*weighted.clusters),
        };
        single.into_iter().chain(weighted.iter().filter_map(|cluster| match &cluster.name {
            WeightedName::Fixed(name) => Some(name),
            WeightedName::Header(_) => None,
        }))
    }
}

fn requested(request: &RequestHead, header: &FieldName) -> ChosenName<'static> {
    let value = Head::Request(request).first(header).unwrap_or_default();
    ChosenName::Requested(String::from_utf8_lossy(value).into())
}

impl WeightedClusters {
    fn pick(&self, request: &RequestHead, random: u64) -> Option<&WeightedCluster> {
        let random = self.random_header.as_ref().and_then(|name| number(request, name)).unwrap_or(random);
        let mut left = random.checked_rem(self.total)?;
        self.clusters.iter().find(|cluster| match left.checked_sub(u64::from(cluster.weight)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }
}

/// The value of a header that the request has once, if it is a number.
fn number(request: &RequestHead, name: &FieldName) -> Option<u64> {
    let text = Head::Request(request).joined(name)?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

impl Forward {
    pub(crate) fn convert(
        message: proto::RouteAction,
        inherited_retry: Option<&Arc<RetryPolicy>>,
        at: &At<'_>,
    ) -> Option<Forward> {
        let proto::RouteAction {
            cluster_not_found_response_code,
            metadata_match,
            prefix_rewrite,
            regex_rewrite,
            path_rewrite_policy,
            path_rewrite,
            append_x_forwarded_host,
            timeout,
            idle_timeout,
            flush_timeout,
            early_data_policy,
            retry_policy,
            retry_policy_typed_config,
            request_mirror_policies,
            priority,
            rate_limits,
            include_vh_rate_limits,
            hash_policy,
            cors,
            max_grpc_timeout,
            grpc_timeout_offset,
            upgrade_configs,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            hedge_policy,
            max_stream_duration,
            cluster_specifier,
            host_rewrite_specifier,
        } = message;
        unsupported!(at;
            path_rewrite_policy, flush_timeout, retry_policy_typed_config,
            request_mirror_policies = "mirroring comes later",
            internal_redirect_policy, internal_redirect_action = "internal redirects come later",
            hedge_policy = "hedging comes later");
        harmless!(at;
            metadata_match = "only subset load balancers read it, and clusters that have one are rejected",
            hash_policy = "only hashing load balancers read it, and clusters that have one are rejected",
            early_data_policy = "early data is never accepted",
            rate_limits = "only the rate limit filters read it, and they are rejected",
            include_vh_rate_limits = "only the rate limit filters read it, and they are rejected",
            cors = "only the CORS filter reads it, and it is rejected",
            max_internal_redirects = "there are no internal redirects");
        let cluster_not_found = match ClusterNotFoundResponseCode::try_from(cluster_not_found_response_code) {
            Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => StatusCode::SERVICE_UNAVAILABLE,
            Ok(ClusterNotFoundResponseCode::NotFound) => StatusCode::NOT_FOUND,
            Ok(ClusterNotFoundResponseCode::InternalServerError) => StatusCode::INTERNAL_SERVER_ERROR,
            Err(_) => {
                at.field("cluster_not_found_response_code").reject(cluster_not_found_response_code, "no such code");
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let priority = match ProtoPriority::try_from(priority) {
            Ok(ProtoPriority::Default) => RoutingPriority::Default,
            Ok(ProtoPriority::High) => RoutingPriority::High,
            Err(_) => {
                at.field("priority").reject(priority, "no such priority");
                RoutingPriority::Default
            }
        };
        let timeouts = RouteTimeouts {
            timeout: match timeout {
                None => DEFAULT_TIMEOUT,
                Some(timeout) => duration(Some(timeout), &at.field("timeout")).unwrap_or_default(),
            },
            idle_timeout: duration(idle_timeout, &at.field("idle_timeout")),
            max_grpc_timeout: duration(max_grpc_timeout, &at.field("max_grpc_timeout")),
            grpc_timeout_offset: duration(grpc_timeout_offset, &at.field("grpc_timeout_offset")),
            max_stream_duration: max_stream_duration
                .map(|message| convert_stream_duration(message, &at.field("max_stream_duration"))),
        };
        let several = [prefix_rewrite.is_set(), regex_rewrite.is_some(), path_rewrite.is_set()];
        if several.iter().filter(|set| **set).count() > 1 {
            at.reject("", "prefix_rewrite, regex_rewrite and path_rewrite exclude each other");
        }
        let path = if let Some(regex) = regex_rewrite {
            Substitution::convert(regex, &at.field("regex_rewrite"))
                .map(|substitution| PathRewrite::Regex(Box::new(substitution)))
        } else if prefix_rewrite.is_set() {
            path_text(&prefix_rewrite, &at.field("prefix_rewrite")).map(PathRewrite::Prefix)
        } else {
            PathRewrite::format(&path_rewrite, &at.field("path_rewrite"))
        };
        let retry = match retry_policy {
            Some(policy) => RetryPolicy::convert(policy, &at.field("retry_policy")).map(Arc::new),
            None => inherited_retry.cloned(),
        };
        let cluster = convert_cluster(cluster_specifier, at);
        Some(Forward {
            timeouts,
            retry,
            priority,
            upgrades: convert_upgrades(upgrade_configs, &at.field("upgrade_configs")),
            cluster_not_found,
            path,
            host: convert_host(host_rewrite_specifier, at),
            append_x_forwarded_host,
            cluster: cluster?,
        })
    }
}

/// Text that becomes a part of a path.
pub(crate) fn path_text(text: &str, at: &At<'_>) -> Option<Box<str>> {
    if http::HeaderValue::from_str(text).is_err() {
        at.reject(text.escape_default(), "not a part of a path");
        return None;
    }
    Some(text.into())
}

fn convert_upgrades(messages: Vec<proto::route_action::UpgradeConfig>, at: &At<'_>) -> Box<[(Arc<str>, bool)]> {
    let mut upgrades = BTreeMap::new();
    for (i, message) in messages.into_iter().enumerate() {
        let at = at.index(i);
        let proto::route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = message;
        unsupported!(at; connect_config = "CONNECT comes later");
        let name = upgrade_type.to_ascii_lowercase();
        let type_at = at.field("upgrade_type");
        if name.is_empty() {
            type_at.reject("", "must not be empty");
        } else if name == "connect" || name == "connect-udp" {
            type_at.reject(&upgrade_type, "not in this version: CONNECT comes later");
        } else if upgrades.insert(Arc::from(name), enabled.unwrap_or(true)).is_some() {
            type_at.reject(&upgrade_type, "is there twice");
        }
    }
    upgrades.into_iter().collect()
}

fn convert_host(specifier: Option<HostRewriteSpecifier>, at: &At<'_>) -> HostRewrite {
    match specifier {
        None | Some(HostRewriteSpecifier::AutoHostRewrite(false)) => HostRewrite::None,
        Some(HostRewriteSpecifier::AutoHostRewrite(true)) => HostRewrite::Auto,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            host_value(&host, &at.field("host_rewrite_literal")).map_or(HostRewrite::None, HostRewrite::Literal)
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => match FieldName::parse(&name) {
            Some(name) => HostRewrite::Header(name),
            None if name.is_empty() => HostRewrite::None,
            None => {
                at.field("host_rewrite_header").reject(&name, "not a header name");
                HostRewrite::None
            }
        },
        Some(HostRewriteSpecifier::HostRewritePathRegex(regex)) => {
            Substitution::convert(regex, &at.field("host_rewrite_path_regex"))
                .map_or(HostRewrite::None, |substitution| HostRewrite::PathRegex(Box::new(substitution)))
        }
        Some(HostRewriteSpecifier::HostRewrite(text)) if text.is_empty() => HostRewrite::None,
        Some(HostRewriteSpecifier::HostRewrite(text)) => {
            parse(&text, &at.field("host_rewrite")).map_or(HostRewrite::None, HostRewrite::Format)
        }
    }
}

/// The value of a host rewrite; `None` where it is empty or was rejected.
fn host_value(host: &str, at: &At<'_>) -> Option<http::HeaderValue> {
    if host.is_empty() {
        return None;
    }
    match http::HeaderValue::from_str(host) {
        Ok(value) => Some(value),
        Err(_) => {
            at.reject(host.escape_default(), "not the value of a header");
            None
        }
    }
}

fn convert_stream_duration(message: proto::route_action::MaxStreamDuration, at: &At<'_>) -> MaxStreamDuration {
    let proto::route_action::MaxStreamDuration {
        max_stream_duration,
        grpc_timeout_header_max,
        grpc_timeout_header_offset,
    } = message;
    MaxStreamDuration {
        max_stream_duration: duration(max_stream_duration, &at.field("max_stream_duration")),
        grpc_timeout_header_max: duration(grpc_timeout_header_max, &at.field("grpc_timeout_header_max")),
        grpc_timeout_header_offset: duration(grpc_timeout_header_offset, &at.field("grpc_timeout_header_offset")),
    }
}

fn convert_cluster(specifier: Option<ClusterSpecifier>, at: &At<'_>) -> Option<ClusterChoice> {
    match specifier {
        Some(ClusterSpecifier::Cluster(name)) if name.is_empty() => {
            at.field("cluster").reject("", "must not be empty");
            None
        }
        Some(ClusterSpecifier::Cluster(name)) => Some(ClusterChoice::Single(name.into())),
        Some(ClusterSpecifier::ClusterHeader(name)) => {
            field_name(&name, &at.field("cluster_header")).map(ClusterChoice::Header)
        }
        Some(ClusterSpecifier::WeightedClusters(message)) => {
            let weighted = WeightedClusters::convert(message, &at.field("weighted_clusters"))?;
            Some(ClusterChoice::Weighted(Box::new(weighted)))
        }
        Some(ClusterSpecifier::ClusterSpecifierPlugin(name)) => {
            at.field("cluster_specifier_plugin").reject(&name, "not in this version");
            None
        }
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            at.field("inline_cluster_specifier_plugin").reject("", "not in this version");
            None
        }
        None => {
            at.reject("", "one of cluster, cluster_header, weighted_clusters is required");
            None
        }
    }
}

fn field_name(name: &str, at: &At<'_>) -> Option<FieldName> {
    let parsed = FieldName::parse(name);
    if parsed.is_none() {
        at.reject(name, "not a header name");
    }
    parsed
}

impl WeightedClusters {
    fn convert(message: proto::WeightedCluster, at: &At<'_>) -> Option<WeightedClusters> {
        use proto::weighted_cluster::RandomValueSpecifier;
        let proto::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } = message;
        harmless!(at;
            total_weight = "the sum of the weights holds",
            runtime_key_prefix = "the weights here hold: no runtime layer is consulted");
        let random_header = match random_value_specifier {
            Some(RandomValueSpecifier::HeaderName(name)) => Some(field_name(&name, &at.field("header_name"))?),
            Some(RandomValueSpecifier::UseHashPolicy(true)) => {
                at.field("use_hash_policy").reject(true, "not in this version: hash policies come later");
                None
            }
            Some(RandomValueSpecifier::UseHashPolicy(false)) | None => None,
        };
        let clusters_at = at.field("clusters");
        let count = clusters.len();
        let clusters: Box<[_]> = clusters
            .into_iter()
            .enumerate()
            .filter_map(|(i, cluster)| WeightedCluster::convert(cluster, &clusters_at.index(i)))
            .collect();
        if clusters.len() < count {
            return None;
        }
        let total = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        if total == 0 || total > u64::from(u32::MAX) {
            clusters_at.reject(total, "the sum of the weights must be at least 1 and at most 4294967295");
            return None;
        }
        Some(WeightedClusters { clusters, total, random_header })
    }
}

impl WeightedCluster {
    fn convert(message: proto::weighted_cluster::ClusterWeight, at: &At<'_>) -> Option<WeightedCluster> {
        use proto::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        let proto::weighted_cluster::ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = message;
        unsupported!(at; typed_per_filter_config);
        harmless!(at;
            metadata_match = "only subset load balancers read it, and clusters that have one are rejected");
        let name = match (name.is_empty(), cluster_header.is_empty()) {
            (false, true) => Some(WeightedName::Fixed(name.into())),
            (true, false) => field_name(&cluster_header, &at.field("cluster_header")).map(WeightedName::Header),
            _ => {
                at.reject(&name, "exactly one of name and cluster_header is required");
                None
            }
        };
        if weight.is_none() {
            at.field("weight").reject("", "is required");
        }
        let host = match host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                host_value(&host, &at.field("host_rewrite_literal"))
            }
            None => None,
        };
        Some(WeightedCluster {
            host,
            request: HeaderMutations::convert(request_headers_to_add, request_headers_to_remove, &REQUEST, at),
            response: HeaderMutations::convert(response_headers_to_add, response_headers_to_remove, &RESPONSE, at),
            name: name?,
            weight: weight?,
        })
    }
}
