//! One attempt: a host, a connection to it within the breakers, the request, and the head of an answer.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http::HeaderValue;
use outrigger_engine::balance::{Host, PickContext};
use outrigger_engine::message::{RequestHead, ResponseHead};
use outrigger_engine::resilience::breaker::{Guard, Resource};
use outrigger_engine::route::{Forward, rewrite_authority};
use tokio::time::Instant;

use super::Forwarding;
use crate::cluster::WorkerCluster;
use crate::cluster::pool::{Acquired, HostPool, Lease};
use crate::http::codec::{Body, ClientStream, Reply, StreamError};
use crate::http::deadlines::Limit;
use crate::http::failure::Failure;
use crate::http::transfer::{TransferError, Upload};

/// A response that has begun.
pub(super) struct Responding {
    pub(super) head: ResponseHead,
    pub(super) body: Body,
    pub(super) stream: ClientStream,
    pub(super) host: Arc<Host>,
    pub(super) guards: Under,
}

/// What a stream counts as while it lives.
#[derive(Debug)]
pub struct Under {
    cluster: Rc<WorkerCluster>,
    host: Arc<Host>,
    _request: Guard,
}

impl Under {
    fn new(cluster: &Rc<WorkerCluster>, host: &Arc<Host>, request: Guard) -> Self {
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        let stats = host.stats();
        stats.rq_total.fetch_add(1, Ordering::Relaxed);
        stats.rq_active.fetch_add(1, Ordering::Relaxed);
        Under { cluster: cluster.clone(), host: host.clone(), _request: request }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        self.host.stats().rq_active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far an upload is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Progress {
    bytes: u64,
    complete: bool,
    kept: bool,
}

impl Progress {
    fn of(upload: &Upload) -> Self {
        Progress { bytes: upload.bytes, complete: upload.is_complete(), kept: upload.is_kept() }
    }
}

impl Forwarding<'_, '_> {
    /// One attempt, up to the head of a final response.
    pub(super) async fn attempt(
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
        if forward.auto_host_rewrite()
            && let Some(name) = &host.hostname
            && let Ok(authority) = HeaderValue::from_str(name)
        {
            let keep_original = !self.stream.cx.hcm.suppress_envoy_headers;
            rewrite_authority(head, authority, forward.append_x_forwarded_host, keep_original);
        }
        let pool = self.cluster.pool(&host, head.protocol, self.server_name.clone(), self.priority)?;
        self.stream.info.upstream_host = Some(host.display.clone());
        let lease = loop {
            let lease = self.acquire(&pool).await?;
            if !(self.went_again && lease.stream.is_reused()) {
                break lease;
            }
            // Somebody else may use it.
            drop(lease);
            pool.close_idle();
        };
        let Lease { mut stream, protocol, local_address } = *lease;
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
        self.deadlines.attempt = self.cluster.state.config.max_stream_duration.map(|longest| Instant::now() + longest);
        if self.upload.is_complete() {
            self.deadlines.request_complete(Instant::now(), true);
            self.stream.info.last_upstream_tx = self.stream.info.first_upstream_tx;
        }
        if self.retry.as_ref().is_some_and(|retry| retry.may_retry_success(forward.retry.as_deref())) {
            stream.leave_unread();
        }
        let reply = match stream.send_head(head, ends) {
            Ok(()) => poll_fn(|task| self.poll_reply(task, &mut stream)).await,
            Err(error) => Err(Failure::Stream { error, delivery: stream.delivery() }),
        };
        match reply {
            Ok((head, body)) => {
                self.stream.info.first_upstream_rx = Some(self.stream.started.elapsed());
                Ok(Responding { head, body, stream, host, guards })
            }
            Err(failure) => {
                let stats = &self.cluster.stats;
                match &failure {
                    Failure::Limit(Limit::PerTry | Limit::PerTryIdle | Limit::Request) => {
                        host.stats().rq_timeout.fetch_add(1, Ordering::Relaxed);
                    }
                    Failure::Stream { .. } => _ = host.stats().rq_error.fetch_add(1, Ordering::Relaxed),
                    _ => {}
                }
                match &failure {
                    Failure::Limit(Limit::PerTry) => stats.upstream_rq_per_try_timeout.inc(),
                    Failure::Limit(Limit::Attempt) => stats.upstream_rq_max_duration_reached.inc(),
                    Failure::Limit(Limit::PerTryIdle) => stats.upstream_rq_per_try_idle_timeout.inc(),
                    failure if failure.is_idle_close() => pool.close_idle(),
                    _ => {}
                }
                Err(failure)
            }
        }
    }

    /// A stream of the pool, now or when there is one.
    async fn acquire(&mut self, pool: &Rc<HostPool>) -> Result<Box<Lease>, Failure> {
        let mut waiting = match pool.acquire() {
            Ok(Acquired::Ready(lease)) => return Ok(lease),
            Ok(Acquired::Pending(waiting)) => waiting,
            Err(error) => {
                self.stream.info.upstream_host = None;
                return Err(error.into());
            }
        };
        let result = poll_fn(|task| match Pin::new(&mut waiting).poll(task) {
            Poll::Ready(result) => Poll::Ready(result.map_err(Failure::from)),
            Poll::Pending => match self.poll_ahead(task) {
                Poll::Ready(error) => Poll::Ready(Err(Failure::Downstream(error))),
                Poll::Pending => self.poll_limits(task).map(Err),
            },
        })
        .await;
        if let Err(Failure::Limit(_) | Failure::Downstream(_)) = result {
            self.cluster.stats.upstream_rq_cancelled.inc();
        }
        result
    }

    /// SNI of upstream connections, where the cluster takes it from the request.
    pub(super) fn server_name(&self, head: &RequestHead) -> Option<Arc<str>> {
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
        name.parse::<IpAddr>().is_err().then(|| Arc::from(name))
    }

    pub(super) fn poll_limits(&mut self, task: &mut Context<'_>) -> Poll<Failure> {
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
            // A host that sends many 1xx heads and a client that reads none do not fill our memory.
            if self.flushing {
                match self.responder.poll_flush(task) {
                    Poll::Ready(Ok(())) => self.flushing = false,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Downstream(error))),
                    Poll::Pending => break,
                }
            }
            match stream.poll_reply(task) {
                Poll::Ready(Ok(Reply::Informational(head))) => {
                    self.deadlines.active = Instant::now();
                    self.cluster.stats.charge_response(head.status.as_u16(), self.origin);
                    if self.stream.cx.hcm.proxy_100_continue {
                        self.stream.cx.count_informational(head.status);
                        if let Err(error) = self.responder.send_informational(head) {
                            return Poll::Ready(Err(Failure::Downstream(error)));
                        }
                        self.flushing = true;
                    }
                }
                Poll::Ready(Ok(Reply::Response(head, body))) => return Poll::Ready(Ok((head, body))),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Failure::Stream { error, delivery: stream.delivery() }));
                }
                Poll::Pending => break,
            }
        }
        self.poll_limits(task).map(Err)
    }

    pub(super) fn poll_upload(
        &mut self,
        task: &mut Context<'_>,
        stream: &mut ClientStream,
    ) -> Poll<Result<(), TransferError>> {
        let before = Progress::of(&self.upload);
        let result = self.upload.poll(task, stream);
        self.note_upload(before, true);
        if self.upload.is_sent() {
            self.stream.info.last_upstream_tx = Some(self.stream.started.elapsed());
        }
        result
    }

    /// Takes what of the request has come, while there is no upstream.
    pub(super) fn poll_ahead(&mut self, task: &mut Context<'_>) -> Poll<StreamError> {
        let before = Progress::of(&self.upload);
        let result = self.upload.poll_ahead(task);
        self.note_upload(before, false);
        result
    }

    fn note_upload(&mut self, before: Progress, attempt_started: bool) {
        if Progress::of(&self.upload) != before {
            let now = Instant::now();
            self.deadlines.active = now;
            self.stream.info.bytes_received = self.upload.bytes;
            if before.kept && !self.upload.is_kept() && self.retry.is_some() {
                self.cluster.stats.retry_or_shadow_abandoned.inc();
            }
            if self.upload.is_complete() && !before.complete {
                self.stream.info.last_downstream_rx = Some(now - self.stream.started);
                self.stream.complete = true;
                self.deadlines.request_complete(now, attempt_started);
            }
        }
    }
}
