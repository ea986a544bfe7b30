//! Each rule of the protocol has a test that bears its number in the list of what a correct client does. Here stands
//! the client with its clock that they drive.

mod answers;
mod requests;
mod time;

use std::time::{Duration, Instant};

use prost_types::Any;

use super::*;
use crate::config::config_source::RateLimit;
use crate::config::grpc_service::BackOff;
use crate::xds::{Reconnect, identify};

const WAIT: Option<Duration> = Some(Duration::from_secs(15));

/// A client with its clock.
struct Bench {
    client: Client,
    now: Instant,
}

impl Bench {
    fn new(variant: Variant) -> Bench {
        Bench { client: Client::new(variant, node(), None), now: Instant::now() }
    }

    /// With a stream, on which all clusters were asked for.
    fn with_clusters(variant: Variant) -> Bench {
        let mut bench = Bench::new(variant);
        bench.client.subscribe_all(Kind::Cluster, WAIT, bench.now);
        bench.client.connected();
        assert_eq!(bench.requests().len(), 1);
        bench
    }

    /// With a stream, on which these endpoints were asked for.
    fn with_endpoints(variant: Variant, names: &[&str]) -> Bench {
        let mut bench = Bench::new(variant);
        bench.client.connected();
        names.iter().for_each(|name| bench.want(name));
        assert_eq!(bench.requests().len(), 1);
        bench
    }

    fn want(&mut self, name: &str) {
        self.client.interest(Kind::Endpoints, name, true, WAIT, self.now);
    }

    fn give_up(&mut self, name: &str) {
        self.client.interest(Kind::Endpoints, name, false, WAIT, self.now);
    }

    fn requests(&mut self) -> Vec<Request> {
        std::iter::from_fn(|| self.client.poll_request(self.now)).collect()
    }

    fn sotw_requests(&mut self) -> Vec<pb::DiscoveryRequest> {
        let sotw = |request| match request {
            Request::Sotw(request) => request,
            Request::Delta(_) => panic!("a delta request"),
        };
        self.requests().into_iter().map(sotw).collect()
    }

    fn delta_requests(&mut self) -> Vec<pb::DeltaDiscoveryRequest> {
        let delta = |request| match request {
            Request::Delta(request) => request,
            Request::Sotw(_) => panic!("a request for the state of the world"),
        };
        self.requests().into_iter().map(delta).collect()
    }

    /// Applies a response, with these verdicts.
    fn answer_with(&mut self, response: impl Into<Response>, rejected: Vec<Rejection>) -> Update {
        self.client.receive(response.into()).expect("a kind that was asked for");
        let (update, mut all) = self.client.poll_update(self.now).expect("an update");
        all.extend(rejected);
        self.client.verdict(update.kind, &all, self.now);
        update
    }

    fn answer(&mut self, response: impl Into<Response>) -> Update {
        self.answer_with(response, Vec::new())
    }

    fn reconnect(&mut self) {
        self.client.disconnected();
        self.client.connected();
    }

    /// The next update that time brings.
    fn after(&mut self, seconds: u64) -> Option<Update> {
        self.now += Duration::from_secs(seconds);
        let (update, _) = self.client.poll_update(self.now)?;
        self.client.verdict(update.kind, &[], self.now);
        Some(update)
    }
}

fn cluster(name: &str, content: &str) -> Any {
    any(Kind::Cluster, name, content)
}
