//! The router: from a matched route to a host and back, with time limits and attempts.

use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use http::{HeaderValue, Method, StatusCode};
use outrigger_engine::balance::{Host, PickContext};
use outrigger_engine::connection_manager::names::{
    GRPC_TIMEOUT, X_ENVOY_ATTEMPT_COUNT, X_ENVOY_INTERNAL, X_ENVOY_OVERLOADED, X_ENVOY_UPSTREAM_SERVICE_TIME,
};
use outrigger_engine::message::{Protocol, RequestHead, ResponseHead};
use outrigger_engine::reply::{LocalReply, is_grpc};
use outrigger_engine::resilience::breaker::{Guard, Resource, RoutingPriority};
use outrigger_engine::resilience::retry::{Decision, RetryState};
use outrigger_engine::resilience::timeout::Timeouts;
use outrigger_engine::route::{Choice, Forward, Found, rewrite_authority};
use outrigger_engine::stream_info::ResponseFlags;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::codec::{Body, ClientStream, Reply, ResetCode, Responder, StreamError};
use super::deadlines::{Deadlines, Limit};
use super::exchange::Stream;
use super::failure::{Failure, before_response, reset_reason};
use super::transfer::{Download, TransferError, Upload};
use crate::alarm::Alarm;
use crate::cluster::WorkerCluster;
use crate::cluster::pool::{Acquired, Lease};
use crate::telemetry::stats::Origin;

/// Where the request matched.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    /// Virtual host and route.
    pub found: Found<'a>,
    /// What the route does.
    pub forward: &'a Forward,
}

/// Everything of a request that forwarding needs.
struct Forwarding<'s, 'a> {
    stream: &'s mut Stream<'a>,
    responder: &'s mut Responder,
    alarm: &'s mut Alarm,
    cluster: Rc<WorkerCluster>,
    priority: RoutingPriority,
    upload: Upload,
    deadlines: Deadlines,
    retry: Option<RetryState>,
    tried: SmallVec<[u64; 4]>,
    is_head: bool,
    /// Whose request it is, in the cluster's statistics.
    origin: Origin,
    /// The client's own deadline (`grpc-timeout`) is the request's timeout.
    grpc_deadline: bool,
}

/// A response that has begun.
struct Responding {
    head: ResponseHead,
    body: Body,
    stream: ClientStream,
    host: Arc<Host>,
    guards: Under,
}

/// What a stream counts as while it lives.
struct Under {
    cluster: Rc<WorkerCluster>,
    host: Arc<Host>,
    _request: Guard,
}

impl Under {
    fn new(cluster: &Rc<WorkerCluster>, host: &Arc<Host>, request: Guard) -> Self {
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        let stats = host.stats();
        stats.rq_total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        stats.rq_active.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Under { cluster: cluster.clone(), host: host.clone(), _request: request }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        self.host.stats().rq_active.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// gRPC's status 4.
const DEADLINE_EXCEEDED: u16 = 4;

/// Bytes of a request body kept for another attempt, where the route sets no limit of its own.
const REPLAY_LIMIT: usize = 1 << 20;

/// What is left to do for a request that was forwarded.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing: the response has been sent, or can no longer be.
    Done,
    /// Answer from here.
    Reply(LocalReply),
    /// Send `head`, and be a tunnel.
    Upgrade {
        /// The upstream's side.
        stream: Box<ClientStream>,
        /// Its answer, 101 or 2xx.
        head: ResponseHead,
        /// End it when nothing moved for so long.
        idle: Option<std::time::Duration>,
    },
}

/// Forwards the request.
#[allow(clippy::too_many_arguments, reason = "the stations of one request, called from one place")]
pub async fn forward(
    stream: &mut Stream<'_>,
    head: &mut RequestHead,
    body: Body,
    responder: &mut Responder,
    matched: Matched<'_>,
    upgrade: bool,
    random: u64,
    alarm: &mut Alarm,
) -> Outcome {
    let cx = stream.cx;
    let forward = matched.forward;
    let choice = forward.choose(head, random);
    let Some(cluster) = cx.worker.cluster(choice.name()) else {
        cx.stats.no_cluster.inc();
        let reply = LocalReply::new(forward.cluster_not_found, "", "cluster_not_found");
        return Outcome::Reply(reply.flag(ResponseFlags::NO_CLUSTER_FOUND));
    };
    stream.info.upstream_cluster = Some(cluster.state.config.name.clone());

    let suppress = cx.hcm.suppress_envoy_headers;
    let grpc = is_grpc(head);
    let policy = forward.retry.as_deref();
    let timeouts = Timeouts::new(
        &forward.timeouts,
        policy.and_then(|policy| policy.per_try_timeout),
        head,
        grpc,
        cx.hcm.respect_expected_rq_timeout,
    );
    let retry = RetryState::new(policy, head);
    RetryState::remove_headers(&mut head.headers);
    timeouts.write_headers(
        &mut head.headers,
        &forward.timeouts,
        std::time::Duration::ZERO,
        grpc,
        !suppress,
        cx.hcm.respect_expected_rq_timeout,
    );
    matched.found.apply_request(&choice, head, &stream.info, stream.started.elapsed(), !suppress);

    let now = Instant::now();
    let limit = if retry.is_some() { replay_limit(matched.found.route.request_body_buffer_limit) } else { 0 };
    let upload = Upload::new(body, limit);
    let idle_after = match forward.timeouts.idle_timeout {
        Some(idle) => Some(idle).filter(|idle| !idle.is_zero()),
        None => cx.hcm.stream_idle_timeout,
    };
    let duration = forward.timeouts.stream_duration(&head.headers, cx.hcm.max_stream_duration);
    let mut deadlines = Deadlines {
        timeouts,
        request: None,
        per_try: None,
        idle_after,
        active: now,
        per_try_idle: policy.and_then(|policy| policy.per_try_idle_timeout),
        duration: duration.map(|duration| stream.started + duration),
        arrival: cx.hcm.request_timeout.map(|timeout| stream.started + timeout),
    };
    if upload.is_complete() || upgrade {
        deadlines.request_complete(now, false);
        stream.info.last_downstream_rx = Some(stream.started.elapsed());
    }
    if upgrade {
        // An upgraded stream lives as long as its ends wish.
        deadlines.timeouts = Timeouts::default();
        deadlines.request = None;
    }
    let mut forwarding = Forwarding {
        is_head: head.method == Method::HEAD,
        origin: if head.headers.contains(&X_ENVOY_INTERNAL) { Origin::Internal } else { Origin::External },
        grpc_deadline: grpc
            && head.headers.contains(&GRPC_TIMEOUT)
            && (forward.timeouts.max_grpc_timeout.is_some()
                || forward.timeouts.max_stream_duration.as_ref().is_some_and(|d| d.grpc_timeout_header_max.is_some())),
        stream,
        responder,
        alarm,
        priority: forward.priority,
        cluster,
        upload,
        deadlines,
        retry,
        tried: SmallVec::new(),
    };
    forwarding.run(head, matched, &choice, upgrade).await
}

fn replay_limit(route: Option<u64>) -> usize {
    route.map_or(REPLAY_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

impl Forwarding<'_, '_> {
    async fn run(
        &mut self,
        head: &mut RequestHead,
        matched: Matched<'_>,
        choice: &Choice<'_>,
        upgrade: bool,
    ) -> Outcome {
        let policy = matched.forward.retry.as_deref();
        let mut retry_guard = None;
        loop {
            self.stream.info.attempts += 1;
            if matched.found.virtual_host.include_request_attempt_count {
                head.headers.set(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.stream.info.attempts));
            }
            let avoid = policy.is_some_and(|policy| policy.avoid_previous_hosts);
            let reselections = policy.map_or(0, |policy| policy.host_selection_max_attempts);
            let failure = match self.attempt(head, matched.forward, avoid, reselections).await {
                Ok(responding) => {
                    let decision = match &mut self.retry {
                        Some(retry) if self.upload.can_replay() => retry.on_response(policy, &responding.head),
                        _ => Decision::No,
                    };
                    match self.decide(decision, &mut retry_guard) {
                        Go::Again => {
                            self.cluster.stats.charge_response(responding.head.status.as_u16(), Origin::Retry);
                            let rate_limited =
                                policy.and_then(|policy| policy.rate_limited_back_off.as_ref()).and_then(|back_off| {
                                    back_off.delay(&responding.head.headers, SystemTime::now(), self.random())
                                });
                            drop(responding);
                            if let Err(failure) = self.back_off(policy, rate_limited).await {
                                return self.give_up(failure);
                            }
                            continue;
                        }
                        Go::On => {}
                    }
                    if self.stream.info.attempts > 1 && responding.head.status.as_u16() < 500 {
                        self.cluster.stats.upstream_rq_retry_success.inc();
                    }
                    drop(retry_guard);
                    return self.respond(responding, matched, choice, upgrade, head).await;
                }
                Err(failure) => failure,
            };
            let decision = match (&mut self.retry, failure.reset_kind()) {
                (Some(retry), Some((kind, sent))) if self.upload.can_replay() => retry.on_reset(kind, sent),
                _ => Decision::No,
            };
            match self.decide(decision, &mut retry_guard) {
                Go::Again => {
                    self.cluster.stats.charge_response(failure.status(), Origin::Retry);
                    if let Err(failure) = self.back_off(policy, None).await {
                        return self.give_up(failure);
                    }
                }
                Go::On => return self.give_up(failure),
            }
        }
    }

    fn random(&self) -> u64 {
        self.stream.cx.worker.random()
    }

    /// Turns a decision into what happens: the breaker of retries has the last word.
    fn decide(&mut self, decision: Decision, guard: &mut Option<Guard>) -> Go {
        let stats = &self.cluster.stats;
        match decision {
            Decision::No => Go::On,
            Decision::LimitExceeded => {
                stats.upstream_rq_retry_limit_exceeded.inc();
                self.stream.info.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                Go::On
            }
            Decision::Retry => {
                drop(guard.take());
                match self.cluster.breakers.acquire(self.priority, Resource::Retries) {
                    Some(taken) => {
                        *guard = Some(taken);
                        stats.upstream_rq_retry.inc();
                        Go::Again
                    }
                    None => {
                        stats.upstream_rq_retry_overflow.inc();
                        self.stream.info.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                        Go::On
                    }
                }
            }
        }
    }

    /// Waits before the next attempt.
    async fn back_off(
        &mut self,
        policy: Option<&outrigger_engine::resilience::retry::RetryPolicy>,
        asked: Option<std::time::Duration>,
    ) -> Result<(), Failure> {
        let done = self.retry.as_ref().map_or(1, RetryState::retries_done);
        let delay = match asked {
            Some(delay) => {
                self.cluster.stats.upstream_rq_retry_backoff_ratelimited.inc();
                delay
            }
            None => {
                self.cluster.stats.upstream_rq_retry_backoff_exponential.inc();
                policy.map_or_else(Default::default, |policy| policy.back_off).delay(done, self.random())
            }
        };
        let now = Instant::now();
        let until = now + delay;
        self.deadlines.per_try = None;
        self.deadlines.active = now;
        let per_try_idle = self.deadlines.per_try_idle.take();
        let waited = poll_fn(|task| {
            if let Poll::Ready(error) = self.responder.poll_reset(task) {
                return Poll::Ready(Err(Failure::Downstream(error)));
            }
            let limit = self.deadlines.next();
            let deadline = limit.map_or(until, |limit| limit.min(until));
            if self.alarm.poll(task, Some(deadline)).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            Poll::Ready(match limit {
                Some(limit) if limit <= now && limit < until => Err(Failure::Limit(self.deadlines.reached(now))),
                _ => Ok(()),
            })
        })
        .await;
        self.deadlines.per_try_idle = per_try_idle;
        self.deadlines.active = Instant::now();
        waited
    }

    /// One attempt, up to the head of a final response.
    async fn attempt(
        &mut self,
        head: &mut RequestHead,
        forward: &Forward,
        avoid_tried: bool,
        max_reselections: u32,
    ) -> Result<Responding, Failure> {
        let context =
            PickContext { random: self.random(), avoid: if avoid_tried { &self.tried } else { &[] }, max_reselections };
        let Ok(host) = self.cluster.pick(&context) else {
            self.cluster.stats.upstream_cx_none_healthy.inc();
            return Err(Failure::NoHost);
        };
        if self.retry.is_some() {
            self.tried.push(host.id);
        }
        self.stream.info.upstream_host = Some(host.display.clone());
        let server_name = self.server_name(head);
        if forward.auto_host_rewrite()
            && let Some(name) = &host.hostname
            && let Ok(authority) = HeaderValue::from_str(name)
        {
            let keep_original = !self.stream.cx.hcm.suppress_envoy_headers;
            rewrite_authority(head, authority, forward.append_x_forwarded_host, keep_original);
        }
        let pool = self.cluster.pool(&host, head.protocol, server_name);
        let Lease { mut stream, protocol, local_address } = match pool.acquire(self.priority) {
            Ok(Acquired::Ready(lease)) => *lease,
            Ok(Acquired::Pending(mut receiver)) => {
                let result = poll_fn(|task| {
                    use std::future::Future;
                    match std::pin::Pin::new(&mut receiver).poll(task) {
                        Poll::Ready(Ok(result)) => Poll::Ready(result.map_err(Failure::from)),
                        // The pool went away with its cluster.
                        Poll::Ready(Err(_)) => Poll::Ready(Err(Failure::NoHost)),
                        Poll::Pending => match self.poll_ahead(task) {
                            Poll::Ready(error) => Poll::Ready(Err(Failure::Downstream(error))),
                            Poll::Pending => self.poll_limits(task).map(Err),
                        },
                    }
                })
                .await;
                if let Err(Failure::Limit(_) | Failure::Downstream(_)) = result {
                    self.cluster.stats.upstream_rq_cancelled.inc();
                }
                *result?
            }
            Err(error) => {
                self.stream.info.upstream_host = None;
                return Err(error.into());
            }
        };
        let Some(request) = self.cluster.breakers.acquire(self.priority, Resource::Requests) else {
            self.cluster.stats.upstream_rq_active_overflow.inc();
            return Err(Failure::Overflow);
        };
        let guards = Under::new(&self.cluster, &host, request);
        self.stream.info.upstream_local_address = local_address;
        self.stream.info.upstream_protocol = Some(protocol);
        let ends = self.upload.is_empty();
        self.stream.info.first_upstream_tx = Some(self.stream.started.elapsed());
        self.upload.restart(ends);
        self.deadlines.per_try = None;
        if self.upload.is_complete() {
            self.deadlines.request_complete(Instant::now(), true);
            self.stream.info.last_upstream_tx = self.stream.info.first_upstream_tx;
        }
        stream.send_head(head, ends).map_err(|error| Failure::Stream { error, sent: false })?;

        let reply = poll_fn(|task| self.poll_reply(task, &mut stream)).await;
        match reply {
            Ok((head, body)) => {
                self.stream.info.first_upstream_rx = Some(self.stream.started.elapsed());
                Ok(Responding { head, body, stream, host, guards })
            }
            Err(failure) => {
                let stats = &self.cluster.stats;
                match &failure {
                    Failure::Limit(Limit::PerTry) => stats.upstream_rq_per_try_timeout.inc(),
                    Failure::Limit(Limit::PerTryIdle) => stats.upstream_rq_per_try_idle_timeout.inc(),
                    _ => {}
                }
                Err(failure)
            }
        }
    }

    /// SNI of the upstream connection, where the cluster takes it from the request.
    fn server_name(&self, head: &RequestHead) -> Option<Arc<str>> {
        let config = &self.cluster.state.config;
        if !config.auto_sni || config.tls.is_none() {
            return None;
        }
        let value = match &config.override_auto_sni_header {
            Some(name) => head.headers.get(name).or(head.authority.as_ref()),
            None => head.authority.as_ref(),
        };
        let host = value?.to_str().ok()?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name.parse::<std::net::IpAddr>().is_err().then(|| Arc::from(name))
    }

    fn poll_limits(&mut self, task: &mut Context<'_>) -> Poll<Failure> {
        if let Poll::Ready(error) = self.responder.poll_reset(task) {
            return Poll::Ready(Failure::Downstream(error));
        }
        match self.alarm.poll(task, self.deadlines.next()) {
            Poll::Ready(()) => Poll::Ready(Failure::Limit(self.deadlines.reached(Instant::now()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_reply(
        &mut self,
        task: &mut Context<'_>,
        stream: &mut ClientStream,
    ) -> Poll<Result<(ResponseHead, Body), Failure>> {
        if !self.upload.is_sent() {
            match self.poll_upload(task, stream) {
                Poll::Ready(Err(TransferError::Downstream(error))) => {
                    return Poll::Ready(Err(Failure::Downstream(error)));
                }
                // The peer may have answered before it closed: its reply says.
                Poll::Ready(Err(TransferError::Upstream(_)) | Ok(())) | Poll::Pending => {}
            }
        }
        loop {
            match stream.poll_reply(task) {
                Poll::Ready(Ok(Reply::Informational(head))) => {
                    self.deadlines.active = Instant::now();
                    self.cluster.stats.charge_response(head.status.as_u16(), self.origin);
                    if self.stream.cx.hcm.proxy_100_continue {
                        self.stream.cx.count_informational(head.status);
                        if let Err(error) = self.responder.send_informational(head) {
                            return Poll::Ready(Err(Failure::Downstream(error)));
                        }
                    }
                    if let Poll::Ready(Err(error)) = self.responder.poll_flush(task) {
                        return Poll::Ready(Err(Failure::Downstream(error)));
                    }
                }
                Poll::Ready(Ok(Reply::Response(head, body))) => return Poll::Ready(Ok((head, body))),
                Poll::Ready(Err(error)) => {
                    let sent = stream.is_sent();
                    return Poll::Ready(Err(Failure::Stream { error, sent }));
                }
                Poll::Pending => break,
            }
        }
        self.poll_limits(task).map(Err)
    }

    fn poll_upload(&mut self, task: &mut Context<'_>, stream: &mut ClientStream) -> Poll<Result<(), TransferError>> {
        let (before, was_complete) = (self.upload.bytes, self.upload.is_complete());
        let result = self.upload.poll(task, stream);
        self.note_upload(before, was_complete, true);
        if self.upload.is_sent() {
            self.stream.info.last_upstream_tx = Some(self.stream.started.elapsed());
        }
        result
    }

    /// Takes what of the request has come, while there is no upstream.
    fn poll_ahead(&mut self, task: &mut Context<'_>) -> Poll<StreamError> {
        let (before, was_complete) = (self.upload.bytes, self.upload.is_complete());
        let result = self.upload.poll_ahead(task);
        self.note_upload(before, was_complete, false);
        result
    }

    fn note_upload(&mut self, before: u64, was_complete: bool, attempt_started: bool) {
        if self.upload.bytes != before || self.upload.is_complete() != was_complete {
            let now = Instant::now();
            self.deadlines.active = now;
            self.stream.info.bytes_received = self.upload.bytes;
            if self.upload.is_complete() && !was_complete {
                self.stream.info.last_downstream_rx = Some(now - self.stream.started);
                self.stream.complete = true;
                self.deadlines.request_complete(now, attempt_started);
            }
        }
    }

    /// Passes the response on, to its end.
    async fn respond(
        &mut self,
        responding: Responding,
        matched: Matched<'_>,
        choice: &Choice<'_>,
        upgrade: bool,
        request: &RequestHead,
    ) -> Outcome {
        let Responding { mut head, body, mut stream, host, guards } = responding;
        let status = head.status;
        self.upload.release();
        self.deadlines.per_try = None;
        self.deadlines.active = Instant::now();
        self.stream.info.details = Some(Cow::Borrowed("via_upstream"));
        let sent = self.stream.info.last_upstream_tx.unwrap_or_default();
        let service_time = self.stream.info.first_upstream_rx.unwrap_or_default().saturating_sub(sent);
        let switching = upgrade
            && (status == StatusCode::SWITCHING_PROTOCOLS
                || (request.connect_protocol.is_some() && status.is_success()));
        if !self.stream.cx.hcm.suppress_envoy_headers && self.upload.is_sent() && !switching {
            let millis = u64::try_from(service_time.as_millis()).unwrap_or(u64::MAX);
            head.headers.set(X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from(millis));
        }
        if matched.found.virtual_host.include_attempt_count_in_response {
            head.headers.set(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.stream.info.attempts));
        }
        self.charge(status, &host);
        self.stream.info.response_code = Some(status.as_u16());
        let elapsed = self.stream.started.elapsed();
        matched.found.apply_response(Some(choice), &mut head, request, &self.stream.info, elapsed);
        if switching {
            self.stream.upgraded = true;
            return Outcome::Upgrade { stream: Box::new(stream), head, idle: self.deadlines.idle_after };
        }
        let ended = self.is_head || body.is_end();
        if let Err(error) = self.stream.send_head(self.responder, head, ended, false) {
            self.stream.downstream_gone(error);
            return Outcome::Done;
        }
        let mut download = Download::new(body, ended);
        let keep_trailers = self.stream.keeps_for_log();
        let mut bytes = 0;
        let result = poll_fn(|task| {
            if !self.upload.is_sent() {
                match self.poll_upload(task, &mut stream) {
                    Poll::Ready(Err(TransferError::Downstream(error))) => {
                        return Poll::Ready(Err(Failure::Downstream(error)));
                    }
                    Poll::Ready(Err(TransferError::Upstream(_)) | Ok(())) | Poll::Pending => {}
                }
            }
            match download.poll(task, self.responder, keep_trailers) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(TransferError::Downstream(error))) => {
                    return Poll::Ready(Err(Failure::Downstream(error)));
                }
                Poll::Ready(Err(TransferError::Upstream(error))) => {
                    return Poll::Ready(Err(Failure::Stream { error, sent: true }));
                }
                Poll::Pending => {}
            }
            if download.is_complete() {
                // Only the client's reading is left to wait for.
                self.deadlines.request = None;
            }
            if download.bytes != bytes {
                bytes = download.bytes;
                self.deadlines.active = Instant::now();
            }
            self.poll_limits(task).map(Err)
        })
        .await;
        let total = self.stream.started.elapsed();
        self.stream.info.bytes_sent = download.bytes;
        self.stream.info.last_upstream_rx = Some(total);
        self.stream.trailers = download.trailers.take();
        drop(guards);
        match result {
            Ok(()) => {
                let micros = total.saturating_sub(self.stream.info.last_downstream_rx.unwrap_or_default());
                self.cluster.stats.charge_time(micros.as_micros() as u64, self.origin);
                if !self.upload.is_sent() {
                    // The answer is complete and the request is not: the rest of it is not wanted.
                    self.stream.cx.answered_early();
                    self.responder.close_after();
                }
            }
            Err(failure) => self.broken_off(failure),
        }
        Outcome::Done
    }

    /// The response has begun and cannot be finished.
    fn broken_off(&mut self, failure: Failure) {
        let info = &mut self.stream.info;
        match failure {
            Failure::Downstream(error) => {
                self.stream.downstream_gone(error);
                return;
            }
            Failure::Stream { error, .. } => {
                let (reason, flag) = reset_reason(error);
                info.flags.insert(flag);
                info.details = Some(format!("upstream_reset_after_response_started{{{reason}}}").into());
            }
            Failure::Limit(limit) => {
                let (flag, details) = match limit {
                    Limit::Request | Limit::PerTry | Limit::PerTryIdle => {
                        (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout")
                    }
                    Limit::Idle | Limit::RequestArrival => {
                        self.stream.cx.stats.downstream_rq_idle_timeout.inc();
                        (ResponseFlags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout")
                    }
                    Limit::Duration => {
                        self.stream.cx.stats.downstream_rq_max_duration_reached.inc();
                        (ResponseFlags::NONE, "max_duration_timeout")
                    }
                };
                if limit == Limit::Request {
                    self.cluster.stats.upstream_rq_timeout.inc();
                }
                info.flags.insert(flag);
                info.details = Some(details.into());
            }
            Failure::NoHost | Failure::Overflow | Failure::Connect { .. } => {}
        }
        self.stream.cx.stats.downstream_rq_tx_reset.inc();
        // Envoy counts a reset that it sends as one that came, too.
        self.stream.cx.stats.downstream_rq_rx_reset.inc();
        self.stream.reset = Some(ResetCode::Internal);
    }

    fn charge(&self, status: StatusCode, host: &Host) {
        self.cluster.stats.charge_response(status.as_u16(), self.origin);
        let counters = host.stats();
        let counter = if status.is_server_error() { &counters.rq_error } else { &counters.rq_success };
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// No attempt is left: the answer from here.
    fn give_up(&mut self, failure: Failure) -> Outcome {
        // What has come of the request counts as received, wanted or not.
        let _ = self.poll_ahead(&mut Context::from_waker(Waker::noop()));
        let stats = &self.cluster.stats;
        // The stream's own limits say nothing about the cluster.
        let of_cluster = !matches!(
            failure,
            Failure::Limit(Limit::Idle | Limit::Duration | Limit::RequestArrival) | Failure::Downstream(_)
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
                self.stream.cx.stats.downstream_cx_protocol_error.inc();
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
                let mut reply =
                    LocalReply::new(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", "response_timeout");
                reply.grpc_status = self.grpc_deadline.then_some(DEADLINE_EXCEEDED);
                reply.flag(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT)
            }
            Limit::PerTry | Limit::PerTryIdle => {
                LocalReply::new(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", "upstream_per_try_timeout")
                    .flag(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT)
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

enum Go {
    Again,
    On,
}
