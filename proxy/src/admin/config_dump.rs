//! `/config_dump`: what is configured, as `envoy.admin.v3.ConfigDump`.

use outrigger_engine::xds::{Kind, shown_name};
use outrigger_proto::envoy::admin::v3::{
    BootstrapConfigDump, ClientResourceStatus, ClustersConfigDump, EndpointsConfigDump, ListenersConfigDump,
    RoutesConfigDump, UpdateFailureState,
    clusters_config_dump::{DynamicCluster, StaticCluster},
    endpoints_config_dump::{DynamicEndpointConfig, StaticEndpointConfig},
    listeners_config_dump::{DynamicListener, DynamicListenerState, StaticListener},
    routes_config_dump::{DynamicRouteConfig, StaticRouteConfig},
};
use outrigger_proto::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, cluster_load_assignment, lb_endpoint,
};
use outrigger_proto::envoy::config::listener::v3::{Listener, filter};
use outrigger_proto::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use outrigger_proto::prost::{Message, Name};
use outrigger_proto::prost_types::{Any, Timestamp};
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use regex::Regex;

use super::json::{JsonError, Mask, Printer};
use super::query::Query;
use super::{AdminState, Response};
use crate::configuration::record::{Absence, Failure, Record, Status, Version};

pub(super) fn config_dump(state: &dyn AdminState, query: &Query) -> Response {
    let names = match query.get("name_regex").filter(|text| !text.is_empty()) {
        None => None,
        // Envoy matches the whole name.
        Some(text) => match Regex::new(&format!("^(?:{text})$")) {
            Ok(regex) => Some(regex),
            Err(error) => {
                return plain(400, format!("Error while parsing name_regex from {text}: {error}"));
            }
        },
    };
    let bootstrap = match state.bootstrap() {
        Ok(bootstrap) => bootstrap,
        Err(reason) => return plain(503, format!("the bootstrap cannot be shown: {reason}")),
    };
    let printed = Printer::new().and_then(|printer| {
        let mut dumps = Dumps { printer: &printer, names, updated: state.bootstrap_time().into() };
        let parts = dumps.parts(state, bootstrap, query.has("include_eds"))?;
        let chosen = match query.get("resource") {
            Some(resource) => one_resource(&printer, parts, resource, query.get("mask"))?,
            None => whole(&printer, parts, query.get("mask"))?,
        };
        let configs = match chosen {
            Ok(configs) => configs,
            Err(response) => return Ok(response),
        };
        let mut dump = printer.dynamic(&outrigger_proto::envoy::admin::v3::ConfigDump::default())?;
        let configs = configs.into_iter().map(|mut config| {
            printer.clean(&mut config)?;
            Ok(Value::Message(printer.pack(&config)?))
        });
        dump.set_field_by_name("configs", Value::List(configs.collect::<Result<_, JsonError>>()?));
        Ok(Response::json(printer.print(&dump, false)?))
    });
    printed.unwrap_or_else(|error| plain(500, error.to_string()))
}

fn plain(status: u16, body: String) -> Response {
    Response::new(status, "text/plain", body)
}

/// Every part, cut down to a mask; a part that the mask does not fit is left out.
fn whole(
    printer: &Printer,
    parts: Vec<DynamicMessage>,
    mask: Option<&str>,
) -> Result<Result<Vec<DynamicMessage>, Response>, JsonError> {
    let Some(text) = mask else { return Ok(Ok(parts)) };
    let mask = Mask::parse(text);
    let mut chosen = Vec::new();
    for mut part in parts {
        if printer.trim(&mut part, &mask)? {
            chosen.push(part);
        }
    }
    Ok(match chosen.is_empty() {
        true => Err(plain(400, format!("FieldMask {text} could not be successfully applied to any configs."))),
        false => Ok(chosen),
    })
}

/// The elements of one repeated field (`static_clusters`), wherever it is.
fn one_resource(
    printer: &Printer,
    parts: Vec<DynamicMessage>,
    resource: &str,
    mask: Option<&str>,
) -> Result<Result<Vec<DynamicMessage>, Response>, JsonError> {
    for part in parts {
        let Some(field) = part.descriptor().get_field_by_name(resource) else { continue };
        if !field.is_list() {
            let reason = format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field");
            return Ok(Err(plain(400, reason)));
        }
        let mut chosen = Vec::new();
        for element in part.get_field(&field).as_list().unwrap_or_default() {
            let Value::Message(element) = element else { continue };
            let mut element = element.clone();
            if let Some(text) = mask
                && !printer.trim(&mut element, &Mask::parse(text))?
            {
                return Ok(Err(plain(400, format!("FieldMask {text} could not be successfully used."))));
            }
            chosen.push(element);
        }
        return Ok(Ok(chosen));
    }
    Ok(Err(plain(404, format!("{resource} not found in config dump"))))
}

/// Makes the parts of a dump.
struct Dumps<'a> {
    printer: &'a Printer,
    names: Option<Regex>,
    updated: Timestamp,
}

impl Dumps<'_> {
    fn wants(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.is_match(name))
    }

    /// All parts, in Envoy's order.
    fn parts(
        &mut self,
        state: &dyn AdminState,
        bootstrap: Bootstrap,
        endpoints: bool,
    ) -> Result<Vec<DynamicMessage>, JsonError> {
        let (mut clusters, mut listeners, mut routes) = match &bootstrap.static_resources {
            Some(resources) => (
                self.clusters(&resources.clusters),
                self.listeners(&resources.listeners),
                self.routes(&resources.listeners),
            ),
            None => Default::default(),
        };
        let record = state.record();
        self.dynamic_clusters(&record.of(Kind::Cluster), &mut clusters);
        self.dynamic_listeners(record, &mut listeners);
        self.dynamic_routes(&arrived(record, Kind::Routes), &mut routes);
        let last_updated = Some(self.updated);
        let mut parts = vec![self.printer.dynamic(&BootstrapConfigDump { bootstrap: Some(bootstrap), last_updated })?];
        parts.push(self.printer.dynamic(&clusters)?);
        if endpoints {
            parts.push(self.printer.dynamic(&self.endpoints(state))?);
        }
        parts.push(self.printer.dynamic(&listeners)?);
        parts.push(self.printer.dynamic(&routes)?);
        Ok(parts)
    }

    fn clusters(&self, clusters: &[outrigger_proto::envoy::config::cluster::v3::Cluster]) -> ClustersConfigDump {
        let mut clusters = clusters.iter().filter(|cluster| self.wants(&cluster.name)).collect::<Vec<_>>();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        let dump = |cluster| StaticCluster { cluster: Some(any(cluster)), last_updated: Some(self.updated) };
        ClustersConfigDump { static_clusters: clusters.into_iter().map(dump).collect(), ..Default::default() }
    }

    fn listeners(&self, listeners: &[Listener]) -> ListenersConfigDump {
        let listeners = listeners.iter().filter(|listener| self.wants(&listener.name));
        let dump = |listener| StaticListener { listener: Some(any(listener)), last_updated: Some(self.updated) };
        ListenersConfigDump { static_listeners: listeners.map(dump).collect(), ..Default::default() }
    }

    /// The route tables that stand in connection managers.
    fn routes(&self, listeners: &[Listener]) -> RoutesConfigDump {
        let chains = listeners.iter().flat_map(|listener| {
            listener.filter_chains.iter().chain(&listener.default_filter_chain).flat_map(|chain| &chain.filters)
        });
        let routes = chains.filter_map(|network_filter| {
            let Some(filter::ConfigType::TypedConfig(config)) = &network_filter.config_type else { return None };
            route_table(config).filter(|routes| self.wants(&routes.name))
        });
        let dump = |routes: RouteConfiguration| StaticRouteConfig {
            route_config: Some(any(&routes)),
            last_updated: Some(self.updated),
        };
        RoutesConfigDump { static_route_configs: routes.map(dump).collect(), ..Default::default() }
    }

    fn dynamic_clusters(&self, statuses: &[(String, Status)], dump: &mut ClustersConfigDump) {
        for (name, status) in statuses.iter().filter(|(name, _)| self.wants(name)) {
            let entry = |shown: Shown| DynamicCluster {
                version_info: shown.version_info,
                cluster: shown.config,
                last_updated: shown.last_updated,
                error_state: shown.error_state,
                client_status: shown.client_status as i32,
            };
            let shown = Shown::new(Kind::Cluster, name, status);
            match &status.active {
                Some(_) => dump.dynamic_active_clusters.push(entry(shown)),
                None => dump.dynamic_warming_clusters.push(entry(shown)),
            }
            if let (Some(_), Some(warming)) = (&status.active, &status.warming) {
                let status = Status { warming: Some(warming.clone()), ..Default::default() };
                dump.dynamic_warming_clusters.push(entry(Shown::new(Kind::Cluster, name, &status)));
            }
        }
    }

    fn dynamic_listeners(&self, record: &Record, dump: &mut ListenersConfigDump) {
        let state = |version: &Version| DynamicListenerState {
            version_info: version.version.clone(),
            listener: Some(encoded(Kind::Listener, &version.body)),
            last_updated: Some(version.updated.into()),
        };
        for (name, status) in record.of(Kind::Listener).into_iter().filter(|(name, _)| self.wants(name)) {
            let Shown { error_state, client_status, .. } = Shown::new(Kind::Listener, &name, &status);
            dump.dynamic_listeners.push(DynamicListener {
                active_state: status.active.as_ref().map(state),
                warming_state: status.warming.as_ref().map(state),
                draining_state: None,
                error_state,
                client_status: client_status as i32,
                name,
            });
        }
        for draining in record.draining().into_iter().filter(|draining| self.wants(&draining.name)) {
            let draining_state = draining.version.as_ref().map(state);
            let name = draining.name.to_string();
            match dump.dynamic_listeners.iter_mut().find(|listener| listener.name == name) {
                Some(listener) => listener.draining_state = draining_state,
                None => {
                    dump.dynamic_listeners.push(DynamicListener { name, draining_state, ..Default::default() });
                }
            }
        }
    }

    fn dynamic_routes(&self, statuses: &[(String, Status)], dump: &mut RoutesConfigDump) {
        for (name, status) in statuses.iter().filter(|(name, _)| self.wants(name)) {
            let shown = Shown::new(Kind::Routes, name, status);
            dump.dynamic_route_configs.push(DynamicRouteConfig {
                version_info: shown.version_info,
                route_config: shown.config,
                last_updated: shown.last_updated,
                error_state: shown.error_state,
                client_status: shown.client_status as i32,
            });
        }
    }

    /// The endpoints as they are in force.
    fn endpoints(&self, state: &dyn AdminState) -> EndpointsConfigDump {
        let mut dump = EndpointsConfigDump::default();
        // It fails where a visit does.
        _ = state.clusters(&mut |cluster, hosts| {
            if !self.wants(&cluster.name) || !cluster.eds_service_name.is_empty() {
                return Ok(());
            }
            let policy = cluster_load_assignment::Policy { overprovisioning_factor: Some(140), ..Default::default() };
            let mut assignment =
                ClusterLoadAssignment { cluster_name: cluster.name, policy: Some(policy), ..Default::default() };
            for host in hosts {
                let locality = host.locality.clone().unwrap_or_default();
                let health_status = host.health_status.map_or(0, |status| status.eds_health_status);
                let endpoint = Endpoint { address: host.address, hostname: host.hostname, ..Default::default() };
                let endpoint = LbEndpoint {
                    health_status,
                    load_balancing_weight: Some(host.weight),
                    host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                    ..Default::default()
                };
                match assignment.endpoints.last_mut() {
                    Some(last) if last.locality.as_ref() == Some(&locality) && last.priority == host.priority => {
                        last.lb_endpoints.push(endpoint);
                    }
                    _ => assignment.endpoints.push(LocalityLbEndpoints {
                        locality: Some(locality),
                        priority: host.priority,
                        lb_endpoints: vec![endpoint],
                        ..Default::default()
                    }),
                }
            }
            let endpoint_config = Some(any(&assignment));
            dump.static_endpoint_configs.push(StaticEndpointConfig { endpoint_config, last_updated: None });
            Ok(())
        });
        for (name, status) in arrived(state.record(), Kind::Endpoints) {
            if !self.wants(&name) {
                continue;
            }
            let shown = Shown::new(Kind::Endpoints, &name, &status);
            dump.dynamic_endpoint_configs.push(DynamicEndpointConfig {
                version_info: shown.version_info,
                endpoint_config: shown.config,
                last_updated: shown.last_updated,
                error_state: shown.error_state,
                client_status: shown.client_status as i32,
            });
        }
        dump
    }
}

/// What came of a kind, be it good or bad: of what was only asked for Envoy's dump says nothing.
fn arrived(record: &Record, kind: Kind) -> Vec<(String, Status)> {
    let mut statuses = record.of(kind);
    statuses
        .retain(|(_, Status { active, warming, error, .. })| active.is_some() || warming.is_some() || error.is_some());
    statuses
}

/// What all dumps say of a resource that came from outside.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) version_info: String,
    pub(super) config: Option<Any>,
    pub(super) last_updated: Option<Timestamp>,
    pub(super) error_state: Option<UpdateFailureState>,
    pub(super) client_status: ClientResourceStatus,
}

impl Shown {
    pub(super) fn new(kind: Kind, name: &str, status: &Status) -> Self {
        let error_state = status.error.as_ref().map(|Failure { refused, details, .. }| UpdateFailureState {
            failed_configuration: (!refused.body.is_empty()).then(|| encoded(kind, &refused.body)),
            last_update_attempt: Some(refused.updated.into()),
            details: format!("{}: {details}", shown_name(name)),
            version_info: refused.version.clone(),
        });
        let client_status = match (&status.error, status.absence) {
            (Some(failure), _) if failure.received => ClientResourceStatus::ReceivedError,
            (Some(_), _) => ClientResourceStatus::Nacked,
            (None, Some(Absence::Requested)) => ClientResourceStatus::Requested,
            (None, Some(Absence::DoesNotExist)) => ClientResourceStatus::DoesNotExist,
            (None, Some(Absence::TimedOut)) => ClientResourceStatus::Timeout,
            (None, None) => ClientResourceStatus::Acked,
        };
        let shown = Shown { error_state, client_status, ..Default::default() };
        match status.active.as_ref().or(status.warming.as_ref()) {
            Some(version) => Shown {
                version_info: version.version.clone(),
                config: Some(encoded(kind, &version.body)),
                last_updated: Some(version.updated.into()),
                ..shown
            },
            None => shown,
        }
    }
}

fn encoded(kind: Kind, body: &[u8]) -> Any {
    Any { type_url: kind.type_url().to_owned(), value: body.to_vec() }
}

fn route_table(config: &Any) -> Option<RouteConfiguration> {
    if config.type_url.rsplit('/').next() != Some(&HttpConnectionManager::full_name()) {
        return None;
    }
    match HttpConnectionManager::decode(config.value.as_slice()).ok()?.route_specifier? {
        RouteSpecifier::RouteConfig(routes) => Some(routes),
        _ => None,
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}
