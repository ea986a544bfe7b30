//! What a management server sends, through the client, the conversions and the warmer, and on to a route and a host: no
//! panic, nothing is refused without a reason, and there is an end: the client has answered what came, and waits for a time
//! that is still to come.
//!
//! An input is a byte whose lowest bit is the variant of the protocol, and steps: a byte that says what happens, the length
//! of what comes with it in two bytes, and that. `seeds/xds` has such inputs of resources that are good.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use outrigger_engine::balance::{ClusterState, PickContext, Picker};
use outrigger_engine::config::any::note_unknown_fields;
use outrigger_engine::config::cluster::Cluster;
use outrigger_engine::config::config_source::Origin;
use outrigger_engine::config::endpoint::LoadAssignment;
use outrigger_engine::config::hcm::RouteSource;
use outrigger_engine::config::listener::{Listener, NetworkFilter};
use outrigger_engine::config::report::{At, Report};
use outrigger_engine::message::{Headers, Protocol, RequestHead, ResponseHead, Scheme};
use outrigger_engine::route::{Action, Lookup, RouteTable};
use outrigger_engine::snapshot::{Applied, Effect, Reference, Warmer};
use outrigger_engine::stream_info::{Address, ConnectionInfo, StreamInfo};
use outrigger_engine::xds::{Client, Kind, Rejection, Request, Resource, Response, Update, Variant, name_of};
use outrigger_proto::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrigger_proto::envoy::config::core::v3::Node;
use outrigger_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::envoy::config::listener::v3::Listener as ListenerMessage;
use outrigger_proto::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::envoy::service::discovery::v3 as pb;
use outrigger_proto::prost::{Message, Name};
use outrigger_proto::prost_types::Any;

const WAIT: Option<Duration> = Some(Duration::from_secs(15));
/// The client never has so much to say or to apply after one step.
const MANY: usize = 10_000;

fuzz_target!(|input: &[u8]| {
    let Some((first, mut rest)) = input.split_first() else { return };
    let mut sidecar = Sidecar::new(if first & 1 == 0 { Variant::Sotw } else { Variant::Delta });
    while let Some((step, [high, low], left)) =
        rest.split_first_chunk::<3>().map(|([step, length @ ..], left)| (*step, *length, left))
    {
        let length = usize::from(u16::from_be_bytes([high, low])).min(left.len());
        let (content, next) = left.split_at(length);
        rest = next;
        sidecar.step(step, content);
    }
    sidecar.settle();
});

/// A sidecar without its sockets.
struct Sidecar {
    variant: Variant,
    client: Client,
    warmer: Warmer,
    now: Instant,
    nonce: u64,
}

impl Sidecar {
    fn new(variant: Variant) -> Sidecar {
        let now = Instant::now();
        let mut client = Client::new(variant, Node::default(), None);
        client.subscribe_all(Kind::Cluster, WAIT, now);
        client.subscribe_all(Kind::Listener, WAIT, now);
        client.connected();
        let mut sidecar = Sidecar { variant, client, warmer: Warmer::new(Duration::from_secs(1)), now, nonce: 0 };
        sidecar.settle();
        sidecar
    }

    /// The highest bit: more happens before anything is done about it.
    fn step(&mut self, step: u8, content: &[u8]) {
        match step & 0x7f {
            // A message as it is.
            0 => {
                if let Ok(response) = Response::decode(self.variant, content) {
                    _ = self.client.receive(response);
                }
            }
            // A resource, with all around it as it has to be.
            kind @ 1..=4 => {
                let kind = Kind::ALL[usize::from(kind - 1)];
                let name = name_of(content).unwrap_or_default();
                if matches!(kind, Kind::Endpoints | Kind::Routes) {
                    self.client.interest(kind, &name, true, WAIT, self.now);
                    self.send();
                }
                let response = self.response(kind, name, content);
                _ = self.client.receive(response);
            }
            // Names that are wanted no more.
            kind @ 5..=6 => {
                let kind = [Kind::Endpoints, Kind::Routes][usize::from(kind - 5)];
                self.client.interest(kind, &String::from_utf8_lossy(content), false, WAIT, self.now);
            }
            7 => self.client.disconnected(),
            8 => self.client.connected(),
            _ => self.now += Duration::from_millis(content.first().copied().unwrap_or(100).into()) * 100,
        }
        if step & 0x80 == 0 {
            self.settle();
        }
    }

    fn response(&mut self, kind: Kind, name: String, body: &[u8]) -> Response {
        self.nonce += 1;
        let (type_url, nonce) = (kind.type_url().to_owned(), self.nonce.to_string());
        let any = Any { type_url: type_url.clone(), value: body.to_vec() };
        match self.variant {
            Variant::Sotw => pb::DiscoveryResponse {
                version_info: nonce.clone(),
                type_url,
                nonce,
                resources: vec![any],
                ..Default::default()
            }
            .into(),
            Variant::Delta => {
                let resource = pb::Resource { name, version: nonce.clone(), resource: Some(any), ..Default::default() };
                let resources = vec![resource];
                pb::DeltaDiscoveryResponse { type_url, nonce, resources, ..Default::default() }.into()
            }
        }
    }

    fn send(&mut self) {
        let requests = std::iter::from_fn(|| self.client.poll_request(self.now)).take(MANY);
        let mut count = 0;
        for request in requests {
            count += 1;
            let (Request::Sotw(pb::DiscoveryRequest { error_detail, .. })
            | Request::Delta(pb::DeltaDiscoveryRequest { error_detail, .. })) = &request;
            assert!(error_detail.as_ref().is_none_or(|detail| detail.message.len() <= 4096 && detail.code == 3));
            request.encode();
        }
        assert!(count < MANY, "the client asks for ever");
    }

    /// Everything that came is applied and answered.
    fn settle(&mut self) {
        for _ in 0..MANY {
            let effects = self.warmer.settle(self.now);
            self.carry_out(effects);
            self.send();
            let Some((update, unreadable)) = self.client.poll_update(self.now) else {
                assert!(self.client.wants_response());
                let deadline = self.client.deadline(self.now).into_iter().chain(self.warmer.deadline());
                assert!(deadline.min().is_none_or(|deadline| deadline > self.now), "the client never rests");
                return;
            };
            let kind = update.kind;
            let rejected = self.apply(update, unreadable);
            self.client.verdict(kind, &rejected, self.now);
        }
        panic!("the client has updates for ever");
    }

    fn apply(&mut self, update: Update, mut rejected: Vec<Rejection>) -> Vec<Rejection> {
        let Update { kind, changed, removed, .. } = update;
        for resource in changed {
            let name = resource.name.clone();
            if let Err(reasons) = self.set(kind, &resource) {
                self.warmer.refuse(kind, &reference(&name));
                rejected.push(Rejection { name, reasons });
            }
        }
        for name in removed {
            match kind {
                Kind::Cluster => _ = self.warmer.remove_cluster(&name, self.now),
                Kind::Listener => _ = self.warmer.remove_listener(&name),
                Kind::Endpoints => self.warmer.remove_endpoints(&reference(&name)),
                Kind::Routes => self.warmer.remove_routes(&reference(&name)),
            }
        }
        rejected
    }

    fn set(&mut self, kind: Kind, resource: &Resource) -> Result<Applied, Vec<String>> {
        let (name, reference) = (resource.name.as_str(), reference(&resource.name));
        self.nonce += 1;
        let version = self.nonce;
        match kind {
            Kind::Cluster => {
                let cluster = read(resource, |message: ClusterMessage, at| Cluster::convert(message, at))?;
                self.warmer.set_cluster(name, version, || Ok(Arc::new(cluster)))
            }
            Kind::Endpoints => {
                let assignment = read(resource, |message: ClusterLoadAssignment, at| {
                    LoadAssignment::convert_discovered(message, at)
                })?;
                self.warmer.set_endpoints(&reference, version, || Ok(assignment))
            }
            Kind::Listener => {
                let mut listener = read(resource, |message: ListenerMessage, at| Listener::convert(message, at))?;
                for chain in listener.chains() {
                    if let NetworkFilter::Http(manager) = &chain.filter
                        && let RouteSource::Inline(table) = &manager.routes
                    {
                        ask(table);
                    }
                }
                self.warmer.set_listener(name, version, self.now, |previous| {
                    previous.inspect(|previous| listener.keep_chains(previous));
                    Ok(Arc::new(listener))
                })
            }
            Kind::Routes => {
                let table = read(resource, |message: RouteConfiguration, at| RouteTable::convert(message, at))?;
                ask(&table);
                self.warmer.set_routes(&reference, version, self.now, || Ok(Arc::new(table)))
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Subscribe(interest) => {
                    let wait = interest.source.initial_fetch_timeout;
                    self.client.interest(interest.kind, &interest.name, interest.wanted, wait, self.now);
                }
                Effect::Resolve(cluster) => self.warmer.cluster_ready(&cluster),
                Effect::Hosts(cluster) => pick(&cluster),
                Effect::Publish { snapshot, .. } => snapshot.clusters.values().for_each(|cluster| pick(cluster)),
                Effect::Exchange(place, table) => place.store(table),
                Effect::InForce(..) => {}
            }
        }
    }
}

fn reference(name: &str) -> Reference {
    Reference { name: name.into(), origin: Origin::Ads }
}

/// The resource as the proxy reads it. Who is refused hears why.
fn read<M, T>(resource: &Resource, convert: impl FnOnce(M, &At<'_>) -> Option<T>) -> Result<T, Vec<String>>
where
    M: Message + Name + Default,
{
    let message = M::decode(&*resource.body).map_err(|error| vec![error.to_string()])?;
    let report = Report::new();
    note_unknown_fields(&message, resource.body.len(), &report.root());
    let model = convert(message, &report.root());
    let problems = report.into_parts().0;
    assert!(model.is_some() || !problems.is_empty(), "refused without a reason");
    model.filter(|_| problems.is_empty()).ok_or_else(|| problems.iter().map(ToString::to_string).collect())
}

/// A few requests find their hosts.
fn pick(cluster: &ClusterState) {
    let mut picker = Picker::new(cluster, 7);
    for random in [0, 1 << 63, u64::MAX] {
        if let Ok(host) = picker.pick(&PickContext { random, avoid: &[1], max_reselections: 2 }) {
            assert!(cluster.hosts.load().members().any(|member| Arc::ptr_eq(&member.host, host)));
        }
    }
}

/// A few requests find their routes, and become what these say.
fn ask(table: &RouteTable) {
    for (authority, path) in [("shop.example.test:80", "/items/42;v=1?q=ab"), ("", "/"), ("x", "*")] {
        let head = RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: Some(HeaderValue::from_static(authority)),
            path: HeaderValue::from_static(path),
            protocol: Protocol::Http11,
            headers: [("x-version", "v7"), ("x-count", "3"), ("x-cluster", "static-upstream")]
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .into_iter()
                .collect(),
        };
        let Lookup::Found(found) = table.find(&head, 7) else { continue };
        let mut changed = head.clone();
        match &found.route.action {
            Action::Respond(_) | Action::NonForwarding => {}
            Action::Redirect(redirect) => {
                _ = found.redirect(redirect, &mut changed, &stream_info(), Duration::from_millis(3), true);
            }
            Action::Forward(forward) => {
                let choice = forward.choose(&head, 7);
                found.apply_request(&choice, &mut changed, &stream_info(), Duration::from_millis(3), true);
                let mut response =
                    ResponseHead { status: http::StatusCode::OK, protocol: Protocol::Http11, headers: Headers::new() };
                let choice = Some(&choice);
                found.apply_response(choice, &mut response, &changed, &stream_info(), Duration::from_millis(3));
            }
        }
    }
}

fn stream_info() -> StreamInfo {
    let connection = ConnectionInfo {
        id: 1,
        local_address: Address::Ip("10.0.0.1:80".parse().unwrap()),
        direct_remote_address: Address::Ip("203.0.113.7:4711".parse().unwrap()),
        requested_server_name: None,
        alpn: None,
        tls: None,
    };
    StreamInfo::new(SystemTime::UNIX_EPOCH, Arc::new(connection), Some(Protocol::Http11))
}
