//! What the connection manager does to a message before the filters and after them: hop-by-hop headers, forwarding
//! headers, the request id, path and host normalisation. Decisions only; the proxy's connection manager calls them.

pub mod names;
pub mod path;
mod request;
mod response;
mod xfcc;

pub use request::{RequestContext, RequestRejected, prepare_request};
pub use response::finish_response;
