//! A bootstrap's text: reading it, and saying what becomes of its fields.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::source::{Source, Verdict, verdicts};

fuzz_target!(|text: &str| {
    let sources = [Source::new("fuzz.yaml", text)];
    let loaded = Bootstrap::load(&sources);
    let rejected = verdicts(&sources, |_, _| {}).iter().any(|line| matches!(line.verdict, Verdict::Rejected { .. }));
    assert_eq!(loaded.is_err(), rejected);
});
