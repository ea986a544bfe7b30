//! `Bootstrap.DynamicResources`: the sources of what is not in the bootstrap itself.

use std::collections::HashSet;
use std::sync::Arc;

use outrigger_proto::envoy::config::bootstrap::v3::bootstrap as pb;

use crate::config::config_source::{ConfigSource, GrpcSource, Origin};
use crate::config::report::At;
use crate::unsupported;

/// `dynamic_resources`.
#[derive(Clone, Debug, Default)]
pub struct DynamicResources {
    /// The server of the aggregated stream.
    pub ads: Option<Arc<GrpcSource>>,
    /// CDS.
    pub clusters: Option<ConfigSource>,
    /// LDS.
    pub listeners: Option<ConfigSource>,
}

impl DynamicResources {
    /// Reads the message; `clusters` are the static ones, where all of them could be read.
    pub fn convert(
        message: pb::DynamicResources,
        clusters: Option<&HashSet<Arc<str>>>,
        at: &At<'_>,
    ) -> DynamicResources {
        let pb::DynamicResources { lds_config, lds_resources_locator, cds_config, cds_resources_locator, ads_config } =
            message;
        unsupported!(at;
            lds_resources_locator = "resources have plain names",
            cds_resources_locator = "resources have plain names",
        );
        // A server's cluster is there before anything that comes from the server.
        let check = |source: &GrpcSource, at: &At<'_>| {
            for (index, service) in source.services.iter().enumerate() {
                if clusters.is_some_and(|clusters| !clusters.contains(&service.cluster)) {
                    let list = at.field("grpc_services");
                    let at = list.index(index);
                    at.field("envoy_grpc")
                        .field("cluster_name")
                        .reject(&service.cluster, "no static cluster has this name");
                }
            }
        };
        let has_ads = ads_config.is_some();
        let ads = ads_config.and_then(|message| {
            let at = at.field("ads_config");
            let source = GrpcSource::convert(message, &at)?;
            check(&source, &at);
            Some(Arc::new(source))
        });
        let source = |message, field| {
            let at = at.field(field);
            let source = ConfigSource::convert(message?, &at)?;
            match &source.origin {
                Origin::Grpc(source) => check(source, &at.field("api_config_source")),
                Origin::Ads if !has_ads => at.field("ads").reject("", "ads_config says from where, and is missing"),
                Origin::Ads | Origin::Path(_) => {}
            }
            Some(source)
        };
        DynamicResources {
            ads,
            clusters: source(cds_config, "cds_config"),
            listeners: source(lds_config, "lds_config"),
        }
    }

    /// Whether a management server is among the sources: it wants `node.id` and `node.cluster`.
    pub fn uses_grpc(&self) -> bool {
        let mut own = [&self.clusters, &self.listeners].into_iter().flatten();
        self.ads.is_some() || own.any(|source| matches!(source.origin, Origin::Grpc(_)))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::bootstrap::Bootstrap;
    use crate::config::config_source::Origin;
    use crate::source::Source;

    const ADS: &str = r#"
node: { id: a, cluster: b }
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{ envoy_grpc: { cluster_name: xds } }]
  cds_config: { ads: {}, resource_api_version: V3 }
  lds_config: { ads: {}, initial_fetch_timeout: 0s }
static_resources:
  clusters:
    - name: xds
      type: STATIC
      connect_timeout: 1s
      load_assignment: { cluster_name: xds }
"#;

    fn load(text: &str) -> Result<Bootstrap, Vec<String>> {
        Bootstrap::load(&[Source::new("b.yaml", text)])
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_bootstrap_names_its_management_server() {
        let dynamic = load(ADS).unwrap().dynamic;
        assert!(dynamic.uses_grpc());
        assert_eq!(&*dynamic.ads.unwrap().services[0].cluster, "xds");
        assert_eq!(dynamic.clusters.unwrap().origin, Origin::Ads);
        assert_eq!(dynamic.listeners.unwrap().initial_fetch_timeout, None);
    }

    #[test]
    fn a_server_without_a_cluster_and_ads_without_a_server_are_faults() {
        assert_eq!(
            load(&ADS.replace("cluster_name: xds }", "cluster_name: xd }")).unwrap_err(),
            ["b.yaml:7:51: dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: xd: \
              no static cluster has this name"]
        );
        let (head, tail) = ADS.split_once("  ads_config:").unwrap();
        let tail = &tail[tail.find("  cds_config").unwrap()..];
        assert_eq!(
            load(&format!("{head}{tail}")).unwrap_err(),
            [
                "b.yaml:4:22: dynamic_resources.cds_config.ads: ads_config says from where, and is missing",
                "b.yaml:5:22: dynamic_resources.lds_config.ads: ads_config says from where, and is missing",
            ]
        );
    }
}
