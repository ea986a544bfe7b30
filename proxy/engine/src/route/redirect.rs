//! Answers that a route gives itself: redirects and direct responses.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use outrigger_proto::envoy::config::route::v3 as proto;
use outrigger_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};

use crate::config::report::At;
use crate::config::value::DataSource;
use crate::matcher::Substitution;
use crate::message::RequestHead;
use crate::route::action::path_text;
use crate::route::matching::RouteMatch;
use crate::route::rewrite::PathRewrite;
use crate::stream_info::StreamInfo;
use crate::unsupported;

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    status: StatusCode,
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    /// 0 for none.
    port: u16,
    path: RedirectPath,
    strip_query: bool,
}

#[derive(Debug)]
enum RedirectPath {
    Same,
    /// With the query of the request, unless it has its own.
    Replace(Box<str>),
    Rewrite(PathRewrite),
}

impl Redirect {
    pub(crate) fn convert(message: proto::RedirectAction, at: &At<'_>) -> Option<Redirect> {
        let proto::RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = message;
        let status = match RedirectResponseCode::try_from(response_code) {
            Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
            Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
            Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
            Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
            Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
            Err(_) => {
                at.field("response_code").reject(response_code, "no such code");
                return None;
            }
        };
        let port = u16::try_from(port_redirect);
        if port.is_err() {
            at.field("port_redirect").reject(port_redirect, "must be at most 65535");
        }
        let text =
            |text: String, field: &'static str| path_text(&text, &at.field(field)).filter(|text| !text.is_empty());
        let scheme = match scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => text(scheme, "scheme_redirect"),
        };
        let path = match path_rewrite_specifier {
            None => RedirectPath::Same,
            Some(PathRewriteSpecifier::PathRedirect(path)) => {
                // A path that does not begin so is meant from the root, as Envoy reads it.
                let path = if path.is_empty() || path.starts_with('/') { path } else { format!("/{path}") };
                text(path, "path_redirect").map_or(RedirectPath::Same, RedirectPath::Replace)
            }
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => text(prefix, "prefix_rewrite")
                .map_or(RedirectPath::Same, |prefix| RedirectPath::Rewrite(PathRewrite::Prefix(prefix))),
            Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
                let substitution = Substitution::convert(regex, &at.field("regex_rewrite"))?;
                RedirectPath::Rewrite(PathRewrite::Regex(Box::new(substitution)))
            }
            Some(PathRewriteSpecifier::PathRewrite(path)) => {
                PathRewrite::format(&path, &at.field("path_rewrite")).map_or(RedirectPath::Same, RedirectPath::Rewrite)
            }
        };
        Some(Redirect {
            status,
            scheme,
            host: text(host_redirect, "host_redirect"),
            port: port.ok()?,
            path,
            strip_query,
        })
    }

    /// Status and `location`. A path rewrite is done to the request itself, as Envoy does: its access log shows it.
    pub(crate) fn apply(
        &self,
        matched: &RouteMatch,
        head: &mut RequestHead,
        info: &StreamInfo,
        elapsed: Duration,
        keep_original: bool,
    ) -> (StatusCode, HeaderValue) {
        if let RedirectPath::Rewrite(rewrite) = &self.path {
            rewrite.apply(matched, head, info, elapsed, keep_original);
        }
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme.as_str());
        let mut location = Vec::with_capacity(64);
        location.extend_from_slice(scheme.as_bytes());
        location.extend_from_slice(b"://");
        match &self.host {
            Some(host) => location.extend_from_slice(host.as_bytes()),
            None => location.extend_from_slice(self.request_host(head, scheme)),
        }
        if self.port != 0 {
            location.push(b':');
            location.extend_from_slice(itoa::Buffer::new().format(self.port).as_bytes());
        }
        let request_path = head.path.as_bytes();
        match &self.path {
            RedirectPath::Replace(path) => {
                location.extend_from_slice(path.as_bytes());
                if !path.contains('?') && !self.strip_query {
                    let query = memchr::memchr(b'?', request_path).and_then(|at| request_path.get(at..));
                    location.extend_from_slice(query.unwrap_or_default());
                }
            }
            RedirectPath::Same | RedirectPath::Rewrite(_) => {
                let query = memchr::memchr(b'?', request_path).filter(|_| self.strip_query);
                location.extend_from_slice(query.and_then(|at| request_path.get(..at)).unwrap_or(request_path));
            }
        }
        (self.status, header_value(location))
    }

    /// The request's authority; without its port where another one is put there, and without the old scheme's default
    /// port where the scheme changes.
    fn request_host<'a>(&self, head: &'a RequestHead, scheme: &str) -> &'a [u8] {
        let Some(authority) = &head.authority else { return b"" };
        let authority = authority.as_bytes();
        let colon = if authority.first() == Some(&b'[') {
            memchr::memmem::rfind(authority, b"]:").map(|at| at.saturating_add(1))
        } else {
            memchr::memrchr(b':', authority)
        };
        let Some((host, port)) = colon.and_then(|at| authority.split_at_checked(at)) else { return authority };
        let forwarded = forwarded_proto(head);
        let old_default =
            forwarded != scheme.as_bytes() && matches!((forwarded, port), (b"https", b":443") | (b"http", b":80"));
        if self.port != 0 || old_default { host } else { authority }
    }
}

/// The scheme that the client used: `x-forwarded-proto`, which the connection manager sets, else `:scheme`.
pub(crate) fn forwarded_proto(head: &RequestHead) -> &[u8] {
    head.headers.get(&X_FORWARDED_PROTO).map_or(head.scheme.as_str().as_bytes(), |value| value.as_bytes())
}

/// `location` for `require_tls`: the same address with `https`.
pub(crate) fn https_location(head: &RequestHead) -> HeaderValue {
    let authority = head.authority.as_ref().map(|value| value.as_bytes()).unwrap_or_default();
    header_value([b"https://", authority, head.path.as_bytes()].concat())
}

/// All parts come from values of headers or were checked; `/` only stands for what cannot be.
fn header_value(bytes: Vec<u8>) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(bytes)).unwrap_or(HeaderValue::from_static("/"))
}

/// `DirectResponseAction`.
#[derive(Debug)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    source: DataSource,
    /// Bytes that the body may have.
    max_body: usize,
    /// What was read from `source`, where that is not inline.
    loaded: OnceLock<Bytes>,
}

fn check_size(body: &[u8], max: usize, at: &At<'_>) -> Option<()> {
    if body.len() > max {
        let reason = format_args!("longer than max_direct_response_body_size_bytes, {max}");
        at.reject(format_args!("{} bytes", body.len()), reason);
        return None;
    }
    Some(())
}

impl DirectResponse {
    pub(crate) fn convert(
        message: proto::DirectResponseAction,
        max_body: usize,
        at: &At<'_>,
    ) -> Option<DirectResponse> {
        let proto::DirectResponseAction { status, body, body_format } = message;
        unsupported!(at; body_format);
        let code = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
        let code = code.and_then(|status| StatusCode::from_u16(status).ok());
        if code.is_none() {
            at.field("status").reject(status, "must be at least 200 and less than 600");
        }
        let body_at = at.field("body");
        let source = match body {
            Some(body) => DataSource::convert(body, &body_at)?,
            None => DataSource::Inline(Bytes::new()),
        };
        if let DataSource::Inline(bytes) = &source {
            check_size(bytes, max_body, &body_at)?;
        }
        Some(DirectResponse { status: code?, source, max_body, loaded: OnceLock::new() })
    }

    /// The body; empty while a body that is not inline has not been read.
    pub fn body(&self) -> Bytes {
        match &self.source {
            DataSource::Inline(bytes) => bytes.clone(),
            DataSource::File(_) | DataSource::Environment(_) => self.loaded.get().cloned().unwrap_or_default(),
        }
    }

    /// Reads a body that is not inline by `read`; what goes wrong is reported at the field.
    pub(crate) fn load_body(&self, read: &dyn Fn(&DataSource) -> Result<Vec<u8>, String>, at: &At<'_>) {
        if matches!(self.source, DataSource::Inline(_)) {
            return;
        }
        match read(&self.source) {
            Ok(bytes) => {
                if check_size(&bytes, self.max_body, at).is_some() {
                    _ = self.loaded.set(bytes.into());
                }
            }
            Err(reason) => at.reject("", reason),
        }
    }
}
