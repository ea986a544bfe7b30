//! `RouteConfiguration` as the request path uses it: domains by hash, then the first rule that matches in
//! configuration order.
//!
//! The router asks in this order: [`RouteTable::find`]; for [`Action::Forward`] then [`Forward::choose`] and
//! [`Found::apply_request`]; for [`Action::Redirect`] [`Found::redirect`]; and for every response,
//! [`Found::apply_response`].

mod action;
mod cluster;
mod domains;
pub(crate) mod headers;
mod index;
mod matching;
mod redirect;
mod rewrite;
mod virtual_host;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use outrigger_proto::envoy::config::route::v3 as proto;

use crate::config::report::At;
use crate::config::value::DataSource;
use crate::format::FormatContext;
use crate::matcher::FieldName;
use crate::message::{RequestHead, ResponseHead};
use crate::route::domains::Domains;
use crate::route::headers::{HeaderMutations, REQUEST, RESPONSE};
use crate::route::matching::Path;
use crate::stream_info::StreamInfo;
use crate::{harmless, unsupported};

pub use crate::route::action::{Action, Forward};
pub use crate::route::cluster::Choice;
pub use crate::route::redirect::{DirectResponse, Redirect};
pub use crate::route::rewrite::rewrite_authority;
pub use crate::route::virtual_host::{RequireTls, Route, VirtualHost};

/// Envoy's default for `max_direct_response_body_size_bytes`.
const MAX_DIRECT_RESPONSE_BODY: u32 = 4096;

/// A route table.
#[derive(Debug)]
pub struct RouteTable {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Whether clusters that are named but not there are a fault; `None`: they are in a static configuration.
    pub validate_clusters: Option<bool>,
    domains: Domains,
    virtual_hosts: Box<[VirtualHost]>,
    ignore_port: bool,
    ignore_path_parameters: bool,
    /// Whose value stands for the host where domains are looked up.
    virtual_host_header: Option<FieldName>,
    most_specific_wins: bool,
    request: Option<Box<HeaderMutations>>,
    response: Option<Box<HeaderMutations>>,
}

/// Where a request belongs.
#[derive(Debug)]
pub enum Lookup<'t> {
    /// No domain matches (404, `NR`).
    NoVirtualHost,
    /// No route of the virtual host matches (404, `NR`).
    NoRoute(&'t VirtualHost),
    /// The virtual host wants TLS: 301 to this `location`.
    RequireTls(&'t VirtualHost, HeaderValue),
    /// A route matches.
    Found(Found<'t>),
}

/// The route of a request.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t> {
    table: &'t RouteTable,
    /// The virtual host.
    pub virtual_host: &'t VirtualHost,
    /// The route.
    pub route: &'t Route,
}

impl RouteTable {
    /// A table without routes: every request gets 404.
    pub fn empty(name: Arc<str>) -> RouteTable {
        RouteTable {
            name,
            validate_clusters: None,
            domains: Domains::default(),
            virtual_hosts: Box::default(),
            ignore_port: false,
            ignore_path_parameters: false,
            virtual_host_header: None,
            most_specific_wins: false,
            request: None,
            response: None,
        }
    }

    /// Reads the message. `None` where a part of it was rejected.
    pub fn convert(message: proto::RouteConfiguration, at: &At<'_>) -> Option<RouteTable> {
        let before = at.problem_count();
        let proto::RouteConfiguration {
            name,
            virtual_hosts,
            vhds,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            most_specific_header_mutations_wins,
            validate_clusters,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            metadata,
            route_specifiers,
        } = message;
        unsupported!(at;
            vhds, cluster_specifier_plugins, request_mirror_policies = "mirroring comes later",
            internal_only_headers = "they would have to be taken from requests of the outside",
            typed_per_filter_config, route_specifiers);
        harmless!(at; metadata = "nothing reads it");
        let max_body = max_direct_response_body_size_bytes.unwrap_or(MAX_DIRECT_RESPONSE_BODY) as usize;
        let virtual_host_header = if vhost_header.is_empty() {
            None
        } else {
            let parsed = FieldName::parse(&vhost_header);
            if parsed.is_none() {
                at.field("vhost_header").reject(&vhost_header, "not a header name");
            }
            parsed
        };
        let mut domains = Domains::default();
        let mut hosts = Vec::with_capacity(virtual_hosts.len());
        let hosts_at = at.field("virtual_hosts");
        for ((i, host), number) in virtual_hosts.into_iter().enumerate().zip(0u32..) {
            let at = hosts_at.index(i);
            let domains_at = at.field("domains");
            for (d, domain) in host.domains.iter().enumerate() {
                if !domains.insert(domain, number) {
                    domains_at.index(d).reject(domain, "the same domain stands in this table before");
                }
            }
            hosts.extend(VirtualHost::convert(host, max_body, &at));
        }
        let table = RouteTable {
            name: name.into(),
            validate_clusters,
            domains,
            virtual_hosts: hosts.into(),
            ignore_port: ignore_port_in_host_matching,
            ignore_path_parameters: ignore_path_parameters_in_path_matching,
            virtual_host_header,
            most_specific_wins: most_specific_header_mutations_wins,
            request: HeaderMutations::convert(request_headers_to_add, request_headers_to_remove, &REQUEST, at),
            response: HeaderMutations::convert(response_headers_to_add, response_headers_to_remove, &RESPONSE, at),
        };
        (at.problem_count() == before).then_some(table)
    }

    /// Finds the route of a request. `random`: uniform over 64 bits, the same for the whole request.
    pub fn find(&self, request: &RequestHead, random: u64) -> Lookup<'_> {
        let host = match &self.virtual_host_header {
            None => request.authority.as_ref().map(|value| value.as_bytes()),
            Some(name) => crate::matcher::Head::Request(request).first(name),
        };
        let number = self.domains.find(host, self.ignore_port);
        let Some(virtual_host) = number.and_then(|number| self.virtual_hosts.get(number as usize)) else {
            return Lookup::NoVirtualHost;
        };
        if let Some(location) = virtual_host.tls_redirect(request) {
            return Lookup::RequireTls(virtual_host, location);
        }
        // CONNECT has no path, and no route is for it: `prefix: ""` and regexes that match nothing are not either.
        if request.path.is_empty() {
            return Lookup::NoRoute(virtual_host);
        }
        let path = Path::new(request.path.as_bytes(), self.ignore_path_parameters);
        match virtual_host.find(&path, request, random) {
            Some(route) => Lookup::Found(Found { table: self, virtual_host, route }),
            None => Lookup::NoRoute(virtual_host),
        }
    }

    /// Rejects the clusters that routes of the table (at `at`) name and that are not there.
    pub(crate) fn check_clusters(&self, exists: &dyn Fn(&str) -> bool, at: &At<'_>) {
        let hosts = at.field("virtual_hosts");
        for (index, host) in self.virtual_hosts.iter().enumerate() {
            let at = hosts.index(index);
            let routes = at.field("routes");
            for (index, route) in host.routes.iter().enumerate() {
                if let Some(forward) = route.forward() {
                    forward.cluster.check(exists, &routes.index(index).field("route"));
                }
            }
        }
    }

    /// The clusters that routes name, in order, repeated as they are.
    pub fn cluster_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routes().filter_map(|route| route.forward()).flat_map(|forward| forward.cluster.names())
    }

    /// All routes, in configuration order.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.virtual_hosts.iter().flat_map(|host| host.routes.iter())
    }

    /// Reads, by `read`, the bodies of direct responses that are not inline. What goes wrong is reported below `at`,
    /// the place of the table.
    pub fn load_bodies(&self, read: &dyn Fn(&DataSource) -> Result<Vec<u8>, String>, at: &At<'_>) {
        let hosts = at.field("virtual_hosts");
        for (index, host) in self.virtual_hosts.iter().enumerate() {
            let at = hosts.index(index);
            let routes = at.field("routes");
            for (index, route) in host.routes.iter().enumerate() {
                if let Action::Respond(response) = &route.action {
                    response.load_body(read, &routes.index(index).field("direct_response").field("body"));
                }
            }
        }
    }
}

impl<'t> Found<'t> {
    /// Does to a request what its route says, before the first attempt: headers of cluster, route, virtual host and
    /// table, then authority, then path. `keep_original`: what was rewritten goes into `x-envoy-original-path` and
    /// `x-envoy-original-host` (unless `suppress_envoy_headers` is set).
    pub fn apply_request(
        &self,
        choice: &Choice<'_>,
        head: &mut RequestHead,
        info: &StreamInfo,
        elapsed: Duration,
        keep_original: bool,
    ) {
        let Action::Forward(forward) = &self.route.action else { return };
        let apply = |mutations: &HeaderMutations, head: &mut RequestHead| {
            mutations.remove(&mut head.headers);
            let ctx = FormatContext { request: Some(head), ..FormatContext::new(info, elapsed) };
            HeaderMutations::add(mutations.evaluate(&ctx), &mut head.headers);
        };
        if let Some(weighted) = choice.weighted {
            if let Some(mutations) = &weighted.request {
                apply(mutations, head);
            }
            if let Some(host) = &weighted.host {
                head.authority = Some(host.clone());
            }
        }
        let levels = [&self.route.request, &self.virtual_host.request, &self.table.request];
        for mutations in self.in_order(levels) {
            apply(mutations, head);
        }
        if let Some(authority) = forward.host.value(head, info, elapsed) {
            rewrite_authority(head, authority, forward.append_x_forwarded_host, keep_original);
        }
        if let Some(path) = &forward.path {
            path.apply(&self.route.matches, head, info, elapsed, keep_original);
        }
    }

    /// Does to a response what its route says: headers of cluster (`choice`, where there was one), route, virtual host
    /// and table. `request` is the request as it is then.
    pub fn apply_response(
        &self,
        choice: Option<&Choice<'_>>,
        head: &mut ResponseHead,
        request: &RequestHead,
        info: &StreamInfo,
        elapsed: Duration,
    ) {
        let apply = |mutations: &HeaderMutations, head: &mut ResponseHead| {
            mutations.remove(&mut head.headers);
            let ctx =
                FormatContext { request: Some(request), response: Some(head), ..FormatContext::new(info, elapsed) };
            HeaderMutations::add(mutations.evaluate(&ctx), &mut head.headers);
        };
        if let Some(mutations) = choice.and_then(|choice| choice.weighted?.response.as_ref()) {
            apply(mutations, head);
        }
        let levels = [&self.route.response, &self.virtual_host.response, &self.table.response];
        for mutations in self.in_order(levels) {
            apply(mutations, head);
        }
    }

    /// Status and `location` of a redirect. A path rewrite is done to the request itself, as Envoy does: its access log
    /// shows it.
    pub fn redirect(
        &self,
        redirect: &Redirect,
        head: &mut RequestHead,
        info: &StreamInfo,
        elapsed: Duration,
        keep_original: bool,
    ) -> (StatusCode, HeaderValue) {
        redirect.apply(&self.route.matches, head, info, elapsed, keep_original)
    }

    /// Route, virtual host, table; the other way round where the most specific is to have the last word.
    fn in_order<'m>(
        &self,
        mut levels: [&'m Option<Box<HeaderMutations>>; 3],
    ) -> impl Iterator<Item = &'m HeaderMutations> {
        if self.table.most_specific_wins {
            levels.reverse();
        }
        levels.into_iter().filter_map(|level| level.as_deref())
    }
}
