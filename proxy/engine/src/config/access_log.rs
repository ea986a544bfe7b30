//! `envoy.config.accesslog.v3.AccessLog`: where a line goes, which requests get one, what it says.

/// One access log.
#[derive(Clone, Debug)]
pub struct AccessLog {}
