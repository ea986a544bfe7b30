//! One request, from its head to its log line: prepare, route, then answer here or forward.

use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, LOCATION, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use outrigger_engine::connection_manager::names::X_REQUEST_ID;
use outrigger_engine::connection_manager::{RequestContext, RequestRejected, finish_response, prepare_request};
use outrigger_engine::message::{Headers, Protocol, RequestHead, ResponseHead};
use outrigger_engine::reply::LocalReply;
use outrigger_engine::route::{Action, Found, Lookup};
use outrigger_engine::stream_info::{ResponseFlags, StreamInfo};
use tokio::time::Instant;

use super::codec::{Exchange, ResetCode, Responder, StreamError, h2};
use super::connection::HttpContext;
use super::node_address::node_address;
use super::router::{self, Outcome};
use super::upgrade;
use crate::alarm::Alarm;

/// A request under way: what every station needs of it.
#[derive(Debug)]
pub struct Stream<'a> {
    /// Its connection.
    pub cx: &'a Rc<HttpContext>,
    /// When its head was complete.
    pub started: Instant,
    /// What will be logged.
    pub info: StreamInfo,
    /// What the downstream's response shall repeat of the request.
    pub request_id: Option<HeaderValue>,
    /// The response's head as sent, kept for the log.
    pub response: Option<ResponseHead>,
    /// The response's trailers, kept for the log.
    pub trailers: Option<Headers>,
    /// Both sides agreed on an upgrade.
    pub upgraded: bool,
    /// The response cannot be finished: the stream ends like this.
    pub reset: Option<ResetCode>,
    /// All of the request has come.
    pub complete: bool,
    /// Its counters and its log line are written.
    finished: bool,
}

impl Stream<'_> {
    /// Sends a response head downstream, finished as the connection manager does.
    pub fn send_head(
        &mut self,
        responder: &mut Responder,
        mut head: ResponseHead,
        end: bool,
    ) -> Result<(), StreamError> {
        let now = SystemTime::now();
        let date = self.cx.worker.date(now);
        let id = self.request_id.as_ref().filter(|_| self.cx.hcm.always_set_request_id_in_response);
        finish_response(&mut head, &self.cx.hcm, self.upgraded, id, &date);
        self.info.response_code = Some(head.status.as_u16());
        self.info.first_downstream_tx = Some(self.started.elapsed());
        if self.cx.is_closing() {
            responder.close_after();
        }
        if self.keeps_for_log() {
            self.response = Some(head.clone());
        }
        responder.send_head(head, end)
    }

    /// Whether a log will ask for heads and trailers.
    pub fn keeps_for_log(&self) -> bool {
        !self.cx.hcm.access_logs.is_empty()
    }

    /// Notes the route.
    fn matched(&mut self, found: &Found<'_>) {
        self.info.virtual_host = Some(found.virtual_host.name.clone());
        self.info.route_name = (!found.route.name.is_empty()).then(|| found.route.name.clone());
    }

    /// A reply of the route's own, with the response headers that the route adds.
    fn route_headers(&self, found: &Found<'_>, request: &RequestHead, mut reply: LocalReply) -> LocalReply {
        let protocol = request.protocol;
        let mut head = ResponseHead { status: reply.status, protocol, headers: reply.headers };
        found.apply_response(None, &mut head, request, &self.info, self.started.elapsed());
        reply.headers = head.headers;
        reply
    }

    /// Answers from here.
    pub async fn reply(
        &mut self,
        responder: &mut Responder,
        request: Option<&RequestHead>,
        mut reply: LocalReply,
        alarm: &mut Alarm,
    ) {
        self.info.flags.insert(reply.flags);
        self.info.details = Some(reply.details.clone());
        if let Some(config) = &self.cx.hcm.local_replies {
            let random = self.cx.worker.random();
            config.apply(&mut reply, request, &mut self.info, self.started.elapsed(), random);
        }
        let protocol = self.info.protocol.unwrap_or(Protocol::Http11);
        let (head, body) = reply.into_response(request, protocol);
        let sent = self.send_reply(responder, head, body, alarm).await;
        if let Err(error) = sent {
            self.downstream_gone(error);
        }
    }

    async fn send_reply(
        &mut self,
        responder: &mut Responder,
        head: ResponseHead,
        body: Bytes,
        alarm: &mut Alarm,
    ) -> Result<(), StreamError> {
        self.send_head(responder, head, body.is_empty())?;
        if !body.is_empty() {
            self.info.bytes_sent = body.len() as u64;
            if !self.is_read(alarm, |task| responder.poll_ready(task)).await? {
                return Ok(());
            }
            responder.send_data(body, true)?;
        }
        self.is_read(alarm, |task| responder.poll_flush(task)).await?;
        Ok(())
    }

    /// Waits until the client has made room for what is sent from here, or has read it. If it does not for as long as a
    /// stream may be idle, the stream is to be reset; `false` says so.
    pub async fn is_read(
        &mut self,
        alarm: &mut Alarm,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<(), StreamError>>,
    ) -> Result<bool, StreamError> {
        let limit = self.cx.read_limit();
        let mut deadline = None;
        let read = poll_fn(|task| match poll(task) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| true)),
            Poll::Pending => {
                // Nearly always it is ready at once, and no time is asked for.
                let deadline = *deadline.get_or_insert_with(|| limit.map(|limit| Instant::now() + limit));
                alarm.poll(task, deadline).map(|()| Ok(false))
            }
        })
        .await?;
        if !read {
            self.cx.set_unread();
            let stats = &self.cx.stats;
            stats.downstream_rq_idle_timeout.inc();
            stats.downstream_rq_tx_reset.inc();
            stats.downstream_rq_rx_reset.inc();
            self.info.flags.insert(ResponseFlags::STREAM_IDLE_TIMEOUT);
            self.info.details = Some("stream_idle_timeout".into());
            self.reset = Some(ResetCode::Internal);
        }
        Ok(read)
    }

    /// Notes that the downstream left before the response was complete.
    pub fn downstream_gone(&mut self, error: StreamError) {
        let (flag, details) = match error {
            StreamError::Reset(_) => (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "http2.remote_reset"),
            StreamError::Protocol(details) | StreamError::TooLarge(details) => {
                (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, details)
            }
            StreamError::ConnectionClosed | StreamError::Refused | StreamError::Local => {
                (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect")
            }
        };
        if error == StreamError::ConnectionClosed && self.info.protocol != Some(Protocol::Http2) {
            self.cx.stats.downstream_cx_destroy_active_rq.inc();
            self.cx.stats.downstream_cx_destroy_remote_active_rq.inc();
        }
        self.cx.stats.downstream_rq_rx_reset.inc();
        self.info.flags.insert(flag);
        self.info.details = Some(details.into());
    }

    /// The request is over, and so is the way to answer.
    fn end(&mut self, responder: Responder, request: Option<&RequestHead>) {
        if let Some(code) = self.reset {
            responder.reset(code);
        }
        self.finish(request);
    }

    /// The request is over: counters and the log line.
    fn finish(&mut self, request: Option<&RequestHead>) {
        let total = self.started.elapsed();
        self.info.last_downstream_tx = Some(total);
        let code = self.info.response_code.unwrap_or(0);
        self.cx.stats.downstream_rq_active.dec();
        self.cx.stats.downstream_rq_time.record(total.as_micros() as u64);
        self.cx.stats.responses.inc(code);
        self.cx.listener_stats.responses.inc(code);
        if self.keeps_for_log() {
            self.cx.worker.log(
                &self.cx.hcm.access_logs,
                request,
                self.response.as_ref(),
                self.trailers.as_ref(),
                &self.info,
            );
        }
        self.finished = true;
    }

    /// Unless it is over: a connection that has drained for too long is cut off in the middle of it.
    fn cut_off(&mut self, request: Option<&RequestHead>) {
        if self.finished {
            return;
        }
        self.finished = true;
        self.info.last_downstream_tx = Some(self.started.elapsed());
        self.info.details = Some("downstream_local_disconnect".into());
        self.cx.stats.downstream_rq_active.dec();
        let (response, trailers) = (self.response.as_ref(), self.trailers.as_ref());
        self.cx.worker.log(&self.cx.hcm.access_logs, request, response, trailers, &self.info);
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.cut_off(None);
    }
}

/// A request with its head, so that its log line tells what was asked for even where it is cut off.
struct Served<'a> {
    stream: Stream<'a>,
    head: RequestHead,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.stream.cut_off(Some(&self.head));
    }
}

/// Answers a request that the codec could not read.
pub async fn refuse(
    cx: &Rc<HttpContext>,
    mut responder: Responder,
    info: StreamInfo,
    reply: LocalReply,
    alarm: &mut Alarm,
) {
    cx.stats.downstream_rq_total.inc();
    cx.stats.downstream_rq_http1_total.inc();
    cx.stats.downstream_rq_active.inc();
    cx.answered_early();
    let mut stream = new_stream(cx, info);
    stream.reply(&mut responder, None, reply, alarm).await;
    stream.end(responder, None);
}

/// Counts and logs a request that the codec refused and reset by itself.
pub fn log_malformed(cx: &Rc<HttpContext>, details: &'static str) {
    // Envoy takes its own reset of a head beyond the limits for the client's.
    let too_large = matches!(details, "http2.too_many_headers" | "http2.header_list_size_too_large");
    let flag = match too_large {
        true => ResponseFlags::DOWNSTREAM_REMOTE_RESET,
        false => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
    };
    log_without_head(cx, flag, details.into());
}

/// Counts and logs a request whose head did not come to its end in time, so that `reply` could not be given.
pub fn log_head_timeout(cx: &Rc<HttpContext>, reply: LocalReply) {
    log_without_head(cx, reply.flags, reply.details);
}

/// Counts and logs a request of which the connection's end left no whole head.
pub fn log_unfinished(cx: &Rc<HttpContext>, end: h2::End) {
    let (flag, details) = match end {
        h2::End::Protocol(details) => (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, details),
        _ => (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect"),
    };
    log_without_head(cx, flag, details.into());
}

fn log_without_head(cx: &Rc<HttpContext>, flag: ResponseFlags, details: Cow<'static, str>) {
    cx.stats.downstream_rq_total.inc();
    cx.stats.downstream_rq_http2_total.inc();
    cx.stats.downstream_rq_active.inc();
    cx.stats.downstream_rq_rx_reset.inc();
    let mut stream = new_stream(cx, StreamInfo::new(SystemTime::now(), cx.info.clone(), Some(Protocol::Http2)));
    stream.info.flags.insert(flag);
    stream.info.details = Some(details);
    stream.finish(None);
}

fn new_stream(cx: &Rc<HttpContext>, info: StreamInfo) -> Stream<'_> {
    Stream {
        cx,
        started: Instant::now(),
        info,
        request_id: None,
        response: None,
        trailers: None,
        upgraded: false,
        reset: None,
        complete: false,
        finished: false,
    }
}

/// Serves one request to its end.
pub async fn handle(cx: &Rc<HttpContext>, exchange: Exchange, alarm: &mut Alarm) {
    let Exchange { head, body, mut responder } = exchange;
    cx.stats.downstream_rq_total.inc();
    cx.stats.downstream_rq_active.inc();
    cx.log_protocol(head.protocol);
    match head.protocol {
        Protocol::Http10 | Protocol::Http11 => cx.stats.downstream_rq_http1_total.inc(),
        Protocol::Http2 => cx.stats.downstream_rq_http2_total.inc(),
    }
    let info = StreamInfo::new(SystemTime::now(), cx.info.clone(), Some(head.protocol));
    let mut served = Served { stream: new_stream(cx, info), head };
    let Served { stream, head } = &mut served;
    let wanted = wanted_upgrade(head);

    let random = cx.worker.random();
    let prepared = check(head).and_then(|()| {
        let context = RequestContext {
            hcm: &cx.hcm,
            connection: &cx.info,
            upgrade: wanted.is_some(),
            node_address: node_address(),
            random: u128::from(random) << 64 | u128::from(cx.worker.random()),
        };
        prepare_request(head, &context)
    });
    // What follows an upgrade is no part of the request; until there is an answer, more may come.
    stream.complete = body.is_end() && wanted.is_none() && head.method != Method::CONNECT;
    match prepared {
        Ok(remote) => stream.info.remote_address = remote,
        Err(RequestRejected::Malformed(reason)) => return malformed(stream, responder, reason, alarm).await,
        Err(rejected) => {
            let goes_on = match rejected {
                RequestRejected::Redirect => true,
                RequestRejected::Reply(_, details) => details == "absolute_path_rejected",
                RequestRejected::Malformed(_) => false,
            };
            if !goes_on || !stream.complete {
                responder.close_after();
            }
            if !stream.complete {
                cx.answered_early();
            }
            stream.reply(&mut responder, Some(head), rejection(cx, head, rejected), alarm).await;
            return stream.end(responder, Some(head));
        }
    }
    stream.request_id = head.headers.fold(&X_REQUEST_ID).cloned();
    if !cx.hcm.proxy_100_continue
        && head.headers.fold(&EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        head.headers.remove(&EXPECT);
        let go_on = ResponseHead { status: StatusCode::CONTINUE, protocol: head.protocol, headers: Headers::new() };
        let sent = match responder.send_informational(go_on) {
            Ok(()) => stream.is_read(alarm, |task| responder.poll_flush(task)).await,
            Err(error) => Err(error),
        };
        cx.count_informational(StatusCode::CONTINUE);
        match sent {
            Ok(true) => {}
            Ok(false) => return stream.end(responder, Some(head)),
            Err(error) => {
                stream.downstream_gone(error);
                return stream.end(responder, Some(head));
            }
        }
    }

    let routes = cx.routes();
    let found = routes.find(head, random);
    let upgrade = wanted.as_ref().map(|wanted| is_upgrade_allowed(wanted, &found, &cx.hcm.upgrades));
    match upgrade {
        Some(false) => cx.stats.downstream_rq_ws_on_non_ws_route.inc(),
        Some(true) | None => cx.stats.rq_total.inc(),
    }
    let outcome = match found {
        Lookup::Found(found) if upgrade == Some(false) => {
            stream.matched(&found);
            if let Action::Forward(forward) = &found.route.action {
                let cluster = cx.worker.cluster(forward.choose(head, random).name());
                stream.info.upstream_cluster = cluster.map(|cluster| cluster.state.config.name.clone());
            }
            Outcome::Reply(upgrade_failed())
        }
        _ if upgrade == Some(false) => Outcome::Reply(upgrade_failed()),
        // Whose bytes they are, the request's or the next protocol's, two servers may read in two ways.
        _ if upgrade == Some(true) && !body.is_end() => {
            let reply = LocalReply::new(StatusCode::BAD_REQUEST, "", "http1.body_disallowed");
            Outcome::Reply(reply.flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR))
        }
        Lookup::NoVirtualHost | Lookup::NoRoute(_) => {
            cx.stats.no_route.inc();
            Outcome::Reply(not_found())
        }
        Lookup::RequireTls(virtual_host, location) => {
            stream.info.virtual_host = Some(virtual_host.name.clone());
            cx.stats.rq_direct_response.inc();
            Outcome::Reply(redirect_to(StatusCode::MOVED_PERMANENTLY, location))
        }
        Lookup::Found(found) => {
            stream.matched(&found);
            match &found.route.action {
                Action::Forward(forward) => {
                    let upgrade = upgrade.is_some();
                    let matched = router::Matched { found, forward };
                    router::forward(stream, head, body, &mut responder, matched, upgrade, random, alarm).await
                }
                Action::Redirect(redirect) => {
                    cx.stats.rq_direct_response.inc();
                    let elapsed = stream.started.elapsed();
                    let keep_original = !cx.hcm.suppress_envoy_headers;
                    let (status, location) = found.redirect(redirect, head, &stream.info, elapsed, keep_original);
                    Outcome::Reply(stream.route_headers(&found, head, redirect_to(status, location)))
                }
                Action::Respond(direct) => {
                    cx.stats.rq_direct_response.inc();
                    let reply = LocalReply::new(direct.status, direct.body(), "direct_response");
                    Outcome::Reply(stream.route_headers(&found, head, reply))
                }
                Action::NonForwarding => {
                    cx.stats.no_route.inc();
                    Outcome::Reply(not_found())
                }
            }
        }
    };
    match outcome {
        Outcome::Done => {}
        Outcome::Reply(reply) => {
            // What is left of the request is not wanted: on HTTP/1 the connection ends with the answer.
            if !stream.complete {
                responder.close_after();
                cx.answered_early();
            }
            stream.reply(&mut responder, Some(head), reply, alarm).await;
        }
        Outcome::Upgrade { stream: upstream, head: response, idle, under } => {
            upgrade::run(stream, responder, *upstream, response, idle, alarm).await;
            drop(under);
            cx.answered_early();
            stream.finish(Some(head));
            return;
        }
    }
    stream.end(responder, Some(head));
}

/// Refuses a message that Envoy's codec would not have let through.
async fn malformed(stream: &mut Stream<'_>, mut responder: Responder, reason: &str, alarm: &mut Alarm) {
    let stats = &stream.cx.stats;
    if stream.info.protocol == Some(Protocol::Http2) {
        stats.downstream_rq_rx_reset.inc();
        stream.info.flags.insert(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
        stream.info.details = Some(format!("http2.{reason}").into());
        stream.reset = Some(ResetCode::Internal);
    } else {
        stream.cx.count_protocol_error();
        stream.cx.answered_early();
        responder.close_after();
        let reply = LocalReply::new(StatusCode::BAD_REQUEST, "Bad Request", format!("http1.{reason}"));
        stream.reply(&mut responder, None, reply.flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR), alarm).await;
    }
    stream.end(responder, None);
}

fn upgrade_failed() -> LocalReply {
    LocalReply::new(StatusCode::FORBIDDEN, "", "upgrade_failed")
}

fn not_found() -> LocalReply {
    LocalReply::new(StatusCode::NOT_FOUND, "", "route_not_found").flag(ResponseFlags::NO_ROUTE_FOUND)
}

fn redirect_to(status: StatusCode, location: HeaderValue) -> LocalReply {
    let mut reply = LocalReply::new(status, "", "direct_response");
    reply.headers.append(LOCATION, location);
    reply
}

/// What every request must have, whatever its codec.
fn check(head: &RequestHead) -> Result<(), RequestRejected> {
    if memchr::memchr(b'#', head.path.as_bytes()).is_some() {
        return Err(RequestRejected::Reply(400, "path_normalization_failed"));
    }
    if head.authority.is_none() {
        return Err(RequestRejected::Reply(400, "missing_host_header"));
    }
    let path = head.path.as_bytes();
    if !(head.method == Method::CONNECT || path.starts_with(b"/")) {
        return Err(RequestRejected::Reply(404, "absolute_path_rejected"));
    }
    Ok(())
}

fn rejection(cx: &HttpContext, head: &RequestHead, rejected: RequestRejected) -> LocalReply {
    let status = |status| StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    match rejected {
        RequestRejected::Malformed(details) => LocalReply::new(StatusCode::BAD_REQUEST, "", details),
        RequestRejected::Reply(code, details) => {
            match details {
                "absolute_path_rejected" => cx.stats.downstream_rq_non_relative_path.inc(),
                "path_normalization_failed" => cx.stats.downstream_rq_failed_path_normalization.inc(),
                _ => {}
            }
            LocalReply::new(status(code), "", details)
        }
        RequestRejected::Redirect => {
            cx.stats.downstream_rq_redirected_with_normalized_path.inc();
            let mut reply = LocalReply::new(StatusCode::TEMPORARY_REDIRECT, "", "path_normalization_failed");
            reply.headers.append(LOCATION, head.path.clone());
            reply
        }
    }
}

/// The upgrade that the request asks for, in lower case.
fn wanted_upgrade(head: &mut RequestHead) -> Option<String> {
    if !head.headers.contains(&UPGRADE) {
        return None;
    }
    let asks = head.headers.get_all(&CONNECTION).any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    if !asks {
        return None;
    }
    head.headers.fold(&UPGRADE)?.to_str().ok().map(str::to_ascii_lowercase)
}

/// The route has the last word, else the connection manager. What neither names is not allowed.
fn is_upgrade_allowed(wanted: &str, found: &Lookup<'_>, manager: &[Arc<str>]) -> bool {
    let route = match found {
        Lookup::Found(Found { route, .. }) => match &route.action {
            Action::Forward(forward) => forward.upgrades.iter().find(|(name, _)| **name == *wanted),
            _ => None,
        },
        _ => None,
    };
    route.map_or_else(|| manager.iter().any(|name| **name == *wanted), |(_, allowed)| *allowed)
}
