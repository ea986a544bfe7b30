//! `envoy.config.core.v3.GrpcService`: a gRPC service behind one of our own clusters.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use outrigger_proto::envoy::config::core::v3 as core;

use crate::config::report::At;
use crate::config::value::{duration, header_name};
use crate::{harmless, unsupported};

/// A message of a service may be so long where `max_receive_message_length` is not set: the configuration of a large
/// mesh comes in one.
pub const DEFAULT_MAX_RECEIVE: usize = 256 << 20;

/// A gRPC service (`envoy_grpc`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrpcService {
    /// The cluster that serves it.
    pub cluster: Arc<str>,
    /// `:authority` of the calls, the cluster's name by default.
    pub authority: Arc<str>,
    /// Headers of each call.
    pub initial_metadata: Vec<(HeaderName, HeaderValue)>,
    /// A longer message ends the call, in bytes (256 MiB).
    pub max_receive: usize,
    /// How long to wait before a stream is opened again.
    pub back_off: BackOff,
}

/// Waits before another attempt: the n-th one is random in `0..min(base * 2^n, max)`, as Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackOff {
    /// The longest first wait (500 ms).
    pub base: Duration,
    /// The longest of all (30 s, or ten times the base where only that is set).
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        BackOff { base: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

impl GrpcService {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: Option<core::GrpcService>, at: &At<'_>) -> Option<GrpcService> {
        use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
        let Some(core::GrpcService { timeout, initial_metadata, retry_policy, target_specifier }) = message else {
            at.reject("", "is required");
            return None;
        };
        harmless!(at; timeout = "a stream has no end");
        let list = at.field("initial_metadata");
        let initial_metadata = initial_metadata
            .into_iter()
            .enumerate()
            .filter_map(|(index, header)| metadata(header, &list.index(index)))
            .collect();
        let back_off = match retry_policy {
            Some(policy) => retry(policy, &at.field("retry_policy"))?,
            None => BackOff::default(),
        };
        let service = match target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(service)) => service,
            Some(TargetSpecifier::GoogleGrpc(_)) => {
                at.field("google_grpc").reject("", "not in this version: write envoy_grpc and a cluster");
                return None;
            }
            None => {
                at.field("envoy_grpc").reject("", "is required");
                return None;
            }
        };
        let at = at.field("envoy_grpc");
        let EnvoyGrpc { cluster_name, authority, retry_policy, max_receive_message_length, skip_envoy_headers } =
            service;
        unsupported!(at; retry_policy);
        harmless!(at; skip_envoy_headers = "no such headers are sent");
        if cluster_name.is_empty() {
            at.field("cluster_name").reject("", "must not be empty");
            return None;
        }
        let cluster: Arc<str> = cluster_name.into();
        let authority = if authority.is_empty() { Arc::clone(&cluster) } else { authority.into() };
        let max_receive = match max_receive_message_length {
            // 0 stands for "no limit" in Envoy; here everything has one.
            None | Some(0) => DEFAULT_MAX_RECEIVE,
            Some(length) => length as usize,
        };
        Some(GrpcService { cluster, authority, initial_metadata, max_receive, back_off })
    }
}

fn metadata(message: core::HeaderValue, at: &At<'_>) -> Option<(HeaderName, HeaderValue)> {
    let core::HeaderValue { key, value, raw_value } = message;
    let name = header_name(&key, &at.field("key"))?;
    if value.contains('%') {
        at.field("value").reject(&value, "not in this version: operators such as %…% in metadata");
        return None;
    }
    let bytes = if value.is_empty() { raw_value } else { value.into_bytes() };
    match HeaderValue::try_from(bytes) {
        Ok(value) => Some((name, value)),
        Err(_) => {
            at.field("value").reject("", "not a header value");
            None
        }
    }
}

/// Of a retry policy for streams, only the waits mean something.
fn retry(message: core::RetryPolicy, at: &At<'_>) -> Option<BackOff> {
    let core::RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = message;
    unsupported!(at; retry_priority, retry_host_predicate);
    harmless!(at;
        num_retries = "a stream is opened again until that succeeds",
        retry_on = "a stream is opened again whatever ended it",
    );
    if host_selection_retry_max_attempts != 0 {
        at.field("host_selection_retry_max_attempts").harmless("each attempt picks a host anew");
    }
    let Some(core::BackoffStrategy { base_interval, max_interval }) = retry_back_off else {
        return Some(BackOff::default());
    };
    let at = at.field("retry_back_off");
    let base_at = at.field("base_interval");
    let base = match duration(base_interval, &base_at) {
        Some(base) if base >= Duration::from_millis(1) => base,
        Some(base) => {
            base_at.reject(format_args!("{base:?}"), "must be at least 0.001s");
            return None;
        }
        None => {
            base_at.reject("", "is required");
            return None;
        }
    };
    let max_at = at.field("max_interval");
    let max = match duration(max_interval, &max_at) {
        Some(max) if max >= base => max,
        Some(max) => {
            max_at.reject(format_args!("{max:?}"), "must not be less than base_interval");
            return None;
        }
        None => base.saturating_mul(10),
    };
    Some(BackOff { base, max })
}

#[cfg(test)]
mod tests {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    use outrigger_proto::envoy::config::core::v3 as core;

    use super::*;
    use crate::config::report::Report;

    fn convert(message: core::GrpcService) -> Result<GrpcService, Vec<String>> {
        let report = Report::new();
        let service = GrpcService::convert(Some(message), &report.root());
        let problems: Vec<String> = report.into_parts().0.iter().map(ToString::to_string).collect();
        service.filter(|_| problems.is_empty()).ok_or(problems)
    }

    #[test]
    fn a_service_has_its_defaults_or_what_it_says() {
        let target = |authority: &str| {
            let service = EnvoyGrpc { cluster_name: "cp".into(), authority: authority.into(), ..Default::default() };
            Some(TargetSpecifier::EnvoyGrpc(service))
        };
        let plain = convert(core::GrpcService { target_specifier: target(""), ..Default::default() }).unwrap();
        assert_eq!((&*plain.cluster, &*plain.authority), ("cp", "cp"));
        assert_eq!((plain.max_receive, plain.back_off), (DEFAULT_MAX_RECEIVE, BackOff::default()));

        let strategy = core::BackoffStrategy {
            base_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            max_interval: None,
        };
        let header =
            |key: &str, value: &str| core::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() };
        let message = core::GrpcService {
            initial_metadata: vec![header("Authorization", "Bearer x")],
            retry_policy: Some(core::RetryPolicy { retry_back_off: Some(strategy), ..Default::default() }),
            target_specifier: target("cp.mesh"),
            ..Default::default()
        };
        let full = convert(message.clone()).unwrap();
        assert_eq!(&*full.authority, "cp.mesh");
        assert_eq!(full.back_off, BackOff { base: Duration::from_secs(1), max: Duration::from_secs(10) });
        assert_eq!(full.initial_metadata, [(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer x"))]);

        let bad = core::GrpcService {
            initial_metadata: vec![header("a b", "x"), header("a", "%HOSTNAME%")],
            target_specifier: None,
            ..message
        };
        assert_eq!(
            convert(bad).unwrap_err(),
            [
                "initial_metadata[0].key: a b: not a header name",
                "initial_metadata[1].value: %HOSTNAME%: not in this version: operators such as %…% in metadata",
                "envoy_grpc: is required",
            ]
        );
    }
}
