//! What a route does to path and authority of a request.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::report::At;
use crate::format::{Format, FormatContext};
use crate::matcher::{FieldName, Substitution};
use crate::message::RequestHead;
use crate::route::matching::{PathMatch, RouteMatch, without_query};
use crate::stream_info::StreamInfo;

static X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
static X_ENVOY_ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What becomes of the path; the query stays.
#[derive(Clone, Debug)]
pub(crate) enum PathRewrite {
    /// `prefix_rewrite`: in the place of what the route matched.
    Prefix(Box<str>),
    /// `regex_rewrite`: in the whole path.
    Regex(Box<Substitution>),
    /// `path_rewrite`: in the place of the whole path.
    Format(Format),
}

impl PathRewrite {
    /// Reads `path_rewrite`. `None` where it is empty or was rejected.
    pub(crate) fn format(text: &str, at: &At<'_>) -> Option<PathRewrite> {
        if text.is_empty() {
            return None;
        }
        parse(text, at).map(PathRewrite::Format)
    }

    /// Rewrites the path of a request that `matched` took. `keep_original`: into `x-envoy-original-path`.
    pub(crate) fn apply(
        &self,
        matched: &RouteMatch,
        head: &mut RequestHead,
        info: &StreamInfo,
        elapsed: Duration,
        keep_original: bool,
    ) {
        let path = head.path.as_bytes();
        let plain = without_query(path);
        let rewritten = match self {
            PathRewrite::Prefix(prefix) => {
                let replaced = match &matched.path {
                    PathMatch::Prefix(text) | PathMatch::Exact(text) | PathMatch::SeparatedPrefix(text) => text.len(),
                    PathMatch::Regex(_) => plain.len(),
                };
                [prefix.as_bytes(), path.get(replaced..).unwrap_or_default()].concat()
            }
            PathRewrite::Regex(substitution) => {
                [&*substitution.replace_all(plain), path.get(plain.len()..).unwrap_or_default()].concat()
            }
            PathRewrite::Format(format) => {
                let mut text = Vec::new();
                let ctx = FormatContext { request: Some(head), ..FormatContext::new(info, elapsed) };
                format.write_omitting_empty(&mut text, &ctx);
                text.extend_from_slice(path.get(plain.len()..).unwrap_or_default());
                text
            }
        };
        // What the configuration puts in was checked; a path that still is no value of a header stays as it was.
        let Ok(rewritten) = HeaderValue::from_maybe_shared(bytes::Bytes::from(rewritten)) else { return };
        let original = std::mem::replace(&mut head.path, rewritten);
        if keep_original {
            head.headers.set(X_ENVOY_ORIGINAL_PATH.clone(), original);
        }
    }
}

/// What becomes of the authority.
#[derive(Clone, Debug, Default)]
pub(crate) enum HostRewrite {
    #[default]
    None,
    /// `host_rewrite_literal`
    Literal(HeaderValue),
    /// `host_rewrite_header`: where the request has it.
    Header(FieldName),
    /// `host_rewrite_path_regex`, on the path without its query.
    PathRegex(Box<Substitution>),
    /// `host_rewrite`
    Format(Format),
    /// `auto_host_rewrite`: the upstream host's name, once there is one.
    Auto,
}

/// A format whose text becomes a part of a head.
pub(crate) fn parse(text: &str, at: &At<'_>) -> Option<Format> {
    match Format::parse(text) {
        Ok(format) => Some(format),
        Err(error) => {
            at.reject(&error.operator, &error.reason);
            None
        }
    }
}

impl HostRewrite {
    /// The new authority, where there is one.
    pub(crate) fn value(&self, head: &RequestHead, info: &StreamInfo, elapsed: Duration) -> Option<HeaderValue> {
        let value = match self {
            HostRewrite::None | HostRewrite::Auto => return None,
            HostRewrite::Literal(value) => value.clone(),
            HostRewrite::Header(name) => {
                HeaderValue::from_bytes(crate::matcher::Head::Request(head).first(name)?).ok()?
            }
            HostRewrite::PathRegex(substitution) => {
                HeaderValue::from_bytes(&substitution.replace_all(without_query(head.path.as_bytes()))).ok()?
            }
            HostRewrite::Format(format) => {
                let mut text = Vec::new();
                format.write(&mut text, &FormatContext { request: Some(head), ..FormatContext::new(info, elapsed) });
                HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()?
            }
        };
        (!value.is_empty()).then_some(value)
    }
}

/// Gives the request another authority. `append_x_forwarded_host`: the old one is appended to `x-forwarded-host`,
/// unless it is the last one there. `keep_original`: into `x-envoy-original-host`.
pub fn rewrite_authority(
    head: &mut RequestHead,
    authority: HeaderValue,
    append_x_forwarded_host: bool,
    keep_original: bool,
) {
    if let Some(old) = head.authority.take().filter(|old| !old.is_empty()) {
        if keep_original {
            head.headers.set(X_ENVOY_ORIGINAL_HOST.clone(), old.clone());
        }
        if append_x_forwarded_host {
            match head.headers.get(&X_FORWARDED_HOST) {
                Some(list) => {
                    let last = list.as_bytes().rsplit(|byte| *byte == b',').find(|item| !item.is_empty());
                    if last != Some(old.as_bytes()) {
                        let joined = [list.as_bytes(), b",", old.as_bytes()].concat();
                        if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
                            head.headers.set(X_FORWARDED_HOST.clone(), joined);
                        }
                    }
                }
                None => head.headers.append(X_FORWARDED_HOST.clone(), old),
            }
        }
    }
    head.authority = Some(authority);
}
