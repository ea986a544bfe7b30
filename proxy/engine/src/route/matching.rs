//! `RouteMatch`: which requests a route takes.

use memchr::{memchr, memchr2};
use outrigger_proto::envoy::config::route::v3 as proto;
use outrigger_proto::envoy::config::route::v3::route_match::PathSpecifier;

use crate::config::report::At;
use crate::config::value::{Fraction, runtime_fraction};
use crate::matcher::{CookieMatcher, Head, HeaderMatcher, QueryParameterMatcher, Regex};
use crate::message::RequestHead;
use crate::reply::is_grpc;
use crate::unsupported;

/// Which requests a route takes.
#[derive(Clone, Debug)]
pub(crate) struct RouteMatch {
    pub(crate) path: PathMatch,
    pub(crate) case_sensitive: bool,
    /// What only few routes ask for.
    further: Option<Box<Further>>,
}

/// What the path, without its query, has to look like.
#[derive(Clone, Debug)]
pub(crate) enum PathMatch {
    Prefix(Box<str>),
    Exact(Box<str>),
    /// The prefix, and then the path's end or a `/`.
    SeparatedPrefix(Box<str>),
    Regex(Regex),
}

#[derive(Clone, Debug, Default)]
struct Further {
    fraction: Option<Fraction>,
    grpc: bool,
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryParameterMatcher]>,
    cookies: Box<[CookieMatcher]>,
}

impl RouteMatch {
    pub(crate) fn convert(message: proto::RouteMatch, at: &At<'_>) -> Option<RouteMatch> {
        let proto::RouteMatch {
            case_sensitive,
            runtime_fraction: fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier,
        } = message;
        unsupported!(at; tls_context, dynamic_metadata, filter_state);
        let fraction = fraction.map(|fraction| runtime_fraction(fraction, &at.field("runtime_fraction")));
        let headers_at = at.field("headers");
        let headers: Vec<_> =
            headers.into_iter().enumerate().map(|(i, m)| HeaderMatcher::convert(m, &headers_at.index(i))).collect();
        let query_at = at.field("query_parameters");
        let query: Vec<_> = query_parameters
            .into_iter()
            .enumerate()
            .map(|(i, m)| QueryParameterMatcher::convert(m, &query_at.index(i)))
            .collect();
        let cookies_at = at.field("cookies");
        let cookies: Vec<_> =
            cookies.into_iter().enumerate().map(|(i, m)| CookieMatcher::convert(m, &cookies_at.index(i))).collect();
        let path = convert_path(path_specifier, at);
        let fraction = match fraction {
            Some(fraction) => Some(fraction?),
            None => None,
        };
        let further = Further {
            fraction,
            grpc: grpc.is_some(),
            headers: headers.into_iter().collect::<Option<_>>()?,
            query: query.into_iter().collect::<Option<_>>()?,
            cookies: cookies.into_iter().collect::<Option<_>>()?,
        };
        let trivial = further.fraction.is_none()
            && !further.grpc
            && further.headers.is_empty()
            && further.query.is_empty()
            && further.cookies.is_empty();
        Some(RouteMatch {
            path: path?,
            case_sensitive: case_sensitive.unwrap_or(true),
            further: (!trivial).then(|| Box::new(further)),
        })
    }

    /// Whether the route takes the request, whose path is `path` (see [`Path`]).
    pub(crate) fn matches(&self, path: &Path<'_>, request: &RequestHead, random: u64) -> bool {
        self.path_matches(path.matched)
            && self.further.as_ref().is_none_or(|further| further.matches(path.query, request, random))
    }

    fn path_matches(&self, path: &[u8]) -> bool {
        let same = |part: Option<&[u8]>, text: &str| {
            part.is_some_and(|part| {
                if self.case_sensitive { part == text.as_bytes() } else { part.eq_ignore_ascii_case(text.as_bytes()) }
            })
        };
        match &self.path {
            PathMatch::Prefix(prefix) => same(path.get(..prefix.len()), prefix),
            PathMatch::Exact(text) => same(Some(path), text),
            PathMatch::SeparatedPrefix(prefix) => {
                same(path.get(..prefix.len()), prefix) && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
            PathMatch::Regex(regex) => regex.is_match(path),
        }
    }
}

impl Further {
    fn matches(&self, query: &[u8], request: &RequestHead, random: u64) -> bool {
        self.fraction.is_none_or(|fraction| fraction.contains(random))
            && (!self.grpc || is_grpc(request))
            && self.headers.iter().all(|matcher| matcher.matches(Head::Request(request)))
            && self.query.iter().all(|matcher| matcher.matches(query))
            && self.cookies.iter().all(|matcher| matcher.matches(request))
    }
}

/// The parts of a request's path that routes look at.
pub(crate) struct Path<'a> {
    /// Without query and fragment; without path parameters too, where the table says so.
    pub(crate) matched: &'a [u8],
    /// What follows `?`.
    query: &'a [u8],
}

impl<'a> Path<'a> {
    pub(crate) fn new(path: &'a [u8], ignore_parameters: bool) -> Path<'a> {
        let mut matched = without_query(path);
        if ignore_parameters && let Some(end) = memchr(b';', matched) {
            matched = matched.get(..end).unwrap_or(matched);
        }
        let query = memchr(b'?', path).and_then(|at| path.get(at.saturating_add(1)..)).unwrap_or_default();
        Path { matched, query }
    }
}

/// The path in front of query and fragment.
pub(crate) fn without_query(path: &[u8]) -> &[u8] {
    memchr2(b'?', b'#', path).and_then(|end| path.get(..end)).unwrap_or(path)
}

fn convert_path(specifier: Option<PathSpecifier>, at: &At<'_>) -> Option<PathMatch> {
    match specifier {
        Some(PathSpecifier::Prefix(prefix)) => Some(PathMatch::Prefix(prefix.into())),
        Some(PathSpecifier::Path(path)) => Some(PathMatch::Exact(path.into())),
        Some(PathSpecifier::SafeRegex(regex)) => Regex::convert(regex, &at.field("safe_regex")).map(PathMatch::Regex),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            let plain = prefix.len() > 1 && prefix.starts_with('/') && !prefix.ends_with('/');
            if !plain || prefix.contains(['?', '#']) {
                at.field("path_separated_prefix")
                    .reject(&prefix, "must begin with /, must not end with /, and holds neither ? nor #");
                return None;
            }
            Some(PathMatch::SeparatedPrefix(prefix.into()))
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            at.field("connect_matcher").reject("", "not in this version: CONNECT comes later");
            None
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            at.field("path_match_policy").reject("", "not in this version");
            None
        }
        None => {
            at.reject("", "one of prefix, path, safe_regex, path_separated_prefix is required");
            None
        }
    }
}
