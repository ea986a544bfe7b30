//! Which virtual host a request is for: by the host's name, in a constant number of hash look-ups.

use std::collections::HashMap;

use smallvec::SmallVec;

/// Names of virtual hosts: exact, `*.suffix`, `prefix.*`, `*`, in this order of precedence.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    exact: HashMap<Box<[u8]>, u32>,
    suffixes: Wildcards,
    prefixes: Wildcards,
    any: Option<u32>,
}

/// Wildcards of one kind, without their star.
#[derive(Debug, Default)]
struct Wildcards {
    names: HashMap<Box<[u8]>, u32>,
    /// The lengths that occur, longest first.
    lengths: Vec<usize>,
}

impl Wildcards {
    fn insert(&mut self, name: &[u8], host: u32) -> bool {
        if let Err(at) = self.lengths.binary_search_by(|length| name.len().cmp(length)) {
            self.lengths.insert(at, name.len());
        }
        self.names.insert(name.into(), host).is_none()
    }

    /// The longest name that `part` cuts out of `host`. The star stands for at least one character.
    fn find<'h>(&self, host: &'h [u8], part: impl Fn(&'h [u8], usize) -> Option<&'h [u8]>) -> Option<u32> {
        let shorter = self.lengths.iter().filter(|length| **length < host.len());
        shorter.filter_map(|length| self.names.get(part(host, *length)?)).next().copied()
    }
}

impl Domains {
    /// Adds a domain, in any case, for the virtual host number `host`. `false` if it was there before.
    pub(crate) fn insert(&mut self, domain: &str, host: u32) -> bool {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            self.any.replace(host).is_none()
        } else if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.insert(suffix.as_bytes(), host)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.insert(prefix.as_bytes(), host)
        } else {
            self.exact.insert(domain.into_bytes().into(), host).is_none()
        }
    }

    /// The virtual host for the value of a `Host` header, in any case.
    pub(crate) fn find(&self, host: Option<&[u8]>, ignore_port: bool) -> Option<u32> {
        if self.exact.is_empty() && self.suffixes.names.is_empty() && self.prefixes.names.is_empty() {
            return self.any;
        }
        let mut host = host?;
        if ignore_port {
            host = without_port(host);
        }
        let lower: SmallVec<[u8; 128]>;
        if host.iter().any(u8::is_ascii_uppercase) {
            lower = host.to_ascii_lowercase().into();
            host = &lower;
        }
        self.exact
            .get(host)
            .copied()
            .or_else(|| self.suffixes.find(host, |host, length| host.get(host.len().checked_sub(length)?..)))
            .or_else(|| self.prefixes.find(host, |host, length| host.get(..length)))
            .or(self.any)
    }
}

/// A host's name without its port; the colons of a bare or bracketed IPv6 address stay.
fn without_port(host: &[u8]) -> &[u8] {
    let Some(colon) = memchr::memrchr(b':', host) else { return host };
    match memchr::memrchr(b']', host) {
        Some(bracket) if bracket > colon => host,
        _ => host.get(..colon).unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(names: &[&str]) -> Domains {
        let mut domains = Domains::default();
        for (i, name) in names.iter().enumerate() {
            assert!(domains.insert(name, i as u32), "{name}");
        }
        domains
    }

    #[test]
    fn exact_before_suffix_before_prefix_before_any() {
        let names = ["*", "www.Example.com", "*.example.com", "*-bar.example.com", "www.*", "www.example.*"];
        let domains = domains(&names);
        let find = |host: &str| names[domains.find(Some(host.as_bytes()), false).unwrap() as usize];
        assert_eq!(find("WWW.example.com"), "www.Example.com");
        assert_eq!(find("foo-bar.example.com"), "*-bar.example.com");
        assert_eq!(find("foo.example.com"), "*.example.com");
        assert_eq!(find(".example.com"), "*");
        assert_eq!(find("www.example.org"), "www.example.*");
        assert_eq!(find("www.other.org"), "www.*");
        assert_eq!(find("www.example.com:80"), "www.example.*");
        assert_eq!(find("other"), "*");
    }

    #[test]
    fn ports_are_ignored_only_where_asked() {
        let domains = domains(&["a", "[::1]"]);
        assert_eq!(domains.find(Some(b"a:80"), true), Some(0));
        assert_eq!(domains.find(Some(b"a:80"), false), None);
        assert_eq!(domains.find(Some(b"[::1]:8080"), true), Some(1));
        assert_eq!(domains.find(Some(b"[::1]"), true), Some(1));
        assert_eq!(domains.find(None, true), None);
    }

    #[test]
    fn the_same_name_twice_is_noticed() {
        for (first, second) in [("a", "A"), ("*", "*"), ("*.a", "*.A"), ("a.*", "a.*")] {
            let mut domains = Domains::default();
            assert!(domains.insert(first, 0) && !domains.insert(second, 1));
        }
    }
}
