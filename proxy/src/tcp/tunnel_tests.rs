//! Over real loopback sockets: what a client and a server see of each other through a tunnel.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use super::*;
use crate::io::Meter;
use crate::telemetry::stats::Stats;

const MIB: usize = 1 << 20;

fn run<F: Future>(test: F) -> F::Output {
    let options = tokio::runtime::LocalOptions::default();
    tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap().block_on(test)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// The two far ends, and the tunnel between them as it runs.
async fn joined() -> (TcpStream, TcpStream, JoinHandle<Ended>) {
    let (client, a) = pair().await;
    let (server, b) = pair().await;
    let tunnel = Tunnel::new(Io::Tcp(a), Bytes::new(), Io::Tcp(b), Bytes::new());
    (client, server, spawn_local(tunnel))
}

fn pattern(seed: usize, size: usize) -> Vec<u8> {
    // 251 is prime: a piece that is lost, doubled or moved does not go unnoticed.
    let block: Vec<u8> = (0..251).map(|i| (i * 31 + seed) as u8).collect();
    let mut out = block.repeat(size / 251 + 1);
    out.truncate(size);
    out
}

/// Sends all, then FIN, and reads to the end meanwhile.
async fn exchange(socket: TcpStream, data: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = socket.into_split();
    let mut received = Vec::new();
    let sending = async {
        write.write_all(&data).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), result) = tokio::join!(sending, read.read_to_end(&mut received));
    result.unwrap();
    received
}

#[test]
fn everything_before_a_fin_arrives_both_ways_hundreds_of_times() {
    run(async {
        for round in 0..200 {
            let (client, server, tunnel) = joined().await;
            let (up, down) = (pattern(round, MIB), pattern(round + 7, MIB));
            let (at_client, at_server) = tokio::join!(exchange(client, up.clone()), exchange(server, down.clone()));
            assert!(at_server == up && at_client == down, "round {round}");
            let ended = tunnel.await.unwrap();
            assert_eq!((ended.from_a, ended.from_b), (MIB as u64, MIB as u64));
            assert!(matches!(ended.cause, Cause::FinishedByA | Cause::FinishedByB), "{ended:?}");
        }
    });
}

#[test]
fn a_half_closed_connection_goes_on_the_other_way() {
    run(async {
        let (mut client, mut server, tunnel) = joined().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        for _ in 0..3 {
            server.write_all(b"answer").await.unwrap();
            let mut answer = [0; 6];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"answer");
        }
        drop(server);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(tunnel.await.unwrap().cause, Cause::FinishedByB);
    });
}

#[test]
fn a_reset_passes_as_a_reset() {
    run(async {
        for from_client in [true, false] {
            let (client, server, tunnel) = joined().await;
            let (breaking, mut other) = if from_client { (client, server) } else { (server, client) };
            breaking.set_zero_linger().unwrap();
            drop(breaking);
            let error = other.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let cause = if from_client { Cause::ResetByA } else { Cause::ResetByB };
            assert_eq!(tunnel.await.unwrap().cause, cause);
        }
    });
}

#[test]
fn a_reset_reaches_a_side_that_only_sends() {
    run(async {
        let (mut client, server, tunnel) = joined().await;
        server.set_zero_linger().unwrap();
        drop(server);
        let data = vec![0; MIB];
        let error = loop {
            if let Err(error) = client.write_all(&data).await {
                break error;
            }
        };
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
        assert_eq!(tunnel.await.unwrap().cause, Cause::ResetByB);
    });
}

#[test]
fn a_long_stream_is_spliced_and_arrives_whole_at_a_slow_reader() {
    run(async {
        let (client, a) = pair().await;
        let (server, b) = pair().await;
        arrives_spliced(client, Io::Tcp(a), Io::Tcp(b), server).await;
    });
}

#[test]
fn bytes_that_are_spliced_count() {
    run(async {
        let stats = || Stats::new().cluster("c").shard(0);
        let (down, up) = (stats(), stats());
        let (client, a) = pair().await;
        let (server, b) = pair().await;
        let mut a = Io::Tcp(a).rewind(Bytes::from_static(b"x")).metered(Meter::Upstream(down.clone()));
        a.read_u8().await.unwrap();
        let b = Io::Tcp(b).metered(Meter::Upstream(up.clone()));
        arrives_spliced(client, a, b, server).await;
        let all = 32 * MIB as u64;
        assert_eq!((down.upstream_cx_rx_bytes_total.get(), down.upstream_cx_tx_bytes_total.get()), (all + 1, 0));
        assert_eq!((up.upstream_cx_rx_bytes_total.get(), up.upstream_cx_tx_bytes_total.get()), (0, all));
    });
}

async fn arrives_spliced(client: TcpStream, a: Io, b: Io, mut server: TcpStream) {
    let mut tunnel = Tunnel::new(a, Bytes::new(), b, Bytes::new());
    let data = pattern(3, 32 * MIB);
    let sent = data.clone();
    let sending = spawn_local(exchange(client, sent));
    let spliced = spawn_local(async move {
        let mut spliced = false;
        let ended = std::future::poll_fn(|cx| {
            let result = Pin::new(&mut tunnel).poll(cx);
            spliced |= tunnel.a_to_b.pipe.is_some();
            result
        })
        .await;
        (spliced, ended)
    });
    let mut received = Vec::new();
    let mut piece = vec![0; 200_000];
    loop {
        let n = server.read(&mut piece).await.unwrap();
        if n == 0 {
            break;
        }
        received.extend_from_slice(&piece[..n]);
        tokio::task::yield_now().await;
    }
    assert!(received == data);
    drop(server);
    sending.await.unwrap();
    let (spliced, ended) = spliced.await.unwrap();
    assert!(spliced, "never changed to splice");
    assert_eq!((ended.from_a, ended.cause), (32 * MIB as u64, Cause::FinishedByB));
}

#[test]
fn bytes_read_before_the_tunnel_go_first() {
    run(async {
        let (mut client, a) = pair().await;
        let (mut server, b) = tokio::io::duplex(64);
        let first = Bytes::from_static(b"first ");
        let tunnel = spawn_local(Tunnel::new(Io::Tcp(a), first.clone(), Io::Pipe(b), Bytes::from_static(b"hello")));
        client.write_all(b"second").await.unwrap();
        client.shutdown().await.unwrap();
        let mut at_server = Vec::new();
        server.read_to_end(&mut at_server).await.unwrap();
        assert_eq!(at_server, b"first second");
        drop(server);
        let mut at_client = Vec::new();
        client.read_to_end(&mut at_client).await.unwrap();
        assert_eq!(at_client, b"hello");
        let ended = tunnel.await.unwrap();
        assert_eq!(ended, Ended { from_a: 12, from_b: 5, cause: Cause::FinishedByB });
    });
}

#[test]
fn idleness_and_age_end_a_tunnel_half_closed_or_not() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let minute = Duration::from_secs(60);
        for half_closed in [false, true] {
            let ((mut client, a), (mut server, b)) = (tokio::io::duplex(64), tokio::io::duplex(64));
            let tunnel = Tunnel::new(Io::Pipe(a), Bytes::new(), Io::Pipe(b), Bytes::new()).idle_timeout(Some(minute));
            let started = Instant::now();
            let tunnel = spawn_local(tunnel);
            if half_closed {
                client.shutdown().await.unwrap();
                assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
            }
            tokio::time::sleep(minute / 2).await;
            server.write_all(b"x").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'x');
            assert_eq!(tunnel.await.unwrap().cause, Cause::Idle);
            assert_eq!(started.elapsed().as_secs(), 90);
        }
        let ((mut client, a), (mut server, b)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let tunnel = Tunnel::new(Io::Pipe(a), Bytes::new(), Io::Pipe(b), Bytes::new())
            .idle_timeout(Some(minute))
            .deadline(Some(Instant::now() + Duration::from_secs(100)));
        let tunnel = spawn_local(tunnel);
        let mut beats = 0;
        while client.write_all(b"x").await.is_ok() && server.read_u8().await.is_ok() {
            beats += 1;
            tokio::time::sleep(minute / 2).await;
        }
        assert_eq!(beats, 4);
        assert_eq!(tunnel.await.unwrap().cause, Cause::Deadline);
    });
}
