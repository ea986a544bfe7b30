//! An application that answers with what it was asked, so that a test sees what the proxy made of a request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::PATIENCE;

/// An HTTP/1 server, as long as the test runs. Every body begins with its name and the request line, and says how often
/// that was asked, on which connection, with which headers. A request may say what becomes of it:
///
/// - `x-fail: STATUS COUNT`: answered with that status the first COUNT times;
/// - `x-grpc: CODE COUNT`: answered with 200 and that gRPC status, as often;
/// - `x-drop: COUNT`: the connection ends in place of an answer, as often;
/// - `x-delay: MS`: answered so much later;
/// - `x-hold`: answered when the test says so;
/// - `x-hang`: never answered; `x-hang: COUNT`: not the first COUNT times.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asked: HashMap<String, u32>,
    connections: usize,
    closed: usize,
    waiting: usize,
    released: bool,
}

impl Echo {
    pub(crate) fn start(name: &'static str) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let app = Arc::new(Self { name, address, state: Mutex::default(), changed: Condvar::new() });
        let serving = Arc::clone(&app);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let app = Arc::clone(&serving);
                let number = app.change(|state| {
                    state.connections += 1;
                    state.connections
                });
                std::thread::spawn(move || {
                    app.serve(number, &stream);
                    app.change(|state| state.closed += 1);
                });
            }
        });
        app
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        result
    }

    /// Waits until `done`; answers whether it was in time.
    fn wait(&self, done: impl Fn(&State) -> bool) -> bool {
        let state = self.state.lock().unwrap();
        !self.changed.wait_timeout_while(state, PATIENCE, |state| !done(state)).unwrap().1.timed_out()
    }

    /// Waits until so many requests are held or hang.
    pub(crate) fn waits_with(&self, count: usize) -> bool {
        self.wait(|state| state.waiting >= count)
    }

    /// Requests that are held or hang now.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting
    }

    /// Waits until so many connections were closed.
    pub(crate) fn was_left(&self, count: usize) -> bool {
        self.wait(|state| state.closed >= count)
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    /// Answers what is held, and holds nothing from now on.
    pub(crate) fn release(&self) {
        self.change(|state| state.released = true);
    }

    fn serve(&self, number: usize, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut head: Vec<String> = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                match line.trim_end() {
                    "" => break,
                    line => head.push(line.to_owned()),
                }
            }
            let Some(line) = head[0].strip_suffix(" HTTP/1.1").map(str::to_owned) else { return };
            let length = value(&head, "content-length").map_or(0, |text| text.parse().unwrap());
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let count = self.change(|state| {
                let count = state.asked.entry(line.clone()).or_default();
                *count += 1;
                *count
            });
            if !self.delays(&head, count, &mut reader) {
                return;
            }
            let still = |times: &str| count <= times.parse().unwrap();
            let mut status = "200";
            let mut grpc = String::new();
            match value(&head, "x-fail").and_then(|text| text.split_once(' ')) {
                Some((code, times)) if still(times) => status = code,
                _ => {}
            }
            match value(&head, "x-grpc").and_then(|text| text.split_once(' ')) {
                Some((code, times)) if still(times) => grpc = format!("grpc-status: {code}\r\n"),
                _ => {}
            }
            if value(&head, "x-drop").is_some_and(still) {
                return;
            }
            let name = self.name;
            let body = format!("{name} {line}\nasked {count}\nconnection {number}\n{}\n", head[1..].join("\n"));
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\nx-up: up\r\n{grpc}server: app\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            let mut stream = stream;
            if stream.write_all(head.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Waits as long as the request says; `false` if it is never to be answered.
    fn delays(&self, head: &[String], count: u32, reader: &mut impl Read) -> bool {
        if let Some(time) = value(head, "x-delay") {
            // A slow application, not a test that waits for something.
            std::thread::park_timeout(Duration::from_millis(time.parse().unwrap()));
        }
        let hangs = value(head, "x-hang").is_some_and(|times| count <= times.parse().unwrap_or(u32::MAX));
        let holds = value(head, "x-hold").is_some();
        if !hangs && !holds {
            return true;
        }
        self.change(|state| state.waiting += 1);
        let answers = if hangs {
            // Until the proxy closes.
            _ = std::io::copy(reader, &mut std::io::sink());
            false
        } else {
            self.wait(|state| state.released)
        };
        self.change(|state| state.waiting -= 1);
        answers
    }
}

fn value<'h>(head: &'h [String], name: &str) -> Option<&'h str> {
    head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
