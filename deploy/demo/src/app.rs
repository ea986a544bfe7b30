//! The shop: three small services, of which each process of this program is one instance of one. They know nothing of
//! the mesh: `orders` calls the other two at addresses that it is given.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::Client;

/// Which instance answered.
pub(crate) const INSTANCE: HeaderName = HeaderName::from_static("x-shop-instance");
/// Which version answered.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-shop-version");
/// What a service called for this answer: one [`Call`] each.
pub(crate) const CALL: HeaderName = HeaderName::from_static("x-shop-call");

/// An instance of the shop.
#[derive(Clone, Debug, Parser)]
#[command(name = "app")]
struct Args {
    #[arg(long)]
    service: Service,
    #[arg(long, default_value = "v1")]
    version: String,
    #[arg(long)]
    instance: String,
    #[arg(long)]
    listen: SocketAddr,
    /// Where `orders` finds users.
    #[arg(long, default_value = "http://users")]
    users: String,
    /// Where `orders` finds products.
    #[arg(long, default_value = "http://products")]
    products: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Service {
    Orders,
    Users,
    Products,
}

/// What an instance does wrong.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Fault {
    /// It answers everything with this status; 0: as it should.
    #[serde(default)]
    pub(crate) status: u16,
    /// It takes so long, in milliseconds.
    #[serde(default)]
    pub(crate) delay: u64,
}

struct Shop {
    args: Args,
    client: Client,
    status: AtomicU16,
    delay: AtomicU64,
}

/// A call of one service by another, as the caller saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The service that was called.
    pub(crate) service: String,
    /// The version that answered; `-` if none did.
    pub(crate) version: String,
    /// The instance that answered; `-` if none did.
    pub(crate) instance: String,
    pub(crate) status: u16,
    pub(crate) micros: u64,
    /// The sidecar answered in place of the service, because a limit was reached.
    pub(crate) shed: bool,
}

impl Call {
    /// As it stands in a header.
    pub(crate) fn write(&self) -> String {
        let Self { service, version, instance, status, micros, shed } = self;
        format!("{service} {version} {instance} {status} {micros} {}", u8::from(*shed))
    }

    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut word = || words.next().map(ToOwned::to_owned);
        Some(Self {
            service: word()?,
            version: word()?,
            instance: word()?,
            status: word()?.parse().ok()?,
            micros: word()?.parse().ok()?,
            shed: word()? == "1",
        })
    }
}

/// Runs one instance until it is killed. The first argument is the program's name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            _ = error.print();
            return ExitCode::from(2);
        }
    };
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(serve(args)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody reads it, the exit code says enough.
            _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(args.listen).await?;
    let routes = match args.service {
        Service::Orders => Router::new().route("/orders/{id}", get(order)),
        Service::Users => Router::new().route("/users/{id}", get(user)),
        Service::Products => Router::new().route("/products/{id}", get(product)),
    };
    let shop = Shop { args, client: Client::new(), status: AtomicU16::new(0), delay: AtomicU64::new(0) };
    let routes = routes.route("/healthz", get(|| async { "ok" })).route("/fault", post(fault));
    axum::serve(listener, routes.with_state(Arc::new(shop))).await
}

async fn fault(State(shop): State<Arc<Shop>>, Json(fault): Json<Fault>) -> Json<Fault> {
    shop.status.store(fault.status, Ordering::Relaxed);
    shop.delay.store(fault.delay, Ordering::Relaxed);
    Json(fault)
}

async fn user(State(shop): State<Arc<Shop>>, Path(id): Path<u64>) -> Response {
    let names = ["Ada", "Grace", "Edsger", "Barbara", "Tony"];
    let name = usize::try_from(id).ok().and_then(|id| names.get(id % names.len()));
    shop.answer(json!({"id": id, "name": name})).await
}

async fn product(State(shop): State<Arc<Shop>>, Path(id): Path<u64>) -> Response {
    let mut product = json!({"id": id, "name": format!("Canoe {id}")});
    // What is new in v2.
    if shop.args.version != "v1" {
        product["stock"] = (id % 7).into();
    }
    shop.answer(product).await
}

async fn order(State(shop): State<Arc<Shop>>, Path(id): Path<u64>) -> Response {
    let user = format!("{}/users/{id}", shop.args.users);
    let product = format!("{}/products/{id}", shop.args.products);
    let ((user, first), (product, second)) = tokio::join!(shop.call("users", &user), shop.call("products", &product));
    let (status, body) = match (user, product) {
        (Ok(user), Ok(product)) => (StatusCode::OK, json!({"id": id, "user": user, "product": product})),
        (user, product) => {
            let reasons: Vec<String> = [user.err(), product.err()].into_iter().flatten().collect();
            (StatusCode::BAD_GATEWAY, json!({"id": id, "errors": reasons}))
        }
    };
    let mut response = (status, Json(body)).into_response();
    for call in [first, second] {
        if let Ok(value) = HeaderValue::from_str(&call.write()) {
            response.headers_mut().append(CALL, value);
        }
    }
    shop.sign(response)
}

impl Shop {
    /// The answer of a service that calls nobody, or what is wrong with it today.
    async fn answer(&self, body: Value) -> Response {
        let delay = self.delay.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let response = match StatusCode::from_u16(self.status.load(Ordering::Relaxed)) {
            Ok(status) => (status, Json(json!({"error": "this instance fails"}))).into_response(),
            Err(_) => Json(body).into_response(),
        };
        self.sign(response)
    }

    fn sign(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        for (name, value) in [(INSTANCE, &self.args.instance), (VERSION, &self.args.version)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        response
    }

    async fn call(&self, service: &str, url: &str) -> (Result<Value, String>, Call) {
        let began = Instant::now();
        let answer = self.client.get(url).await;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let none = HeaderMap::new();
        let (status, headers) = match &answer {
            Ok(answer) => (answer.status.as_u16(), &answer.headers),
            Err(_) => (0, &none),
        };
        let word = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let call = Call {
            service: service.to_owned(),
            version: word(VERSION),
            instance: word(INSTANCE),
            status,
            micros,
            shed: headers.contains_key("x-envoy-overloaded"),
        };
        let body = answer.and_then(|answer| {
            if answer.status.is_success() {
                serde_json::from_slice(&answer.body).map_err(|error| format!("{service}: {error}"))
            } else {
                let text = String::from_utf8_lossy(&answer.body);
                Err(format!("{service}: {} {}", answer.status.as_u16(), text.trim()))
            }
        });
        (body, call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let call = Call {
            service: "products".to_owned(),
            version: "v2".to_owned(),
            instance: "products-v2-1".to_owned(),
            status: 200,
            micros: 1234,
            shed: true,
        };
        assert_eq!(Call::read(&call.write()), Some(call));
        assert_eq!(Call::read("products v2 products-v2-1 200"), None);
        assert_eq!(Call::read("products v2 products-v2-1 many 1 0"), None);
    }
}
