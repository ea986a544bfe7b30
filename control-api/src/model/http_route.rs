//! `HTTPRoute`: which requests to a Service go where.

use std::collections::BTreeSet;
use std::time::Duration;

use outrigger_engine::config::report::{At, Report};
use outrigger_engine::matcher::Regex;
use outrigger_proto::envoy::r#type::matcher::v3::RegexMatcher;
use outrigger_proto::outrigger::control::v1 as pb;

use super::http_filter::{Filters, Place, other_order};
use super::value::{
    at_most, check, dns_label, dns_subdomain, duration, header_name, header_value, hostname, not_yet, path, port,
    query_value,
};
use super::{CORE, CORE_IS_TAKEN, Kind, Name, check_head};

/// The group of the Gateway API's kinds.
pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// An HTTPRoute, checked.
#[derive(Clone, Debug)]
pub struct HttpRoute {
    /// Its name.
    pub name: Name,
    /// Its parents that are Services.
    pub parents: Vec<ParentRef>,
    /// Its parents of other kinds, as they were written: here is nothing of these.
    pub foreign: Vec<pb::ParentReference>,
    /// What is taken, and has no effect or another one than it seems to have.
    pub notes: Vec<String>,
    /// Its rules; those that were rejected are left out.
    pub rules: Vec<Rule>,
    /// The numbers of the rules that were left out.
    pub dropped: Vec<usize>,
}

/// A Service as parent.
#[derive(Clone, Debug)]
pub struct ParentRef {
    /// As it was written.
    pub written: pb::ParentReference,
    /// The Service.
    pub service: Name,
    /// One of its ports by name.
    pub section: Option<String>,
    /// One of its ports by number.
    pub port: Option<u16>,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its place in the route.
    pub index: usize,
    /// Its name.
    pub name: Option<String>,
    /// Any of them; at least one.
    pub matches: Vec<Match>,
    /// What it does to requests and responses.
    pub filters: Filters,
    /// Where they go.
    pub backends: Vec<BackendRef>,
    /// `timeouts.request`; zero is none.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`; zero is none.
    pub attempt_timeout: Option<Duration>,
    /// `retry`
    pub retry: RuleRetry,
}

/// What a request has to look like: all of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// Its path.
    pub path: PathMatch,
    /// Headers by name in lower case; each name once.
    pub headers: Vec<(String, Text)>,
    /// Query parameters; each name once.
    pub query: Vec<(String, Text)>,
    /// Its method.
    pub method: Option<String>,
}

/// What a path has to look like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Its first elements; without `/` at its end, so the root is empty.
    Prefix(String),
    /// The whole path, without its query.
    Regex(String),
}

/// What a value has to look like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Text {
    /// This text.
    Exact(String),
    /// The whole of it matches.
    Regex(String),
}

/// Where a part of a rule's requests goes.
#[derive(Clone, Debug)]
pub struct BackendRef {
    /// Group and kind; a Service is `""` and `Service`.
    pub kind: (String, String),
    /// The Service.
    pub service: Name,
    /// Its port.
    pub port: Option<u16>,
    /// Its share.
    pub weight: u32,
    /// What is done to its requests and responses, after the rule's.
    pub filters: Filters,
}

/// `retry`: what is not set comes from the Service's policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleRetry {
    /// Statuses that are retried.
    pub codes: Option<Vec<u16>>,
    /// Retries after the first attempt.
    pub attempts: Option<u32>,
    /// The base interval.
    pub backoff: Option<Duration>,
}

impl HttpRoute {
    /// Reads the object. What is rejected is reported; a rule that is rejected is left out, and the rest is usable.
    pub fn convert(object: &pb::HttpRoute, at: &At<'_>) -> HttpRoute {
        // `status` is ours to write.
        let pb::HttpRoute { api_version, kind, metadata, spec, status: _ } = object;
        check_head(Kind::HttpRoute, api_version, kind, metadata.as_ref(), at);
        let at = at.field("spec");
        let name = Name::of(metadata.as_ref());
        let Some(spec) = spec else {
            at.reject("", "is required");
            return HttpRoute {
                name,
                parents: Vec::new(),
                foreign: Vec::new(),
                notes: Vec::new(),
                rules: Vec::new(),
                dropped: Vec::new(),
            };
        };
        let pb::HttpRouteSpec { parent_refs, hostnames, rules: messages, use_default_gateways } = spec;
        not_yet(&at.field("useDefaultGateways"), use_default_gateways.is_some(), "", "there are no gateways");
        let hostnames_at = at.field("hostnames");
        at_most(&hostnames_at, hostnames, 16);
        for (i, host) in hostnames.iter().enumerate() {
            check(&hostnames_at.index(i), host, hostname);
        }
        let (parents, foreign) = convert_parents(parent_refs, &name, &at.field("parentRefs"));

        let list = at.field("rules");
        at_most(&list, messages, 16);
        if messages.iter().map(|rule| rule.matches.len()).sum::<usize>() > 128 {
            list.reject("", "the rules have more than 128 matches together");
        }
        let mut names = BTreeSet::new();
        let (mut rules, mut dropped) = (Vec::new(), Vec::new());
        let everything = [pb::HttpRouteRule::default()];
        let messages = if messages.is_empty() { &everything } else { messages.as_slice() };
        for (i, message) in messages.iter().enumerate() {
            let at = list.index(i);
            if let Some(name) = message.name.as_ref().filter(|name| !names.insert(*name)) {
                at.field("name").reject(name, "another rule has this name");
            }
            match Rule::convert(message, i, &name, &at) {
                Some(rule) => rules.push(rule),
                None => dropped.push(i),
            }
        }
        let notes = notes(spec);
        HttpRoute { name, parents, foreign, notes, rules, dropped }
    }
}

/// What is taken of a route, and has no effect or another one than it seems to have.
fn notes(spec: &pb::HttpRouteSpec) -> Vec<String> {
    let mut notes = Vec::new();
    if !spec.hostnames.is_empty() {
        notes.push("spec.hostnames has no effect where a Service is the parent".to_owned());
    }
    let is_core = |group: &Option<String>| group.as_deref() == Some(CORE);
    let mut core: Vec<String> = (0..)
        .zip(&spec.parent_refs)
        .filter(|(_, parent)| is_core(&parent.group) && parent.kind.as_deref() == Some("Service"))
        .map(|(i, _): (usize, _)| format!("spec.parentRefs[{i}]"))
        .collect();
    for (i, rule) in spec.rules.iter().enumerate() {
        let backends = rule.backend_refs.iter().enumerate().filter(|(_, backend)| is_core(&backend.group));
        core.extend(backends.map(|(j, _)| format!("spec.rules[{i}].backendRefs[{j}]")));
        notes.extend(other_order(&rule.filters).map(|note| format!("spec.rules[{i}].filters: {note}")));
    }
    if !core.is_empty() {
        notes.push(format!("{CORE_IS_TAKEN} in {}", core.join(", ")));
    }
    notes
}

/// The parents that are Services, and those that are not.
fn convert_parents(
    messages: &[pb::ParentReference],
    route: &Name,
    list: &At<'_>,
) -> (Vec<ParentRef>, Vec<pb::ParentReference>) {
    at_most(list, messages, 32);
    let mut parents: Vec<ParentRef> = Vec::new();
    let mut foreign = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let at = list.index(i);
        let pb::ParentReference { group, kind, namespace, name, section_name, port: number } = message;
        let group = group.as_deref().unwrap_or(GATEWAY_GROUP);
        let kind = kind.as_deref().unwrap_or("Gateway");
        check(&at.field("name"), name, dns_subdomain);
        if let Some(namespace) = namespace {
            check(&at.field("namespace"), namespace, dns_label);
        }
        if let Some(section) = section_name {
            check(&at.field("sectionName"), section, dns_subdomain);
        }
        let number = number.and_then(|number| port(&at.field("port"), number));
        if kind != "Service" {
            foreign.push(message.clone());
            continue;
        }
        if !["", CORE].contains(&group) {
            at.field("group").reject(group, "must be \"\", the group of Services; it is not that if left out");
        }
        let namespace = namespace.as_deref().filter(|text| !text.is_empty()).unwrap_or(&route.namespace);
        let parent = ParentRef {
            written: message.clone(),
            service: Name::new(namespace, name),
            section: section_name.clone().filter(|text| !text.is_empty()),
            port: number,
        };
        let overlaps = |other: &ParentRef| {
            let sections = parent.section.is_some() && other.section.is_some() && parent.section != other.section;
            let ports = parent.port.is_some() && other.port.is_some() && parent.port != other.port;
            other.service == parent.service && !sections && !ports
        };
        if parents.iter().any(overlaps) {
            at.reject(
                &parent.service,
                "two references to one object must both set sectionName or port, to different values",
            );
        }
        parents.push(parent);
    }
    (parents, foreign)
}

impl Rule {
    fn convert(message: &pb::HttpRouteRule, index: usize, route: &Name, at: &At<'_>) -> Option<Rule> {
        let problems = at.problem_count();
        let pb::HttpRouteRule { name, matches, filters, backend_refs, timeouts, retry, session_persistence } = message;
        not_yet(&at.field("sessionPersistence"), session_persistence.is_some(), "", "sticky sessions come later");
        if let Some(name) = name {
            check(&at.field("name"), name, dns_subdomain);
        }
        let filters_at = at.field("filters");
        let rule_filters = Filters::convert(filters, Place::Rule, &filters_at);

        let matches_at = at.field("matches");
        at_most(&matches_at, matches, 64);
        let everything = [pb::HttpRouteMatch::default()];
        let messages = if matches.is_empty() { &everything } else { matches.as_slice() };
        let matches: Vec<Match> = messages
            .iter()
            .enumerate()
            .filter_map(|(i, message)| Match::convert(message, &matches_at.index(i)))
            .collect();
        let one_prefix = matches!(matches.as_slice(), [Match { path: PathMatch::Prefix(_), .. }]);
        if rule_filters.replaces_prefix() && !one_prefix && at.problem_count() == problems {
            filters_at.reject(
                "",
                "ReplacePrefixMatch needs exactly one match in the rule, of type PathPrefix (IncompatibleFilters)",
            );
        }

        let backends_at = at.field("backendRefs");
        at_most(&backends_at, backend_refs, 16);
        if rule_filters.redirect.is_some() && !backend_refs.is_empty() {
            backends_at.reject("", "must be empty beside RequestRedirect");
        }
        let backends: Vec<_> = backend_refs
            .iter()
            .enumerate()
            .filter_map(|(i, message)| BackendRef::convert(message, route, &backends_at.index(i)))
            .collect();

        let (mut request_timeout, mut attempt_timeout) = (None, None);
        if let Some(pb::HttpRouteTimeouts { request, backend_request }) = timeouts {
            let at = at.field("timeouts");
            request_timeout = request.as_deref().and_then(|text| duration(&at.field("request"), text));
            let attempt_at = at.field("backendRequest");
            attempt_timeout = backend_request.as_deref().and_then(|text| duration(&attempt_at, text));
            if let (Some(request), Some(attempt)) = (request_timeout, attempt_timeout)
                && !request.is_zero()
                && attempt > request
            {
                attempt_at.reject(backend_request.as_deref().unwrap_or_default(), "must not be longer than request");
            }
        }
        let retry = retry.as_ref().map(|message| convert_retry(message, &at.field("retry"))).unwrap_or_default();
        (at.problem_count() == problems).then_some(Rule {
            index,
            name: name.clone(),
            matches,
            filters: rule_filters,
            backends,
            request_timeout,
            attempt_timeout,
            retry,
        })
    }
}

fn convert_retry(message: &pb::HttpRouteRetry, at: &At<'_>) -> RuleRetry {
    let pb::HttpRouteRetry { codes, attempts, backoff } = message;
    RuleRetry {
        codes: (!codes.is_empty()).then(|| status_codes(codes, &at.field("codes"))),
        attempts: attempts.and_then(|count| attempts_of(&at.field("attempts"), count)),
        backoff: backoff.as_deref().and_then(|text| positive(&at.field("backoff"), text)),
    }
}

/// Statuses that are retried: 400 to 599, each once.
pub(super) fn status_codes(codes: &[i32], list: &At<'_>) -> Vec<u16> {
    let mut found = BTreeSet::new();
    for (i, code) in codes.iter().enumerate() {
        match u16::try_from(*code) {
            Ok(status @ 400..=599) if found.insert(status) => {}
            Ok(400..=599) => list.index(i).reject(code, "is there twice"),
            _ => list.index(i).reject(code, "must be 400 to 599"),
        }
    }
    found.into_iter().collect()
}

/// Retries after the first attempt: at most 100, for each is another request to a service that is in trouble already.
pub(super) fn attempts_of(at: &At<'_>, value: i32) -> Option<u32> {
    let count = u32::try_from(value).ok().filter(|count| *count <= 100);
    if count.is_none() {
        at.reject(value, "must be 0 to 100");
    }
    count
}

/// A duration above zero.
pub(super) fn positive(at: &At<'_>, text: &str) -> Option<Duration> {
    let value = duration(at, text)?;
    if value.is_zero() {
        at.reject(text, "must be greater than 0s");
        return None;
    }
    Some(value)
}

impl Match {
    fn convert(message: &pb::HttpRouteMatch, at: &At<'_>) -> Option<Match> {
        let problems = at.problem_count();
        let pb::HttpRouteMatch { path, headers, query_params, method } = message;
        let path = PathMatch::convert(path.as_ref(), &at.field("path"));
        let headers_at = at.field("headers");
        at_most(&headers_at, headers, 16);
        let mut by_header: Vec<(String, Text)> = Vec::new();
        for (i, pb::HttpHeaderMatch { r#type, name, value }) in headers.iter().enumerate() {
            let at = headers_at.index(i);
            check(&at.field("name"), name, header_name);
            check(&at.field("value"), value, header_value);
            let name = name.to_ascii_lowercase();
            // Of equal names the first counts.
            if let Some(text) = Text::convert(r#type.as_deref(), value, &at)
                && !by_header.iter().any(|(other, _)| *other == name)
            {
                by_header.push((name, text));
            }
        }
        let query_at = at.field("queryParams");
        at_most(&query_at, query_params, 16);
        let mut query: Vec<(String, Text)> = Vec::new();
        for (i, pb::HttpQueryParamMatch { r#type, name, value }) in query_params.iter().enumerate() {
            let at = query_at.index(i);
            check(&at.field("name"), name, header_name);
            check(&at.field("value"), value, query_value);
            if let Some(text) = Text::convert(r#type.as_deref(), value, &at)
                && !query.iter().any(|(other, _)| other == name)
            {
                query.push((name.clone(), text));
            }
        }
        let method_at = at.field("method");
        match method.as_deref() {
            Some("CONNECT") => not_yet(&method_at, true, "CONNECT", "CONNECT comes later"),
            Some(other) if !METHODS.contains(&other) => {
                method_at.reject(other, format_args!("must be one of {}", METHODS.join(", ")));
            }
            _ => {}
        }
        let found = Match { path: path?, headers: by_header, query, method: method.clone() };
        (at.problem_count() == problems).then_some(found)
    }
}

impl PathMatch {
    fn convert(message: Option<&pb::HttpPathMatch>, at: &At<'_>) -> Option<PathMatch> {
        let (r#type, value) = match message {
            None => (None, None),
            Some(pb::HttpPathMatch { r#type, value }) => (r#type.as_deref(), value.as_deref()),
        };
        let value = value.unwrap_or("/");
        let value_at = at.field("value");
        match r#type.unwrap_or("PathPrefix") {
            "Exact" => check(&value_at, value, path).then(|| PathMatch::Exact(value.to_owned())),
            "PathPrefix" => {
                check(&value_at, value, path).then(|| PathMatch::Prefix(value.trim_end_matches('/').to_owned()))
            }
            "RegularExpression" => {
                if value.len() > 1024 {
                    value_at.reject(value, "must be at most 1024 bytes");
                }
                regex(value, &value_at).then(|| PathMatch::Regex(value.to_owned()))
            }
            other => {
                at.field("type").reject(other, "must be Exact, PathPrefix or RegularExpression");
                None
            }
        }
    }
}

impl Text {
    fn convert(r#type: Option<&str>, value: &str, at: &At<'_>) -> Option<Text> {
        match r#type.unwrap_or("Exact") {
            "Exact" => Some(Text::Exact(value.to_owned())),
            "RegularExpression" => regex(value, &at.field("value")).then(|| Text::Regex(value.to_owned())),
            other => {
                at.field("type").reject(other, "must be Exact or RegularExpression");
                None
            }
        }
    }
}

/// Whether the proxy can use the expression.
fn regex(text: &str, at: &At<'_>) -> bool {
    let report = Report::new();
    let usable = Regex::convert(RegexMatcher { regex: text.to_owned(), ..Default::default() }, &report.root());
    for problem in report.into_parts().0 {
        at.reject(text, problem.reason);
    }
    usable.is_some()
}

impl BackendRef {
    fn convert(message: &pb::HttpBackendRef, route: &Name, at: &At<'_>) -> Option<BackendRef> {
        let problems = at.problem_count();
        let pb::HttpBackendRef { group, kind, name, namespace, port: number, weight, filters } = message;
        let kind = (group.clone().unwrap_or_default(), kind.clone().unwrap_or_else(|| "Service".to_owned()));
        check(&at.field("name"), name, dns_subdomain);
        if let Some(namespace) = namespace {
            check(&at.field("namespace"), namespace, dns_label);
        }
        let number = number.and_then(|number| port(&at.field("port"), number));
        if message.port.is_none() && kind.0.is_empty() && kind.1 == "Service" {
            at.field("port").reject("", "is required for a Service");
        }
        let weight = weight.unwrap_or(1);
        if !(0..=1_000_000).contains(&weight) {
            at.field("weight").reject(weight, "must be 0 to 1000000");
        }
        let namespace = namespace.as_deref().filter(|text| !text.is_empty()).unwrap_or(&route.namespace);
        let backend = BackendRef {
            kind,
            service: Name::new(namespace, name),
            port: number,
            weight: u32::try_from(weight).unwrap_or_default(),
            filters: Filters::convert(filters, Place::Backend, &at.field("filters")),
        };
        (at.problem_count() == problems).then_some(backend)
    }
}
