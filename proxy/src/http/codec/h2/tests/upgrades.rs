//! Upgrades, which are extended CONNECT on the wire.

use super::*;

#[test]
fn an_upgrade_is_an_extended_connect_on_the_wire_and_an_upgrade_to_the_pipeline() {
    run(async {
        let (a, b) = duplex(PIPE);
        let mut settings = server_settings();
        settings.http2.allow_connect = true;
        spawn_local(serve(a, settings, |exchange| async move {
            assert_eq!(exchange.head.method, Method::GET);
            assert_eq!(exchange.head.headers.get(&http::header::UPGRADE).unwrap(), "websocket");
            let codec::Responder::H2(mut responder) = exchange.responder else { return };
            let mut head = ok(&[("connection", "upgrade"), ("upgrade", "websocket")]);
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            responder.send_head(head, false).unwrap();
            let mut tunnel = responder.into_tunnel().unwrap();
            let mut question = [0; 4];
            tunnel.io.read_exact(&mut question).await.unwrap();
            tunnel.io.write_all(&question).await.unwrap();
            tunnel.io.write_all(b"!").await.unwrap();
            tunnel.io.shutdown().await.unwrap();
            // Gone before the client has ended, it would reset the stream.
            _ = tunnel.io.read_to_end(&mut Vec::new()).await;
        }));
        let (connection, _pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        let mut head = get("/chat");
        head.headers = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        // The peer says in its SETTINGS that it takes such a request.
        tokio::task::yield_now().await;
        stream.send_head(&head, true).unwrap();
        let (head, _) = reply(&mut stream).await.unwrap();
        assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(head.headers.get(&http::header::UPGRADE).unwrap(), "websocket");
        let mut tunnel = stream.into_tunnel().unwrap();
        tunnel.io.write_all(b"ping").await.unwrap();
        let mut answer = Vec::new();
        tunnel.io.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"ping!");
    });
}

/// The two ends of an upgrade over HTTP/2: the server's and the client's.
async fn upgraded() -> (codec::Tunnel, codec::Tunnel) {
    let (a, b) = duplex(PIPE);
    let mut settings = server_settings();
    settings.http2.allow_connect = true;
    let (give, taken) = tokio::sync::oneshot::channel();
    let give = Rc::new(Cell::new(Some(give)));
    spawn_local(serve(a, settings, move |exchange| {
        let give = give.clone();
        async move {
            let codec::Responder::H2(mut responder) = exchange.responder else { return };
            let mut head = ok(&[("connection", "upgrade"), ("upgrade", "websocket")]);
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            responder.send_head(head, false).unwrap();
            give.take().unwrap().send(responder.into_tunnel().unwrap()).unwrap();
        }
    }));
    let (connection, _pool) = client(b, &client_settings()).await;
    let mut stream = connection.open().unwrap();
    let mut head = get("/chat");
    head.headers = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
    tokio::task::yield_now().await;
    stream.send_head(&head, true).unwrap();
    reply(&mut stream).await.unwrap();
    (taken.await.unwrap(), stream.into_tunnel().unwrap())
}

#[test]
fn an_upgrade_that_is_given_up_at_one_end_is_reset_at_the_other() {
    run(async {
        for server_gives_up in [false, true] {
            let (server, client) = upgraded().await;
            let (mut gone, mut left) = if server_gives_up { (server, client) } else { (client, server) };
            gone.io.write_all(b"abc").await.unwrap();
            left.io.read_exact(&mut [0; 3]).await.unwrap();
            drop(gone);
            let wait = std::time::Duration::from_secs(60);
            let read = tokio::time::timeout(wait, left.io.read_u8()).await.expect("the stream stays");
            assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}
