//! The router: from a matched route to a host and back, with time limits and attempts.

mod attempt;
mod local_reply;
mod response;
mod retry;

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderValue, Method};
use outrigger_engine::connection_manager::names::{X_ENVOY_ATTEMPT_COUNT, X_ENVOY_INTERNAL, X_ENVOY_IS_TIMEOUT_RETRY};
use outrigger_engine::message::{RequestHead, ResponseHead};
use outrigger_engine::reply::{LocalReply, is_grpc};
use outrigger_engine::resilience::breaker::RoutingPriority;
use outrigger_engine::resilience::retry::{Decision, RetryState};
use outrigger_engine::resilience::timeout::Timeouts;
use outrigger_engine::route::{Choice, Forward, Found};
use outrigger_engine::stream_info::ResponseFlags;
use smallvec::SmallVec;
use tokio::time::Instant;

pub use self::attempt::Under;
use self::retry::Go;
use super::codec::{Body, ClientStream, Responder};
use super::deadlines::{Deadlines, Limit};
use super::exchange::Stream;
use super::failure::Failure;
use super::transfer::Upload;
use crate::alarm::Alarm;
use crate::cluster::WorkerCluster;
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
    /// It has gone to another connection beside what the policy allows, which happens once: from then on it takes none
    /// that a request has used, as what comes back to a pool idles there, too.
    went_again: bool,
    /// Informational heads wait for the client to read.
    flushing: bool,
    /// SNI of upstream connections, where the cluster takes it from the request: that of the first attempt, whatever an
    /// attempt makes of the authority.
    server_name: Option<Arc<str>>,
    tried: SmallVec<[u64; 4]>,
    is_head: bool,
    /// Whose request it is, in the cluster's statistics.
    origin: Origin,
}

/// Bytes of a request body kept for another attempt, where the route sets no limit of its own.
const REPLAY_LIMIT: usize = 1 << 20;

/// The same where nothing is retried: a connection may still turn out to have been closed before it took the request.
const RESEND_LIMIT: usize = 64 << 10;

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
        /// What it counts as until it ends.
        under: Under,
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

    if let Some(reply) = cx.hcm.strict_check_headers.iter().find_map(|header| header.refuses(head)) {
        return Outcome::Reply(reply);
    }

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
    let limit = matched.found.route.request_body_buffer_limit;
    let limit = replay_limit(limit, if retry.is_some() { REPLAY_LIMIT } else { RESEND_LIMIT });
    let upload = Upload::new(body, limit, &cx.worker.replay);
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
        attempt: None,
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
        stream,
        responder,
        alarm,
        priority: forward.priority,
        cluster,
        upload,
        deadlines,
        retry,
        went_again: false,
        flushing: false,
        server_name: None,
        tried: SmallVec::new(),
    };
    forwarding.server_name = forwarding.server_name(head);
    forwarding.run(head, matched, &choice, upgrade).await
}

fn replay_limit(route: Option<u64>, ours: usize) -> usize {
    route.map_or(ours, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
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
        let mut timed_out = false;
        loop {
            self.stream.info.attempts += 1;
            if matched.found.virtual_host.include_request_attempt_count {
                head.headers.set(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.stream.info.attempts));
            }
            if self.stream.info.attempts > 1 {
                self.tell_what_is_left(head, matched.forward);
                if matched.found.virtual_host.include_is_timeout_retry_header {
                    let value = HeaderValue::from_static(if timed_out { "true" } else { "false" });
                    head.headers.set(X_ENVOY_IS_TIMEOUT_RETRY, value);
                }
                if self.went_again && !self.retry.as_ref().is_some_and(RetryState::may_retry) {
                    self.upload.keep_no_more();
                }
            }
            let avoid = policy.is_some_and(|policy| policy.avoid_previous_hosts);
            let reselections = policy.map_or(0, |policy| policy.host_selection_max_attempts);
            let failure = match self.attempt(head, matched.forward, avoid, reselections).await {
                Ok(responding) => {
                    let mut decision = Decision::No;
                    if let Some(retry) = &mut self.retry {
                        decision = retry.on_response(policy, &responding.head);
                        if self.stream.info.attempts > 1 && decision == Decision::No {
                            self.cluster.stats.upstream_rq_retry_success.inc();
                        }
                        if decision == Decision::Retry && !self.upload.can_replay() {
                            decision = Decision::No;
                        }
                    }
                    match self.decide(decision, &mut retry_guard) {
                        Go::Again => {
                            self.charge(responding.head.status, &responding.host, Origin::Retry);
                            let rate_limited =
                                policy.and_then(|policy| policy.rate_limited_back_off.as_ref()).and_then(|back_off| {
                                    back_off.delay(&responding.head.headers, SystemTime::now(), self.random())
                                });
                            drop(responding);
                            timed_out = false;
                            if let Err(failure) = self.back_off(policy, rate_limited).await {
                                return self.give_up(failure);
                            }
                            continue;
                        }
                        Go::On => {}
                    }
                    drop(retry_guard);
                    return self.respond(responding, matched, choice, upgrade, head).await;
                }
                Err(failure) => failure,
            };
            timed_out = matches!(failure, Failure::Limit(Limit::PerTry | Limit::PerTryIdle));
            let decision = match (&mut self.retry, failure.reset_kind()) {
                (Some(retry), Some((kind, sent))) if self.upload.can_replay() => retry.on_reset(kind, sent),
                _ => Decision::No,
            };
            if decision != Decision::Retry && self.goes_again(&failure, &head.method) {
                self.cluster.stats.upstream_rq_retry.inc();
                self.deadlines.attempt_over(Instant::now());
                continue;
            }
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
}
