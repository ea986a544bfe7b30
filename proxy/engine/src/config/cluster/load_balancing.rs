//! `lb_policy`, `load_balancing_policy` and what goes with them.

use outrigger_proto::envoy::config::cluster::v3::cluster::{
    self, CommonLbConfig, LbConfig, LbPolicy as Pb, SlowStartConfig, common_lb_config,
    common_lb_config::ConsistentHashingLbConfig, ring_hash_lb_config::HashFunction,
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

/// Envoy's bounds of hash tables.
const MAX_RING_SIZE: u64 = 8_388_608;
const MAX_TABLE_SIZE: u64 = 5_000_011;

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
        let common = common_lb_config.unwrap_or_default();
        let policy_at = at.field("lb_policy");
        // A typed policy overrides the enumeration, as in Envoy.
        if let Some(LoadBalancingPolicy { policies }) = load_balancing_policy {
            match Pb::try_from(lb_policy) {
                Ok(Pb::RoundRobin | Pb::LoadBalancingPolicyConfig) => {}
                Ok(_) => policy_at.harmless("load_balancing_policy replaces it"),
                Err(_) => policy_at.reject(lb_policy, "unknown value"),
            }
            if let Some(config) = lb_config {
                without_effect(config, at);
            }
            beside_typed(&common, &at.field("common_lb_config"));
            model.read_common(common, &at.field("common_lb_config"));
            return model.read_typed(policies, &at.field("load_balancing_policy")).then_some(model);
        }
        model.read_common(common, &at.field("common_lb_config"));
        let reject = |name, reason| {
            policy_at.reject(name, reason);
            None
        };
        model.policy = match (Pb::try_from(lb_policy), lb_config) {
            (Ok(Pb::RoundRobin), Some(LbConfig::RoundRobinLbConfig(config))) => {
                let at = at.field("round_robin_lb_config");
                let cluster::RoundRobinLbConfig { slow_start_config } = config;
                unsupported!(at; slow_start_config = "slow start comes later");
                LbPolicy::RoundRobin
            }
            (Ok(Pb::LeastRequest), Some(LbConfig::LeastRequestLbConfig(config))) => {
                let at = at.field("least_request_lb_config");
                let cluster::LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } = config;
                unsupported!(at; slow_start_config = "slow start comes later");
                least_request(choice_count, active_request_bias, false, &at)
            }
            (policy, other) => {
                if let Some(other) = other {
                    without_effect(other, at);
                }
                match policy {
                    Ok(Pb::RoundRobin) => LbPolicy::RoundRobin,
                    Ok(Pb::Random) => LbPolicy::Random,
                    Ok(Pb::LeastRequest) => least_request(None, None, false, at),
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
                }
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
        if let Some(ConsistentHashingLbConfig { use_hostname_for_hashing: _, hash_balance_factor: Some(factor) }) =
            consistent_hashing_lb_config
            && factor < 100
        {
            at.field("consistent_hashing_lb_config")
                .field("hash_balance_factor")
                .reject(factor, "must be at least 100");
        }
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
                percent(routing_enabled, 100.0, &at.field("routing_enabled"));
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

/// What Envoy takes from a typed policy only, once there is one.
fn beside_typed(common: &CommonLbConfig, at: &At<'_>) {
    let reject = |name| at.field(name).reject("", "load_balancing_policy has its own: it cannot be combined with it");
    match common.locality_config_specifier {
        Some(common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            reject("locality_weighted_lb_config")
        }
        Some(common_lb_config::LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => reject("zone_aware_lb_config"),
        None => {}
    }
    if common.consistent_hashing_lb_config.is_some() {
        reject("consistent_hashing_lb_config");
    }
}

/// An `lb_config` that the policy does not read. Its bounds hold nevertheless, as in Envoy.
fn without_effect(config: LbConfig, at: &At<'_>) {
    let at_most = |value: Option<u64>, most, at: At<'_>| {
        if let Some(value) = value.filter(|value| *value > most) {
            at.reject(value, format_args!("must be at most {most}"));
        }
    };
    let name = match &config {
        LbConfig::RingHashLbConfig(_) => "ring_hash_lb_config",
        LbConfig::MaglevLbConfig(_) => "maglev_lb_config",
        LbConfig::OriginalDstLbConfig(_) => "original_dst_lb_config",
        LbConfig::LeastRequestLbConfig(_) => "least_request_lb_config",
        LbConfig::RoundRobinLbConfig(_) => "round_robin_lb_config",
    };
    let at = at.field(name);
    at.harmless("the policy of the cluster does not read it");
    match config {
        LbConfig::RoundRobinLbConfig(cluster::RoundRobinLbConfig { slow_start_config }) => {
            slow_start(slow_start_config, &at);
        }
        LbConfig::LeastRequestLbConfig(config) => {
            let cluster::LeastRequestLbConfig { choice_count, active_request_bias: _, slow_start_config } = config;
            if let Some(choices) = choice_count.filter(|choices| *choices < 2) {
                at.field("choice_count").reject(choices, "must be at least 2");
            }
            slow_start(slow_start_config, &at);
        }
        LbConfig::RingHashLbConfig(config) => {
            let cluster::RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } = config;
            at_most(minimum_ring_size, MAX_RING_SIZE, at.field("minimum_ring_size"));
            at_most(maximum_ring_size, MAX_RING_SIZE, at.field("maximum_ring_size"));
            if HashFunction::try_from(hash_function).is_err() {
                at.field("hash_function").reject(hash_function, "unknown value");
            }
        }
        LbConfig::MaglevLbConfig(cluster::MaglevLbConfig { table_size }) => {
            at_most(table_size, MAX_TABLE_SIZE, at.field("table_size"));
        }
        LbConfig::OriginalDstLbConfig(config) => {
            let cluster::OriginalDstLbConfig {
                use_http_header: _,
                http_header_name: _,
                upstream_port_override,
                metadata_key,
            } = config;
            at_most(upstream_port_override.map(u64::from), 65535, at.field("upstream_port_override"));
            if metadata_key.is_some_and(|key| key.key.is_empty() || key.path.is_empty()) {
                at.field("metadata_key").reject("", "key and path must not be empty");
            }
        }
    }
}

/// The bounds of what has no effect.
fn slow_start(config: Option<SlowStartConfig>, at: &At<'_>) {
    if let Some(SlowStartConfig { slow_start_window: _, aggression: _, min_weight_percent }) = config {
        let at = at.field("slow_start_config");
        percent(min_weight_percent, 10.0, &at.field("min_weight_percent"));
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
