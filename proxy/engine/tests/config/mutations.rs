//! Texts that nobody would write do no harm.

use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::source::{Source, verdicts};
use proptest::prelude::*;

use crate::FULL;

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    Delete(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    let piece = prop::sample::select(vec![
        "\n",
        " ",
        "  ",
        "\t",
        ":",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "&a ",
        "*a",
        "<<: *a",
        "|",
        ">",
        "#",
        "!!str ",
        "? ",
        "~",
        "%",
        "@type",
        "\0",
        "\u{feff}",
        "\u{1f9ff}",
        "-1",
        "1e999",
        "99999999999999999999",
        "0x",
        "true",
        "---",
        "...",
        ",",
    ]);
    prop_oneof![
        (index(), 1usize..40).prop_map(|(at, length)| Change::Delete(at, length)),
        (index(), piece).prop_map(|(at, piece)| Change::Insert(at, piece.to_owned())),
        (index(), index(), 1usize..200).prop_map(|(from, to, length)| Change::Copy(from, to, length)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let end = |from: usize, length: usize, chars: &[char]| (from + length).min(chars.len());
    match change {
        _ if chars.is_empty() => {}
        Change::Delete(at, length) => {
            let from = at.index(chars.len());
            let to = end(from, *length, &chars);
            chars.drain(from..to);
        }
        Change::Insert(at, piece) => {
            let from = at.index(chars.len());
            chars.splice(from..from, piece.chars());
        }
        Change::Copy(from, to, length) => {
            let (from, to) = (from.index(chars.len()), to.index(chars.len()));
            let part = chars[from..end(from, *length, &chars)].to_vec();
            chars.splice(to..to, part);
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_bootstrap_never_panics(changes in prop::collection::vec(change(), 1..6)) {
        let text = changes.iter().fold(FULL.to_owned(), |text, change| apply(&text, change));
        let sources = [Source::new("mutated.yaml", &text)];
        let loaded = Bootstrap::load(&sources);
        let lines = verdicts(&sources, |_, _| {});
        let rejected = lines.iter().any(|line| matches!(line.verdict, outrigger_engine::source::Verdict::Rejected { .. }));
        prop_assert_eq!(loaded.is_err(), rejected);
    }
}
