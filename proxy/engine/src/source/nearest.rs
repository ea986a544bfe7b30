//! "Did you mean …?"

/// `; did you mean "a" or "b"?` with the names nearest to what was written, or nothing if none is near.
pub fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> String {
    if written.len() > 200 {
        return String::new();
    }
    let bound = written.chars().count() / 3 + 1;
    let mut near: Vec<(usize, &str)> =
        names.map(|name| (distance(written, name), name)).filter(|(distance, _)| *distance <= bound).collect();
    near.sort_unstable();
    let names: Vec<String> = near.iter().take(3).map(|(_, name)| format!("{name:?}")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

/// Levenshtein's distance, letters of either case being equal.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let cost = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
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
