//! Path normalisation: what comes out is a path, has no dot segments, and does not change again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_engine::config::hcm::EscapedSlashes;
use outrigger_engine::connection_manager::path::{Normalized, normalize};

fuzz_target!(|input: (&str, bool, u8)| {
    let (path, merge, slashes) = input;
    let slashes = match slashes % 4 {
        0 => EscapedSlashes::KeepUnchanged,
        1 => EscapedSlashes::RejectRequest,
        2 => EscapedSlashes::UnescapeAndRedirect,
        _ => EscapedSlashes::UnescapeAndForward,
    };
    let once = match normalize(path, true, merge, slashes) {
        Normalized::Path(path) => path.into_owned(),
        Normalized::Redirect(path) => path,
        Normalized::Reject(_) => return,
    };
    assert!(once.starts_with('/'), "{once:?}");
    let only_path = once.split(['?', '#']).next().unwrap_or_default();
    assert!(!only_path.split('/').any(|segment| segment == "." || segment == ".."), "{path:?} became {once:?}");
    if slashes == EscapedSlashes::KeepUnchanged {
        let Normalized::Path(twice) = normalize(&once, true, merge, slashes) else { panic!("{once:?} is refused") };
        assert_eq!(twice, once, "from {path:?}");
    }
});
