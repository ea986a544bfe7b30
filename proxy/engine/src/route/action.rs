//! What a route does with a request that it takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrigger_proto::envoy::config::core::v3::RoutingPriority as ProtoPriority;
use outrigger_proto::envoy::config::route::v3 as proto;
use outrigger_proto::envoy::config::route::v3::route_action::{ClusterNotFoundResponseCode, HostRewriteSpecifier};

use crate::config::report::{At, IsSet};
use crate::config::value::duration;
use crate::matcher::{FieldName, Substitution};
use crate::message::RequestHead;
use crate::resilience::breaker::RoutingPriority;
use crate::resilience::retry::RetryPolicy;
use crate::resilience::timeout::{MaxStreamDuration, RouteTimeouts};
use crate::route::cluster::{Choice, ClusterChoice};
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

impl Forward {
    /// Chooses the cluster. `random`: uniform over 64 bits, the same for the whole request.
    pub fn choose(&self, request: &RequestHead, random: u64) -> Choice<'_> {
        self.cluster.choose(request, random)
    }

    /// Whether the authority becomes the name of the upstream host (`auto_host_rewrite`): the router does that, by
    /// [`rewrite_authority`](crate::route::rewrite_authority), once it has chosen a host that has one.
    pub fn auto_host_rewrite(&self) -> bool {
        matches!(self.host, HostRewrite::Auto)
    }

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
        let cluster = ClusterChoice::convert(cluster_specifier, at);
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
pub(crate) fn host_value(host: &str, at: &At<'_>) -> Option<http::HeaderValue> {
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
