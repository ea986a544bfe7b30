//! Callers that keep their connections and think between two requests.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ledger::{Ledger, Method};
use crate::{PATIENCE, pause};

/// Sends all requests of the ledger, over as many connections at once.
pub(crate) fn call(port: u16, callers: usize, ledger: &Arc<Ledger>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let callers: JoinSet<()> = (0..callers).map(|n| one(port, n, ledger.clone())).collect();
        callers.join_all().await;
    });
}

async fn one(port: u16, n: usize, ledger: Arc<Ledger>) {
    let mut seed = 0x9e37_79b9_7f4a_7c15 ^ (n as u64 + 1);
    let mut connection = None;
    while let Some(id) = ledger.next() {
        sleep(pause(&mut seed)).await;
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap(),
        };
        let answer = timeout(PATIENCE, exchange(&mut stream, id)).await.expect("an answer in time");
        ledger.ended(id, answer.as_ref().is_some_and(|(status, body)| *status == 200 && *body == id.to_string()));
        connection = answer.map(|_| stream);
    }
}

/// Status and body; `None` where the connection ends before.
async fn exchange(stream: &mut TcpStream, id: usize) -> Option<(u16, String)> {
    let method = Method::of(id);
    let length = match method {
        Method::Get => 0,
        // Some do not fit into one read or write.
        _ if id % 64 == 1 => 48 << 10,
        _ => 200,
    };
    let mut request = format!("{} /{id} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n", method.name());
    request.extend(std::iter::repeat_n('x', length));
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut read = Vec::new();
    loop {
        if let Some(answer) = parse(&read) {
            return Some(answer);
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

fn parse(read: &[u8]) -> Option<(u16, String)> {
    let (head, body) = std::str::from_utf8(read).unwrap().split_once("\r\n\r\n")?;
    let length = head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    (body.len() == length.unwrap_or(0)).then(|| (head[9..12].parse().unwrap(), body.to_owned()))
}
