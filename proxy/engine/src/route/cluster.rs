//! To which cluster a route sends a request: one by name, one that a header names, or one of several by weight.

use std::sync::Arc;

use outrigger_proto::envoy::config::route::v3 as proto;
use outrigger_proto::envoy::config::route::v3::route_action::ClusterSpecifier;

use crate::config::report::At;
use crate::matcher::{FieldName, Head};
use crate::message::RequestHead;
use crate::route::action::host_value;
use crate::route::headers::{HeaderMutations, REQUEST, RESPONSE};
use crate::{harmless, unsupported};

#[derive(Debug)]
pub(crate) enum ClusterChoice {
    Single(Arc<str>),
    Header(FieldName),
    Weighted(Box<WeightedClusters>),
}

#[derive(Debug)]
pub(crate) struct WeightedClusters {
    clusters: Box<[WeightedCluster]>,
    /// Above zero.
    total: u64,
    /// Whose value chooses instead of chance, where it is a number.
    random_header: Option<FieldName>,
}

/// One of several clusters of a route, with what it adds to the route.
#[derive(Debug)]
pub(crate) struct WeightedCluster {
    name: WeightedName,
    weight: u32,
    pub(crate) host: Option<http::HeaderValue>,
    pub(crate) request: Option<Box<HeaderMutations>>,
    pub(crate) response: Option<Box<HeaderMutations>>,
}

#[derive(Debug)]
enum WeightedName {
    Fixed(Arc<str>),
    Header(FieldName),
}

/// The cluster that was chosen for a request.
#[derive(Clone, Debug)]
pub struct Choice<'r> {
    name: ChosenName<'r>,
    pub(crate) weighted: Option<&'r WeightedCluster>,
}

#[derive(Clone, Debug)]
enum ChosenName<'r> {
    Configured(&'r Arc<str>),
    Requested(Arc<str>),
}

impl Choice<'_> {
    /// The cluster's name; empty where `cluster_header` names a header that the request has not.
    pub fn name(&self) -> &Arc<str> {
        match &self.name {
            ChosenName::Configured(name) => name,
            ChosenName::Requested(name) => name,
        }
    }
}

impl ClusterChoice {
    /// Chooses the cluster. `random`: uniform over 64 bits, the same for the whole request.
    pub(crate) fn choose(&self, request: &RequestHead, random: u64) -> Choice<'_> {
        match self {
            ClusterChoice::Single(name) => Choice { name: ChosenName::Configured(name), weighted: None },
            ClusterChoice::Header(header) => Choice { name: requested(request, header), weighted: None },
            ClusterChoice::Weighted(weighted) => {
                let cluster = weighted.pick(request, random);
                let name = match cluster.map(|cluster| &cluster.name) {
                    Some(WeightedName::Fixed(name)) => ChosenName::Configured(name),
                    Some(WeightedName::Header(header)) => requested(request, header),
                    None => ChosenName::Requested("".into()),
                };
                Choice { name, weighted: cluster }
            }
        }
    }

    /// Rejects the clusters that the route (at `at`) names and that are not there.
    pub(crate) fn check(&self, exists: &dyn Fn(&str) -> bool, at: &At<'_>) {
        let check = |name: &str, at: &At<'_>| {
            if !exists(name) {
                at.reject(name, "there is no such cluster (validate_clusters is on)");
            }
        };
        match self {
            ClusterChoice::Single(name) => check(name, &at.field("cluster")),
            ClusterChoice::Header(_) => {}
            ClusterChoice::Weighted(weighted) => {
                let at = at.field("weighted_clusters");
                let list = at.field("clusters");
                for (index, cluster) in weighted.clusters.iter().enumerate() {
                    if let WeightedName::Fixed(name) = &cluster.name {
                        check(name, &list.index(index).field("name"));
                    }
                }
            }
        }
    }

    /// The clusters that the route names itself.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let (single, weighted) = match self {
            ClusterChoice::Single(name) => (Some(name), &[][..]),
            ClusterChoice::Header(_) => (None, &[][..]),
            ClusterChoice::Weighted(weighted) => (None, &*weighted.clusters),
        };
        single.into_iter().chain(weighted.iter().filter_map(|cluster| match &cluster.name {
            WeightedName::Fixed(name) => Some(name),
            WeightedName::Header(_) => None,
        }))
    }

    pub(crate) fn convert(specifier: Option<ClusterSpecifier>, at: &At<'_>) -> Option<ClusterChoice> {
        match specifier {
            Some(ClusterSpecifier::Cluster(name)) if name.is_empty() => {
                at.field("cluster").reject("", "must not be empty");
                None
            }
            Some(ClusterSpecifier::Cluster(name)) => Some(ClusterChoice::Single(name.into())),
            Some(ClusterSpecifier::ClusterHeader(name)) => {
                field_name(&name, &at.field("cluster_header")).map(ClusterChoice::Header)
            }
            Some(ClusterSpecifier::WeightedClusters(message)) => {
                let weighted = WeightedClusters::convert(message, &at.field("weighted_clusters"))?;
                Some(ClusterChoice::Weighted(Box::new(weighted)))
            }
            Some(ClusterSpecifier::ClusterSpecifierPlugin(name)) => {
                at.field("cluster_specifier_plugin").reject(&name, "not in this version");
                None
            }
            Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
                at.field("inline_cluster_specifier_plugin").reject("", "not in this version");
                None
            }
            None => {
                at.reject("", "one of cluster, cluster_header, weighted_clusters is required");
                None
            }
        }
    }
}

fn requested(request: &RequestHead, header: &FieldName) -> ChosenName<'static> {
    let value = Head::Request(request).first(header).unwrap_or_default();
    ChosenName::Requested(String::from_utf8_lossy(value).into())
}

impl WeightedClusters {
    fn pick(&self, request: &RequestHead, random: u64) -> Option<&WeightedCluster> {
        let random = self.random_header.as_ref().and_then(|name| number(request, name)).unwrap_or(random);
        let mut left = random.checked_rem(self.total)?;
        self.clusters.iter().find(|cluster| match left.checked_sub(u64::from(cluster.weight)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }
}

/// The value of a header that the request has once, if it is a number.
fn number(request: &RequestHead, name: &FieldName) -> Option<u64> {
    let text = Head::Request(request).joined(name)?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

fn field_name(name: &str, at: &At<'_>) -> Option<FieldName> {
    let parsed = FieldName::parse(name);
    if parsed.is_none() {
        at.reject(name, "not a header name");
    }
    parsed
}

impl WeightedClusters {
    fn convert(message: proto::WeightedCluster, at: &At<'_>) -> Option<WeightedClusters> {
        use proto::weighted_cluster::RandomValueSpecifier;
        let proto::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } = message;
        harmless!(at;
            total_weight = "the sum of the weights holds",
            runtime_key_prefix = "the weights here hold: no runtime layer is consulted");
        let random_header = match random_value_specifier {
            Some(RandomValueSpecifier::HeaderName(name)) => Some(field_name(&name, &at.field("header_name"))?),
            Some(RandomValueSpecifier::UseHashPolicy(true)) => {
                at.field("use_hash_policy").reject(true, "not in this version: hash policies come later");
                None
            }
            Some(RandomValueSpecifier::UseHashPolicy(false)) | None => None,
        };
        let clusters_at = at.field("clusters");
        let count = clusters.len();
        let clusters: Box<[_]> = clusters
            .into_iter()
            .enumerate()
            .filter_map(|(i, cluster)| WeightedCluster::convert(cluster, &clusters_at.index(i)))
            .collect();
        if clusters.len() < count {
            return None;
        }
        let total = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        if total == 0 || total > u64::from(u32::MAX) {
            clusters_at.reject(total, "the sum of the weights must be at least 1 and at most 4294967295");
            return None;
        }
        Some(WeightedClusters { clusters, total, random_header })
    }
}

impl WeightedCluster {
    fn convert(message: proto::weighted_cluster::ClusterWeight, at: &At<'_>) -> Option<WeightedCluster> {
        use proto::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        let proto::weighted_cluster::ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = message;
        unsupported!(at; typed_per_filter_config);
        harmless!(at;
            metadata_match = "only subset load balancers read it, and clusters that have one are rejected");
        let name = match (name.is_empty(), cluster_header.is_empty()) {
            (false, true) => Some(WeightedName::Fixed(name.into())),
            (true, false) => field_name(&cluster_header, &at.field("cluster_header")).map(WeightedName::Header),
            _ => {
                at.reject(&name, "exactly one of name and cluster_header is required");
                None
            }
        };
        if weight.is_none() {
            at.field("weight").reject("", "is required");
        }
        let host = match host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                host_value(&host, &at.field("host_rewrite_literal"))
            }
            None => None,
        };
        Some(WeightedCluster {
            host,
            request: HeaderMutations::convert(request_headers_to_add, request_headers_to_remove, &REQUEST, at),
            response: HeaderMutations::convert(response_headers_to_add, response_headers_to_remove, &RESPONSE, at),
            name: name?,
            weight: weight?,
        })
    }
}
