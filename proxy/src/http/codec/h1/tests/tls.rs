//! Over TLS, whose session takes bytes that the socket does not: a message is out when the socket has it.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::*;

/// More than the pipe holds, less than a session keeps.
const BODY: usize = 40_000;

/// Both ends of TLS over a pipe of a kilobyte: the server's, the client's.
async fn tls() -> (TlsStream<Io>, TlsStream<Io>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server = ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (near, far) = duplex(1024);
    let accepted = TlsAcceptor::from(Arc::new(server)).accept(Io::Pipe(near));
    let name = ServerName::try_from("localhost").unwrap();
    let connected = TlsConnector::from(Arc::new(client)).connect(name, Io::Pipe(far));
    let (accepted, connected) = tokio::join!(accepted, connected);
    (accepted.unwrap().into(), connected.unwrap().into())
}

/// Reads a message whose body is [`BODY`] bytes, a piece at a time.
async fn read_message(peer: &mut TlsStream<Io>) {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n")
            && bytes.len() >= end + 4 + BODY
        {
            return;
        }
        tokio::task::yield_now().await;
        let read = tokio::time::timeout(Duration::from_secs(60), peer.read_buf(&mut bytes)).await;
        assert!(read.is_ok_and(|read| read.unwrap() > 0), "stuck after {} bytes", bytes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_response_is_not_left_in_the_session() {
    let (near, mut peer) = tls().await;
    let mut connection = ServerConnection::new(Io::Tls(Box::new(near)), Bytes::new(), Rc::new(settings()));
    peer.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    peer.flush().await.unwrap();
    let Exchange { mut responder, .. } = request(&mut connection).await;
    responder.send_head(ok(&[("content-length", "40000")]), false).unwrap();
    responder.send_data(vec![b'a'; BODY].into(), true).unwrap();
    let ((), finished) = tokio::join!(read_message(&mut peer), finish(&mut connection));
    assert_eq!(finished, Finish::KeepAlive);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_request_is_not_left_in_the_session() {
    let (mut peer, far) = tls().await;
    let pool = Rc::new(Pool::default());
    let owner: OwnerRef = Rc::<Pool>::clone(&pool);
    let io = Io::Tls(Box::new(far)).metered(Meter::Silent);
    let mut stream = ClientConnection::new(io, Rc::new(client_settings()), &owner).start();
    let mut head = get("/");
    head.method = Method::POST;
    head.headers.append(CONTENT_LENGTH, HeaderValue::from(BODY));
    stream.send_head(&head, false).unwrap();
    stream.send_data(vec![b'a'; BODY].into(), true).unwrap();
    let answer = async {
        read_message(&mut peer).await;
        peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        peer.flush().await.unwrap();
    };
    let ((), answered) = tokio::join!(answer, reply(&mut stream));
    let Reply::Response(head, _) = answered.unwrap() else { panic!("no response") };
    assert_eq!(head.status, StatusCode::NO_CONTENT);
    assert_eq!(pool.idle.borrow().len(), 1);
}

#[tokio::test]
async fn a_connection_with_an_end_left_in_the_session_is_not_used_again() {
    let (mut peer, far) = tls().await;
    let pool = Rc::new(Pool::default());
    let owner: OwnerRef = Rc::<Pool>::clone(&pool);
    let io = Io::Tls(Box::new(far)).metered(Meter::Silent);
    let mut stream = ClientConnection::new(io, Rc::new(client_settings()), &owner).start();
    let mut head = get("/");
    head.method = Method::POST;
    head.headers.append(CONTENT_LENGTH, HeaderValue::from(BODY));
    stream.send_head(&head, false).unwrap();
    stream.send_data(vec![b'a'; BODY].into(), true).unwrap();
    // The answer does not wait for the body, and nobody reads that.
    let answer = async {
        peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        peer.flush().await.unwrap();
    };
    let ((), answered) = tokio::join!(answer, reply(&mut stream));
    assert!(matches!(answered, Ok(Reply::Response(..))));
    drop(stream);
    assert_eq!(*pool.closed.borrow(), [CloseReason::Local]);
    assert!(pool.idle.borrow().is_empty());
}
