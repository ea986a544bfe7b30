//! An application that answers with what it was asked, so that a test sees what the proxy made of a request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Starts one. Every body begins with its name and the request line. A request with `x-fail: STATUS COUNT` is answered with
/// that status the first COUNT times that its path is asked; one with `x-hang` is never answered.
pub(crate) fn start(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let asked = Arc::clone(&asked);
            std::thread::spawn(move || serve(name, &stream, &asked));
        }
    });
    address
}

fn serve(name: &str, stream: &TcpStream, asked: &Mutex<HashMap<String, u32>>) {
    let mut lines = BufReader::new(stream).lines();
    // A request is over at its empty line.
    let mut head: Vec<String> = Vec::new();
    while let Some(Ok(line)) = lines.next() {
        if !line.is_empty() {
            head.push(line);
            continue;
        }
        let request = std::mem::take(&mut head);
        if request.iter().any(|line| line.starts_with("x-hang")) {
            // Until the proxy closes.
            while let Some(Ok(_)) = lines.next() {}
            return;
        }
        let line = request[0].strip_suffix(" HTTP/1.1").unwrap().to_owned();
        let count = {
            let mut asked = asked.lock().unwrap();
            let count = asked.entry(line.clone()).or_default();
            *count += 1;
            *count
        };
        let fail = request.iter().find_map(|line| line.strip_prefix("x-fail: ")?.split_once(' '));
        let status = match fail {
            Some((status, times)) if count <= times.parse().unwrap() => status,
            _ => "200",
        };
        let body = format!("{name} {line}\nasked {count}\n{}\n", request[1..].join("\n"));
        let head = format!("HTTP/1.1 {status} X\r\nx-up: up\r\nserver: app\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut stream = stream;
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}
