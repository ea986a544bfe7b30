//! Listeners of a proxy whose bootstrap lists what its application calls and serves.

use std::net::SocketAddr;

use outrigger_proto::envoy::config::core::v3::TrafficDirection;
use outrigger_proto::envoy::config::listener::v3 as pb;
use outrigger_proto::envoy::config::route::v3 as route;
use outrigger_proto::envoy::extensions::filters::http::router::v3::Router;
use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrigger_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use prost::{Message, Name};
use std::time::Duration;

use super::message::{address, ads, any, duration};

/// What a listener does with a connection.
pub(super) enum Serve<'a> {
    /// HTTP by the route table of this name.
    Routes(&'a str),
    /// HTTP to the application of this cluster.
    Application(&'a str),
    /// HTTP, every request answered with 503 and this text: what is called is not there.
    Unavailable(String),
    /// Bytes to this cluster.
    Bytes(&'a str, Tunnel),
}

/// How long bytes go to and fro; `None` is what the proxy does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tunnel {
    /// Without a byte in either direction; zero is any time.
    pub(super) idle_timeout: Option<Duration>,
    /// Altogether; zero is any time.
    pub(super) max_duration: Option<Duration>,
}

/// A listener at one address.
pub(super) fn listener(name: &str, at: SocketAddr, direction: TrafficDirection, serve: Serve<'_>) -> pb::Listener {
    use hcm::http_connection_manager::RouteSpecifier;
    let inline = |action| RouteSpecifier::RouteConfig(everything(name, action));
    let filter = match serve {
        Serve::Bytes(cluster, tunnel) => filter(&tcp::TcpProxy {
            stat_prefix: name.to_owned(),
            cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
            idle_timeout: tunnel.idle_timeout.and_then(duration),
            max_downstream_connection_duration: tunnel.max_duration.filter(|time| !time.is_zero()).and_then(duration),
            ..Default::default()
        }),
        Serve::Routes(table) => filter(&manager(
            name,
            RouteSpecifier::Rds(hcm::Rds { config_source: Some(ads()), route_config_name: table.to_owned() }),
        )),
        Serve::Application(cluster) => {
            filter(&manager(name, inline(route::route::Action::Route(to_application(cluster)))))
        }
        Serve::Unavailable(why) => {
            filter(&manager(name, inline(route::route::Action::DirectResponse(unavailable(why)))))
        }
    };
    pb::Listener {
        name: name.to_owned(),
        address: Some(address(at)),
        traffic_direction: direction as i32,
        filter_chains: vec![pb::FilterChain { filters: vec![filter], ..Default::default() }],
        ..Default::default()
    }
}

fn filter<M: Message + Name>(config: &M) -> pb::Filter {
    pb::Filter { name: M::full_name(), config_type: Some(pb::filter::ConfigType::TypedConfig(any(config))) }
}

fn manager(name: &str, routes: hcm::http_connection_manager::RouteSpecifier) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager as nested;
    hcm::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(routes),
        http_filters: vec![hcm::HttpFilter {
            name: Router::full_name(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(&Router::default()))),
            ..Default::default()
        }],
        // What a rule matches is what the application takes the path for: `/public/../admin` is not below `/public`. No
        // more than that, since `//` and `%2F` mean something to many applications.
        normalize_path: Some(true),
        // Whose server it is, is for the application to say.
        server_header_transformation: nested::ServerHeaderTransformation::PassThrough as i32,
        // How long a stream may be silent, its route says.
        stream_idle_timeout: duration(Duration::ZERO),
        upgrade_configs: vec![nested::UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        ..Default::default()
    }
}

/// A table with one route, for every request.
fn everything(name: &str, action: route::route::Action) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route::Route {
                r#match: Some(route::RouteMatch {
                    path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
                    ..Default::default()
                }),
                action: Some(action),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// No time is up here: timeouts are the caller's. What the application did not read may be sent to it again.
fn to_application(cluster: &str) -> route::RouteAction {
    route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: duration(Duration::ZERO),
        idle_timeout: duration(Duration::ZERO),
        retry_policy: Some(route::RetryPolicy {
            retry_on: "reset-before-request".to_owned(),
            num_retries: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn unavailable(why: String) -> route::DirectResponseAction {
    use outrigger_proto::envoy::config::core::v3::{DataSource, data_source};
    route::DirectResponseAction {
        status: 503,
        body: Some(DataSource { specifier: Some(data_source::Specifier::InlineString(why)), ..Default::default() }),
        ..Default::default()
    }
}
