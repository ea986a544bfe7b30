//! Numbers for people: medians with their spread, as Markdown tables.

/// Median, lowest and highest of a few values; `None` of none.
fn spread(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        (values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0
    } else {
        *values.get(middle)?
    };
    Some((median, *values.first()?, *values.last()?))
}

/// `median (lowest–highest)`, or a dash.
pub(crate) fn cell(values: impl IntoIterator<Item = f64>, decimals: usize) -> String {
    match spread(values) {
        Some((median, low, high)) => format!("{median:.decimals$} ({low:.decimals$}–{high:.decimals$})"),
        None => "–".to_owned(),
    }
}

/// A Markdown table with columns as wide as their widest cell.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &[String]| {
        let cells = row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column)));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = (0..head.len()).map(|column| "-".repeat(width(column))).collect::<Vec<_>>();
    std::iter::once(line(&head)).chain([line(&rule)]).chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(spread([3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(spread([1.0, 2.0]), Some((1.5, 1.0, 2.0)));
        assert_eq!(spread([]), None);
    }

    #[test]
    fn tables() {
        let rows = [vec!["a".to_owned(), "1–2".to_owned()]];
        assert_eq!(table(&["name", "n"], &rows), "| name | n   |\n| ---- | --- |\n| a    | 1–2 |\n");
    }
}
