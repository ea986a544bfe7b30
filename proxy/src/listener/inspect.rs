//! Listener filters: what the first bytes of a connection say, read without consuming them.

use std::io;

use bytes::{Bytes, BytesMut};
use outrigger_engine::config::listener::Listener;
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;

use crate::io::Io;

/// What was seen. A connection that said nothing in time is plain.
#[derive(Debug, Default)]
pub struct Inspected {
    /// What was read.
    pub read: Bytes,
    /// A TLS client hello came.
    pub tls: bool,
    /// SNI.
    pub server_name: Option<String>,
    /// ALPN of the hello, or what the HTTP inspector found.
    pub application_protocols: Vec<String>,
}

/// Bytes of a client hello, as Envoy's inspector bounds it.
const MAX_HELLO: usize = 64 << 10;
/// Bytes of a request line that the HTTP inspector reads.
const MAX_LINE: usize = 64 << 10;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Reads until the listener's inspectors have made up their minds. Dropping the future in between loses nothing: `read`
/// holds what came.
pub async fn inspect(io: &mut Io, listener: &Listener, read: &mut BytesMut) -> io::Result<Inspected> {
    let mut seen = Inspected::default();
    loop {
        let hello = if listener.tls_inspector { look_for_hello(read, &mut seen) } else { Verdict::No };
        let verdict = match hello {
            Verdict::No if listener.http_inspector => look_for_http(read, &mut seen),
            other => other,
        };
        if verdict != Verdict::More {
            return Ok(seen);
        }
        if io.read_buf(read).await? == 0 {
            // What came is all there is; the filter chain says what it is.
            return Ok(seen);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Yes,
    No,
    More,
}

fn look_for_hello(read: &[u8], seen: &mut Inspected) -> Verdict {
    match read.first() {
        None => return Verdict::More,
        Some(0x16) => {}
        Some(_) => return Verdict::No,
    }
    if read.len() > MAX_HELLO {
        return Verdict::No;
    }
    let mut acceptor = Acceptor::default();
    let mut rest = read;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => return Verdict::No,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                seen.tls = true;
                seen.server_name = hello.server_name().map(str::to_ascii_lowercase);
                if let Some(alpn) = hello.alpn() {
                    seen.application_protocols = alpn.map(|p| String::from_utf8_lossy(p).into_owned()).collect();
                }
                return Verdict::Yes;
            }
            Err(_) => return Verdict::No,
        }
    }
    Verdict::More
}

fn look_for_http(read: &[u8], seen: &mut Inspected) -> Verdict {
    let common = read.len().min(PREFACE.len());
    if read.get(..common) == PREFACE.get(..common) {
        if common < PREFACE.len() {
            return Verdict::More;
        }
        seen.application_protocols = vec!["h2c".to_owned()];
        return Verdict::Yes;
    }
    let Some(end) = memchr::memchr(b'\n', read) else {
        return if read.len() > MAX_LINE { Verdict::No } else { Verdict::More };
    };
    let line = read.get(..end).unwrap_or_default().trim_ascii_end();
    let protocol = if line.ends_with(b" HTTP/1.1") {
        "http/1.1"
    } else if line.ends_with(b" HTTP/1.0") {
        "http/1.0"
    } else {
        return Verdict::No;
    };
    seen.application_protocols = vec![protocol.to_owned()];
    Verdict::Yes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_tells_its_version() {
        let found = |read: &[u8]| {
            let mut seen = Inspected::default();
            (look_for_http(read, &mut seen), seen.application_protocols.join(","))
        };
        assert_eq!(found(b"GET / HTTP/1.1\r\nhost"), (Verdict::Yes, "http/1.1".into()));
        assert_eq!(found(b"GET / HTTP/1.0\r\n"), (Verdict::Yes, "http/1.0".into()));
        assert_eq!(found(b"GET / HT"), (Verdict::More, String::new()));
        assert_eq!(found(b"PRI * HTTP/2"), (Verdict::More, String::new()));
        assert_eq!(found(b"PRI * HTTP/2.0\r\n\r\nSM"), (Verdict::Yes, "h2c".into()));
        assert_eq!(found(b"SSH-2.0-x\r\n"), (Verdict::No, String::new()));
    }

    #[test]
    fn what_is_not_a_hello_is_plain_and_a_part_of_one_is_waited_for() {
        let mut seen = Inspected::default();
        assert_eq!(look_for_hello(b"", &mut seen), Verdict::More);
        assert_eq!(look_for_hello(b"GET /", &mut seen), Verdict::No);
        assert_eq!(look_for_hello(&[0x16, 3, 1, 1, 0], &mut seen), Verdict::More);
        assert_eq!(look_for_hello(&[0x16, 3, 1, 0, 4, 9, 9, 9, 9], &mut seen), Verdict::No);
        assert!(!seen.tls);
    }
}
