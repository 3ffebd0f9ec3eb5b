//! The grammar of stream URIs. Pure.
//!
//! Invariant: what is decoded is what was meant, to the byte; what has two readings has none here.

/// Splits `scheme:rest` as RFC 3986 defines a scheme, in lower case. A bare path has none.
pub(super) fn scheme(uri: &str) -> Option<(String, &str)> {
    let (name, rest) = uri.split_once(':')?;
    let sound = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    sound.then(|| (name.to_ascii_lowercase(), rest))
}

/// The path of what follows the scheme's colon: no host, no query, no fragment, `%XX` decoded.
pub(super) fn path(rest: &str) -> Option<String> {
    let encoded = rest.strip_prefix("//")?;
    if !encoded.starts_with('/') || encoded.contains(['?', '#']) {
        return None;
    }
    decode(encoded)
}

/// What a query has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// Keys and values in their order; a key without `=` has an empty value.
    Pairs(Vec<(String, String)>),
    /// Something cannot be decoded.
    Malformed,
    /// A value without a key.
    EmptyKey,
}

/// Reads what follows the `?`, as forms are encoded: `+` is a space.
pub(super) fn query(encoded: &str) -> Query {
    if encoded.contains('#') {
        return Query::Malformed;
    }
    let mut pairs = Vec::new();
    for pair in encoded.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let part = |text: &str| decode(&text.replace('+', " "));
        match (part(key), part(value)) {
            (Some(key), Some(_)) if key.is_empty() => return Query::EmptyKey,
            (Some(key), Some(value)) => pairs.push((key, value)),
            _ => return Query::Malformed,
        }
    }
    Query::Pairs(pairs)
}

/// Decodes `%XX`; what is not UTF-8 then is refused.
fn decode(encoded: &str) -> Option<String> {
    let mut text = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            text.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            text.push(byte);
        }
    }
    String::from_utf8(text).ok()
}
