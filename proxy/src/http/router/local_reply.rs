//! What the client is told where no attempt has an answer.

use std::task::{Context, Waker};

use http::{HeaderValue, StatusCode};
use outrigger_engine::connection_manager::names::X_ENVOY_OVERLOADED;
use outrigger_engine::message::Protocol;
use outrigger_engine::reply::LocalReply;
use outrigger_engine::stream_info::ResponseFlags;

use super::{Forwarding, Outcome};
use crate::http::codec::StreamError;
use crate::http::deadlines::Limit;
use crate::http::failure::{Failure, before_response, reset_reason};

/// gRPC's status 4.
const DEADLINE_EXCEEDED: u16 = 4;

impl Forwarding<'_, '_> {
    /// No attempt is left: the answer from here.
    pub(super) fn give_up(&mut self, failure: Failure) -> Outcome {
        // What has come of the request counts as received, wanted or not.
        let _ = self.poll_ahead(&mut Context::from_waker(Waker::noop()));
        let stats = &self.cluster.stats;
        // The stream's own limits say nothing about the cluster.
        let of_cluster = !matches!(
            failure,
            Failure::Limit(Limit::Attempt | Limit::Idle | Limit::Duration | Limit::RequestArrival)
                | Failure::Downstream(_)
        );
        let retried = self.stream.info.attempts > 1;
        let reply = match failure {
            Failure::NoHost => {
                LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream", "no_healthy_upstream")
                    .flag(ResponseFlags::NO_HEALTHY_UPSTREAM)
            }
            Failure::Overflow => {
                let mut reply = before_response("overflow", "", retried, StatusCode::SERVICE_UNAVAILABLE)
                    .flag(ResponseFlags::UPSTREAM_OVERFLOW);
                if !self.stream.cx.hcm.suppress_envoy_headers {
                    reply.headers.append(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
                }
                reply
            }
            Failure::Connect { timeout, reason } => {
                let name = if timeout { "connection timeout" } else { "remote connection failure" };
                if !reason.is_empty() {
                    self.stream.info.upstream_transport_failure = Some(reason.clone());
                }
                before_response(name, &reason, retried, StatusCode::SERVICE_UNAVAILABLE)
                    .flag(ResponseFlags::UPSTREAM_CONNECTION_FAILURE)
            }
            Failure::Stream { error, .. } => {
                let (reason, flag) = reset_reason(error);
                let status = match error {
                    StreamError::Protocol(_) | StreamError::TooLarge(_) => StatusCode::BAD_GATEWAY,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                before_response(&reason.replace('_', " "), "", retried, status).flag(flag)
            }
            Failure::Limit(limit) => self.limit_reply(limit),
            // The client is still there to read what was wrong with its body.
            Failure::Downstream(StreamError::Protocol(details) | StreamError::TooLarge(details))
                if self.stream.info.protocol != Some(Protocol::Http2) =>
            {
                self.stream.cx.count_protocol_error();
                LocalReply::new(StatusCode::BAD_REQUEST, "Bad Request", details)
                    .flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
            }
            Failure::Downstream(error) => {
                self.stream.downstream_gone(error);
                return Outcome::Done;
            }
        };
        if of_cluster {
            stats.charge_response(reply.status.as_u16(), self.origin);
        }
        Outcome::Reply(reply)
    }

    fn limit_reply(&self, limit: Limit) -> LocalReply {
        let http = &self.stream.cx.stats;
        let stats = &self.cluster.stats;
        let complete = self.upload.is_complete();
        let late = if complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        match limit {
            Limit::Request => {
                stats.upstream_rq_timeout.inc();
                LocalReply::new(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", "response_timeout")
                    .flag(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT)
            }
            Limit::PerTry | Limit::PerTryIdle => {
                LocalReply::new(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", "upstream_per_try_timeout")
                    .flag(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT)
            }
            Limit::Attempt => {
                LocalReply::new(late, "upstream max stream duration reached", "upstream_max_stream_duration_reached")
                    .flag(ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED)
            }
            Limit::Idle => {
                http.downstream_rq_idle_timeout.inc();
                LocalReply::new(late, "stream timeout", "stream_idle_timeout").flag(ResponseFlags::STREAM_IDLE_TIMEOUT)
            }
            Limit::Duration => {
                http.downstream_rq_max_duration_reached.inc();
                let mut reply = LocalReply::new(late, "downstream duration timeout", "max_duration_timeout");
                reply.grpc_status = Some(DEADLINE_EXCEEDED);
                reply
            }
            Limit::RequestArrival => {
                http.downstream_rq_timeout.inc();
                LocalReply::new(StatusCode::REQUEST_TIMEOUT, "request timeout", "request_overall_timeout")
            }
        }
    }
}
