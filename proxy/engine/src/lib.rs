//! Everything that decides, and nothing that does I/O: time and randomness are parameters, sockets are someone else's.
//!
//! The proxy, the control plane (which validates what it sends by the code that will receive it) and the simulator use
//! the same engine. See `ARCHITECTURE.md` for the way of a byte and of a configuration update.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod balance;
pub mod config;
pub mod connection_manager;
pub mod filter_chain;
pub mod format;
pub mod matcher;
pub mod message;
pub mod reply;
pub mod resilience;
pub mod route;
mod singular;
pub mod snapshot;
pub mod source;
pub mod stream_info;
pub mod xds;

#[cfg(test)]
mod testing;
