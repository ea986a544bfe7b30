//! `lb_policy`, `load_balancing_policy` and what goes with them.

use outrigger_proto::envoy::config::cluster::v3::cluster::{
    self, CommonLbConfig, LbConfig, LbPolicy as Pb, common_lb_config,
};
use outrigger_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use outrigger_proto::envoy::config::core::v3::RuntimeDouble;
use outrigger_proto::envoy::extensions::load_balancing_policies::common::v3::{LocalityLbConfig, locality_lb_config};
use outrigger_proto::envoy::extensions::load_balancing_policies::least_request::v3::{
    LeastRequest, least_request::SelectionMethod,
};
use outrigger_proto::envoy::extensions::load_balancing_policies::random::v3::Random;
use outrigger_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use prost_types::Any;

use super::convert::percent;
use super::{LbPolicy, LoadBalancing};
use crate::config::any;
use crate::config::report::At;
use crate::{harmless, unsupported};

impl LoadBalancing {
    /// `at` is the cluster.
    pub(super) fn convert(
        lb_policy: i32,
        load_balancing_policy: Option<LoadBalancingPolicy>,
        lb_config: Option<LbConfig>,
        common_lb_config: Option<CommonLbConfig>,
        at: &At<'_>,
    ) -> Option<Self> {
        let mut model = LoadBalancing::default();
        model.read_common(common_lb_config.unwrap_or_default(), &at.field("common_lb_config"));
        // A typed policy overrides the enumeration, as in Envoy.
        if let Some(LoadBalancingPolicy { policies }) = load_balancing_policy {
            if lb_config.is_some() {
                at.harmless("load_balancing_policy replaces the lb_config of the cluster");
            }
            return model.read_typed(policies, &at.field("load_balancing_policy")).then_some(model);
        }
        let policy_at = at.field("lb_policy");
        let reject = |name, reason| {
            policy_at.reject(name, reason);
            None
        };
        model.policy = match Pb::try_from(lb_policy) {
            Ok(Pb::RoundRobin) => {
                if let Some(LbConfig::RoundRobinLbConfig(config)) = lb_config {
                    let at = at.field("round_robin_lb_config");
                    let cluster::RoundRobinLbConfig { slow_start_config } = config;
                    unsupported!(at; slow_start_config = "slow start comes later");
                }
                LbPolicy::RoundRobin
            }
            Ok(Pb::Random) => LbPolicy::Random,
            Ok(Pb::LeastRequest) => match lb_config {
                Some(LbConfig::LeastRequestLbConfig(config)) => {
                    let at = at.field("least_request_lb_config");
                    let cluster::LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } = config;
                    unsupported!(at; slow_start_config = "slow start comes later");
                    least_request(choice_count, active_request_bias, false, &at)
                }
                _ => least_request(None, None, false, at),
            },
            Ok(Pb::RingHash) => return reject("RING_HASH", "not in this version: hashing comes later"),
            Ok(Pb::Maglev) => return reject("MAGLEV", "not in this version: hashing comes later"),
            Ok(Pb::ClusterProvided) => {
                return reject("CLUSTER_PROVIDED", "not in this version: it comes with ORIGINAL_DST");
            }
            Ok(Pb::LoadBalancingPolicyConfig) => {
                return reject("LOAD_BALANCING_POLICY_CONFIG", "load_balancing_policy must be set with it");
            }
            Err(_) => {
                policy_at.reject(lb_policy, "unknown value");
                return None;
            }
        };
        Some(model)
    }

    fn read_common(&mut self, message: CommonLbConfig, at: &At<'_>) {
        let CommonLbConfig {
            healthy_panic_threshold,
            update_merge_window,
            ignore_new_hosts_until_first_hc,
            close_connections_on_host_set_change,
            consistent_hashing_lb_config,
            override_host_status,
            locality_config_specifier,
        } = message;
        unsupported!(at; close_connections_on_host_set_change);
        harmless!(at;
            update_merge_window = "each update applies at once, and costs one pass over the hosts",
            ignore_new_hosts_until_first_hc = "there are no active health checks",
            consistent_hashing_lb_config = "no policy here hashes",
            override_host_status = "no filter here chooses hosts",
        );
        let threshold = percent(healthy_panic_threshold, 50.0, &at.field("healthy_panic_threshold"));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of a hundred")]
        let threshold = threshold.round() as u32;
        self.panic_threshold = threshold;
        match locality_config_specifier {
            Some(common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
                self.locality_weighted = true;
            }
            Some(common_lb_config::LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => {
                let at = at.field("zone_aware_lb_config");
                let common_lb_config::ZoneAwareLbConfig { routing_enabled, min_cluster_size, fail_traffic_on_panic } =
                    config;
                harmless!(at;
                    routing_enabled = "zone aware routing needs a local cluster, which is not in this version",
                    min_cluster_size = "zone aware routing needs a local cluster, which is not in this version",
                );
                self.fail_traffic_on_panic = fail_traffic_on_panic;
            }
            None => {}
        }
    }

    /// The first policy that is known here counts. Whether there is one without a fault.
    fn read_typed(&mut self, policies: Vec<load_balancing_policy::Policy>, at: &At<'_>) -> bool {
        let list = at.field("policies");
        let problems = at.problem_count();
        for (i, policy) in policies.into_iter().enumerate() {
            let at = list.index(i);
            let Some(config) = policy.typed_extension_config.and_then(|extension| extension.typed_config) else {
                at.field("typed_extension_config").reject("", "must be set");
                return false;
            };
            let at = at.field("typed_extension_config");
            let at = at.field("typed_config");
            if self.read_policy(&config, &at) {
                return at.problem_count() == problems;
            }
            at.harmless("a later policy in the list is used");
        }
        at.field("policies").reject("", "none of the policies is in this version");
        false
    }

    /// Whether the policy is one that is known here.
    fn read_policy(&mut self, config: &Any, at: &At<'_>) -> bool {
        let locality = if any::is::<RoundRobin>(config) {
            let Some(message) = any::decode::<RoundRobin>(config, at) else { return true };
            let RoundRobin { slow_start_config, locality_lb_config } = message;
            unsupported!(at; slow_start_config = "slow start comes later");
            self.policy = LbPolicy::RoundRobin;
            locality_lb_config
        } else if any::is::<Random>(config) {
            let Some(Random { locality_lb_config }) = any::decode(config, at) else { return true };
            self.policy = LbPolicy::Random;
            locality_lb_config
        } else if any::is::<LeastRequest>(config) {
            let Some(message) = any::decode::<LeastRequest>(config, at) else { return true };
            let LeastRequest {
                choice_count,
                active_request_bias,
                slow_start_config,
                locality_lb_config,
                enable_full_scan,
                selection_method,
            } = message;
            unsupported!(at; slow_start_config = "slow start comes later");
            let full_scan = match SelectionMethod::try_from(selection_method) {
                Ok(SelectionMethod::NChoices) => enable_full_scan.unwrap_or(false),
                Ok(SelectionMethod::FullScan) => true,
                Err(_) => {
                    at.field("selection_method").reject(selection_method, "unknown value");
                    return true;
                }
            };
            self.policy = least_request(choice_count, active_request_bias, full_scan, at);
            locality_lb_config
        } else {
            return false;
        };
        if let Some(locality) = locality {
            self.read_locality(locality, &at.field("locality_lb_config"));
        }
        true
    }

    fn read_locality(&mut self, message: LocalityLbConfig, at: &At<'_>) {
        use locality_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
        match message.locality_config_specifier {
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => self.locality_weighted = true,
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => {
                let at = at.field("zone_aware_lb_config");
                let ZoneAwareLbConfig {
                    routing_enabled,
                    min_cluster_size,
                    fail_traffic_on_panic,
                    force_locality_direct_routing,
                    force_local_zone,
                    locality_basis,
                } = config;
                harmless!(at;
                    routing_enabled = "zone aware routing needs a local cluster, which is not in this version",
                    min_cluster_size = "zone aware routing needs a local cluster, which is not in this version",
                    force_locality_direct_routing = "zone aware routing needs a local cluster",
                    force_local_zone = "zone aware routing needs a local cluster",
                    locality_basis = "zone aware routing needs a local cluster",
                );
                self.fail_traffic_on_panic = fail_traffic_on_panic;
            }
            None => {}
        }
    }
}

fn least_request(choices: Option<u32>, bias: Option<RuntimeDouble>, full_scan: bool, at: &At<'_>) -> LbPolicy {
    let choices = choices.unwrap_or(2);
    if choices < 2 {
        at.field("choice_count").reject(choices, "must be at least 2");
    }
    let bias_at = at.field("active_request_bias");
    let active_request_bias = match bias {
        None => 1.0,
        Some(RuntimeDouble { default_value, runtime_key }) => {
            harmless!(bias_at; runtime_key = "the default value holds: no runtime layer is consulted");
            if !(default_value >= 0.0 && default_value.is_finite()) {
                bias_at.field("default_value").reject(default_value, "must be a number of at least 0");
            }
            default_value
        }
    };
    LbPolicy::LeastRequest { choices, active_request_bias, full_scan }
}
