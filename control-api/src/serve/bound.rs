//! What requests may take that no service bounds itself.
//!
//! One that is longer than a message may be the transport refuses with a text that says neither what to do nor that nothing
//! was done; the length stands before the message, so somebody else can say it first. One that never ends would be under
//! way for ever, and so would watches of the health, as many as somebody opens. Those that wait for the thread that writes
//! are in memory whole, each as large as a message.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use bytes::Bytes;
use http_body::Frame;
use outrigger_proto::outrigger::control::v1::control_server::SERVICE_NAME;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::service::Routes;

use super::LARGEST_MESSAGE;
use super::idle::With;

/// Before a message in a body: whether it is compressed, and its length in four bytes.
const PREFIX: usize = 5;
/// How long a request may take to come, but for streams of xDS.
const RECEIVE: Duration = Duration::from_secs(60);
/// The bytes of the requests to the control API that are under way: a few sets of the largest size.
const UNDER_WAY: u32 = 256 << 20;
/// The longest message of the methods of the control API that take no set: it has its room until the response ends, that of
/// a watch perhaps never.
const LARGEST_OTHER: usize = 64 << 10;
/// Watches of the health at a time.
const HEALTH_WATCHES: usize = 1000;

/// Bounds the requests to `routes`.
pub(super) fn bound(routes: Routes) -> Routes {
    bound_by(routes, UNDER_WAY)
}

fn bound_by(routes: Routes, under_way: u32) -> Routes {
    let all = Arc::new(Semaphore::new(under_way as usize));
    let watches = Arc::new(Semaphore::new(HEALTH_WATCHES));
    let look = from_fn(move |request: Request, next: Next| {
        let watches = Arc::clone(&watches);
        let room = Room { most: under_way, all: Arc::clone(&all), taken: Arc::default() };
        async move {
            let mut path = request.uri().path().split('/').skip(1);
            let (service, method) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
            // Each is one message, and is there until it is answered.
            let most = if matches!(method, "Apply" | "Delete") { LARGEST_MESSAGE } else { LARGEST_OTHER };
            let message = (service == SERVICE_NAME).then(|| Message {
                most,
                received: 0,
                prefix: Vec::new(),
                room: room.clone(),
            });
            let is_health_watch = service == "grpc.health.v1.Health" && method == "Watch";
            // They have bounds of their own.
            let is_xds_stream = service.starts_with("envoy.service.") && !method.starts_with("Fetch");
            let request = match is_xds_stream {
                true => request,
                false => {
                    let end = Box::pin(tokio::time::sleep(RECEIVE));
                    request.map(|body| Body::new(Bounded { body, message, end }))
                }
            };
            if !is_health_watch {
                return next.run(request).await.map(|body| Body::new(With { body, kept: room }));
            }
            let Ok(kept) = watches.try_acquire_owned() else {
                let reason = format!("{HEALTH_WATCHES} health watches are open, and no more are allowed: use Check");
                return Status::resource_exhausted(reason).into_http();
            };
            next.run(request).await.map(|body| Body::new(With { body, kept }))
        }
    });
    Routes::from(routes.into_axum_router().layer(look))
}

/// The body of a request.
struct Bounded {
    body: Body,
    /// What is looked at, of one to the control API.
    message: Option<Message>,
    /// By when it has to be there.
    end: Pin<Box<Sleep>>,
}

/// The one message of a request.
struct Message {
    /// The bytes that it may have.
    most: usize,
    /// The bytes that came.
    received: usize,
    /// Its first bytes.
    prefix: Vec<u8>,
    room: Room,
}

/// What a request takes of what all have.
#[derive(Clone)]
struct Room {
    most: u32,
    all: Arc<Semaphore>,
    taken: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Room {
    /// Takes so many more bytes, if there are so many.
    fn take(&self, bytes: usize) -> bool {
        let Ok(bytes) = u32::try_from(bytes) else { return false };
        let Ok(more) = Arc::clone(&self.all).try_acquire_many_owned(bytes) else { return false };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *taken {
            Some(taken) => taken.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

impl Message {
    /// Looks at what came. An error ends the request with its status.
    fn look(&mut self, data: &Bytes) -> Result<(), Status> {
        if !self.room.take(data.len()) {
            return Err(Status::resource_exhausted(format!(
                "nothing was done: the requests that are under way take {} bytes together, and there is no room for this one: send \
                 it again",
                self.room.most
            )));
        }
        self.received = self.received.saturating_add(data.len());
        let prefix = &mut self.prefix;
        let missing = PREFIX.saturating_sub(prefix.len());
        prefix.extend(data.iter().take(missing));
        let [_, length @ ..] = prefix.as_slice() else { return Ok(()) };
        let Ok(length) = length.try_into().map(u32::from_be_bytes) else { return Ok(()) };
        // What comes behind the message takes room, too.
        let (bytes, most) = ((length as usize).max(self.received.saturating_sub(PREFIX)), self.most);
        if bytes <= most {
            return Ok(());
        }
        let hint = match most {
            LARGEST_MESSAGE => "split the set and send it in parts, Services first",
            _ => "only Apply and Delete take more",
        };
        Err(Status::resource_exhausted(format!(
            "nothing was done: the request takes {bytes} bytes, and a message has {most} at most: {hint}"
        )))
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            ready!(this.end.as_mut().poll(context));
            let late = format!("nothing was done: the request did not come to its end in {RECEIVE:?}");
            return Poll::Ready(Some(Err(axum::Error::new(Status::deadline_exceeded(late)))));
        };
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref())
            && let Some(message) = &mut this.message
            && let Err(status) = message.look(data)
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
    use tokio_stream::{Stream, StreamExt};
    use tonic::Code;
    use tonic::codegen::Service as _;

    use super::*;
    use crate::api::{Api, Writer};
    use crate::store::Store;

    /// What `Apply` answers to such a body.
    async fn answer(body: Body) -> Status {
        apply(&mut router(&tempfile::tempdir().unwrap(), UNDER_WAY), body).await
    }

    async fn apply(router: &mut axum::Router, body: Body) -> Status {
        let response = router.call(request(&format!("/{SERVICE_NAME}/Apply"), body)).await.unwrap();
        Status::from_header_map(response.headers()).unwrap()
    }

    fn router(directory: &tempfile::TempDir, under_way: u32) -> axum::Router {
        let (store, records) = Store::open(directory.path(), 10).unwrap();
        let log = store.log();
        let (writer, in_force, _failure) = Writer::start(store, records).unwrap();
        let server = ControlServer::new(Api::new(writer, in_force, log, Arc::default()));
        bound_by(Routes::new(server.max_decoding_message_size(LARGEST_MESSAGE)), under_way).into_axum_router()
    }

    fn request(path: &str, body: Body) -> Request {
        http::Request::post(path).header("content-type", "application/grpc").body(body).unwrap()
    }

    fn pieces(pieces: &'static [&'static [u8]]) -> impl Stream<Item = std::io::Result<Bytes>> {
        tokio_stream::iter(pieces).map(|piece| Ok(Bytes::from_static(piece)))
    }

    #[tokio::test]
    async fn a_request_that_is_too_long_is_refused_with_the_bound_and_what_to_do() {
        /// 64 MB and a byte.
        const WHOLE: &[&[u8]] = &[&[0, 4, 0, 0, 1, 7]];
        const IN_PIECES: &[&[u8]] = &[&[0, 4], &[0, 0], &[1, 7]];
        for long in [WHOLE, IN_PIECES] {
            let status = answer(Body::from_stream(pieces(long))).await;
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            let expected = "the request takes 67108865 bytes, and a message has 67108864 at most: split the set";
            assert!(status.message().contains(expected), "{status}");
        }
        // One that is not, and of which the rest does not come.
        let status = answer(Body::from_stream(pieces(&[&[0, 4, 0, 0, 0, 7], &[0xff; 5]]))).await;
        assert_ne!(status.code(), Code::ResourceExhausted, "{status}");
    }

    #[tokio::test]
    async fn a_request_that_may_last_is_short() {
        let directory = tempfile::tempdir().unwrap();
        let mut router = router(&directory, UNDER_WAY);
        /// 64 KiB and a byte, and an empty message with so much behind it.
        const LONG: [&[&[u8]]; 2] = [&[&[0, 0, 1, 0, 1, 7]], &[&[0; 5], &[0; LARGEST_OTHER + 1]]];
        for long in LONG {
            let body = Body::from_stream(pieces(long).chain(tokio_stream::pending()));
            let response = router.call(request(&format!("/{SERVICE_NAME}/Watch"), body)).await.unwrap();
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            let expected = "the request takes 65537 bytes, and a message has 65536 at most: only Apply and Delete";
            assert!(status.message().contains(expected), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_answered_in_time() {
        let began = tokio::time::Instant::now();
        /// A part of a message, and a whole one.
        const BEGINNINGS: [&[&[u8]]; 3] = [&[], &[&[0, 0, 0, 0, 9, 1]], &[&[0; 5]]];
        for begins in BEGINNINGS {
            let status = answer(Body::from_stream(pieces(begins).chain(tokio_stream::pending()))).await;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
            assert!(status.message().starts_with("nothing was done: "), "{status}");
        }
        assert_eq!(began.elapsed(), 3 * RECEIVE);
    }

    #[tokio::test]
    async fn requests_under_way_have_a_bounded_room_together() {
        /// The beginning of a message of 60 bytes, and a whole one that is wrong.
        const BEGINNING: &[&[u8]] = &[&[0, 0, 0, 0, 60], &[0; 50]];
        const WRONG: &[&[u8]] = &[&[0, 0, 0, 0, 50], &[0xff; 50]];
        let directory = tempfile::tempdir().unwrap();
        let mut router = router(&directory, 100);
        let first = request(
            &format!("/{SERVICE_NAME}/Apply"),
            Body::from_stream(pieces(BEGINNING).chain(tokio_stream::pending())),
        );
        let mut first = Box::pin(router.call(first));
        // It takes what there is, and waits for the rest.
        assert!(settled(&mut first).await.is_none());
        let refused = apply(&mut router, Body::from_stream(pieces(WRONG))).await;
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(
            refused.message().contains("nothing was done: ") && refused.message().ends_with("send it again"),
            "{refused}"
        );
        drop(first);
        // There is room again, for one after the other.
        for _ in 0..3 {
            let refused = apply(&mut router, Body::from_stream(pieces(WRONG))).await;
            assert_ne!(refused.code(), Code::ResourceExhausted, "{refused}");
        }
    }

    /// What a future has when nothing moves it any more.
    async fn settled<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        for _ in 0..100 {
            if let Poll::Ready(output) =
                std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
            {
                return Some(output);
            }
            tokio::task::yield_now().await;
        }
        None
    }

    #[tokio::test]
    async fn a_health_watch_beyond_the_bound_is_refused_until_another_ends() {
        let (_reporter, health) = tonic_health::server::health_reporter();
        let mut router = bound(Routes::new(health)).into_axum_router();
        let mut watch = async || {
            let response = router.call(request("/grpc.health.v1.Health/Watch", Body::from(vec![0; 5]))).await.unwrap();
            match Status::from_header_map(response.headers()) {
                Some(status) => Err(status),
                None => Ok(response),
            }
        };
        let mut open = Vec::new();
        let refused = loop {
            match watch().await {
                Ok(response) => open.push(response),
                Err(refused) => break refused,
            }
        };
        assert_eq!((open.len(), refused.code()), (HEALTH_WATCHES, Code::ResourceExhausted), "{refused}");
        open.pop();
        watch().await.unwrap();
    }
}
