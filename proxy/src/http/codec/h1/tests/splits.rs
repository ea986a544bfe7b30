//! However the bytes are cut, the codec finds the same.

use proptest::prelude::*;

use super::*;

/// What a server makes of bytes that come in pieces, request by request, until it closes.
async fn requests(pieces: &[&[u8]]) -> Vec<String> {
    let (mut peer, mut connection) = server(settings());
    let sending = async {
        for piece in pieces {
            // The other side may have had enough.
            if peer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        peer.shutdown().await.ok();
        peer
    };
    let serving = async {
        let mut seen = Vec::new();
        loop {
            match incoming(&mut connection).await {
                Incoming::Request(Exchange { head, mut body, mut responder }) => {
                    let body = read_body(&mut body).await;
                    let failed = body.is_err();
                    seen.push(format!("{} {:?} {:?} {body:?}", head.method, head.path, head.headers));
                    responder.send_head(ok(&[]), true).unwrap();
                    if failed || finish(&mut connection).await != Finish::KeepAlive {
                        return seen;
                    }
                }
                Incoming::Malformed { status, details, .. } => {
                    seen.push(format!("{status} {details}"));
                    return seen;
                }
                Incoming::End(ended) => {
                    seen.push(format!("{ended:?}"));
                    return seen;
                }
            }
        }
    };
    tokio::join!(sending, serving).1
}

/// What a client makes of a response that comes in pieces.
async fn response_of(pieces: &[&[u8]]) -> String {
    let (mut peer, mut stream, pool) = client(client_settings());
    stream.send_head(&get("/"), true).unwrap();
    let sending = async {
        for piece in pieces {
            // The other side may have had enough.
            if peer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        peer
    };
    let receiving = async {
        let mut seen = String::new();
        loop {
            match reply(&mut stream).await {
                Ok(Reply::Informational(head)) => seen.push_str(&format!("{head:?}")),
                Ok(Reply::Response(head, mut body)) => {
                    let body = read_body(&mut body).await;
                    return format!("{seen}{head:?} {body:?} {}", pool.idle.borrow().len());
                }
                Err(error) => return format!("{seen}{error}"),
            }
        }
    };
    tokio::join!(sending, receiving).1
}

fn cut<'a>(bytes: &'a [u8], at: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = at.iter().map(|i| i.index(bytes.len().saturating_add(1))).collect();
    at.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for to in at.into_iter().chain([bytes.len()]) {
        if to > from {
            pieces.push(&bytes[from..to]);
            from = to;
        }
    }
    pieces
}

const REQUESTS: [&str; 14] = [
    "\r\nGET \t /0 HTTP/1.1 \r\nHost: x\r\nAccept: */*\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
    "\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nGE",
    "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n",
    "POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /e HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "GET /f HTTP/1.1\r\nHo st: x\r\n\r\n",
    "GET /g HTTP/1.1\r\nHost: x\r\nA: b\0\r\n\r\n",
    "POST /h HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5x\r\nhello\r\n0\r\n\r\n",
    "POST /i HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloo\r\n0\r\n\r\n",
    "GET /j\r\n\r\n",
    "\x16\x03\x01\r\n\r\n",
    "\r\r\n5\r\0\r\n",
    "GET /k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
];

const RESPONSES: [&str; 7] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\na: b\r\n c\r\n\r\n",
    "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloX\n",
    "HTTP/1.0 200 OK\ncontent-length: 2\n\nup",
    "HTTP/1.1 304 X\r\ncontent-length: 5\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_requests(
        which in prop::collection::vec(0..REQUESTS.len(), 1..4),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes: Vec<u8> = which.iter().flat_map(|i| REQUESTS[*i].bytes()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = runtime.block_on(requests(&[&bytes]));
        prop_assert_eq!(&whole, &runtime.block_on(requests(&cut(&bytes, &at))));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&whole, &runtime.block_on(requests(&single)));
    }

    #[test]
    fn of_responses(which in 0..RESPONSES.len(), at in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let bytes = RESPONSES[which].as_bytes();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = runtime.block_on(response_of(&[bytes]));
        prop_assert_eq!(&whole, &runtime.block_on(response_of(&cut(bytes, &at))));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&whole, &runtime.block_on(response_of(&single)));
    }
}
