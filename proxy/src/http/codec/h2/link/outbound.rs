//! What the crate writes, on its way out: a frame by which it ends a malformed message tells us so, and goes no further
//! where Envoy says nothing.

use super::*;

impl Link {
    /// How many of `bytes` may be written: up to the frame with which the crate would end a malformed message.
    pub(in crate::http::codec::h2) fn outbound(&self, transport: &mut Transport, bytes: &[u8]) -> usize {
        let mut scanner = transport.outbound;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let start = scanner.boundary();
            let (taken, frame) = scanner.next(rest);
            if let (Some(start), Some(frame)) = (start, frame) {
                if self.client && frame.kind == GOAWAY {
                    // To an upstream we just close, as Envoy does.
                    transport.silent = true;
                    return at.saturating_add(start);
                }
                if frame.kind == RST_STREAM && frame.reset_code() == FLOW_CONTROL_ERROR && !self.client {
                    // The stream hears of it (RFC 9113, section 6.9.1).
                    self.later.set(Some(Fault::BAD_WINDOW));
                    return at.saturating_add(taken);
                }
                match (self.judge(transport, &frame), transport.policy) {
                    (Judgement::Fine, _) | (Judgement::Doubtful, Policy::EndStream) => {}
                    (Judgement::Malformed(details), Policy::EndStream) => self.malformed.set(Some(details)),
                    (Judgement::Malformed(details), Policy::EndConnection) => {
                        self.violation.set(Some(details));
                        transport.silent = true;
                        return at.saturating_add(start);
                    }
                    (Judgement::Doubtful, Policy::EndConnection) => {
                        self.doubtful.set(Some(frame.stream));
                        return at.saturating_add(start);
                    }
                }
            }
            at = at.saturating_add(taken);
        }
        bytes.len()
    }

    /// What the crate ends with this frame, a message or its body. A body that does not fit its `content-length` ends
    /// its stream only, but the crate takes in many frames before it writes: after HEADERS and DATA the reset can be
    /// for either.
    fn judge(&self, transport: &Transport, frame: &FrameHead) -> Judgement {
        let (last_kind, last_stream) = transport.last_message;
        match frame.kind {
            RST_STREAM if frame.reset_code() == PROTOCOL_ERROR => {
                let deprecated = transport.last_kind == Some(PRIORITY);
                if deprecated || self.own_resets.borrow().contains(&frame.stream) {
                    Judgement::Fine
                } else if last_kind != DATA || last_stream != frame.stream {
                    Judgement::Malformed(self.fault(frame.stream))
                } else if frame.stream <= self.accepted.get() {
                    Judgement::Fine
                } else {
                    Judgement::Doubtful
                }
            }
            // An id that no new stream can have is the connection's fault, as is a block that is none.
            GOAWAY
                if frame.goaway().1 == PROTOCOL_ERROR
                    && matches!(transport.last_kind, Some(HEADERS | CONTINUATION))
                    && last_stream > self.accepted.get()
                    && last_stream % 2 == 1
                    && transport.opened == last_stream
                    && self.code(transport).is_none()
                    && !self.own_goaway.get() =>
            {
                Judgement::Malformed(BAD_FIELD)
            }
            _ => Judgement::Fine,
        }
    }

    /// The code with which the connection ends, where it is not the crate's.
    fn code(&self, transport: &Transport) -> Option<u32> {
        let lost = transport.blocks.as_ref().is_some_and(|blocks| blocks.is_lost());
        if lost { Some(COMPRESSION_ERROR) } else { transport.code }
    }

    /// `bytes` with the code that we know to be right in the GOAWAY that they hold, if there is such a code.
    pub(in crate::http::codec::h2) fn corrected(&self, transport: &Transport, bytes: &[u8]) -> Option<Vec<u8>> {
        let code = self.code(transport)?;
        let mut scanner = transport.outbound;
        let mut at = 0;
        let mut corrected = None;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (taken, frame) = scanner.next(rest);
            at = at.saturating_add(taken);
            if frame.is_some_and(|frame| frame.kind == GOAWAY && frame.goaway().1 == PROTOCOL_ERROR) {
                let bytes = corrected.get_or_insert_with(|| bytes.to_vec());
                if let Some(place) = at.checked_sub(4).and_then(|from| bytes.get_mut(from..at)) {
                    place.copy_from_slice(&code.to_be_bytes());
                }
            }
        }
        corrected
    }

    pub(in crate::http::codec::h2) fn written(&self, transport: &mut Transport, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, frame) = transport.outbound.next(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            match frame {
                Some(FrameHead { kind: DATA, .. }) => {
                    transport.floods.data_sent = transport.floods.data_sent.saturating_add(1);
                }
                Some(FrameHead { kind: HEADERS, stream, .. }) => {
                    self.last_headers_sent.set(self.last_headers_sent.get().max(stream));
                    self.interim.written(stream);
                }
                Some(frame @ FrameHead { kind: RST_STREAM, stream, .. }) => {
                    if frame.reset_code() == REFUSED_STREAM {
                        self.refused.set(self.refused.get().saturating_add(1));
                    }
                    let mut own = self.own_resets.borrow_mut();
                    if !own.is_empty() {
                        own.retain(|id| *id != stream);
                    }
                    self.forget(stream);
                }
                _ => {}
            }
        }
    }
}

/// What a frame that the crate sends says of what the peer has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Fine,
    /// A malformed head or trailers, in Envoy's words.
    Malformed(&'static str),
    /// A malformed head, or a body that does not fit it.
    Doubtful,
}
