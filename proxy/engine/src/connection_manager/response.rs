//! A response head, from the filters to the codec.

use http::HeaderValue;
use http::header::{DATE, SERVER, VIA};

use super::names::X_REQUEST_ID;
use crate::config::hcm::{HttpConnectionManager, ServerHeaderTransformation};
use crate::message::ResponseHead;

/// Finishes `head` for the downstream. `upgrade`: both sides agreed on one. `request_id`: what the request carried,
/// where the response shall repeat it. `date`: the current one, for responses that have none.
pub fn finish_response(
    head: &mut ResponseHead,
    hcm: &HttpConnectionManager,
    upgrade: bool,
    request_id: Option<&HeaderValue>,
    date: &HeaderValue,
) {
    if !upgrade {
        head.headers.retain(|name, _| {
            !matches!(name.as_str(), "connection" | "upgrade" | "transfer-encoding" | "keep-alive" | "proxy-connection")
        });
    }
    if let Some(id) = request_id {
        head.headers.set(X_REQUEST_ID, id.clone());
    }
    if let Some(via) = &hcm.via {
        head.headers.join(VIA, ", ", via.clone());
    }
    match hcm.server_header {
        ServerHeaderTransformation::Overwrite => head.headers.set(SERVER, hcm.server_name.clone()),
        ServerHeaderTransformation::AppendIfAbsent if !head.headers.contains(&SERVER) => {
            head.headers.append(SERVER, hcm.server_name.clone());
        }
        ServerHeaderTransformation::AppendIfAbsent | ServerHeaderTransformation::PassThrough => {}
    }
    if !head.headers.contains(&DATE) {
        head.headers.append(DATE, date.clone());
    }
}
