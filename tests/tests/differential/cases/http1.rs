//! HTTP/1 as RFC 9112 wants it, and as Envoy does it.

use outrigger_tests::client::{Client, Step};
use outrigger_tests::upstream::{Act, Upstream};

use crate::scenario::{Scenario, scenario};

pub(crate) fn cases() -> Vec<Scenario> {
    vec![
        scenario("get_is_forwarded").up(Upstream::h1().ok("hello")).client(Client::raw().get("/path")),
        scenario("keep_alive_reuses_both_connections")
            .up(Upstream::h1().ok("one").ok("two"))
            .client(Client::raw().get("/1").get("/2")),
        scenario("connection_close_is_honoured")
            .up(Upstream::h1().ok("bye"))
            .client(Client::raw().request("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n")),
        scenario("upstream_closes_after_response")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"))
            .client(Client::raw().get("/1").get("/2")),
        scenario("chunked_both_ways")
            .up(Upstream::h1()
                .reply("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"))
            .client(Client::raw().request(
                "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            )),
        scenario("content_length_body")
            .up(Upstream::h1().ok("ok"))
            .client(Client::raw().request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello")),
        scenario("body_until_close")
            .up(Upstream::h1().acts([Act::Send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()), Act::Close]))
            .client(Client::raw().get("/")),
        scenario("head_has_no_body")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"))
            .client(Client::raw().request("HEAD / HTTP/1.1\r\nhost: a.test\r\n\r\n")),
        scenario("no_content_and_not_modified")
            .up(Upstream::h1()
                .reply("HTTP/1.1 204 No Content\r\n\r\n")
                .reply("HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 10\r\n\r\n"))
            .client(Client::raw().get("/204").get("/304")),
        scenario("edge_proxy_headers")
            .up(Upstream::h1().ok(""))
            .hcm("{use_remote_address: true, via: mesh, server_name: edge}")
            .client(Client::raw().request(
                "GET / HTTP/1.1\r\nhost: a.test\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\n\
                 x-envoy-internal: true\r\nx-request-id: mine\r\n\r\n",
            )),
        scenario("pipelined_requests").up(Upstream::h1().ok("one").ok("two")).client(
            Client::raw()
                .send("GET /1 HTTP/1.1\r\nhost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nhost: a.test\r\n\r\n")
                .step(Step::Response(false))
                .step(Step::Response(false)),
        ),
        scenario("hop_by_hop_headers_are_removed").up(Upstream::h1().ok("")).client(Client::raw().request(
            "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: x-hop, keep-alive\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
             proxy-connection: keep-alive\r\nte: trailers\r\n\r\n",
        )),
    ]
}
