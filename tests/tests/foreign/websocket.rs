//! Node's WebSocket client, and a server in Node, with the proxy between them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::{Proxy, Setup};

/// Says a port and sends back what it gets, text frames of less than 126 bytes.
const SERVER: &str = r#"
const { createHash } = require('node:crypto');
const server = require('node:http').createServer();
server.on('upgrade', (request, socket) => {
  const accept = createHash('sha1').update(request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11');
  socket.write('HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n' +
    `sec-websocket-accept: ${accept.digest('base64')}\r\n\r\n`);
  let pending = Buffer.alloc(0);
  socket.on('error', () => {});
  socket.on('data', (data) => {
    pending = Buffer.concat([pending, data]);
    while (pending.length >= 6 && pending.length >= 6 + (pending[1] & 127)) {
      const length = pending[1] & 127;
      const [mask, payload] = [pending.subarray(2, 6), Buffer.from(pending.subarray(6, 6 + length))];
      for (let i = 0; i < length; i++) payload[i] ^= mask[i % 4];
      socket.write(Buffer.concat([Buffer.from([pending[0], length]), payload]));
      if ((pending[0] & 15) === 8) socket.end();
      pending = pending.subarray(6 + length);
    }
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"#;

/// Sends three messages and ends well when each has come back and the server has agreed to the end.
const CLIENT: &str = r#"
const messages = ['one', 'two', 'three'];
let got = 0;
const socket = new WebSocket(`ws://127.0.0.1:${process.argv[1]}/chat`);
socket.onopen = () => messages.forEach((message) => socket.send(message));
socket.onmessage = ({ data }) => {
  if (data !== messages[got++]) { console.error(`got ${data}`); process.exit(1); }
  if (got === messages.length) socket.close(1000, 'enough');
};
socket.onclose = ({ code, wasClean }) => { console.error(`closed ${code} ${wasClean}`); process.exit(wasClean ? 0 : 1); };
socket.onerror = () => { console.error('an error'); process.exit(1); };
"#;

fn node() -> Command {
    let mut command = Command::new("node");
    command.arg("--experimental-websocket");
    command
}

#[test]
fn messages_pass_both_ways_and_the_end_is_clean() {
    let found =
        node().args(["-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        // Past the capture of the test runner: a skipped test is to be seen.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED messages_pass_both_ways: there is no node with a WebSocket client");
        return;
    }
    let mut server = node().args(["-e", SERVER]).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
    let proxy = Proxy::start(&Setup { upstream: port.trim().parse().unwrap(), ..Setup::default() });
    let output = node().args(["-e", CLIENT, &proxy.port().to_string()]).output().unwrap();
    let _ = server.kill();
    let _ = server.wait();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
