//! Requests written, responses read.

use super::*;

#[tokio::test]
async fn client_reuses_the_connection() {
    let (mut peer, mut stream, pool) = client(client_settings());
    stream.send_head(&get("/x"), true).unwrap();
    peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    let Reply::Response(head, mut body) = reply(&mut stream).await.unwrap() else { panic!() };
    assert_eq!(head.headers.get(&CONTENT_LENGTH).unwrap(), "2");
    assert_eq!(pool.idle.borrow().len(), 1);
    assert_eq!(read_body(&mut body).await.unwrap().0, b"hi");
    assert_eq!(written(&mut peer).await, "GET /x HTTP/1.1\r\nhost: example.com\r\n\r\n");
    drop((stream, body));

    let mut connection = pool.idle.borrow_mut().pop().unwrap();
    assert!(connection.is_alive());
    let mut stream = connection.start();
    let mut head = get("/y");
    head.method = Method::POST;
    stream.send_head(&head, false).unwrap();
    stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
    peer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await.unwrap();
    let Reply::Response(_, mut body) = reply(&mut stream).await.unwrap() else { panic!() };
    assert_eq!(
        written(&mut peer).await,
        "POST /y HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    drop(stream);
    peer.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read_body(&mut body).await.unwrap().0, b"abc");
    let mut connection = pool.idle.borrow_mut().pop().unwrap();
    assert_eq!(connection.requests(), 2);
    assert!(connection.is_alive());
    drop(peer);
    assert!(!connection.is_alive());
    assert_eq!(*pool.closed.borrow(), []);
}

/// What a GET gets from a peer that sends `bytes` and then FIN: status, body, and whether the connection is kept.
async fn outcome(bytes: &[u8], method: Method) -> Result<(u16, String, bool), StreamError> {
    let (mut peer, mut stream, pool) = client(client_settings());
    let mut head = get("/");
    head.method = method;
    stream.send_head(&head, true).unwrap();
    peer.write_all(bytes).await.unwrap();
    peer.shutdown().await.unwrap();
    let (head, mut body) = loop {
        match reply(&mut stream).await {
            Ok(Reply::Informational(_)) => {}
            Ok(Reply::Response(head, body)) => break (head, body),
            Err(error) => {
                assert_eq!(pool.closed.borrow().len(), 1);
                return Err(error);
            }
        }
    };
    let read = read_body(&mut body).await;
    drop((stream, body));
    let kept = !pool.idle.borrow().is_empty();
    assert_eq!(pool.closed.borrow().len(), usize::from(!kept), "told once");
    Ok((head.status.as_u16(), String::from_utf8(read?.0).unwrap(), kept))
}

#[tokio::test]
async fn reads_responses_as_envoy_does() {
    let protocol = |details| Err(StreamError::Protocol(details));
    let codec = protocol("http1.codec_error");
    let kept = |status, body: &str| Ok((status, body.to_owned(), true));
    let closed = |status, body: &str| Ok((status, body.to_owned(), false));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(70_000));
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup", kept(200, "up")),
        ("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nup", kept(200, "up")),
        ("HTTP/1.1 999 X\r\ncontent-length: 2\r\n\r\nup", kept(999, "up")),
        ("HTTP/1.1 200 OK\ncontent-length: 2\n\nup", kept(200, "up")),
        ("HTTP/1.1 200 OK\r\nA: b\r\n  c\r\ncontent-length: 0\r\n\r\n", kept(200, "")),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nup\r\n0\r\nA: b\r\n\r\n", kept(200, "up")),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\na: b\r\n\r\nHTTP/1.1 204 OK\r\n\r\n", kept(204, "")),
        ("HTTP/1.1 204 OK\r\ncontent-length: 0\r\n\r\n", kept(204, "")),
        ("HTTP/1.1 304 OK\r\ncontent-length: 20\r\n\r\n", kept(304, "")),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nup", closed(200, "up")),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nupEXTRA", closed(200, "up")),
        ("HTTP/1.1 200 OK\r\n\r\nup", closed(200, "up")),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nup", closed(200, "up")),
        ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nup", kept(200, "up")),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nup\r\n0\r\n\r\n", closed(200, "up")),
        ("HTTP/1.1 101 X\r\nupgrade: websocket\r\n\r\n", codec.clone()),
        ("HTTP/1.1 204 OK\r\ncontent-length: 5\r\n\r\nhello", protocol("http1.content_length_not_allowed")),
        ("HTTP/1.1 204 OK\r\ntransfer-encoding: chunked\r\n\r\n", protocol("http1.transfer_encoding_not_allowed")),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nup\r\n0\r\n\r\n",
            protocol("http1.content_length_and_chunked_not_allowed"),
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nup", protocol("http1.invalid_transfer_encoding")),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nup", codec.clone()),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", codec.clone()),
        ("HTTP/1.1 200 OK\r\nA: b\x01\r\n\r\n", protocol("http1.invalid_characters")),
        ("\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup", codec.clone()),
        ("HTTP/1.1 000 X\r\ncontent-length: 2\r\n\r\nup", codec.clone()),
        ("GARBAGE\r\n\r\n", codec.clone()),
        ("HTTP/1.1 200 OK\r\ncont", codec.clone()),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nup", codec.clone()),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nup\r\n", codec.clone()),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\nup\n0\n\n", codec.clone()),
        ("", Err(StreamError::ConnectionClosed)),
        (many.as_str(), Err(StreamError::TooLarge("http1.too_many_headers"))),
        (large.as_str(), Err(StreamError::TooLarge("http1.headers_too_large"))),
    ];
    for (bytes, expected) in cases {
        let shown: String = bytes.chars().take(120).collect();
        // A FIN behind the response makes the connection useless, but that is not known before it is looked at.
        assert_eq!(outcome(bytes.as_bytes(), Method::GET).await, expected, "{shown:?}");
    }
    let head = outcome(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n", Method::HEAD).await;
    assert_eq!(head, kept(200, ""));
}

#[tokio::test]
async fn unfolds_values() {
    let (mut peer, mut stream, _pool) = client(client_settings());
    stream.send_head(&get("/"), true).unwrap();
    peer.write_all(b"HTTP/1.1 200 OK\r\nA: b\r\n \t c\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let Reply::Response(head, _) = reply(&mut stream).await.unwrap() else { panic!() };
    assert_eq!(head.headers, headers(&[("a", "b c"), ("content-length", "0")]));
}

#[tokio::test]
async fn frames_requests() {
    let host = "host: example.com\r\n";
    for (method, fields, body, expected) in [
        (Method::GET, &[][..], None, format!("GET / HTTP/1.1\r\n{host}\r\n")),
        (Method::DELETE, &[], None, format!("DELETE / HTTP/1.1\r\n{host}\r\n")),
        (Method::POST, &[], None, format!("POST / HTTP/1.1\r\n{host}content-length: 0\r\n\r\n")),
        (Method::OPTIONS, &[], None, format!("OPTIONS / HTTP/1.1\r\n{host}content-length: 0\r\n\r\n")),
        (
            Method::PUT,
            &[("content-length", "2"), ("transfer-encoding", "chunked")],
            Some("hi"),
            format!("PUT / HTTP/1.1\r\n{host}content-length: 2\r\n\r\nhi"),
        ),
        (
            Method::GET,
            &[],
            Some("hi"),
            format!("GET / HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        ),
        (Method::CONNECT, &[], None, format!("CONNECT example.com HTTP/1.1\r\n{host}\r\n")),
    ] {
        let (mut peer, mut stream, _pool) = client(client_settings());
        let mut head = get("/");
        head.method = method;
        head.headers = headers(fields);
        stream.send_head(&head, body.is_none()).unwrap();
        if let Some(body) = body {
            stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
        }
        assert!(poll_fn(|cx| std::task::Poll::Ready(stream.poll_reply(cx))).await.is_pending());
        assert_eq!(written(&mut peer).await, expected);
    }
}

/// A connection over TCP that has carried one request, and the peer's end of it.
async fn reused() -> (tokio::net::TcpStream, ClientStream, Rc<Pool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let io = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    let pool = Rc::new(Pool::default());
    let owner: OwnerRef = Rc::<Pool>::clone(&pool);
    let io = Io::Tcp(io).metered(Meter::Silent);
    let mut stream = ClientConnection::new(io, Rc::new(client_settings()), &owner).start();
    stream.send_head(&get("/"), true).unwrap();
    peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    reply(&mut stream).await.unwrap();
    assert!(peer.read(&mut [0; 1024]).await.unwrap() > 0);
    drop(stream);
    let connection = pool.idle.borrow_mut().pop().unwrap();
    (peer, connection.start(), pool)
}

#[tokio::test]
async fn tells_how_far_a_request_came_that_got_no_response() {
    let head = RequestHead { method: Method::POST, ..get("/") };
    // The peer was gone before a byte was written.
    let (peer, mut stream, _pool) = client(client_settings());
    drop(peer);
    stream.send_head(&head, true).unwrap();
    assert_eq!(reply(&mut stream).await.unwrap_err(), StreamError::ConnectionClosed);
    assert_eq!(stream.delivery(), Delivery::Unsent);

    // Half a request may be enough to act on.
    let (peer, mut stream, _pool) = client(client_settings());
    stream.send_head(&head, false).unwrap();
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    assert!(poll_fn(|cx| std::task::Poll::Ready(stream.poll_reply(cx))).await.is_pending());
    drop(peer);
    assert_eq!(reply(&mut stream).await.unwrap_err(), StreamError::ConnectionClosed);
    assert_eq!(stream.delivery(), Delivery::Sent);

    // The peer had closed an idle connection when the request was on its way.
    let (peer, mut stream, _pool) = reused().await;
    drop(peer);
    stream.send_head(&head, true).unwrap();
    assert_eq!(reply(&mut stream).await.unwrap_err(), StreamError::ConnectionClosed);
    assert_eq!(stream.delivery(), Delivery::Unread);

    // It had the request, and closed without an answer: what it did is not known.
    let (mut peer, mut stream, _pool) = reused().await;
    stream.send_head(&head, true).unwrap();
    assert!(poll_fn(|cx| std::task::Poll::Ready(stream.poll_reply(cx))).await.is_pending());
    assert!(peer.read(&mut [0; 1024]).await.unwrap() > 0);
    drop(peer);
    assert_eq!(reply(&mut stream).await.unwrap_err(), StreamError::ConnectionClosed);
    assert_eq!(stream.delivery(), Delivery::Raced);
}

#[tokio::test]
async fn a_response_before_the_end_of_the_request_ends_the_connection() {
    let (mut peer, mut stream, pool) = client(client_settings());
    let mut head = get("/");
    head.method = Method::POST;
    stream.send_head(&head, false).unwrap();
    peer.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let Reply::Response(_, mut body) = reply(&mut stream).await.unwrap() else { panic!() };
    assert_eq!(read_body(&mut body).await.unwrap().0, b"no");
    assert_eq!(*pool.closed.borrow(), [CloseReason::Local]);
    assert_eq!(stream.send_data(Bytes::from_static(b"x"), true), Err(StreamError::Local));
}

#[tokio::test]
async fn dropping_an_unfinished_exchange_closes() {
    let (mut peer, mut stream, pool) = client(client_settings());
    stream.send_head(&get("/"), true).unwrap();
    peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe").await.unwrap();
    let Reply::Response(_, body) = reply(&mut stream).await.unwrap() else { panic!() };
    drop(stream);
    assert_eq!(*pool.closed.borrow(), []);
    drop(body);
    assert_eq!(*pool.closed.borrow(), [CloseReason::Local]);

    let (_peer, stream, pool) = client(client_settings());
    drop(stream);
    assert_eq!(*pool.closed.borrow(), [], "nothing was sent: the connection goes back");
    assert_eq!(pool.idle.borrow().len(), 1);
}

#[tokio::test]
async fn becomes_a_tunnel_after_101() {
    let (mut peer, mut stream, pool) = client(client_settings());
    let mut head = get("/");
    head.headers = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
    stream.send_head(&head, true).unwrap();
    peer.write_all(b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nDATA").await.unwrap();
    let Reply::Response(head, _) = reply(&mut stream).await.unwrap() else { panic!() };
    assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
    let (tunnel, lease) = stream.into_tunnel().unwrap();
    assert_eq!(tunnel.buffered, "DATA");
    assert_eq!(*pool.closed.borrow(), []);
    drop(lease);
    assert_eq!(*pool.closed.borrow(), [CloseReason::Local]);
}
