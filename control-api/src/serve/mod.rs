//! `outrigger serve`: one process that holds the store, compiles, and serves people by the control API and proxies by
//! xDS.

mod bound;
mod descriptors;
mod idle;
mod listen;
mod metrics;
mod pages;
mod secure;
mod unread;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use outrigger_proto::outrigger::control::v1::control_server::ControlServer;
use rustls::ServerConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

pub(crate) use self::idle::{Idle, Requests};
pub(crate) use self::listen::Accepted;
pub use self::listen::Address;
use self::listen::bind;
use self::pages::Pages;
pub use self::secure::SecureArgs;
pub use self::unread::Unread;
#[cfg(test)]
pub(crate) use self::unread::watch_over;
use crate::api::{Api, InForce, Writer};
use crate::log::{self, Level};
use crate::store::{LOG_ENTRIES, Store, StoreError};
use crate::tls::ServerFiles;
use crate::xds::{Limits, Views};

/// The largest message that is taken, in bytes: a mesh's whole policy may be applied at once.
pub(crate) const LARGEST_MESSAGE: usize = 64 << 20;

/// How long connections have to end when the process is told to.
const GRACE: Duration = Duration::from_secs(5);

/// Flags of the server.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The directory of the store; made if it is missing. One process at a time has it.
    #[arg(long, value_name = "DIR", default_value = "outrigger-data")]
    pub data: PathBuf,
    /// Where gRPC is served, the control API and xDS alike: HOST:PORT, or unix:PATH for a socket file.
    #[arg(long, value_name = "ADDR", default_value = crate::DEFAULT_SERVER)]
    pub listen: Address,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub secure: SecureArgs,
    /// How many xDS streams may be open, 1 or more; further ones end with RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "N", default_value_t = Limits::default().streams, value_parser = at_least_one::<usize>)]
    pub xds_max_streams: usize,
    /// How many resources one xDS stream may name, 1 or more; with more it ends with RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "N", default_value_t = Limits::default().names, value_parser = at_least_one::<usize>)]
    pub xds_max_names: usize,
    /// Where /healthz, /readyz and /metrics are served: HOST:PORT.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15014")]
    pub http: String,
    /// How many changes the log holds, 1 or more and of 64 MB together, for watches that come back after a break.
    #[arg(long, value_name = "N", default_value_t = LOG_ENTRIES, value_parser = at_least_one::<u64>)]
    pub log_entries: u64,
    /// What is logged, on standard error.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Info)]
    pub log_level: Level,
}

/// A bound that leaves room for something.
fn at_least_one<N: FromStr + PartialOrd + From<u8>>(text: &str) -> Result<N, String> {
    text.parse().ok().filter(|number| *number >= N::from(1)).ok_or_else(|| "must be a number, 1 or more".to_owned())
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// What prevents the start or ended it, with what to do.
pub fn serve(args: ServeArgs) -> Result<ExitCode, String> {
    log::init(args.log_level);
    descriptors::raise_limit();
    let files = args.secure.files(&args.listen)?;
    let (store, records) = Store::open(&args.data, args.log_entries).map_err(|error| error.to_string())?;
    // Where the process was started is seen nowhere else.
    let directory = std::path::absolute(&args.data).unwrap_or_else(|_| args.data.clone());
    if store.revision() == 0 {
        tracing::warn!(
            "nothing was ever applied to the store in {}; if proxies have resources already, it is the wrong one",
            directory.display()
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("no threads: {error}"))?;
    let log = store.log();
    let (writer, in_force, failure) = Writer::start(store, records)?;
    let result = runtime.block_on(async {
        survive_large_files()?;
        let (publish, views) = watch::channel::<Arc<dyn Views>>(in_force.borrow().clone());
        let limits = Limits { streams: args.xds_max_streams, names: args.xds_max_names };
        let xds = crate::xds::Server::new(views, limits);
        let api = Api::new(writer, in_force.clone(), log, xds.proxies());
        let tls = files.as_ref().map(ServerFiles::config);
        let renew = async {
            match files {
                Some(files) => files.follow().await,
                None => std::future::pending().await,
            }
        };
        let stop = async {
            tokio::select! {
                stopped = stopped(&api.writer) => stopped,
                () = hand_over(in_force, publish) => std::future::pending().await,
                () = renew => std::future::pending().await,
            }
        };
        run(&args, &directory, tls, &xds, api.clone(), stop, failure).await
    });
    runtime.shutdown_background();
    result
}

/// Every new set's views go to the xDS server. Ends when nothing writes any more; then `publish` is dropped, and the
/// streams end.
async fn hand_over(mut in_force: watch::Receiver<Arc<InForce>>, publish: watch::Sender<Arc<dyn Views>>) {
    while in_force.changed().await.is_ok() {
        let views = in_force.borrow_and_update().clone();
        publish.send_replace(views);
    }
}

/// Waits for a signal, and then tells the writer to stop: that ends watches and xDS streams.
async fn stopped(writer: &Writer) -> Result<(), String> {
    let on = |kind| signal(kind).map_err(|error| format!("no signals: {error}"));
    let (mut term, mut int): (Signal, Signal) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping");
    writer.stop().await;
    Ok(())
}

/// A file that grows beyond what the process may write fails that write, and does not end the process.
fn survive_large_files() -> Result<(), String> {
    // What handles a signal stays installed.
    signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop).map_err(|error| format!("no signals: {error}"))
}

async fn run(
    args: &ServeArgs,
    directory: &Path,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    xds: &crate::xds::Server,
    api: Api,
    stop: impl Future<Output = Result<(), String>>,
    failure: oneshot::Receiver<StoreError>,
) -> Result<ExitCode, String> {
    let how = tls.as_ref().map_or("gRPC", |_| "gRPC over TLS");
    let (accepted, address) = bind(&args.listen, &args.secure, tls).await?;
    let http = listen::tcp(&args.http)
        .await
        .map_err(|error| format!("--http {}: {error}: choose another address", args.http))?;
    let http_address = http.local_addr().map_or_else(|_| args.http.clone(), |address| address.to_string());
    let set = Arc::clone(&api.in_force.borrow());
    tracing::info!(
        "{how} on {address}, HTTP on {http_address}; revision {} with {} objects in {}",
        set.revision,
        set.objects.len(),
        directory.display()
    );
    drop(set);

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ControlServer<Api>>().await;
    let mut routes = Routes::builder();
    xds.add_to(&mut routes);
    routes
        .add_service(
            ControlServer::new(api.clone())
                .max_decoding_message_size(LARGEST_MESSAGE)
                .max_encoding_message_size(LARGEST_MESSAGE),
        )
        .add_service(health_service);
    add_reflection(&mut routes)?;
    let (ended, end) = watch::channel(false);
    let ending = |mut end: watch::Receiver<bool>| async move {
        // An error says that the sender is gone, which is an end too.
        _ = end.wait_for(|ended| *ended).await;
    };
    let grpc = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_routes(idle::note_requests(unread::watch_over(bound::bound(routes.routes()), Arc::clone(&api.unread))))
        .serve_with_incoming_shutdown(accepted, ending(end.clone()));
    let pages = Pages { api, stopping: end.clone() };
    let pages = tonic::transport::Server::builder()
        .accept_http1(true)
        .add_routes(idle::note_requests(Routes::from(pages.router())))
        .serve_with_incoming_shutdown(Accepted::tcp(http, Idle::bounded()), ending(end));
    let (mut grpc, mut pages) = (std::pin::pin!(grpc), std::pin::pin!(pages));
    let failed = async {
        match failure.await {
            Ok(error) => error,
            // The thread ended because it was told to.
            Err(_) => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        stopped = stop => stopped,
        error = failed => Err(format!("the store failed, and no acknowledged write is lost: {error}")),
        ended = &mut grpc => Err(format!("gRPC on {address} ended: {ended:?}")),
        ended = &mut pages => Err(format!("HTTP on {http_address} ended: {ended:?}")),
    };
    result?;
    stop_serving(&health).await;
    ended.send_replace(true);
    // What has not ended by then is cut.
    _ = tokio::time::timeout(GRACE, async { tokio::join!(grpc, pages) }).await;
    args.listen.clean_up();
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

async fn stop_serving(health: &HealthReporter) {
    health.set_not_serving::<ControlServer<Api>>().await;
}

/// The services that reflection lists: the descriptors name more, those that only proxies call.
const SERVICES: [&str; 9] = [
    "outrigger.control.v1.Control",
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.cluster.v3.ClusterDiscoveryService",
    "envoy.service.endpoint.v3.EndpointDiscoveryService",
    "envoy.service.listener.v3.ListenerDiscoveryService",
    "envoy.service.route.v3.RouteDiscoveryService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Both versions: older tools ask for the alpha one only.
fn add_reflection(routes: &mut tonic::service::RoutesBuilder) -> Result<(), String> {
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(outrigger_proto::CONTROL_DESCRIPTORS)
            .register_encoded_file_descriptor_set(outrigger_proto::DESCRIPTORS)
            // The details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
        SERVICES.into_iter().fold(builder, tonic_reflection::server::Builder::with_service_name)
    };
    let wrong = |error| format!("the built-in descriptors cannot be served: {error}");
    routes.add_service(builder().build_v1().map_err(wrong)?).add_service(builder().build_v1alpha().map_err(wrong)?);
    Ok(())
}
