//! `VirtualHost` and `Route`: a list of rules, asked in order.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use outrigger_proto::envoy::config::route::v3 as proto;
use outrigger_proto::envoy::config::route::v3::virtual_host::TlsRequirementType;

use crate::config::report::At;
use crate::config::value::check_header_text;
use crate::message::RequestHead;
use crate::resilience::retry::RetryPolicy;
use crate::route::action::{Action, Forward};
use crate::route::headers::{HeaderMutations, REQUEST, RESPONSE};
use crate::route::index::Index;
use crate::route::matching::{Path, RouteMatch};
use crate::route::redirect::{DirectResponse, Redirect, forwarded_proto, https_location};
use crate::{harmless, unsupported};

static X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// A virtual host.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Which requests have to come by TLS.
    pub require_tls: RequireTls,
    /// Each attempt carries its number in `x-envoy-attempt-count`.
    pub include_request_attempt_count: bool,
    /// The response carries the number of attempts in `x-envoy-attempt-count`.
    pub include_attempt_count_in_response: bool,
    /// Each further attempt says in `x-envoy-is-timeout-retry` whether the one before took too long.
    pub include_is_timeout_retry_header: bool,
    pub(crate) request: Option<Box<HeaderMutations>>,
    pub(crate) response: Option<Box<HeaderMutations>>,
    pub(crate) routes: Box<[Route]>,
    index: Option<Box<Index>>,
}

/// `require_tls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequireTls {
    /// None.
    #[default]
    None,
    /// Those from outside.
    ExternalOnly,
    /// All.
    All,
}

/// A rule: which requests, and what becomes of them.
#[derive(Debug)]
pub struct Route {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Bytes of a request's body that may be kept for another try; `None`: the router's own limits hold.
    pub request_body_buffer_limit: Option<u64>,
    pub(crate) matches: RouteMatch,
    pub(crate) request: Option<Box<HeaderMutations>>,
    pub(crate) response: Option<Box<HeaderMutations>>,
}

impl Route {
    /// The action, if it is to forward.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            _ => None,
        }
    }
}

impl VirtualHost {
    pub(crate) fn find(&self, path: &Path<'_>, request: &RequestHead, random: u64) -> Option<&Route> {
        match &self.index {
            None => self.scan(path, request, random),
            Some(index) => {
                let matches = |number: u32| {
                    self.routes.get(number as usize).is_some_and(|route| route.matches.matches(path, request, random))
                };
                index.find(path.matched, matches).and_then(|number| self.routes.get(number as usize))
            }
        }
    }

    pub(crate) fn scan(&self, path: &Path<'_>, request: &RequestHead, random: u64) -> Option<&Route> {
        self.routes.iter().find(|route| route.matches.matches(path, request, random))
    }

    /// Where a request has to go that should have come by TLS.
    pub(crate) fn tls_redirect(&self, request: &RequestHead) -> Option<HeaderValue> {
        let required = match self.require_tls {
            RequireTls::None => false,
            RequireTls::All => true,
            RequireTls::ExternalOnly => {
                request.headers.get(&X_ENVOY_INTERNAL).is_none_or(|value| value.as_bytes() != b"true")
            }
        };
        (required && forwarded_proto(request) != b"https").then(|| https_location(request))
    }

    pub(crate) fn convert(message: proto::VirtualHost, max_body: usize, at: &At<'_>) -> Option<VirtualHost> {
        let proto::VirtualHost {
            name,
            domains,
            routes,
            matcher,
            require_tls,
            virtual_clusters,
            rate_limits,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            cors,
            typed_per_filter_config,
            include_request_attempt_count,
            include_attempt_count_in_response,
            retry_policy,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            request_mirror_policies,
            metadata,
            route_specifiers,
        } = message;
        unsupported!(at;
            matcher, typed_per_filter_config, retry_policy_typed_config, hedge_policy = "hedging comes later",
            request_mirror_policies = "mirroring comes later", route_specifiers);
        harmless!(at;
            virtual_clusters = "no statistics are kept by virtual cluster",
            rate_limits = "only the rate limit filters read it, and they are rejected",
            cors = "only the CORS filter reads it, and it is rejected",
            metadata = "nothing reads it");
        if name.is_empty() {
            at.field("name").reject("", "must not be empty");
        }
        if domains.is_empty() {
            at.field("domains").reject("", "at least one is required");
        }
        let list = at.field("domains");
        for (index, domain) in domains.iter().enumerate() {
            check_header_text(domain, &list.index(index));
        }
        let require_tls = match TlsRequirementType::try_from(require_tls) {
            Ok(TlsRequirementType::None) => RequireTls::None,
            Ok(TlsRequirementType::ExternalOnly) => RequireTls::ExternalOnly,
            Ok(TlsRequirementType::All) => RequireTls::All,
            Err(_) => {
                at.field("require_tls").reject(require_tls, "no such requirement");
                RequireTls::None
            }
        };
        let retry =
            retry_policy.and_then(|policy| RetryPolicy::convert(policy, &at.field("retry_policy"))).map(Arc::new);
        let limit = request_body_buffer_limit.or(per_request_buffer_limit_bytes.map(u64::from));
        let inherited = Inherited { retry, limit, max_body };
        let routes_at = at.field("routes");
        let routes: Box<[_]> = routes
            .into_iter()
            .enumerate()
            .filter_map(|(i, route)| Route::convert(route, &inherited, &routes_at.index(i)))
            .collect();
        let index = Index::new(routes.iter().map(|route| (&route.matches.path, route.matches.case_sensitive)));
        Some(VirtualHost {
            name: name.into(),
            require_tls,
            include_request_attempt_count,
            include_attempt_count_in_response,
            include_is_timeout_retry_header,
            request: HeaderMutations::convert(request_headers_to_add, request_headers_to_remove, &REQUEST, at),
            response: HeaderMutations::convert(response_headers_to_add, response_headers_to_remove, &RESPONSE, at),
            routes,
            index: index.map(Box::new),
        })
    }
}

/// What routes have from their virtual host and table.
struct Inherited {
    retry: Option<Arc<RetryPolicy>>,
    limit: Option<u64>,
    max_body: usize,
}

impl Route {
    fn convert(message: proto::Route, inherited: &Inherited, at: &At<'_>) -> Option<Route> {
        let proto::Route {
            name,
            r#match,
            metadata,
            decorator,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
            action,
        } = message;
        unsupported!(at; typed_per_filter_config, route_specifiers);
        harmless!(at;
            metadata = "nothing reads it",
            decorator = "it names spans, and tracing comes later",
            tracing = "tracing comes later",
            stat_prefix = "no statistics are kept by route");
        let matches = match r#match {
            Some(message) => RouteMatch::convert(message, &at.field("match")),
            None => {
                at.field("match").reject("", "is required");
                None
            }
        };
        let request = HeaderMutations::convert(request_headers_to_add, request_headers_to_remove, &REQUEST, at);
        let response = HeaderMutations::convert(response_headers_to_add, response_headers_to_remove, &RESPONSE, at);
        let action = match action {
            Some(proto::route::Action::Route(action)) => {
                let forward = Forward::convert(action, inherited.retry.as_ref(), &at.field("route"));
                forward.map(|forward| Action::Forward(Box::new(forward)))
            }
            Some(proto::route::Action::Redirect(action)) => {
                Redirect::convert(action, &at.field("redirect")).map(|redirect| Action::Redirect(Box::new(redirect)))
            }
            Some(proto::route::Action::DirectResponse(action)) => {
                DirectResponse::convert(action, inherited.max_body, &at.field("direct_response"))
                    .map(|response| Action::Respond(Box::new(response)))
            }
            Some(proto::route::Action::NonForwardingAction(_)) => Some(Action::NonForwarding),
            Some(proto::route::Action::FilterAction(_)) => {
                at.field("filter_action").reject("", "not in this version");
                None
            }
            None => {
                at.reject("", "one of route, redirect, direct_response, non_forwarding_action is required");
                None
            }
        };
        let limit = request_body_buffer_limit.or(per_request_buffer_limit_bytes.map(u64::from));
        Some(Route {
            name: name.into(),
            action: action?,
            request_body_buffer_limit: limit.or(inherited.limit),
            matches: matches?,
            request,
            response,
        })
    }
}
