//! One field of one scenario's bootstrap changed: the suite must see each of them, or it compares too little.

use crate::scenario::Mutation;

const fn field(part: &'static str, pointer: &'static str, value: &'static str) -> Mutation {
    Mutation { part, pointer, value }
}

/// The scenario, and what is changed in it.
pub(crate) const MUTATIONS: &[(&str, Mutation)] = &[
    ("get_is_forwarded", field("hcm", "/server_name", "other")),
    ("get_is_forwarded", field("hcm", "/use_remote_address", "true")),
    ("get_is_forwarded", field("hcm", "/via", "mesh")),
    ("get_is_forwarded", field("hcm", "/generate_request_id", "false")),
];
