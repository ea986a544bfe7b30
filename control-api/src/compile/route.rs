//! The routes of a port as one table: a virtual host for every authority, since what was called is known by its
//! address.
//!
//! One route for each match, in the model's order. There is no route for the rest: what no rule takes is answered with
//! 404. A port without routes has one, to its own instances.

use std::time::Duration;

use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use outrigger_proto::envoy::config::route::v3 as pb;
use outrigger_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use outrigger_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use outrigger_proto::envoy::config::route::v3::route_match::PathSpecifier;
use outrigger_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use outrigger_proto::envoy::config::route::v3::{header_matcher, query_parameter_matcher, retry_policy};
use outrigger_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use outrigger_proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};

use super::message::{any, duration};
use super::rewrite::{Rewrite, full, rewrite};
use outrigger_engine::snapshot::NEVER_SENT;

use super::resource_name;
use crate::model::{
    Backend, Entry, HeaderOps, Match, PathMatch, PolicyValues, Port, Redirect, RetryCause, Rule, RuleRetry, Text,
};

const RETRIES: u32 = 2;
/// Only what no instance has processed.
const RETRY_ON: [RetryCause; 4] =
    [RetryCause::ConnectFailure, RetryCause::Refused, RetryCause::Unread, RetryCause::Unavailable];
const BACKOFF: Duration = Duration::from_millis(25);
/// Bytes of a body that are kept to be sent again.
const BUFFER: u32 = 64 << 10;

/// The table `name` of a port whose own cluster is `cluster`. `entries`: of its routes, of which every rule may be
/// unusable; `None` where it has none.
pub(super) fn configuration(
    name: &str,
    cluster: &str,
    port: &Port,
    entries: Option<&[Entry]>,
) -> pb::RouteConfiguration {
    let routes = match entries {
        Some(entries) => entries.iter().flat_map(|entry| routes(entry, port)).collect(),
        None => vec![pb::Route {
            name: "default".to_owned(),
            r#match: Some(pb::RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
                ..Default::default()
            }),
            action: Some(pb::route::Action::Route(pb::RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
                ..forward(&Times::default(), &port.policy)
            })),
            ..Default::default()
        }],
    };
    pb::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![pb::VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            request_body_buffer_limit: Some(port.policy.buffer_bytes.unwrap_or(BUFFER).into()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The routes of one match: one, or two of a redirect whose port has to be printed for some requests only.
fn routes(entry: &Entry, port: &Port) -> Vec<pb::Route> {
    let (Some(rule), Some(matching)) = (entry.rule(), entry.matching()) else { return Vec::new() };
    let route = route(entry, rule, matching, port);
    let redirect = rule.filters.redirect.as_ref();
    let printed = redirect.and_then(|redirect| printed_for_another(redirect, port.port.number));
    match printed {
        Some(number) => vec![with_port(route.clone(), number), route],
        None => vec![route],
    }
}

fn route(entry: &Entry, rule: &Rule, matching: &Match, port: &Port) -> pb::Route {
    let backends = entry.route.backends.get(entry.rule).map(Vec::as_slice).unwrap_or_default();
    // A header is changed by the rule first and by the backend then; on the way back it is the other way round. Both
    // together are one step, so that nothing depends on the order in which a proxy takes its levels.
    let own = |backend: &Backend| !backend.filters.request.0.is_empty() || !backend.filters.response.0.is_empty();
    let by_cluster = backends.len() > 1 && backends.iter().any(own);
    let (mut request, mut response) = (rule.filters.request.clone(), rule.filters.response.clone());
    if let [backend] = backends {
        request = request.then(&backend.filters.request);
        response = backend.filters.response.then(&response);
    }
    let action = action(rule, matching, backends, by_cluster, port);
    if by_cluster && matches!(action, pb::route::Action::Route(_)) {
        (request, response) = Default::default();
    }
    let (request_headers_to_add, request_headers_to_remove) = headers(&request);
    let (response_headers_to_add, response_headers_to_remove) = headers(&response);
    let of_rule = rule.name.clone().unwrap_or_else(|| rule.index.to_string());
    pb::Route {
        name: format!("{}/{of_rule}", entry.route.route.name),
        r#match: Some(route_match(matching)),
        action: Some(action),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        ..Default::default()
    }
}

fn route_match(matching: &Match) -> pb::RouteMatch {
    let path = match &matching.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Prefix(prefix) if prefix.is_empty() => PathSpecifier::Prefix("/".to_owned()),
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
        PathMatch::Regex(regex) => {
            PathSpecifier::SafeRegex(RegexMatcher { regex: regex.clone(), ..Default::default() })
        }
    };
    let method = matching.method.as_ref().map(|method| header(":method", string(&Text::Exact(method.clone()))));
    let headers = matching.headers.iter().map(|(name, text)| header(name, string(text)));
    let query = matching.query.iter().map(|(name, text)| pb::QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(
            string(text),
        )),
    });
    pb::RouteMatch {
        path_specifier: Some(path),
        headers: method.into_iter().chain(headers).collect(),
        query_parameters: query.collect(),
        ..Default::default()
    }
}

fn header(name: &str, text: StringMatcher) -> pb::HeaderMatcher {
    pb::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(text)),
        ..Default::default()
    }
}

fn string(text: &Text) -> StringMatcher {
    let pattern = match text {
        Text::Exact(text) => string_matcher::MatchPattern::Exact(text.clone()),
        Text::Regex(regex) => {
            string_matcher::MatchPattern::SafeRegex(RegexMatcher { regex: regex.clone(), ..Default::default() })
        }
    };
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

fn action(rule: &Rule, matching: &Match, backends: &[Backend], by_cluster: bool, port: &Port) -> pb::route::Action {
    if let Some(redirect) = &rule.filters.redirect {
        return pb::route::Action::Redirect(redirection(redirect, &matching.path, port.port.number));
    }
    let usable = |backend: &&Backend| backend.weight > 0 && backend.port.is_some();
    if !backends.iter().any(|backend| usable(&backend)) {
        return pb::route::Action::DirectResponse(pb::DirectResponseAction { status: 500, ..Default::default() });
    }
    let times = Times { request: rule.request_timeout, attempt: rule.attempt_timeout, retry: rule.retry.clone() };
    let mut action = forward(&times, &port.policy);
    action.cluster_specifier = Some(match backends {
        [one] => ClusterSpecifier::Cluster(cluster_name(one)),
        _ => ClusterSpecifier::WeightedClusters(weighted(rule, backends, by_cluster)),
    });
    // Only for the share of a backend that leads nowhere: there is one code for a route.
    if backends.iter().any(|backend| backend.port.is_none() && backend.weight > 0) {
        action.cluster_not_found_response_code = ClusterNotFoundResponseCode::InternalServerError as i32;
    }
    if let Some(rewriting) = &rule.filters.rewrite {
        if let Some(hostname) = &rewriting.hostname {
            action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(hostname.clone()));
            action.append_x_forwarded_host = true;
        }
        match rewriting.path.as_ref().and_then(|modifier| rewrite(&matching.path, modifier)) {
            None => {}
            Some(Rewrite::Prefix(prefix)) => action.prefix_rewrite = prefix,
            Some(Rewrite::Regex(regex)) => action.regex_rewrite = Some(regex),
            Some(Rewrite::Full(path)) => action.regex_rewrite = Some(full(&path)),
        }
    }
    pb::route::Action::Route(action)
}

fn cluster_name(backend: &Backend) -> String {
    match &backend.port {
        Some((service, number)) => resource_name(service, *number).to_string(),
        None => format!("{NEVER_SENT}backend"),
    }
}

fn weighted(rule: &Rule, backends: &[Backend], by_cluster: bool) -> pb::WeightedCluster {
    // A backend of weight 0 stays, so that it is warm when it gets its share. One that leads nowhere has none.
    let clusters = backends.iter().filter(|backend| backend.port.is_some() || backend.weight > 0).map(|backend| {
        let (request, response) = match by_cluster {
            true => (
                rule.filters.request.then(&backend.filters.request),
                backend.filters.response.then(&rule.filters.response),
            ),
            false => Default::default(),
        };
        let (request_headers_to_add, request_headers_to_remove) = headers(&request);
        let (response_headers_to_add, response_headers_to_remove) = headers(&response);
        ClusterWeight {
            name: cluster_name(backend),
            weight: Some(backend.weight),
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            ..Default::default()
        }
    });
    pb::WeightedCluster { clusters: clusters.collect(), ..Default::default() }
}

/// What to add and what to remove.
fn headers(ops: &HeaderOps) -> (Vec<core::HeaderValueOption>, Vec<String>) {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for (name, op) in &ops.0 {
        if op.clear && op.append.is_empty() {
            remove.push(name.clone());
        }
        for (index, value) in op.append.iter().enumerate() {
            let action = match op.clear && index == 0 {
                true => HeaderAppendAction::OverwriteIfExistsOrAdd,
                false => HeaderAppendAction::AppendIfExistsOrAdd,
            };
            add.push(core::HeaderValueOption {
                header: Some(core::HeaderValue {
                    key: name.clone(),
                    // Values are format strings.
                    value: value.replace('%', "%%"),
                    ..Default::default()
                }),
                append_action: action as i32,
                ..Default::default()
            });
        }
    }
    (add, remove)
}

/// What a rule says about time; what it does not say comes from the policy.
#[derive(Default)]
struct Times {
    request: Option<Duration>,
    attempt: Option<Duration>,
    retry: RuleRetry,
}

/// A `RouteAction` without its cluster.
fn forward(times: &Times, policy: &PolicyValues) -> pb::RouteAction {
    let request = times.request.or(policy.request).unwrap_or_default();
    let attempt = times.attempt.or(policy.attempt).unwrap_or_default();
    let max_stream = policy.max_stream.unwrap_or_default();
    let honour = policy.honour_grpc_deadline.unwrap_or(true);
    let mut action = pb::RouteAction {
        // Not set, it would be 15 s.
        timeout: duration(request),
        // Not set, it would be the connection manager's.
        idle_timeout: duration(policy.stream_idle.unwrap_or_default()),
        retry_policy: retry_policy(&times.retry, attempt, policy),
        ..Default::default()
    };
    if request.is_zero() || !max_stream.is_zero() {
        // Where this is set, `timeout` has no effect.
        let most = if request.is_zero() { max_stream } else { request.min(max_stream) };
        action.max_stream_duration = Some(pb::route_action::MaxStreamDuration {
            max_stream_duration: (!most.is_zero()).then(|| duration(most)).flatten(),
            grpc_timeout_header_max: honour.then(|| duration(request)).flatten(),
            ..Default::default()
        });
    } else {
        // It is deprecated, and the only way to honour a deadline beside `timeout`.
        action.max_grpc_timeout = honour.then(|| duration(request)).flatten();
    }
    action
}

/// The retry policy; `None` where nothing is retried and an attempt has no timeout.
fn retry_policy(rule: &RuleRetry, attempt: Duration, policy: &PolicyValues) -> Option<pb::RetryPolicy> {
    let attempts = rule.attempts.or(policy.attempts).unwrap_or(RETRIES);
    if attempts == 0 && attempt.is_zero() {
        return None;
    }
    let codes = rule.codes.as_ref().or(policy.codes.as_ref()).map(Vec::as_slice).unwrap_or_default();
    let causes = policy.on.as_deref().unwrap_or(&RETRY_ON);
    let mut on: Vec<&str> = causes.iter().map(|cause| token(*cause)).collect();
    on.extend(policy.grpc_codes.iter().flatten().filter(|code| **code != "unavailable"));
    let unavailable = policy.grpc_codes.iter().flatten().any(|code| *code == "unavailable");
    if unavailable && !causes.contains(&RetryCause::Unavailable) {
        on.push("unavailable");
    }
    if !codes.is_empty() {
        on.push("retriable-status-codes");
    }
    // An attempt whose time is over has no status that could be retried, though its caller gets a 504: it counts as
    // reset. Who names 504 takes requests to be sent again that may have been processed.
    let wider = [RetryCause::Reset, RetryCause::GatewayError, RetryCause::ServerError];
    if !attempt.is_zero() && codes.contains(&504) && !causes.iter().any(|cause| wider.contains(cause)) {
        on.push(token(RetryCause::Reset));
    }
    // A base of the rule's own leaves the policy's longest wait behind.
    let (base, max) = match rule.backoff {
        Some(base) => (base, None),
        // Only the default may be above the longest wait, and then gives way.
        None => {
            let max = policy.backoff_max;
            (policy.backoff_base.unwrap_or(max.map_or(BACKOFF, |max| max.min(BACKOFF))), max)
        }
    };
    let max = max.filter(|max| *max >= base).unwrap_or(base * 10);
    Some(pb::RetryPolicy {
        retry_on: on.join(","),
        num_retries: Some(attempts),
        per_try_timeout: (!attempt.is_zero()).then(|| duration(attempt)).flatten(),
        retriable_status_codes: codes.iter().copied().map(u32::from).collect(),
        retry_back_off: Some(retry_policy::RetryBackOff { base_interval: duration(base), max_interval: duration(max) }),
        retry_host_predicate: vec![retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    })
}

fn token(cause: RetryCause) -> &'static str {
    match cause {
        RetryCause::ConnectFailure => "connect-failure",
        RetryCause::Refused => "refused-stream",
        RetryCause::Unread => "reset-before-request",
        RetryCause::Unavailable => "unavailable",
        RetryCause::GatewayError => "gateway-error",
        RetryCause::Reset => "reset",
        RetryCause::ServerError => "5xx",
    }
}

fn redirection(redirect: &Redirect, path: &PathMatch, service_port: u16) -> pb::RedirectAction {
    let rewrite = redirect.path.as_ref().and_then(|modifier| rewrite(path, modifier));
    pb::RedirectAction {
        host_redirect: redirect.hostname.clone().unwrap_or_default(),
        port_redirect: redirect_port(redirect, service_port).into(),
        response_code: match redirect.status {
            301 => RedirectResponseCode::MovedPermanently,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::Found,
        } as i32,
        scheme_rewrite_specifier: redirect
            .scheme
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
        path_rewrite_specifier: rewrite.map(|rewrite| match rewrite {
            Rewrite::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
            Rewrite::Regex(regex) => PathRewriteSpecifier::RegexRewrite(regex),
            Rewrite::Full(path) => PathRewriteSpecifier::PathRedirect(path),
        }),
        ..Default::default()
    }
}

/// The port that a redirect leads to: the one given, else the scheme's where there is a scheme, else the Service's.
/// `None` where the authority stays as it is.
fn target_port(redirect: &Redirect, service_port: u16) -> Option<u16> {
    match (redirect.port, redirect.scheme, &redirect.hostname) {
        (Some(port), ..) => Some(port),
        (None, Some(scheme), _) => Some(implied_port(Some(scheme))),
        (None, None, Some(_)) => Some(service_port),
        (None, None, None) => None,
    }
}

fn implied_port(scheme: Option<&str>) -> u16 {
    if scheme == Some("https") { 443 } else { 80 }
}

/// The port to print, 0 for none: not one that the scheme implies.
fn redirect_port(redirect: &Redirect, service_port: u16) -> u16 {
    target_port(redirect, service_port).filter(|port| *port != implied_port(redirect.scheme)).unwrap_or(0)
}

/// The port to print where the request's authority has one, and none is printed else. What is not replaced stays: the
/// authority that goes into the answer would be that of this listener.
fn printed_for_another(redirect: &Redirect, service_port: u16) -> Option<u16> {
    let implied = implied_port(redirect.scheme);
    (redirect.hostname.is_none() && target_port(redirect, service_port) == Some(implied)).then_some(implied)
}

/// The redirect for requests whose authority has a port.
fn with_port(mut route: pb::Route, port: u16) -> pb::Route {
    let has_port = header(":authority", string(&Text::Regex(".*:[0-9]+".to_owned())));
    if let Some(matching) = &mut route.r#match {
        matching.headers.push(has_port);
    }
    if let Some(pb::route::Action::Redirect(redirect)) = &mut route.action {
        redirect.port_redirect = port.into();
    }
    route
}
