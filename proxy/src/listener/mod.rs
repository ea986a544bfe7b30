//! From a listening socket to the filter chain that takes the connection.
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

pub mod accept;
pub mod active;
pub mod connection;
pub mod connection_log;
pub mod drain;
pub mod inspect;
pub mod socket;
