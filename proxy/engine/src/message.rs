//! Request and response heads as every filter, route and balancer sees them, whatever codec they came from.
//!
//! Headers are a list in the order of the wire rather than a hash map: a proxy mostly passes them on, a request has
//! about ten of them, and a scan over ten interned names costs less than building a map for each message. Order and
//! repetition survive, which Envoy keeps too and clients notice.

use http::{HeaderName, HeaderValue, Method, StatusCode};

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
    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub connect_protocol: Option<HeaderValue>,
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

/// A list of header fields in the order of the wire. Names are lower case, as `HeaderName` keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// An empty list.
    pub const fn new() -> Self {
        Headers(Vec::new())
    }

    /// An empty list with room for `n` fields.
    pub fn with_capacity(n: usize) -> Self {
        Headers(Vec::with_capacity(n))
    }

    /// The number of fields, repeated names counted each time.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value of `name`.
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// All values of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a HeaderValue> + 'a {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v)
    }

    /// Whether `name` is there.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// Adds a field at the end.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Sets `name` to exactly one value: the first field of that name takes it in its place, others go; else it is
    /// added at the end.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match self.0.iter().position(|(n, _)| *n == name) {
            Some(first) => {
                if let Some(field) = self.0.get_mut(first) {
                    field.1 = value;
                }
                let mut at = 0;
                self.0.retain(|(n, _)| {
                    at += 1;
                    at - 1 <= first || *n != name
                });
            }
            None => self.0.push((name, value)),
        }
    }

    /// Removes every field of `name`; the first removed value comes back.
    pub fn remove(&mut self, name: &HeaderName) -> Option<HeaderValue> {
        let first = self.0.iter().position(|(n, _)| n == name)?;
        let (_, value) = self.0.remove(first);
        self.0.retain(|(n, _)| n != name);
        Some(value)
    }

    /// Keeps the fields that `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        self.0.retain(|(n, v)| keep(n, v));
    }

    /// The fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(n, v)| (n, v))
    }

    /// The bytes of names and values together, as limits on header size count them.
    pub fn byte_size(&self) -> usize {
        self.0.iter().map(|(n, v)| n.as_str().len() + v.len()).sum()
    }
}

impl IntoIterator for Headers {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::vec::IntoIter<(HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        Headers(fields.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn set_replaces_in_place_and_drops_repetitions() {
        let mut h = headers(&[("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]);
        h.set(HeaderName::from_static("a"), HeaderValue::from_static("9"));
        assert_eq!(h, headers(&[("a", "9"), ("b", "2"), ("c", "4")]));
    }

    #[test]
    fn remove_takes_every_field_of_the_name() {
        let mut h = headers(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(h.remove(&HeaderName::from_static("a")), Some(HeaderValue::from_static("1")));
        assert_eq!(h, headers(&[("b", "2")]));
    }
}
