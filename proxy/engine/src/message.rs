//! Request and response heads as every filter, route and balancer sees them, whatever codec they came from.
//!
//! Headers are a list in the order of the wire rather than a hash map: a proxy mostly passes them on, a request has
//! about ten of them, and a scan over ten interned names costs less than building a map for each message. Order and
//! repetition survive, which Envoy keeps too and clients notice.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};

/// Whether a header's name is a token (RFC 9110, section 5.6.2): the crate takes a quotation mark for one of its
/// characters.
pub fn is_token(name: &HeaderName) -> bool {
    memchr::memchr(b'"', name.as_str().as_bytes()).is_none()
}

/// The header that `name` is of, in any case; `None` if it is no token.
pub fn header_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok().filter(is_token)
}

/// The protocol of one hop, as `%PROTOCOL%` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }
}

/// The head of a request. The pseudo-headers of HTTP/2 and the request line of HTTP/1 are fields, never headers.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// `:method`.
    pub method: Method,
    /// `:scheme`; `http` or `https` once the connection manager has seen the request.
    pub scheme: Scheme,
    /// `:authority` or `Host`; `None` where an HTTP/1.0 client sent none.
    pub authority: Option<HeaderValue>,
    /// `:path`, with its query; empty only for a plain `CONNECT`.
    pub path: HeaderValue,
    /// The protocol it came in by.
    pub protocol: Protocol,
    /// Everything else, without `Host`.
    pub headers: Headers,
}

/// `:scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The head of a response, final or informational.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// `:status`.
    pub status: StatusCode,
    /// The protocol it came in by; for a local reply that of the downstream.
    pub protocol: Protocol,
    /// The headers.
    pub headers: Headers,
}

/// A list of header fields in the order of the wire. Names are lower case, as `HeaderName` keeps them; how the peer
/// spelled them is beside the list, where somebody asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    fields: Vec<(HeaderName, HeaderValue)>,
    spelling: Option<Box<Spelling>>,
}

/// How an HTTP/1 peer spelled a message's head: what `PreserveCaseFormatterConfig` keeps for the next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    /// The names as they came, `Host` among them. The first of a name counts.
    pub names: Vec<Bytes>,
    /// Names that did not come from the peer are written `Like-This`.
    pub others_in_proper_case: bool,
    /// The reason phrase of a response, where it is kept.
    pub reason: Option<Bytes>,
}

impl Spelling {
    /// The spelling of `name`, if the peer sent it.
    pub fn of(&self, name: &str) -> Option<&[u8]> {
        self.names.iter().find(|kept| kept.eq_ignore_ascii_case(name.as_bytes())).map(|kept| &kept[..])
    }
}

impl Headers {
    /// An empty list.
    pub const fn new() -> Self {
        Headers { fields: Vec::new(), spelling: None }
    }

    /// An empty list with room for `n` fields.
    pub fn with_capacity(n: usize) -> Self {
        Headers { fields: Vec::with_capacity(n), spelling: None }
    }

    /// How the peer spelled them, if that is known.
    pub fn spelling(&self) -> Option<&Spelling> {
        self.spelling.as_deref()
    }

    /// Notes how the peer spelled them.
    pub fn set_spelling(&mut self, spelling: Spelling) {
        self.spelling = Some(Box::new(spelling));
    }

    /// Notes the reason phrase beside the spelling, if that is kept.
    pub fn set_reason(&mut self, reason: Bytes) {
        if let Some(spelling) = &mut self.spelling {
            spelling.reason = Some(reason).filter(|reason| !reason.is_empty());
        }
    }

    /// The number of fields, repeated names counted each time.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The first value of `name`.
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// All values of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a HeaderValue> + 'a {
        self.fields.iter().filter(move |(n, _)| n == name).map(|(_, v)| v)
    }

    /// The one value of `name`: where there are more, they become one first, with commas between them (RFC 9110,
    /// section 5.3), in the place of the first. Who believes a header must not see only a part of it: what a proxy in
    /// front of us adds may stand in a line of its own. Empty values say nothing, and leave no comma.
    pub fn fold(&mut self, name: &HeaderName) -> Option<&HeaderValue> {
        let first = self.fields.iter().position(|(n, _)| n == name)?;
        let rest = self.fields.get(first.saturating_add(1)..).unwrap_or_default();
        if rest.iter().any(|(n, _)| n == name) {
            let values: Vec<&[u8]> =
                self.get_all(name).map(HeaderValue::as_bytes).filter(|value| !value.is_empty()).collect();
            // What is allowed in each is allowed in all of them.
            if let Ok(joined) = HeaderValue::from_bytes(&values.join(&b","[..])) {
                self.set(name.clone(), joined);
            }
        }
        self.fields.get(first).map(|(_, value)| value)
    }

    /// Makes `value` the end of the one value of `name`, after `separator`, whatever bytes stand there already.
    pub fn join(&mut self, name: HeaderName, separator: &str, value: HeaderValue) {
        let joined = match self.fold(&name).map(HeaderValue::as_bytes).filter(|present| !present.is_empty()) {
            // What is allowed in each is allowed in both.
            Some(present) => HeaderValue::from_bytes(&[present, separator.as_bytes(), value.as_bytes()].concat()),
            None => Ok(value),
        };
        if let Ok(joined) = joined {
            self.set(name, joined);
        }
    }

    /// Whether `name` is there.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.fields.iter().any(|(n, _)| n == name)
    }

    /// Adds a field at the end.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.fields.push((name, value));
    }

    /// Sets `name` to exactly one value: the first field of that name takes it in its place, others go; else it is
    /// added at the end.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match self.fields.iter().position(|(n, _)| *n == name) {
            Some(first) => {
                if let Some(field) = self.fields.get_mut(first) {
                    field.1 = value;
                }
                let mut at = 0..;
                self.fields.retain(|(n, _)| at.next().is_some_and(|at| at <= first) || *n != name);
            }
            None => self.fields.push((name, value)),
        }
    }

    /// Removes every field of `name`; the first removed value comes back.
    pub fn remove(&mut self, name: &HeaderName) -> Option<HeaderValue> {
        let first = self.fields.iter().position(|(n, _)| n == name)?;
        let (_, value) = self.fields.remove(first);
        self.fields.retain(|(n, _)| n != name);
        Some(value)
    }

    /// Keeps the fields that `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        self.fields.retain(|(n, v)| keep(n, v));
    }

    /// The fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields.iter().map(|(n, v)| (n, v))
    }

    /// The bytes of names and values together, as limits on header size count them.
    pub fn byte_size(&self) -> usize {
        self.fields.iter().map(|(n, v)| n.as_str().len().saturating_add(v.len())).sum()
    }
}

impl IntoIterator for Headers {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::vec::IntoIter<(HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.into_iter()
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        Headers { fields: fields.into_iter().collect(), spelling: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_first_spelling_of_a_name_counts() {
        let names = ["HoSt", "x-A", "X-a"].map(|name| Bytes::from_static(name.as_bytes())).to_vec();
        let spelling = Spelling { names, ..Spelling::default() };
        assert_eq!(spelling.of("host"), Some(&b"HoSt"[..]));
        assert_eq!(spelling.of("x-a"), Some(&b"x-A"[..]));
        assert_eq!(spelling.of("x-b"), None);
    }

    #[test]
    fn set_replaces_in_place_and_drops_repetitions() {
        let mut h = headers(&[("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]);
        h.set(HeaderName::from_static("a"), HeaderValue::from_static("9"));
        assert_eq!(h, headers(&[("a", "9"), ("b", "2"), ("c", "4")]));
    }

    #[test]
    fn fold_makes_one_line_of_many() {
        let mut h = headers(&[("a", "1"), ("b", "2"), ("a", "3, 4"), ("c", "5"), ("a", "")]);
        assert_eq!(h.fold(&HeaderName::from_static("a")), Some(&HeaderValue::from_static("1,3, 4")));
        assert_eq!(h, headers(&[("a", "1,3, 4"), ("b", "2"), ("c", "5")]));
        assert_eq!(h.fold(&HeaderName::from_static("c")), Some(&HeaderValue::from_static("5")));
        assert_eq!(h.fold(&HeaderName::from_static("d")), None);
    }

    #[test]
    fn join_keeps_what_is_there_whatever_its_bytes() {
        let name = HeaderName::from_static("a");
        let mut h = headers(&[("a", ""), ("a", "1"), ("b", "2")]);
        h.set(HeaderName::from_static("b"), HeaderValue::from_bytes(b"\xff").unwrap());
        h.join(name.clone(), ",", HeaderValue::from_static("9"));
        assert_eq!(h.get(&name).unwrap(), "1,9");
        h.join(HeaderName::from_static("b"), ",", HeaderValue::from_static("9"));
        assert_eq!(h.get(&HeaderName::from_static("b")).unwrap().as_bytes(), b"\xff,9");
        h.join(HeaderName::from_static("c"), ",", HeaderValue::from_static("9"));
        assert_eq!(h.get(&HeaderName::from_static("c")).unwrap(), "9");
    }

    #[test]
    fn remove_takes_every_field_of_the_name() {
        let mut h = headers(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(h.remove(&HeaderName::from_static("a")), Some(HeaderValue::from_static("1")));
        assert_eq!(h, headers(&[("b", "2")]));
    }
}
