//! What keeps one failing host, or one burst of requests, from becoming everybody's outage.

pub mod breaker;
pub mod retry;
pub mod strict;
pub mod timeout;
