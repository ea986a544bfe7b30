//! A lenient reader of HTTP/1 messages: it notes what stands on the wire and judges nothing, since the proxy is what is
//! under test.

use std::time::Instant;

use super::{Connection, End, Filled, Message, text};

/// How the body of a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(usize),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// Reads up to the empty line. `None`: the connection ended, or `deadline` passed, before one byte of the head came;
/// a head that is cut short comes back with a mark.
pub fn read_head(connection: &mut Connection, deadline: Instant) -> Option<Message> {
    loop {
        if let Some(end) = find(&connection.buffer, b"\r\n\r\n") {
            let head: Vec<u8> = connection.buffer.drain(..end + 4).collect();
            return Some(parse_head(&head[..end]));
        }
        let cut = match connection.fill(deadline) {
            Filled::Data => continue,
            Filled::Ended(end) => end_name(end),
            Filled::TimedOut => "silence",
        };
        if connection.buffer.is_empty() {
            return None;
        }
        let head = std::mem::take(&mut connection.buffer);
        let mut message = parse_head(&head);
        message.marks.push(format!("head cut by {cut}"));
        return Some(message);
    }
}

fn parse_head(head: &[u8]) -> Message {
    let head = text(head);
    let mut lines = head.split("\\r\\n");
    let start = lines.next().unwrap_or_default().to_owned();
    Message { start, headers: lines.map(field).collect(), ..Message::default() }
}

fn field(line: &str) -> (String, String) {
    match line.split_once(':') {
        Some((name, value)) => (name.to_owned(), value.trim_matches(' ').to_owned()),
        None => (line.to_owned(), String::new()),
    }
}

/// The framing that a request declares.
pub fn request_framing(message: &Message) -> Framing {
    declared(message).unwrap_or(Framing::None)
}

/// The framing of the response to a request with this method.
pub fn response_framing(message: &Message, head: bool) -> Framing {
    let status = message.start.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok()).unwrap_or(0);
    if head || status < 200 || status == 204 || status == 304 {
        return Framing::None;
    }
    declared(message).unwrap_or(Framing::Close)
}

fn declared(message: &Message) -> Option<Framing> {
    if message.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
        return Some(Framing::Chunked);
    }
    message.header("content-length").and_then(|value| value.parse().ok()).map(Framing::Length)
}

/// Reads the body into `message`. Answers whether it came whole; if not, a mark says what cut it.
pub fn read_body(connection: &mut Connection, message: &mut Message, framing: Framing, deadline: Instant) -> bool {
    let result = match framing {
        Framing::None => Ok(()),
        Framing::Length(length) => take(connection, length, deadline, &mut message.body),
        Framing::Chunked => read_chunks(connection, message, deadline),
        Framing::Close => loop {
            message.body.append(&mut connection.buffer);
            match connection.fill(deadline) {
                Filled::Data => {}
                Filled::Ended(End::Fin) => break Ok(()),
                Filled::Ended(end) => break Err(end_name(end).to_owned()),
                Filled::TimedOut => break Err("silence".to_owned()),
            }
        },
    };
    if let Err(cut) = &result {
        message.marks.push(format!("body cut by {cut}"));
    }
    result.is_ok()
}

fn read_chunks(connection: &mut Connection, message: &mut Message, deadline: Instant) -> Result<(), String> {
    loop {
        let line = take_line(connection, deadline)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(digits, 16) else {
            return Err(format!("the chunk line {line:?}"));
        };
        if size == 0 {
            break;
        }
        take(connection, size, deadline, &mut message.body)?;
        take_line(connection, deadline)?;
    }
    loop {
        let line = take_line(connection, deadline)?;
        if line.is_empty() {
            return Ok(());
        }
        message.trailers.push(field(&line));
    }
}

fn take_line(connection: &mut Connection, deadline: Instant) -> Result<String, String> {
    loop {
        if let Some(end) = find(&connection.buffer, b"\r\n") {
            let line: Vec<u8> = connection.buffer.drain(..end + 2).collect();
            return Ok(text(&line[..end]));
        }
        more(connection, deadline)?;
    }
}

/// Moves `length` bytes to `into`; what is there of them, if the connection ends before.
fn take(connection: &mut Connection, length: usize, deadline: Instant, into: &mut Vec<u8>) -> Result<(), String> {
    let mut missing = length;
    loop {
        let here = missing.min(connection.buffer.len());
        into.extend(connection.buffer.drain(..here));
        missing -= here;
        if missing == 0 {
            return Ok(());
        }
        more(connection, deadline)?;
    }
}

fn more(connection: &mut Connection, deadline: Instant) -> Result<(), String> {
    match connection.fill(deadline) {
        Filled::Data => Ok(()),
        Filled::Ended(end) => Err(end_name(end).to_owned()),
        Filled::TimedOut => Err("silence".to_owned()),
    }
}

/// The name of an end in a report.
pub fn end_name(end: End) -> &'static str {
    match end {
        End::Fin => "FIN",
        End::Rst => "RST",
        End::Tls => "TLS alert",
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
