//! Whether a text holds PEM blocks of the right kind: what can be said without a TLS library.

use crate::source::base64;

/// Checks that there is a block whose label ends with `label`, and that every such block is base64.
pub(super) fn check(text: &[u8], label: &str) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|_| "not PEM: not text".to_owned())?;
    let mut lines = text.lines().map(str::trim);
    let mut found = false;
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else { continue };
        let end = format!("-----END {name}-----");
        let mut body = String::new();
        loop {
            match lines.next() {
                Some(line) if line == end => break,
                Some(line) => body.push_str(line),
                None => return Err(format!("not PEM: {end} is missing")),
            }
        }
        if name.starts_with("ENCRYPTED") {
            return Err("the key is encrypted: not in this version".to_owned());
        }
        if name.ends_with(label) {
            if base64(&body).is_none_or(|der| der.is_empty()) {
                return Err(format!("not PEM: what {name} holds is not base64"));
            }
            found = true;
        }
    }
    if found { Ok(()) } else { Err(format!("not PEM: there is no -----BEGIN {label}-----")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_of_the_label_count() {
        assert!(check(b"-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n", "CERTIFICATE").is_ok());
        assert!(check(b"-----BEGIN EC PRIVATE KEY-----\nAAEC\n-----END EC PRIVATE KEY-----\n", "PRIVATE KEY").is_ok());
        for bad in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\nAAEC\n",
            "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
            "-----BEGIN PRIVATE KEY-----\nAAEC\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(check(bad.as_bytes(), "CERTIFICATE").is_err(), "{bad}");
        }
        assert!(
            check(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAEC\n-----END ENCRYPTED PRIVATE KEY-----\n", "PRIVATE KEY")
                .is_err()
        );
    }
}
