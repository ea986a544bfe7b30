//! After `101 Switching Protocols`: the two connections become a tunnel.

use std::time::Duration;

use outrigger_engine::message::ResponseHead;
use outrigger_engine::stream_info::ResponseFlags;

use super::codec::{ClientStream, ResetCode, Responder};
use super::exchange::Stream;
use crate::alarm::Alarm;
use crate::tcp::tunnel::{Cause, Tunnel};

/// Sends the head downstream and passes bytes both ways until both ends are done, or nothing moved for `idle`.
pub async fn run(
    stream: &mut Stream<'_>,
    mut responder: Responder,
    upstream: ClientStream,
    head: ResponseHead,
    idle: Option<Duration>,
    alarm: &mut Alarm,
) {
    if let Err(error) = stream.send_head(&mut responder, head, false) {
        stream.downstream_gone(error);
        return;
    }
    match stream.is_read(alarm, |task| responder.poll_flush(task)).await {
        Ok(true) => {}
        Ok(false) => return responder.reset(ResetCode::Internal),
        Err(error) => return stream.downstream_gone(error),
    }
    stream.cx.stats.downstream_cx_upgrades_total.inc();
    stream.cx.stats.downstream_cx_upgrades_active.inc();
    if let (Ok(down), Ok((up, lease))) = (responder.into_tunnel(), upstream.into_tunnel()) {
        let tunnel = Tunnel::new(down.io, down.buffered, up.io, up.buffered);
        let ended = tunnel.idle_timeout(idle).drained_by(&stream.cx.chain.end).await;
        stream.info.bytes_received = ended.from_a;
        stream.info.bytes_sent = ended.from_b;
        // Whose end came first.
        let (flag, details) = match ended.cause {
            Cause::FinishedByB | Cause::ResetByA => {
                (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect")
            }
            Cause::FinishedByA | Cause::ResetByB => {
                stream.cx.stats.downstream_rq_tx_reset.inc();
                if let Some(lease) = lease {
                    lease.ended_by_peer();
                }
                (
                    ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
                    "upstream_reset_after_response_started{connection_termination}",
                )
            }
            Cause::Idle | Cause::Deadline => {
                stream.cx.stats.downstream_rq_idle_timeout.inc();
                (ResponseFlags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout")
            }
            Cause::Drained => (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_local_disconnect"),
        };
        stream.info.flags.insert(flag);
        stream.info.details = Some(details.into());
    }
    stream.cx.stats.downstream_cx_upgrades_active.dec();
}
