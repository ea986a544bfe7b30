//! Why an attempt has no response: how the retry policy sees it, and what the client is told.

use std::borrow::Cow;

use http::{Method, StatusCode};
use outrigger_engine::reply::LocalReply;
use outrigger_engine::resilience::retry::ResetKind;
use outrigger_engine::stream_info::ResponseFlags;

use super::codec::{Delivery, StreamError};
use super::deadlines::Limit;
use crate::cluster::pool::PoolError;

/// How an attempt ended that has no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// No host.
    NoHost,
    /// A breaker was open.
    Overflow,
    /// No connection.
    Connect { timeout: bool, reason: Cow<'static, str> },
    /// The stream ended, after the request had come so far.
    Stream { error: StreamError, delivery: Delivery },
    /// A time limit.
    Limit(Limit),
    /// The client left.
    Downstream(StreamError),
}

impl Failure {
    /// How the retry policy sees it, and whether some of the request has gone out.
    pub(super) fn reset_kind(&self) -> Option<(ResetKind, bool)> {
        Some(match self {
            Failure::Overflow => (ResetKind::Overflow, false),
            Failure::Connect { .. } => (ResetKind::ConnectFailure, false),
            Failure::Stream { error, delivery } => {
                let sent = *delivery != Delivery::Unsent;
                match error {
                    StreamError::Refused => (ResetKind::RefusedStream, sent),
                    StreamError::Protocol(_) | StreamError::TooLarge(_) => (ResetKind::ProtocolError, sent),
                    StreamError::ConnectionClosed | StreamError::Reset(_) | StreamError::Local => {
                        (ResetKind::Reset, sent)
                    }
                }
            }
            Failure::Limit(Limit::PerTry | Limit::PerTryIdle | Limit::Attempt) => (ResetKind::Reset, true),
            Failure::NoHost | Failure::Limit(_) | Failure::Downstream(_) => return None,
        })
    }

    /// Whether the request may go to another connection though no policy asks for it: no host has acted on it, or most
    /// likely none has and the method may be repeated (RFC 9110, section 9.2.2).
    pub(super) fn may_go_again(&self, method: &Method) -> bool {
        match self {
            Failure::Stream { error: StreamError::ConnectionClosed | StreamError::Refused, delivery } => match delivery
            {
                Delivery::Unsent | Delivery::Unread => true,
                Delivery::Raced => method.is_idempotent(),
                Delivery::Sent => false,
            },
            _ => false,
        }
    }

    /// Whether the host has closed a connection that had been idle.
    pub(super) fn is_idle_close(&self) -> bool {
        matches!(self, Failure::Stream { delivery: Delivery::Unread | Delivery::Raced, .. })
    }

    /// The status that it would be answered with.
    pub(super) fn status(&self) -> u16 {
        match self {
            Failure::Limit(_) => 504,
            Failure::Stream { error: StreamError::Protocol(_) | StreamError::TooLarge(_), .. } => 502,
            _ => 503,
        }
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Overflow => Failure::Overflow,
            // As Envoy answers it.
            PoolError::PoolOverflow => Failure::NoHost,
            PoolError::Connect(error) => Failure::Connect { timeout: error.timeout, reason: error.reason },
        }
    }
}

/// Envoy's name for the end of a stream, and its flag.
pub(super) fn reset_reason(error: StreamError) -> (&'static str, ResponseFlags) {
    match error {
        StreamError::ConnectionClosed => ("connection_termination", ResponseFlags::UPSTREAM_CONNECTION_TERMINATION),
        StreamError::Reset(_) => ("remote_reset", ResponseFlags::UPSTREAM_REMOTE_RESET),
        StreamError::Refused => ("remote_refused_stream_reset", ResponseFlags::UPSTREAM_REMOTE_RESET),
        StreamError::Protocol(_) | StreamError::TooLarge(_) => {
            ("protocol_error", ResponseFlags::UPSTREAM_PROTOCOL_ERROR)
        }
        StreamError::Local => ("local_reset", ResponseFlags::LOCAL_RESET),
    }
}

/// Envoy's answer for an attempt that ended before a response; `retried`: it was not the first.
pub(super) fn before_response(reason: &str, transport: &str, retried: bool, status: StatusCode) -> LocalReply {
    let latest = if retried { "retried and the latest " } else { "" };
    let body = format!("upstream connect error or disconnect/reset before headers. {latest}reset reason: {reason}");
    let mut details = reason.replace(' ', "_");
    if !transport.is_empty() {
        details.push('|');
        details.push_str(&transport.replace(' ', "_"));
    }
    LocalReply::new(status, body, format!("upstream_reset_before_response_started{{{details}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_has_acted_on_goes_again_by_itself() {
        let goes = |error, delivery, method| Failure::Stream { error, delivery }.may_go_again(&method);
        for error in [StreamError::ConnectionClosed, StreamError::Refused] {
            for method in [Method::GET, Method::POST] {
                assert!(goes(error, Delivery::Unsent, method.clone()));
                assert!(goes(error, Delivery::Unread, method.clone()));
                assert!(!goes(error, Delivery::Sent, method));
            }
        }
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            assert!(goes(StreamError::ConnectionClosed, Delivery::Raced, method));
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(!goes(StreamError::ConnectionClosed, Delivery::Raced, method));
        }
        assert!(!goes(StreamError::Protocol("x"), Delivery::Raced, Method::GET));
        assert!(!Failure::Overflow.may_go_again(&Method::GET));
    }
}
