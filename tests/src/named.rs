//! Upstreams that only say who they are, for suites that ask where a request went.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};

/// An HTTP/1 server that answers everything with its name, as long as the test runs.
///
/// # Panics
/// Where no port is left.
pub fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                // A request is over at its empty line.
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        let _ = write!(&stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                    }
                }
            });
        }
    });
    address
}
