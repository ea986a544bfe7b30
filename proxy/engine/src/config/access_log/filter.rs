//! `AccessLogFilter`: which requests get a line.

use outrigger_proto::envoy::config::accesslog::v3 as proto;
use outrigger_proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use outrigger_proto::envoy::config::accesslog::v3::comparison_filter::Op;
use outrigger_proto::envoy::config::core::v3::RuntimeUInt32;

use crate::config::report::At;
use crate::config::value::Fraction;
use crate::format::{FormatContext, grpc_code};
use crate::harmless;
use crate::matcher::{Head, HeaderMatcher};
use crate::stream_info::{RESPONSE_FLAGS, ResponseFlags};

/// gRPC's `UNKNOWN`.
const GRPC_UNKNOWN: u64 = 2;

/// Which requests get a line.
#[derive(Clone, Debug)]
pub enum AccessLogFilter {
    /// By the status sent downstream; 0 while there is none.
    StatusCode(Comparison),
    /// By the milliseconds that it took.
    Duration(Comparison),
    /// By one of these flags; `None`: by any.
    ResponseFlags(Option<ResponseFlags>),
    /// By a request header.
    Header(Box<HeaderMatcher>),
    /// By the gRPC status: one of these, or (`true`) none of these.
    GrpcStatus(Box<[u64]>, bool),
    /// A sample.
    Runtime(Fraction),
    /// Not answered by a health check filter, of which there is none here: all.
    NotHealthCheck,
    /// By all of these.
    And(Box<[AccessLogFilter]>),
    /// By one of these.
    Or(Box<[AccessLogFilter]>),
}

/// `ComparisonFilter`.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    op: Op,
    value: u64,
}

impl Comparison {
    fn convert(message: Option<proto::ComparisonFilter>, at: &At<'_>) -> Option<Comparison> {
        let at = at.field("comparison");
        let Some(proto::ComparisonFilter { op, value }) = message else {
            at.reject("", "is required");
            return None;
        };
        let value_at = at.field("value");
        let Some(RuntimeUInt32 { default_value, runtime_key }) = value else {
            value_at.reject("", "is required");
            return None;
        };
        harmless!(value_at; runtime_key = "the default value holds: no runtime layer is consulted");
        match Op::try_from(op) {
            Ok(op) => Some(Comparison { op, value: u64::from(default_value) }),
            Err(_) => {
                at.field("op").reject(op, "not one of EQ, GE, LE, NE");
                None
            }
        }
    }

    fn holds(self, value: u64) -> bool {
        match self.op {
            Op::Eq => value == self.value,
            Op::Ge => value >= self.value,
            Op::Le => value <= self.value,
            Op::Ne => value != self.value,
        }
    }
}

impl AccessLogFilter {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: proto::AccessLogFilter, at: &At<'_>) -> Option<AccessLogFilter> {
        let Some(specifier) = message.filter_specifier else {
            at.reject("", "one kind of filter is required");
            return None;
        };
        let later = |field: &'static str| {
            at.field(field).reject("", "not in this version");
            None
        };
        match specifier {
            FilterSpecifier::StatusCodeFilter(filter) => {
                Comparison::convert(filter.comparison, &at.field("status_code_filter")).map(AccessLogFilter::StatusCode)
            }
            FilterSpecifier::DurationFilter(filter) => {
                Comparison::convert(filter.comparison, &at.field("duration_filter")).map(AccessLogFilter::Duration)
            }
            FilterSpecifier::NotHealthCheckFilter(proto::NotHealthCheckFilter {}) => {
                Some(AccessLogFilter::NotHealthCheck)
            }
            FilterSpecifier::RuntimeFilter(filter) => runtime(filter, &at.field("runtime_filter")),
            FilterSpecifier::AndFilter(filter) => {
                list(filter.filters, &at.field("and_filter").field("filters")).map(AccessLogFilter::And)
            }
            FilterSpecifier::OrFilter(filter) => {
                list(filter.filters, &at.field("or_filter").field("filters")).map(AccessLogFilter::Or)
            }
            FilterSpecifier::HeaderFilter(filter) => {
                let filter_at = at.field("header_filter");
                let at = filter_at.field("header");
                match filter.header {
                    Some(header) => {
                        HeaderMatcher::convert(header, &at).map(|matcher| AccessLogFilter::Header(Box::new(matcher)))
                    }
                    None => {
                        at.reject("", "is required");
                        None
                    }
                }
            }
            FilterSpecifier::ResponseFlagFilter(filter) => {
                flags(filter.flags, &at.field("response_flag_filter").field("flags"))
            }
            FilterSpecifier::GrpcStatusFilter(filter) => {
                let proto::GrpcStatusFilter { statuses, exclude } = filter;
                let filter_at = at.field("grpc_status_filter");
                let at = filter_at.field("statuses");
                let convert = |(i, status): (usize, i32)| match proto::grpc_status_filter::Status::try_from(status) {
                    Ok(status) => u64::try_from(status as i32).ok(),
                    Err(_) => {
                        at.index(i).reject(status, "no such status");
                        None
                    }
                };
                let statuses: Vec<_> = statuses.into_iter().enumerate().map(convert).collect();
                let statuses = statuses.into_iter().collect::<Option<Box<[_]>>>()?;
                Some(AccessLogFilter::GrpcStatus(statuses, exclude))
            }
            FilterSpecifier::TraceableFilter(_) => later("traceable_filter"),
            FilterSpecifier::ExtensionFilter(_) => later("extension_filter"),
            FilterSpecifier::MetadataFilter(_) => later("metadata_filter"),
            FilterSpecifier::LogTypeFilter(_) => later("log_type_filter"),
        }
    }

    /// Whether the request gets a line. `random`: uniform over 64 bits, for a sample.
    pub fn matches(&self, ctx: &FormatContext<'_>, random: u64) -> bool {
        match self {
            AccessLogFilter::StatusCode(comparison) => comparison.holds(u64::from(ctx.info.response_code.unwrap_or(0))),
            AccessLogFilter::Duration(comparison) => {
                let taken = ctx.info.last_downstream_tx.unwrap_or(ctx.elapsed).as_millis();
                comparison.holds(u64::try_from(taken).unwrap_or(u64::MAX))
            }
            AccessLogFilter::ResponseFlags(None) => !ctx.info.flags.is_empty(),
            AccessLogFilter::ResponseFlags(Some(flags)) => ctx.info.flags.intersects(*flags),
            AccessLogFilter::Header(matcher) => ctx.request.is_some_and(|head| matcher.matches(Head::Request(head))),
            AccessLogFilter::GrpcStatus(statuses, exclude) => {
                statuses.contains(&grpc_code(ctx).unwrap_or(GRPC_UNKNOWN)) != *exclude
            }
            AccessLogFilter::Runtime(fraction) => fraction.contains(random),
            AccessLogFilter::NotHealthCheck => true,
            AccessLogFilter::And(filters) => filters.iter().all(|filter| filter.matches(ctx, random)),
            AccessLogFilter::Or(filters) => filters.iter().any(|filter| filter.matches(ctx, random)),
        }
    }
}

fn runtime(message: proto::RuntimeFilter, at: &At<'_>) -> Option<AccessLogFilter> {
    let proto::RuntimeFilter { runtime_key, percent_sampled, use_independent_randomness } = message;
    harmless!(at;
        runtime_key = "percent_sampled holds: no runtime layer is consulted",
        use_independent_randomness = "the sample is independent always");
    if runtime_key.is_empty() {
        at.field("runtime_key").reject("", "must not be empty");
    }
    Fraction::convert(percent_sampled.unwrap_or_default(), &at.field("percent_sampled")).map(AccessLogFilter::Runtime)
}

fn list(messages: Vec<proto::AccessLogFilter>, at: &At<'_>) -> Option<Box<[AccessLogFilter]>> {
    if messages.len() < 2 {
        at.reject("", "at least two are required");
        return None;
    }
    let filters: Vec<_> =
        messages.into_iter().enumerate().map(|(i, message)| AccessLogFilter::convert(message, &at.index(i))).collect();
    filters.into_iter().collect()
}

/// Envoy's flags that nothing here ever sets: a filter may name them.
const NEVER_SET: &[&str] = &["DI", "DO", "FI", "IH", "NFCF", "RFCF", "RL", "RLSE", "UAEX", "UDO"];

fn flags(names: Vec<String>, at: &At<'_>) -> Option<AccessLogFilter> {
    if names.is_empty() {
        return Some(AccessLogFilter::ResponseFlags(None));
    }
    let mut flags = ResponseFlags::NONE;
    for (i, name) in names.iter().enumerate() {
        match RESPONSE_FLAGS.iter().find(|(_, short, _)| short == name) {
            Some((flag, ..)) => flags.insert(*flag),
            None if NEVER_SET.contains(&name.as_str()) => {}
            None => at.index(i).reject(name, "no such response flag"),
        }
    }
    Some(AccessLogFilter::ResponseFlags(Some(flags)))
}
