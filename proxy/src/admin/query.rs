//! The query of a request.

/// Names and values in the order in which they came, percent-decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let mut query = Query::default();
        query.append(text);
        query
    }

    /// Adds the pairs of a further text.
    pub(super) fn append(&mut self, text: &str) {
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.0.push((decode(name), decode(value)));
        }
    }

    /// The first value of a name; empty where there was no `=`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// Replaces `%2F` by `/`; what is not such an escape stays.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let escaped = match tail {
            [high, low, after @ ..] if byte == b'%' => hex(*high).zip(hex(*low)).map(|digits| (digits, after)),
            _ => None,
        };
        let (byte, after) = escaped.map_or((byte, tail), |((high, low), after)| (high << 4 | low, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_in_order_and_decoded() {
        let query = Query::parse("usedonly&filter=%5Ecluster%2e&filter=second&bad=%zz%4");
        assert_eq!(query.get("usedonly"), Some(""));
        assert_eq!(query.get("filter"), Some("^cluster."));
        assert_eq!(query.get("bad"), Some("%zz%4"));
        assert_eq!(query.get("filte"), None);
        assert_eq!(query.pairs().len(), 4);
    }
}
