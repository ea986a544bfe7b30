//! The scenarios, by subject.

mod http1;
mod rejected;
mod resilience;
mod routing;
mod tcp;

use crate::scenario::Scenario;

/// All scenarios, in the order of the table.
pub(crate) fn all() -> Vec<Scenario> {
    let areas = [
        ("routing", routing::cases()),
        ("HTTP/1", http1::cases()),
        ("resilience", resilience::cases()),
        ("TCP", tcp::cases()),
        ("rejected", rejected::cases()),
    ];
    let named = |(area, cases): (&'static str, Vec<Scenario>)| {
        cases.into_iter().map(move |mut case| {
            case.area = area;
            case
        })
    };
    areas.into_iter().flat_map(named).collect()
}
