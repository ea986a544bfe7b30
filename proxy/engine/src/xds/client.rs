//! One client of one source of configuration.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_proto::envoy::config::core::v3::Node;
use outrigger_proto::envoy::service::discovery::v3 as pb;
use outrigger_proto::google::rpc::Status;
use outrigger_proto::prost::Message as _;

use super::subscription::{Draft, OnStream, Subscription};
use super::{Kind, Rejection, Response, Update, shown_name};
use crate::config::config_source::RateLimit;

/// An `error_detail` is at most so long, in bytes: gRPC bounds what a peer may send.
const MAX_DETAIL: usize = 4096;

/// `google.rpc.Code.INVALID_ARGUMENT`
const INVALID_ARGUMENT: i32 = 3;

/// Which variant of the protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// State of the world: a response holds all there is.
    Sotw,
    /// A response holds what changed.
    Delta,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// State of the world.
    Sotw(pb::DiscoveryRequest),
    /// Delta.
    Delta(pb::DeltaDiscoveryRequest),
}

impl Request {
    /// The message, encoded.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::Sotw(message) => message.encode_to_vec(),
            Request::Delta(message) => message.encode_to_vec(),
        }
    }
}

/// The client of one source: one stream of discovery, reconnected as often as it takes.
///
/// Memory is bounded by what is subscribed: a name and a version for each resource. The bodies go out with the
/// updates.
#[derive(Debug)]
pub struct Client {
    variant: Variant,
    node: Node,
    kinds: BTreeMap<Kind, Subscription>,
    /// Whether there is a stream, and the node was sent on it.
    stream: Option<bool>,
    /// How many streams there were: an answer belongs to one.
    streams: u64,
    /// Whether a response ever came: a server that says nothing stops no clock.
    heard: bool,
    responses: VecDeque<(u64, Kind, Response)>,
    /// The updates that are being applied.
    in_hand: BTreeMap<Kind, InHand>,
    answers: VecDeque<Answer>,
    limit: Option<Bucket>,
}

/// An update that is being applied.
#[derive(Debug)]
struct InHand {
    draft: Draft,
    /// Of the response that it is of; time makes updates too.
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    kind: Kind,
    stream: u64,
    nonce: String,
    version: String,
    error: Option<Status>,
}

#[derive(Debug)]
struct Bucket {
    limit: RateLimit,
    tokens: u32,
    /// When the bucket was filled last, to the nearest token; `None` while it is full.
    since: Option<Instant>,
}

impl Client {
    /// A client that wants nothing yet. `node` is sent as it is (see [`super::identify`]).
    pub fn new(variant: Variant, node: Node, limit: Option<RateLimit>) -> Self {
        Client {
            variant,
            node,
            kinds: BTreeMap::new(),
            stream: None,
            streams: 0,
            heard: false,
            responses: VecDeque::new(),
            in_hand: BTreeMap::new(),
            answers: VecDeque::new(),
            limit: limit.map(|limit| Bucket { limit, tokens: limit.max_tokens, since: None }),
        }
    }

    /// Wants all resources of the kind. If none has come after `timeout` (`None`: no limit), an empty update says so.
    ///
    /// Listeners are asked for after the first clusters came, since they name them.
    pub fn subscribe_all(&mut self, kind: Kind, timeout: Option<Duration>, now: Instant) {
        let held = kind == Kind::Listener && self.is_held(kind);
        let subscription = self.kinds.entry(kind).or_insert_with(|| Subscription::new(kind));
        subscription.wildcard = true;
        subscription.all_timeout = timeout;
        if !held {
            subscription.first_wait = timeout.and_then(|timeout| now.checked_add(timeout));
        }
    }

    /// Wants a resource by its name, or no longer. One that has not come `timeout` (`None`: no limit) after it was
    /// asked for does not exist: an update names it as removed. Until a server has said something the time runs from
    /// now, and no broken stream stops it, since the process does not start before its configuration is there or known
    /// to be missing.
    pub fn interest(&mut self, kind: Kind, name: &str, wanted: bool, timeout: Option<Duration>, now: Instant) {
        let subscription = self.kinds.entry(kind).or_insert_with(|| Subscription::new(kind));
        if wanted {
            let until = timeout.filter(|_| !self.heard).and_then(|timeout| now.checked_add(timeout));
            subscription.want(name, timeout, until);
        } else {
            subscription.give_up(name);
            if let Some(in_hand) = self.in_hand.get_mut(&kind) {
                in_hand.draft.forget(name);
            }
        }
    }

    /// There is a stream.
    pub fn connected(&mut self) {
        self.disconnected();
        if self.streams == 0 {
            self.kinds.values_mut().for_each(Subscription::stop_waits);
        }
        self.streams = self.streams.saturating_add(1);
        self.stream = Some(false);
    }

    /// The stream has ended. What came by it is still applied; what is said about that goes nowhere.
    pub fn disconnected(&mut self) {
        if self.stream.take().is_some() {
            self.answers.clear();
            for subscription in self.kinds.values_mut() {
                subscription.disconnected();
                if self.heard {
                    subscription.stop_waits();
                }
            }
        }
    }

    /// Whether no response waits for another one of its kind. Who reads the stream only then has one of each kind in
    /// memory at most, and one more.
    pub fn wants_response(&self) -> bool {
        let mut kinds: BTreeSet<Kind> = self.in_hand.keys().copied().collect();
        self.responses.iter().all(|(_, kind, _)| kinds.insert(*kind))
    }

    /// Whether an update of the kind may be applied beside those that are. What came is applied in its order, one after
    /// the other, with one exception: endpoints overtake the other kinds, since clusters in force take them at once and
    /// they need nothing that came before them. Among themselves they keep their order.
    fn may_begin(&self, kind: Kind) -> bool {
        match kind {
            Kind::Endpoints => !self.in_hand.contains_key(&kind),
            Kind::Cluster | Kind::Listener | Kind::Routes => self.in_hand.is_empty(),
        }
    }

    /// What time has done to a kind that can be told of it now.
    fn due(&mut self, now: Instant) -> Option<Draft> {
        let kinds = Kind::ALL.into_iter().filter(|kind| self.may_begin(*kind)).collect::<Vec<_>>();
        kinds.into_iter().find_map(|kind| self.kinds.get_mut(&kind)?.due(now))
    }

    /// A response came on the stream. Returns its kind, or `None` where nothing of its type was ever asked for on this
    /// stream: it is not answered, as an answer would be taken for a subscription.
    pub fn receive(&mut self, response: Response) -> Option<Kind> {
        let kind = Kind::from_type_url(&response.type_url)?;
        let on_stream = self.kinds.get_mut(&kind)?.on_stream.as_mut()?;
        on_stream.nonce.clone_from(&response.nonce);
        on_stream.open = on_stream.open.saturating_add(1);
        self.heard = true;
        self.responses.push_back((self.streams, kind, response));
        Some(kind)
    }

    /// The next update to apply, once the verdict on those that it comes after is in; and what of its response is
    /// rejected already.
    pub fn poll_update(&mut self, now: Instant) -> Option<(Update, Vec<Rejection>)> {
        let mut in_hand = match self.due(now) {
            Some(draft) => InHand { draft, answer: None },
            None => {
                let next = self.responses.iter().position(|(_, kind, _)| self.may_begin(*kind))?;
                let (stream, kind, response) = self.responses.remove(next)?;
                let subscription = self.kinds.get_mut(&kind)?;
                let (nonce, version) = (response.nonce.clone(), response.version.clone());
                subscription.first_wait = None;
                let draft = subscription.take_in(response, self.variant, now);
                InHand { draft, answer: Some(Answer { kind, stream, nonce, version, error: None }) }
            }
        };
        let update = in_hand.draft.update.take();
        let unreadable = std::mem::take(&mut in_hand.draft.rejected);
        self.in_hand.insert(update.kind, in_hand);
        Some((update, unreadable))
    }

    /// Whether the update of the kind in hand is of a response; time makes updates too.
    pub fn is_response(&self, kind: Kind) -> bool {
        self.in_hand.get(&kind).is_some_and(|in_hand| in_hand.answer.is_some())
    }

    /// The update of the kind in hand is applied but for what is `rejected`, which includes what was rejected before.
    pub fn verdict(&mut self, kind: Kind, rejected: &[Rejection], now: Instant) {
        let Some(InHand { draft, answer }) = self.in_hand.remove(&kind) else { return };
        let Some(subscription) = self.kinds.get_mut(&kind) else { return };
        subscription.settle(draft, rejected);
        let first = !std::mem::replace(&mut subscription.answered, true);
        if let Some(mut answer) = answer {
            if rejected.is_empty() {
                subscription.version.clone_from(&answer.version);
            } else {
                answer.error =
                    Some(Status { code: INVALID_ARGUMENT, message: error_detail(rejected), details: Vec::new() });
            }
            if self.stream.is_some() && answer.stream == self.streams {
                self.answers.push_back(answer);
            }
        }
        if first && kind == Kind::Cluster {
            // Nothing holds the listeners any more.
            if let Some(listeners) = self.kinds.get_mut(&Kind::Listener)
                && listeners.wildcard
                && !listeners.answered
            {
                listeners.first_wait = listeners.all_timeout.and_then(|timeout| now.checked_add(timeout));
            }
        }
    }

    /// The next message to send.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        let node_sent = self.stream?;
        if !self.limit.as_mut().is_none_or(|bucket| bucket.has_token(now)) {
            return None;
        }
        let (kind, mut request) = match self.answers.pop_front() {
            Some(answer) => (answer.kind, self.answer(answer)?),
            None => self.subscription_change()?,
        };
        let names = match &request {
            Request::Sotw(message) => &message.resource_names,
            Request::Delta(message) => &message.resource_names_subscribe,
        };
        if !names.is_empty()
            && let Some(subscription) = self.kinds.get_mut(&kind)
        {
            subscription.start_waits(now);
        }
        if let Some(bucket) = &mut self.limit {
            bucket.take(now);
        }
        if !node_sent {
            match &mut request {
                Request::Sotw(message) => message.node = Some(self.node.clone()),
                Request::Delta(message) => message.node = Some(self.node.clone()),
            }
            self.stream = Some(true);
        }
        Some(request)
    }

    /// When [`Client::poll_update`] or [`Client::poll_request`] has something that no event but time brings.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if let Some(bucket) = &mut self.limit {
            bucket.refill(now);
        }
        let kinds = self.kinds.iter().filter(|(kind, _)| self.may_begin(**kind));
        let waits = kinds.filter_map(|(_, subscription)| subscription.deadline());
        waits.chain(self.limit.as_ref().and_then(Bucket::next_token)).min()
    }

    /// What is accepted of a kind: name and version, in no order.
    pub fn accepted(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, &str)> {
        self.kinds.get(&kind).into_iter().flat_map(Subscription::known)
    }

    /// The version of a kind: that of its last response that was accepted as a whole.
    pub fn version(&self, kind: Kind) -> &str {
        self.kinds.get(&kind).map_or("", |subscription| &subscription.version)
    }

    fn is_held(&self, kind: Kind) -> bool {
        let clusters = self.kinds.get(&Kind::Cluster);
        kind == Kind::Listener && clusters.is_some_and(|clusters| clusters.wildcard && !clusters.answered)
    }

    /// Whether nothing of the kind was sent on this stream.
    fn is_new(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_some_and(|subscription| subscription.on_stream.is_none())
    }

    /// Whether something that came, perhaps by an earlier stream, is not applied yet: what is here cannot be said.
    fn is_unsettled(&self, kind: Kind) -> bool {
        self.in_hand.contains_key(&kind) || self.responses.iter().any(|(_, other, _)| *other == kind)
    }

    fn answer(&mut self, answer: Answer) -> Option<Request> {
        let Answer { kind, nonce, version, error, .. } = answer;
        let subscription = self.kinds.get_mut(&kind)?;
        let version = if error.is_none() { version } else { subscription.version.clone() };
        let on_stream = subscription.on_stream.as_mut()?;
        on_stream.open = on_stream.open.saturating_sub(1);
        Some(match self.variant {
            Variant::Sotw => {
                let names = subscription.names_to_send();
                let on_stream = subscription.on_stream.as_mut()?;
                let message = pb::DiscoveryRequest {
                    version_info: version,
                    resource_names: strings(&names),
                    type_url: kind.type_url().to_owned(),
                    response_nonce: nonce,
                    error_detail: error,
                    ..Default::default()
                };
                // What is wanted again was left out, so the server has heard that it was given up.
                subscription.changed = !on_stream.again.is_empty();
                on_stream.again.clear();
                on_stream.names = names;
                Request::Sotw(message)
            }
            // An answer changes no subscription: there are servers which see one of the two only.
            Variant::Delta => Request::Delta(pb::DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                response_nonce: nonce,
                error_detail: error,
                ..Default::default()
            }),
        })
    }

    fn subscription_change(&mut self) -> Option<(Kind, Request)> {
        let must_wait = |kind| self.is_held(kind) || self.is_new(kind) && self.is_unsettled(kind);
        let kinds: Vec<Kind> = self.kinds.keys().copied().filter(|kind| !must_wait(*kind)).collect();
        let variant = self.variant;
        let change = |subscription: &mut Subscription, kind| match variant {
            Variant::Sotw => state_of_the_world_change(subscription, kind).map(Request::Sotw),
            Variant::Delta => delta_change(subscription, kind).map(Request::Delta),
        };
        kinds.into_iter().find_map(|kind| Some((kind, change(self.kinds.get_mut(&kind)?, kind)?)))
    }
}

fn strings<'a>(names: impl IntoIterator<Item = &'a Arc<str>>) -> Vec<String> {
    names.into_iter().map(ToString::to_string).collect()
}

fn state_of_the_world_change(subscription: &mut Subscription, kind: Kind) -> Option<pb::DiscoveryRequest> {
    let nonce = match &subscription.on_stream {
        // Without a name the request would be for all there is.
        None if !subscription.is_wanted() => return None,
        None => String::new(),
        // The answer that is due brings the names.
        Some(on_stream) if on_stream.open > 0 || !subscription.changed => return None,
        Some(on_stream) => on_stream.nonce.clone(),
    };
    let names = subscription.names_to_send();
    if let Some(on_stream) = &subscription.on_stream
        && on_stream.names == names
    {
        subscription.changed = false;
        return None;
    }
    let on_stream = subscription.on_stream.get_or_insert_with(OnStream::default);
    subscription.changed = !on_stream.again.is_empty();
    on_stream.again.clear();
    on_stream.names.clone_from(&names);
    Some(pb::DiscoveryRequest {
        version_info: subscription.version.clone(),
        resource_names: strings(&names),
        type_url: kind.type_url().to_owned(),
        response_nonce: nonce,
        ..Default::default()
    })
}

fn delta_change(subscription: &mut Subscription, kind: Kind) -> Option<pb::DeltaDiscoveryRequest> {
    let message = pb::DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() };
    if subscription.on_stream.is_none() {
        if !subscription.is_wanted() {
            return None;
        }
        // No name stands for all there is.
        let names = subscription.names_to_send();
        let versions = subscription.versions();
        let subscribe = strings(&names);
        subscription.on_stream = Some(OnStream { names, ..Default::default() });
        subscription.changed = false;
        return Some(pb::DeltaDiscoveryRequest {
            resource_names_subscribe: subscribe,
            initial_resource_versions: versions,
            ..message
        });
    }
    if !subscription.changed {
        return None;
    }
    let (gone, new) = subscription.difference();
    let on_stream = subscription.on_stream.as_mut()?;
    // In two messages, since a name that is given up and wanted again would be in both lists.
    if !gone.is_empty() {
        for name in &gone {
            on_stream.names.remove(name);
            on_stream.again.remove(name);
        }
        return Some(pb::DeltaDiscoveryRequest { resource_names_unsubscribe: strings(&gone), ..message });
    }
    subscription.changed = false;
    if new.is_empty() {
        return None;
    }
    on_stream.names.extend(new.iter().cloned());
    Some(pb::DeltaDiscoveryRequest { resource_names_subscribe: strings(&new), ..message })
}

/// `name: reason; name: reason`, as far as there is room; how many are left out is said.
fn error_detail(rejected: &[Rejection]) -> String {
    /// Room for the last words.
    const REST: usize = 40;
    let mut text = String::new();
    let reasons =
        rejected.iter().flat_map(|rejection| rejection.reasons.iter().map(|reason| (&rejection.name, reason)));
    let mut left = reasons.clone().count();
    for (name, reason) in reasons {
        let name = shown_name(name);
        let before = text.len();
        if before > 0 {
            text.push_str("; ");
        }
        // Writing to a String cannot fail.
        _ = write!(text, "{name}: {reason}");
        if text.len() > MAX_DETAIL - REST {
            // The first reason is said as far as it goes.
            let end = if before > 0 { before } else { text.floor_char_boundary(MAX_DETAIL - REST) };
            text.truncate(end);
            left = left.saturating_sub((before == 0).into());
            if left > 0 {
                _ = write!(text, "; and {left} more");
            }
            return text;
        }
        left = left.saturating_sub(1);
    }
    text
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        while self.tokens < self.limit.max_tokens
            && let Some(next) = self.next()
            && next <= now
        {
            self.tokens = self.tokens.saturating_add(1);
            self.since = Some(next);
        }
        if self.tokens == self.limit.max_tokens {
            self.since = None;
        }
    }

    fn has_token(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens > 0
    }

    fn take(&mut self, now: Instant) {
        self.tokens = self.tokens.saturating_sub(1);
        self.since.get_or_insert(now);
    }

    fn next_token(&self) -> Option<Instant> {
        if self.tokens == 0 { self.next() } else { None }
    }

    fn next(&self) -> Option<Instant> {
        self.since?.checked_add(self.limit.fill_interval)
    }
}
