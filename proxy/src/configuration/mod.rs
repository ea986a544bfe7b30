//! The configuration as it changes while the process runs: updates come in from any source, and what is good of them is
//! in force a moment later.

pub mod channel;
