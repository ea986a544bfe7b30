//! A watch of the proxies: who is connected, then each that comes, goes, or is elsewhere with what it was sent.
//!
//! What is shown is made once for all watches, and a proxy that is as it was before is the same value as before: so a watch
//! compares addresses, and what each has told takes little beside what the others have.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::outrigger::control::v1::watch_proxies_response::Event;
use outrigger_proto::outrigger::control::v1::{Proxy, WatchProxiesResponse};
use prost::Message as _;
use tokio::sync::watch;
use tonic::Status;

use super::refusal::Refusal;
use super::watching::{AROUND, Out, Reader, gone, pass};
use super::{Api, proxy};
use crate::connection::Cut;
use crate::store::PIECE;
use crate::xds::Proxies;

/// How long proxies may change before they are looked at again: a step of a mesh is several of each proxy.
const PACE: Duration = Duration::from_millis(100);

/// The proxies, by id, address, and which it is of those alike (over a socket file).
pub(super) type Roster = BTreeMap<(String, String, usize), Arc<Proxy>>;

/// Publishes what proxies have become, until nobody is left to read it.
pub(super) async fn follow(publish: watch::Sender<Arc<Roster>>, proxies: Arc<Proxies>) {
    let mut shown = proxies.shown();
    loop {
        shown.borrow_and_update();
        let now = roster(&proxies, &publish.borrow());
        publish.send_replace(Arc::new(now));
        tokio::time::sleep(PACE).await;
        tokio::select! {
            // Its sender is among the proxies.
            _ = shown.changed() => {}
            () = publish.closed() => return,
        }
    }
}

fn roster(proxies: &Proxies, before: &Roster) -> Roster {
    let (mut roster, mut alike) = (Roster::new(), BTreeMap::<_, usize>::new());
    for proxy in proxies.list().into_iter().map(proxy) {
        let number = alike.entry((proxy.id.clone(), proxy.address.clone())).or_default();
        let key = (proxy.id.clone(), proxy.address.clone(), *number);
        *number = number.saturating_add(1);
        let same = before.get(&key).filter(|before| ***before == proxy);
        let proxy = same.map_or_else(|| Arc::new(proxy), Arc::clone);
        roster.insert(key, proxy);
    }
    roster
}

/// Sends events into `out` until its reader is gone or slow, or the process stops. `cut` drops what is on its way.
pub(super) async fn run(api: Api, out: Out<WatchProxiesResponse>, cut: Cut) {
    let Err(status) = tell(&api, &Reader { api: &api, out: &out, cut }).await;
    // Nothing is held any more while this waits. Where the reader is gone, nobody is left to tell.
    _ = out.send(Err(status)).await;
}

async fn tell(api: &Api, reader: &Reader<'_, WatchProxiesResponse>) -> Result<Infallible, Status> {
    let (mut rosters, mut in_force) = (api.roster.clone(), api.in_force.clone());
    let mut told = Arc::default();
    let mut there = Event::Initial;
    loop {
        let now = Arc::clone(&rosters.borrow_and_update());
        pass(send(reader, &changes(&told, &now, there))).await?;
        if there == Event::Initial {
            reader.send(vec![event(Event::Synced, None)], reader.room(AROUND).await?).await?;
            there = Event::Changed;
        }
        told = now;
        loop {
            tokio::select! {
                changed = rosters.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return Err(Refusal::Stopping.into()),
                },
                // Nothing is put in force any more: the process stops.
                changed = in_force.changed() => if changed.is_err() {
                    return Err(Refusal::Stopping.into());
                },
                () = reader.out.closed() => return Err(gone()),
            }
        }
    }
}

/// Who has gone, then who is `there` and was not, or not so.
fn changes<'r>(before: &'r Roster, now: &'r Roster, there: Event) -> Vec<(Event, &'r Proxy)> {
    let gone = before.iter().filter(|(key, _)| !now.contains_key(key)).map(|(_, proxy)| (Event::Gone, &**proxy));
    let is_new = |key, proxy| before.get(key).is_none_or(|before| !Arc::ptr_eq(before, proxy));
    let changed = now.iter().filter(|(key, proxy)| is_new(*key, *proxy)).map(|(_, proxy)| (there, &**proxy));
    gone.chain(changed).collect()
}

/// Piece by piece: no event is made before there is room for it.
async fn send(reader: &Reader<'_, WatchProxiesResponse>, mut changes: &[(Event, &Proxy)]) -> Result<(), Status> {
    while !changes.is_empty() {
        let (mut number, mut bytes) = (0_usize, 0_usize);
        for (_, proxy) in changes {
            let more = bytes.saturating_add(proxy.encoded_len()).saturating_add(AROUND);
            if number > 0 && more > PIECE {
                break;
            }
            (number, bytes) = (number.saturating_add(1), more);
        }
        let (piece, rest) = changes.split_at(number);
        let room = reader.room(bytes).await?;
        let events = piece.iter().map(|(what, proxy)| event(*what, Some((*proxy).clone())));
        reader.send(events.collect(), room).await?;
        changes = rest;
    }
    Ok(())
}

fn event(event: Event, proxy: Option<Proxy>) -> WatchProxiesResponse {
    WatchProxiesResponse { event: event.into(), proxy }
}

#[cfg(test)]
mod tests {
    use outrigger_engine::xds::Kind;
    use outrigger_proto::envoy::config::core::v3::Node;

    use super::*;
    use crate::xds::Protocol;

    #[test]
    fn a_proxy_that_is_as_before_is_not_told_again_and_one_of_two_that_goes_is() {
        let proxies = Arc::<Proxies>::default();
        let open = |node: &str| {
            let node = Node { id: node.to_owned(), ..Node::default() };
            let stream = Arc::clone(&proxies).open(&node, None, Protocol::Delta, [Kind::Cluster].into());
            stream.complete(Kind::Cluster, 1);
            stream
        };
        let (_other, first, second) = (open("a"), open("b"), open("b"));
        let told = |before: &Roster, now: &Roster| -> Vec<(Event, String)> {
            changes(before, now, Event::Changed).iter().map(|(event, proxy)| (*event, proxy.id.clone())).collect()
        };
        let all = roster(&proxies, &Roster::new());
        let changed = |id: &str| (Event::Changed, id.to_owned());
        assert_eq!(told(&Roster::new(), &all), [changed("a"), changed("b"), changed("b")]);
        assert_eq!(told(&all, &roster(&proxies, &all)), []);
        second.complete(Kind::Listener, 1);
        let listening = roster(&proxies, &all);
        assert_eq!(told(&all, &listening), [changed("b")]);
        drop(second);
        let one = roster(&proxies, &listening);
        assert_eq!(told(&listening, &one), [(Event::Gone, "b".to_owned())]);
        drop(first);
        assert_eq!(told(&one, &roster(&proxies, &one)), [(Event::Gone, "b".to_owned())]);
    }
}
