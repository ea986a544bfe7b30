//! `RouteConfiguration` as the request path uses it: domains by hash, then the first rule that matches in
//! configuration order.

/// A route table.
#[derive(Debug)]
pub struct RouteTable {}
