//! The formats of access logs and header values: every text is parsed or refused, and what was parsed can be written.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use outrigger_engine::format::{Format, FormatContext};
use outrigger_engine::message::Protocol;
use outrigger_engine::stream_info::{Address, ConnectionInfo, StreamInfo};

fuzz_target!(|text: &str| {
    let Ok(format) = Format::parse(text) else { return };
    let connection = ConnectionInfo {
        id: 1,
        local_address: Address::Pipe("local".into()),
        direct_remote_address: Address::Pipe("remote".into()),
        requested_server_name: Some("server.test".into()),
        alpn: None,
        tls: None,
    };
    let info = StreamInfo::new(SystemTime::UNIX_EPOCH, Arc::new(connection), Some(Protocol::Http11));
    let mut line = Vec::new();
    format.write(&mut line, &FormatContext::new(&info, Duration::from_millis(7)));
    format.write_omitting_empty(&mut line, &FormatContext::new(&info, Duration::ZERO));
});
