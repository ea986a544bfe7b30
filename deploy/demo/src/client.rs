//! An HTTP/1 client that keeps its connections, as any application has one.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// How long a request may take: far more than any here does, so that a mesh which hangs is seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A pool of connections. A clone uses the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Client(hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>);

impl Client {
    pub(crate) fn new() -> Self {
        let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(30));
        Self(builder.build_http())
    }

    /// # Errors
    /// Why there is no whole response, for people.
    pub(crate) async fn get(&self, url: &str) -> Result<Answer, String> {
        self.send(Method::GET, url, "").await
    }

    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn post(&self, url: &str, json: &str) -> Result<Answer, String> {
        self.send(Method::POST, url, json).await
    }

    async fn send(&self, method: Method, url: &str, json: &str) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(url);
        if !json.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::copy_from_slice(json.as_bytes()));
        let request = request.body(body).map_err(|error| error.to_string())?;
        let exchange = async {
            let (head, body) = self.0.request(request).await.map_err(chain)?.into_parts();
            let body = body.collect().await.map_err(chain)?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        let late = |_| Err(format!("no answer within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(late)
    }
}

/// An error with its causes.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
