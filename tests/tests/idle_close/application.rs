//! An application that ends connections which idle for a while, each time another.

use std::net::{Ipv4Addr, Shutdown};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outrigger_tests::tls;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::ledger::Ledger;
use crate::{PATIENCE, pause};

/// How a connection that idles is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// FIN, and RST for what comes then.
    Fin,
    /// RST at once.
    Reset,
    /// TLS: `close_notify`, then as [`Close::Fin`].
    Notify,
    /// TLS, as [`Close::Fin`] without a word.
    TlsFin,
}

impl Close {
    pub(crate) fn over_tls(self) -> bool {
        matches!(self, Close::Notify | Close::TlsFin)
    }
}

struct Notes {
    ledger: Mutex<Arc<Ledger>>,
    /// Connections that are being closed, of which something may be noted yet.
    closing: AtomicUsize,
}

impl Notes {
    fn ledger(&self) -> Arc<Ledger> {
        self.ledger.lock().unwrap().clone()
    }
}

/// See the module.
pub(crate) struct Application {
    pub(crate) port: u16,
    notes: Arc<Notes>,
    /// It ends with its owner.
    _runtime: tokio::runtime::Runtime,
}

impl Application {
    pub(crate) fn start(close: Close) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ledger = Mutex::new(Arc::new(Ledger::new(0)));
        let notes = Arc::new(Notes { ledger, closing: AtomicUsize::new(0) });
        let shared = notes.clone();
        let acceptor = close.over_tls().then(|| TlsAcceptor::from(tls::server_config(&["http/1.1"])));
        runtime.spawn(async move {
            let (mut n, mut connections) = (0, JoinSet::new());
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                n += 1;
                while connections.try_join_next().is_some() {}
                let (acceptor, notes, seed) = (acceptor.clone(), shared.clone(), 0x1234_5678_9abc_def0 ^ n);
                connections.spawn(async move {
                    let wire = match acceptor {
                        None => Wire::Plain(stream),
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => Wire::Tls(Box::new(stream)),
                            Err(_) => return,
                        },
                    };
                    let connection = Connection { wire, read: Vec::new(), seed, notes };
                    connection.serve(close).await;
                });
            }
        });
        Application { port, notes, _runtime: runtime }
    }

    /// Notes what comes from now on in `ledger`.
    pub(crate) fn note_in(&self, ledger: &Arc<Ledger>) {
        *self.notes.ledger.lock().unwrap() = ledger.clone();
    }

    /// Waits until everything is noted of what has been answered.
    pub(crate) fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.notes.closing.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "a connection does not end");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    fn socket(&self) -> SockRef<'_> {
        match self {
            Wire::Plain(stream) => SockRef::from(stream),
            Wire::Tls(stream) => SockRef::from(stream.get_ref().0),
        }
    }

    async fn read(&mut self, read: &mut Vec<u8>) -> std::io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read_buf(read).await,
            Wire::Tls(stream) => stream.read_buf(read).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.write_all(bytes).await,
            Wire::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }
}

struct Connection {
    wire: Wire,
    read: Vec<u8>,
    seed: u64,
    notes: Arc<Notes>,
}

impl Connection {
    async fn serve(mut self, close: Close) {
        // Who has not sent a request yet, or is about to, does not idle.
        let mut idles = false;
        loop {
            while !self.has_request() {
                let idles = idles && self.read.is_empty();
                let patience = if idles { pause(&mut self.seed) } else { Duration::MAX };
                match timeout(patience, self.wire.read(&mut self.read)).await {
                    Ok(Ok(0) | Err(_)) => return,
                    Ok(Ok(_)) => {}
                    Err(_) if self.has_something() => {}
                    Err(_) => return self.close(close).await,
                }
            }
            let id = id(&self.read).unwrap();
            self.read.clear();
            self.notes.ledger().done(id);
            let body = id.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if self.wire.write(answer.as_bytes()).await.is_err() {
                return;
            }
            idles = true;
        }
    }

    /// Whether a whole request was read; callers send one at a time.
    fn has_request(&self) -> bool {
        let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
        let head = std::str::from_utf8(&self.read[..end]).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        self.read.len() >= end + 4 + length.unwrap_or(0)
    }

    /// Whether something lies in the kernel, which the runtime has not heard of.
    fn has_something(&self) -> bool {
        self.wire.socket().peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok()
    }

    /// Ends the connection, and notes what had come by then. Both directions are shut down, which does what closing
    /// does but for two things: it is never a reset, and what lies there can be read.
    async fn close(mut self, close: Close) {
        match (close, &mut self.wire) {
            (Close::Reset, wire) => return wire.socket().set_linger(Some(Duration::ZERO)).unwrap(),
            (Close::Notify, Wire::Tls(stream)) => {
                stream.get_mut().1.send_close_notify();
                _ = stream.flush().await;
            }
            _ => {}
        }
        self.notes.closing.fetch_add(1, Ordering::SeqCst);
        // It fails where the peer has reset the connection.
        _ = self.wire.socket().shutdown(Shutdown::Both);
        while self.wire.read(&mut self.read).await.is_ok_and(|n| n > 0) {}
        if let Some(id) = id(&self.read) {
            self.notes.ledger().late(id);
        }
        self.notes.closing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The id in the path.
fn id(request: &[u8]) -> Option<usize> {
    let path = request.split(|b| *b == b' ').nth(1)?;
    std::str::from_utf8(path).ok()?.strip_prefix('/')?.parse().ok()
}
