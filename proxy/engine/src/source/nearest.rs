//! "Did you mean …?"

/// `; did you mean "a" or "b"?` with the names nearest to what was written, or nothing if none is near.
pub fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> String {
    if written.len() > 200 {
        return String::new();
    }
    let bound = (written.chars().count() / 3).saturating_add(1);
    let mut near: Vec<(usize, &str)> =
        names.map(|name| (distance(written, name), name)).filter(|(distance, _)| *distance <= bound).collect();
    near.sort_unstable();
    let names: Vec<String> = near.iter().take(3).map(|(_, name)| format!("{name:?}")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

/// Levenshtein's distance, letters of either case being equal.
fn distance(a: &str, b: &str) -> usize {
    // Each letter of `b`, and how far all up to it is from what of `a` has been read.
    let mut row: Vec<(char, usize)> = b.chars().map(|c| c.to_ascii_lowercase()).zip(1..).collect();
    let mut of_none = 0usize;
    for a in a.chars().map(|c| c.to_ascii_lowercase()) {
        let mut diagonal = of_none;
        of_none = of_none.saturating_add(1);
        let mut left = of_none;
        for (b, above) in &mut row {
            let changed = diagonal.saturating_add(usize::from(a != *b));
            diagonal = *above;
            left = changed.min(left.min(*above).saturating_add(1));
            *above = left;
        }
    }
    row.last().map_or(of_none, |(_, distance)| *distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_nearest_first() {
        let names = ["connect_timeout", "name", "type", "alt_stat_name"];
        assert_eq!(nearest("conect_timeout", names.into_iter()), r#"; did you mean "connect_timeout"?"#);
        assert_eq!(nearest("Type", names.into_iter()), r#"; did you mean "type"?"#);
        assert_eq!(nearest("xyz", names.into_iter()), "");
    }
}
