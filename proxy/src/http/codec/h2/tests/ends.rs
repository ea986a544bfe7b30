//! Our client and our server against each other: bodies, windows, resets, drains.

use super::*;

#[test]
fn both_sides_stream_bodies_and_trailers_within_a_small_window() {
    run(async {
        let (a, b) = duplex(PIPE);
        let mut settings = server_settings();
        settings.http2.initial_stream_window_size = 65_535;
        settings.http2.initial_connection_window_size = 65_535;
        spawn_local(serve(a, settings, echo));
        let (connection, _pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        assert_eq!(connection.active(), 1);
        stream.send_head(&get("/echo?x"), false).unwrap();
        let (head, mut body) = reply(&mut stream).await.unwrap();
        assert_eq!(head.headers.get(&HeaderName::from_static("x-b")).unwrap(), "2");
        let sending = async {
            for _ in 0..64 {
                poll_fn(|cx| stream.poll_ready(cx)).await.unwrap();
                stream.send_data(Bytes::from(vec![7; 16 << 10]), false).unwrap();
            }
            stream.send_trailers(headers(&[("x-t", "end")])).unwrap();
        };
        let ((), received) = tokio::join!(sending, collect(&mut body));
        assert_eq!(received, Ok((1 << 20, Some(headers(&[("x-t", "end")])))));
        drop((stream, body));
        assert_eq!(connection.active(), 0);
    });
}

#[test]
fn a_sender_waits_for_the_peers_window() {
    run(async {
        let (a, b) = duplex(PIPE);
        let mut settings = server_settings();
        settings.http2.initial_stream_window_size = 65_535;
        let held = Rc::new(Cell::new(None));
        let keep = held.clone();
        spawn_local(serve(a, settings, move |exchange| {
            keep.set(Some(exchange));
            async {}
        }));
        let (connection, _pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        stream.send_head(&get("/"), false).unwrap();
        let mut sent = 0;
        let sending = poll_fn(|cx| {
            while stream.poll_ready(cx).is_ready() {
                stream.send_data(Bytes::from_static(&[0; 8192]), false).unwrap();
                sent += 8192;
            }
            Poll::<()>::Pending
        });
        // Time passes only when nothing else can run.
        tokio::time::timeout(std::time::Duration::from_secs(1), sending).await.unwrap_err();
        assert!((65_535..=65_535 + MAX_SEND_BUFFER + 8192).contains(&sent), "{sent}");
        let Some(Exchange { body: mut request, .. }) = held.take() else { panic!("no request") };
        assert!(next(&mut request).await.unwrap().is_ok());
    });
}

#[test]
fn informational_responses_pass() {
    run(async {
        let (a, b) = duplex(PIPE);
        spawn_local(serve(a, server_settings(), |exchange| async {
            let mut responder = exchange.responder;
            let hints = headers(&[("link", "</s.css>")]);
            let early = ResponseHead { status: StatusCode::EARLY_HINTS, protocol: Protocol::Http2, headers: hints };
            responder.send_informational(early.clone()).unwrap();
            responder.send_informational(early).unwrap();
            responder.send_head(ok(&[]), true).unwrap();
        }));
        let (connection, _pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        stream.send_head(&get("/"), true).unwrap();
        for _ in 0..2 {
            let Reply::Informational(head) = poll_fn(|cx| stream.poll_reply(cx)).await.unwrap() else {
                panic!("final")
            };
            assert_eq!((head.status, head.headers.len()), (StatusCode::EARLY_HINTS, 1));
        }
        let Reply::Response(head, body) = poll_fn(|cx| stream.poll_reply(cx)).await.unwrap() else { panic!("1xx") };
        assert_eq!(head.status, StatusCode::OK);
        assert!(matches!(body, codec::Body::Empty));
    });
}

#[test]
fn informational_responses_wait_for_a_client_that_does_not_read() {
    run(async {
        let (a, mut b) = duplex(1024);
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        spawn_local(serve(a, server_settings(), move |exchange| {
            let count = count.clone();
            async move {
                let mut responder = exchange.responder;
                let early =
                    ResponseHead { status: StatusCode::EARLY_HINTS, protocol: Protocol::Http2, headers: headers(&[]) };
                while count.get() < 10_000 {
                    responder.send_informational(early.clone()).unwrap();
                    count.set(count.get() + 1);
                    poll_fn(|cx| responder.poll_flush(cx)).await.unwrap();
                }
                responder.send_head(ok(&[]), true).unwrap();
            }
        }));
        // GET http://a/
        let request = frame(1, 5, 1, b"\x82\x86\x84\x41\x01a");
        b.write_all(&[preface(), request].concat()).await.unwrap();
        // Time passes only when nothing else can run.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!((8..200).contains(&sent.get()), "{} heads for 1,024 bytes", sent.get());
        // A client that reads gets them all.
        read_heads_by(scan::Scanner::new(0), &mut b, 10_001).await;
        assert_eq!(sent.get(), 10_000);
    });
}

#[test]
fn what_goaway_left_out_is_refused_and_the_rest_is_not() {
    run(async {
        let (a, mut b) = duplex(PIPE);
        let (connection, pool) = client(a, &client_settings()).await;
        let mut streams: Vec<ClientStream> = (0..2).map(|_| connection.open().unwrap()).collect();
        for stream in &mut streams {
            stream.send_head(&get("/"), true).unwrap();
        }
        read_heads(&mut b, 2).await;
        // Stream 1 was processed, stream 3 was not; then the connection goes.
        b.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        b.write_all(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await.unwrap();
        assert_eq!(reply(&mut streams[1]).await.unwrap_err(), StreamError::Refused);
        assert!(connection.is_draining());
        assert_eq!(connection.open().unwrap_err(), StreamError::Refused);
        drop(b);
        assert_eq!(reply(&mut streams[0]).await.unwrap_err(), StreamError::ConnectionClosed);
        drop((streams, connection));
        tokio::task::yield_now().await;
        assert_eq!(pool.closed.get(), Some(CloseReason::Remote));
    });
}

#[test]
fn resets_carry_their_code() {
    run(async {
        let (a, mut b) = duplex(PIPE);
        let (connection, _pool) = client(a, &client_settings()).await;
        let mut streams: Vec<ClientStream> = (0..2).map(|_| connection.open().unwrap()).collect();
        for stream in &mut streams {
            stream.send_head(&get("/"), true).unwrap();
        }
        read_heads(&mut b, 2).await;
        b.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        b.write_all(&frame(3, 0, 1, &11u32.to_be_bytes())).await.unwrap();
        b.write_all(&frame(3, 0, 3, &7u32.to_be_bytes())).await.unwrap();
        assert_eq!(reply(&mut streams[0]).await.unwrap_err(), StreamError::Reset(11));
        assert_eq!(reply(&mut streams[1]).await.unwrap_err(), StreamError::Refused);
        assert!(!connection.is_draining());
    });
}

#[test]
fn the_last_handle_closes_the_connection() {
    run(async {
        let (a, b) = duplex(PIPE);
        let server = spawn_local(serve(a, server_settings(), echo));
        let (connection, pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        drop(connection);
        stream.send_head(&get("/"), true).unwrap();
        let (_, mut body) = reply(&mut stream).await.unwrap();
        drop(stream);
        assert_eq!(collect(&mut body).await, Ok((0, None)));
        drop(body);
        assert_eq!(server.await.unwrap(), (vec![], End::Closed));
        assert_eq!(pool.closed.get(), Some(CloseReason::Local));
    });
}

#[test]
fn places_are_limited_by_the_lower_side_and_their_owner_hears_of_room() {
    run(async {
        let (a, b) = duplex(PIPE);
        let mut settings = server_settings();
        settings.http2.max_concurrent_streams = 1;
        spawn_local(serve(a, settings, echo));
        let (connection, pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        stream.send_head(&get("/"), true).unwrap();
        let (_, mut body) = reply(&mut stream).await.unwrap();
        assert_eq!(connection.max_concurrent(), 1);
        assert_eq!(connection.open().unwrap_err(), StreamError::Refused);
        collect(&mut body).await.unwrap();
        // The peer's SETTINGS may have made room.
        assert!(pool.told.take().contains(&"room"));
        drop((stream, body));
        assert_eq!(pool.told.take(), ["room"]);
        assert!(connection.open().is_ok());
    });
}

#[test]
fn a_drained_connection_ends_with_its_last_stream() {
    run(async {
        let (a, b) = duplex(PIPE);
        let (connection, pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        stream.send_head(&get("/"), false).unwrap();
        let mut server = ServerConnection::handshake(Io::Pipe(a), Bytes::new(), &server_settings()).await.unwrap();
        let Incoming::Request(exchange) = poll_fn(|cx| server.poll_incoming(cx)).await else { panic!("no request") };
        assert_eq!(server.active_streams(), 1);
        server.start_drain();
        let serving = spawn_local(async move {
            loop {
                if let Incoming::End(end) = poll_fn(|cx| server.poll_incoming(cx)).await {
                    return end;
                }
            }
        });
        while !connection.is_draining() {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.told.borrow().last(), Some(&"draining"));
        spawn_local(echo(exchange));
        stream.send_data(Bytes::from_static(b"late"), true).unwrap();
        let (_, mut body) = reply(&mut stream).await.unwrap();
        assert_eq!(collect(&mut body).await, Ok((4, None)));
        drop((stream, body));
        assert_eq!(serving.await.unwrap(), End::Closed);
    });
}

#[test]
fn a_response_before_the_end_of_the_request_tells_the_client_to_stop() {
    run(async {
        let (a, b) = duplex(PIPE);
        spawn_local(serve(a, server_settings(), |exchange| async {
            let mut responder = exchange.responder;
            responder.send_head(ok(&[]), false).unwrap();
            responder.send_data(Bytes::from_static(b"no"), true).unwrap();
        }));
        let (mut requests, connection) = h2::client::handshake(b).await.unwrap();
        spawn_local(connection);
        let request = http::Request::post("http://a/").body(()).unwrap();
        let (response, mut sender) = requests.send_request(request, false).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "no");
        assert_eq!(poll_fn(|cx| sender.poll_reset(cx)).await.unwrap(), h2::Reason::NO_ERROR);
    });
}

#[test]
fn a_dead_peer_fails_the_keepalive() {
    run(async {
        let (a, mut b) = duplex(PIPE);
        let mut settings = server_settings();
        let second = std::time::Duration::from_secs(1);
        settings.http2.keepalive = Some((second * 10, second));
        b.write_all(&preface()).await.unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(serve(a, settings, echo).await, (vec![], End::KeepaliveTimeout));
        assert_eq!(started.elapsed().as_secs(), 11);
    });
}
