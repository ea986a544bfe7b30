//! A server of xDS in the test's own process, which sends what it is given.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_control::xds::{Limits, Proxies, Server, Views};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;

/// A server on a runtime of its own. Dropping it ends all streams and closes its port.
pub struct Management {
    views: watch::Sender<Arc<dyn Views>>,
    /// Who is connected.
    pub proxies: Arc<Proxies>,
    /// Where it listens.
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl Management {
    /// Port 0 is a free one.
    pub fn start(port: u16, views: Arc<dyn Views>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (views, receiver) = watch::channel(views);
        let server = Server::new(receiver, Limits::default());
        let mut routes = Routes::builder();
        server.add_to(&mut routes);
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port))).unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpListenerStream::new(listener);
        runtime.spawn(tonic::transport::Server::builder().add_routes(routes.routes()).serve_with_incoming(incoming));
        Self { views, proxies: server.proxies(), address, _runtime: runtime }
    }

    /// Sends this from now on.
    pub fn update(&self, views: Arc<dyn Views>) {
        self.views.send_replace(views);
    }
}
