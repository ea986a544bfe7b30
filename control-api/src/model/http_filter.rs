//! `HTTPRouteFilter`: what a rule, or one of its backends, does to requests and responses.

use std::collections::BTreeMap;

use outrigger_engine::config::report::At;
use outrigger_proto::outrigger::control::v1 as pb;

use super::value::{at_most, changeable_header, check, header_value, new_path, not_yet, port, precise_hostname};

/// All filters of one place. They apply in a fixed order, whatever that of the list: request headers, then rewrite or
/// redirect, and response headers on the way back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// `RequestHeaderModifier`
    pub request: HeaderOps,
    /// `ResponseHeaderModifier`
    pub response: HeaderOps,
    /// `RequestRedirect`
    pub redirect: Option<Redirect>,
    /// `URLRewrite`
    pub rewrite: Option<Rewrite>,
}

/// What becomes of headers, by their names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOps(pub BTreeMap<String, HeaderOp>);

/// What becomes of one header: first the values that are there go, or not, then values are appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOp {
    /// Those that are there go.
    pub clear: bool,
    /// What is appended, in order.
    pub append: Vec<String>,
}

impl HeaderOps {
    /// What `self` and then `next` do, in one step.
    pub fn then(&self, next: &HeaderOps) -> HeaderOps {
        let mut both = self.clone();
        for (name, op) in &next.0 {
            let first = both.0.entry(name.clone()).or_default();
            if op.clear {
                *first = op.clone();
            } else {
                first.append.extend(op.append.iter().cloned());
            }
        }
        both
    }
}

/// `RequestRedirect`: the answer is another address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; `None` keeps it.
    pub scheme: Option<&'static str>,
    /// The host; `None` keeps it.
    pub hostname: Option<String>,
    /// The path; `None` keeps it.
    pub path: Option<PathModifier>,
    /// The port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// `URLRewrite`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The host; `None` keeps it.
    pub hostname: Option<String>,
    /// The path; `None` keeps it.
    pub path: Option<PathModifier>,
}

/// What becomes of a path; its query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// `ReplaceFullPath`
    Full(String),
    /// `ReplacePrefixMatch`: without `/` at its end; empty for the root.
    Prefix(String),
}

/// Where a list of filters stands: not all of them may stand everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Rule,
    Backend,
}

impl Filters {
    /// Whether a path is replaced in part, which needs the prefix that matched.
    pub(super) fn replaces_prefix(&self) -> bool {
        let rewrite = self.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        let redirect = self.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        [rewrite, redirect].into_iter().flatten().any(|path| matches!(path, PathModifier::Prefix(_)))
    }

    /// Reads a list.
    pub(super) fn convert(messages: &[pb::HttpRouteFilter], place: Place, list: &At<'_>) -> Filters {
        at_most(list, messages, 16);
        let mut filters = Filters::default();
        let mut seen = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            let at = list.index(i);
            let pb::HttpRouteFilter {
                r#type,
                request_header_modifier,
                response_header_modifier,
                request_mirror,
                request_redirect,
                url_rewrite,
                cors,
                external_auth,
                extension_ref,
            } = message;
            let fields = [
                ("RequestHeaderModifier", "requestHeaderModifier", request_header_modifier.is_some()),
                ("ResponseHeaderModifier", "responseHeaderModifier", response_header_modifier.is_some()),
                ("RequestMirror", "requestMirror", request_mirror.is_some()),
                ("RequestRedirect", "requestRedirect", request_redirect.is_some()),
                ("URLRewrite", "urlRewrite", url_rewrite.is_some()),
                ("CORS", "cors", cors.is_some()),
                ("ExternalAuth", "externalAuth", external_auth.is_some()),
                ("ExtensionRef", "extensionRef", extension_ref.is_some()),
            ];
            let type_at = at.field("type");
            let Some((name, field, is_set)) = fields.iter().find(|(name, ..)| name == r#type) else {
                type_at.reject(r#type, format_args!("must be one of {}", fields.map(|(name, ..)| name).join(", ")));
                continue;
            };
            if let Some((_, other, _)) = fields.iter().find(|(other, _, is_set)| *is_set && other != name) {
                at.field(other).reject("", format_args!("must not be set where the type is {name}"));
            }
            match *name {
                "RequestMirror" => not_yet(&type_at, true, name, "mirroring comes later"),
                "CORS" | "ExternalAuth" => not_yet(&type_at, true, name, ""),
                "ExtensionRef" => not_yet(&type_at, true, name, "faults and rate limits come later"),
                _ if !is_set => at.field(field).reject("", format_args!("is required where the type is {name}")),
                _ if seen.contains(name) => type_at.reject(name, "may stand only once in a list"),
                "URLRewrite" | "RequestRedirect" if place == Place::Backend => {
                    not_yet(&type_at, true, name, "it may stand in the rule's filters");
                }
                _ => {}
            }
            seen.push(*name);
            if let Some(message) = request_header_modifier {
                filters.request = header_ops(message, &at.field("requestHeaderModifier"));
            }
            if let Some(message) = response_header_modifier {
                filters.response = header_ops(message, &at.field("responseHeaderModifier"));
            }
            if let Some(message) = request_redirect {
                filters.redirect = redirect(message, &at.field("requestRedirect"));
            }
            if let Some(message) = url_rewrite {
                filters.rewrite = Some(rewrite(message, &at.field("urlRewrite")));
            }
        }
        if seen.contains(&"URLRewrite") && seen.contains(&"RequestRedirect") {
            list.reject("", "URLRewrite and RequestRedirect exclude each other (IncompatibleFilters)");
        }
        filters
    }
}

/// What the order of a list says and the fixed order does not do.
pub(super) fn other_order(messages: &[pb::HttpRouteFilter]) -> Option<&'static str> {
    let place = |name: &str| messages.iter().position(|message| message.r#type == name);
    let follows = |name: &str, first: &str| place(first).zip(place(name)).is_some_and(|(first, place)| first < place);
    let renames_host =
        || messages.iter().filter_map(|message| message.url_rewrite.as_ref()).any(|one| one.hostname.is_some());
    let changes_old_host = || {
        messages.iter().filter_map(|message| message.request_header_modifier.as_ref()).any(|one| {
            let names = one.set.iter().chain(&one.add).map(|header| &header.name).chain(&one.remove);
            names.into_iter().any(|name| name.eq_ignore_ascii_case("x-forwarded-host"))
        })
    };
    if follows("ResponseHeaderModifier", "RequestRedirect") {
        Some("ResponseHeaderModifier changes the redirect too, though it stands behind RequestRedirect")
    } else if follows("RequestHeaderModifier", "URLRewrite") && renames_host() && changes_old_host() {
        Some(
            "RequestHeaderModifier comes before URLRewrite, which adds the old host to x-forwarded-host, though it stands behind it",
        )
    } else {
        None
    }
}

fn header_ops(message: &pb::HttpHeaderFilter, at: &At<'_>) -> HeaderOps {
    let pb::HttpHeaderFilter { set, add, remove } = message;
    let mut ops = BTreeMap::new();
    let mut one = |at: &At<'_>, name: &str, op: HeaderOp| {
        if check(at, name, changeable_header) && ops.insert(name.to_ascii_lowercase(), op).is_some() {
            at.reject(name, "a header may be changed once only");
        }
    };
    for (field, list, clear) in [("set", set, true), ("add", add, false)] {
        let list_at = at.field(field);
        at_most(&list_at, list, 16);
        for (i, pb::HttpHeader { name, value }) in list.iter().enumerate() {
            let at = list_at.index(i);
            check(&at.field("value"), value, header_value);
            one(&at.field("name"), name, HeaderOp { clear, append: vec![value.clone()] });
        }
    }
    let list_at = at.field("remove");
    at_most(&list_at, remove, 16);
    for (i, name) in remove.iter().enumerate() {
        one(&list_at.index(i), name, HeaderOp { clear: true, append: Vec::new() });
    }
    HeaderOps(ops)
}

fn redirect(message: &pb::HttpRequestRedirectFilter, at: &At<'_>) -> Option<Redirect> {
    let pb::HttpRequestRedirectFilter { scheme, hostname, path, port: number, status_code } = message;
    let scheme = match scheme.as_deref() {
        None => None,
        Some("http") => Some("http"),
        Some("https") => Some("https"),
        Some(other) => {
            at.field("scheme").reject(other, "must be http or https");
            None
        }
    };
    let status = status_code.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        at.field("statusCode").reject(status, "must be 301, 302, 303, 307 or 308");
    }
    Some(Redirect {
        scheme,
        hostname: host(hostname.as_deref(), &at.field("hostname")),
        path: path.as_ref().and_then(|path| path_modifier(path, &at.field("path"))),
        port: number.and_then(|number| port(&at.field("port"), number)),
        status: u16::try_from(status).ok()?,
    })
}

fn rewrite(message: &pb::HttpurlRewriteFilter, at: &At<'_>) -> Rewrite {
    let pb::HttpurlRewriteFilter { hostname, path } = message;
    Rewrite {
        hostname: host(hostname.as_deref(), &at.field("hostname")),
        path: path.as_ref().and_then(|path| path_modifier(path, &at.field("path"))),
    }
}

fn host(hostname: Option<&str>, at: &At<'_>) -> Option<String> {
    let hostname = hostname?;
    check(at, hostname, precise_hostname).then(|| hostname.to_owned())
}

fn path_modifier(message: &pb::HttpPathModifier, at: &At<'_>) -> Option<PathModifier> {
    let pb::HttpPathModifier { r#type, replace_full_path, replace_prefix_match } = message;
    let (field, path, other, other_set) = match r#type.as_str() {
        "ReplaceFullPath" => {
            ("replaceFullPath", replace_full_path, "replacePrefixMatch", replace_prefix_match.is_some())
        }
        "ReplacePrefixMatch" => {
            ("replacePrefixMatch", replace_prefix_match, "replaceFullPath", replace_full_path.is_some())
        }
        other => {
            at.field("type").reject(other, "must be ReplaceFullPath or ReplacePrefixMatch");
            return None;
        }
    };
    if other_set {
        at.field(other).reject("", format_args!("must not be set where the type is {}", r#type));
    }
    let Some(path) = path else {
        at.field(field).reject("", format_args!("is required where the type is {}", r#type));
        return None;
    };
    if !check(&at.field(field), path, new_path) {
        return None;
    }
    Some(match field {
        "replaceFullPath" if path.is_empty() => PathModifier::Full("/".to_owned()),
        "replaceFullPath" => PathModifier::Full(path.clone()),
        _ => PathModifier::Prefix(path.trim_end_matches('/').to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_on_headers_are_one() {
        let op = |clear, append: &[&str]| HeaderOp { clear, append: append.iter().map(|s| (*s).to_owned()).collect() };
        let ops = |op: HeaderOp| HeaderOps([("a".to_owned(), op)].into());
        for (first, next, both) in [
            (op(true, &["1"]), op(true, &["2"]), op(true, &["2"])),
            (op(true, &["1"]), op(false, &["2"]), op(true, &["1", "2"])),
            (op(true, &["1"]), op(true, &[]), op(true, &[])),
            (op(false, &["1"]), op(false, &["2"]), op(false, &["1", "2"])),
            (op(true, &[]), op(false, &["2"]), op(true, &["2"])),
        ] {
            assert_eq!(ops(first).then(&ops(next)), ops(both));
        }
    }
}
