//! Requests that are longer than a message may be. The transport refuses them with a text that says neither what to do nor
//! that nothing was done; the length stands before the message, so somebody else can say it first.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use bytes::Bytes;
use http_body::Frame;
use outrigger_proto::outrigger::control::v1::control_server::SERVICE_NAME;
use tonic::Status;
use tonic::service::Routes;

use super::LARGEST_MESSAGE;

/// Before a message in a body: whether it is compressed, and its length in four bytes.
const PREFIX: usize = 5;

/// Looks at the requests of the control API, each of which is one message.
pub(super) fn bound(routes: Routes) -> Routes {
    let look = from_fn(|request: Request, next: Next| {
        let is_ours = request.uri().path().split('/').nth(1) == Some(SERVICE_NAME);
        next.run(if is_ours { request.map(|body| Body::new(Bounded { body, prefix: Vec::new() })) } else { request })
    });
    Routes::from(routes.into_axum_router().layer(look))
}

/// The body of a request.
struct Bounded {
    body: Body,
    /// Its first bytes.
    prefix: Vec<u8>,
}

impl Bounded {
    /// Looks at what came. An error ends the request with its status.
    fn look(&mut self, data: &Bytes) -> Result<(), Status> {
        let missing = PREFIX.saturating_sub(self.prefix.len());
        self.prefix.extend(data.iter().take(missing));
        let [_, length @ ..] = self.prefix.as_slice() else { return Ok(()) };
        let Ok(length) = length.try_into().map(u32::from_be_bytes) else { return Ok(()) };
        if missing == 0 || length as usize <= LARGEST_MESSAGE {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "nothing was done: the request takes {length} bytes, and a message has {LARGEST_MESSAGE} at most: split the set \
             and send it in parts, Services first"
        )))
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref())
            && let Err(status) = this.look(data)
        {
            return Poll::Ready(Some(Err(axum::Error::new(status))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_proto::outrigger::control::v1::control_server::ControlServer;
    use tokio_stream::StreamExt;
    use tonic::Code;
    use tonic::codegen::Service as _;

    use super::*;
    use crate::api::{Api, Writer};
    use crate::store::Store;

    /// What `Apply` answers to a body that begins so.
    async fn answer(pieces: &'static [&'static [u8]]) -> Status {
        let directory = tempfile::tempdir().unwrap();
        let (store, records) = Store::open(directory.path(), 10).unwrap();
        let log = store.log();
        let (writer, in_force, _failure) = Writer::start(store, records).unwrap();
        let server = ControlServer::new(Api::new(writer, in_force, log, Arc::default()));
        let mut router = bound(Routes::new(server.max_decoding_message_size(LARGEST_MESSAGE))).into_axum_router();
        let pieces = tokio_stream::iter(pieces).map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece)));
        let request = http::Request::post(format!("/{SERVICE_NAME}/Apply"))
            .header("content-type", "application/grpc")
            .body(Body::from_stream(pieces))
            .unwrap();
        let response = router.call(request).await.unwrap();
        Status::from_header_map(response.headers()).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_is_too_long_is_refused_with_the_bound_and_what_to_do() {
        /// 64 MB and a byte.
        const WHOLE: &[&[u8]] = &[&[0, 4, 0, 0, 1, 7]];
        const IN_PIECES: &[&[u8]] = &[&[0, 4], &[0, 0], &[1, 7]];
        for pieces in [WHOLE, IN_PIECES] {
            let status = answer(pieces).await;
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            let expected = "the request takes 67108865 bytes, and a message has 67108864 at most: split the set";
            assert!(status.message().contains(expected), "{status}");
        }
        // One that is not, and of which the rest does not come.
        let status = answer(&[&[0, 4, 0, 0, 0, 7], &[0xff; 5]]).await;
        assert_ne!(status.code(), Code::ResourceExhausted, "{status}");
    }
}
