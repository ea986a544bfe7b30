//! Header names that are not in the `http` crate.

use http::HeaderName;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: HeaderName = HeaderName::from_static($text);)*
    };
}

names! {
    /// `keep-alive`
    KEEP_ALIVE = "keep-alive";
    /// `proxy-connection`
    PROXY_CONNECTION = "proxy-connection";
    /// `x-forwarded-for`
    X_FORWARDED_FOR = "x-forwarded-for";
    /// `x-forwarded-proto`
    X_FORWARDED_PROTO = "x-forwarded-proto";
    /// `x-forwarded-port`
    X_FORWARDED_PORT = "x-forwarded-port";
    /// `x-forwarded-host`
    X_FORWARDED_HOST = "x-forwarded-host";
    /// `x-forwarded-client-cert`
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert";
    /// `x-request-id`
    X_REQUEST_ID = "x-request-id";
    /// `x-envoy-internal`
    X_ENVOY_INTERNAL = "x-envoy-internal";
    /// `x-envoy-external-address`
    X_ENVOY_EXTERNAL_ADDRESS = "x-envoy-external-address";
    /// `x-envoy-decorator-operation`
    X_ENVOY_DECORATOR_OPERATION = "x-envoy-decorator-operation";
    /// `x-envoy-downstream-service-cluster`
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER = "x-envoy-downstream-service-cluster";
    /// `x-envoy-downstream-service-node`
    X_ENVOY_DOWNSTREAM_SERVICE_NODE = "x-envoy-downstream-service-node";
    /// `x-envoy-retry-on`
    X_ENVOY_RETRY_ON = "x-envoy-retry-on";
    /// `x-envoy-retry-grpc-on`
    X_ENVOY_RETRY_GRPC_ON = "x-envoy-retry-grpc-on";
    /// `x-envoy-max-retries`
    X_ENVOY_MAX_RETRIES = "x-envoy-max-retries";
    /// `x-envoy-retriable-status-codes`
    X_ENVOY_RETRIABLE_STATUS_CODES = "x-envoy-retriable-status-codes";
    /// `x-envoy-retriable-header-names`
    X_ENVOY_RETRIABLE_HEADER_NAMES = "x-envoy-retriable-header-names";
    /// `x-envoy-upstream-alt-stat-name`
    X_ENVOY_UPSTREAM_ALT_STAT_NAME = "x-envoy-upstream-alt-stat-name";
    /// `x-envoy-upstream-rq-timeout-ms`
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS = "x-envoy-upstream-rq-timeout-ms";
    /// `x-envoy-upstream-rq-per-try-timeout-ms`
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS = "x-envoy-upstream-rq-per-try-timeout-ms";
    /// `x-envoy-upstream-rq-timeout-alt-response`
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE = "x-envoy-upstream-rq-timeout-alt-response";
    /// `x-envoy-expected-rq-timeout-ms`
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS = "x-envoy-expected-rq-timeout-ms";
    /// `x-envoy-force-trace`
    X_ENVOY_FORCE_TRACE = "x-envoy-force-trace";
    /// `x-envoy-ip-tags`
    X_ENVOY_IP_TAGS = "x-envoy-ip-tags";
    /// `x-envoy-original-url`
    X_ENVOY_ORIGINAL_URL = "x-envoy-original-url";
    /// `x-envoy-hedge-on-per-try-timeout`
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT = "x-envoy-hedge-on-per-try-timeout";
    /// `x-envoy-upstream-service-time`
    X_ENVOY_UPSTREAM_SERVICE_TIME = "x-envoy-upstream-service-time";
    /// `x-envoy-attempt-count`
    X_ENVOY_ATTEMPT_COUNT = "x-envoy-attempt-count";
    /// `x-envoy-is-timeout-retry`
    X_ENVOY_IS_TIMEOUT_RETRY = "x-envoy-is-timeout-retry";
    /// `x-envoy-overloaded`
    X_ENVOY_OVERLOADED = "x-envoy-overloaded";
    /// `grpc-status`
    GRPC_STATUS = "grpc-status";
    /// `grpc-message`
    GRPC_MESSAGE = "grpc-message";
    /// `grpc-timeout`
    GRPC_TIMEOUT = "grpc-timeout";
}
