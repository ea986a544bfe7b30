//! The TCP proxy: bytes, and how a connection ends.

use outrigger_tests::client::{Client, Step};
use outrigger_tests::upstream::{Act, Upstream};

use crate::scenario::{Scenario, scenario};

pub(crate) fn cases() -> Vec<Scenario> {
    vec![
        scenario("tcp_echo")
            .up(Upstream::tcp().acts([Act::Echo]))
            .tcp("{}")
            .client(Client::raw().send("hello").step(Step::Bytes(5)).step(Step::HalfClose)),
        scenario("tcp_upstream_speaks_first_and_closes")
            .up(Upstream::tcp().on_accept([Act::Send(b"welcome".to_vec()), Act::Close]))
            .tcp("{}")
            .client(Client::raw().step(Step::Bytes(7))),
        scenario("tcp_upstream_refuses").up(Upstream::refuses()).tcp("{}").client(Client::raw().send("hello").end()),
    ]
}
