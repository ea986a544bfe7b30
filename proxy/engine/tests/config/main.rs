//! Bootstraps as a whole: what is accepted, what is refused and how.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a suite reports what went wrong by failing"
)]

mod faults;
mod mutations;
mod seeds;
mod support;

/// A bootstrap that has every message that is read.
const FULL: &str = include_str!("../bootstraps/full.yaml");

#[test]
fn the_full_bootstrap_is_accepted() {
    use outrigger_engine::config::bootstrap::Bootstrap;
    use outrigger_engine::source::Source;
    if let Err(problems) = Bootstrap::load(&[Source::new("full.yaml", FULL)]) {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}", all.join("\n"));
    }
}
