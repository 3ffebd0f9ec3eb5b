//! How much of an output the shim keeps while nobody reads it, and what happens beyond that.
//!
//! Invariant: unless somebody asked for [`Overflow::Drop`], no byte is ever dropped because it is
//! not read.
//!
//! Two places say so, the second wins: the shim's environment ([`SIZE`], [`OVERFLOW`]), and the
//! container's annotations ([`SIZE_ANNOTATION`], [`OVERFLOW_ANNOTATION`]), for its execs too.

use crate::error::{Error, Result};
use crate::limits::amount;
use crate::spec::Annotations;

/// The environment variable for the size.
pub const SIZE: &str = "COTTER_STDOUT_BUFFER";
/// The environment variable for what happens beyond it.
pub const OVERFLOW: &str = "COTTER_STDOUT_OVERFLOW";
/// A container's annotation for the size.
pub const SIZE_ANNOTATION: &str = "io.cotter.stdout-buffer";
/// A container's annotation for what happens beyond it.
pub const OVERFLOW_ANNOTATION: &str = "io.cotter.stdout-overflow";

/// Less than a pipe holds would not be worth a buffer.
const SMALLEST: u64 = 64 << 10;
const LARGEST: u64 = 1 << 30;

/// What happens to output that no buffer has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The container waits in its write, as for any slow reader.
    #[default]
    Block,
    /// The oldest of what is buffered goes, and a line in the stream says how much it was.
    Drop,
}

/// How outputs of a container are buffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffering {
    /// Bytes for each stream, beyond what its pipes hold; 0 for no buffer at all.
    pub size: u64,
    /// What happens beyond that.
    pub overflow: Overflow,
}

impl Default for Buffering {
    fn default() -> Self {
        Self {
            size: 1 << 20,
            overflow: Overflow::Block,
        }
    }
}

impl Buffering {
    /// None: a container waits as soon as its pipes are full.
    pub const NONE: Self = Self {
        size: 0,
        overflow: Overflow::Block,
    };

    /// What the environment and a container's annotations say. What the environment says and cannot
    /// be understood is logged, and the default holds.
    ///
    /// # Errors
    /// `InvalidArgument` naming the annotation that cannot be understood.
    pub fn of(annotations: &Annotations) -> Result<Self> {
        Self::read(|name| std::env::var(name).ok(), annotations)
    }

    fn read(env: impl Fn(&str) -> Option<String>, annotations: &Annotations) -> Result<Self> {
        let Self { size, overflow } = Self::default();
        Ok(Self {
            size: read(SIZE_ANNOTATION, SIZE, annotations, &env, bytes, SIZES)?.unwrap_or(size),
            overflow: read(
                OVERFLOW_ANNOTATION,
                OVERFLOW,
                annotations,
                &env,
                policy,
                "neither block nor drop",
            )?
            .unwrap_or(overflow),
        })
    }
}

const SIZES: &str = "no size such as 0, 64k, 1m or 1g, from 64k to 1g";

fn read<T>(
    annotation: &str,
    variable: &str,
    annotations: &Annotations,
    env: impl Fn(&str) -> Option<String>,
    parse: impl Fn(&str) -> Option<T>,
    wanted: &str,
) -> Result<Option<T>> {
    if let Some(text) = annotations.get(annotation) {
        return parse(text).map(Some).ok_or_else(|| {
            Error::invalid_argument(format!("annotation {annotation}={text:?} is {wanted}"))
        });
    }
    let Some(text) = env(variable) else {
        return Ok(None);
    };
    let parsed = parse(&text);
    if parsed.is_none() {
        log::warn!("{variable}={text:?} is {wanted}; using the default");
    }
    Ok(parsed)
}

fn policy(text: &str) -> Option<Overflow> {
    match text {
        "block" => Some(Overflow::Block),
        "drop" => Some(Overflow::Drop),
        _ => None,
    }
}

fn bytes(text: &str) -> Option<u64> {
    let size = amount(text, |unit| match unit {
        "" => Some(1),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        _ => None,
    })?;
    (size == 0 || (SMALLEST..=LARGEST).contains(&size)).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", Some(0)),
            ("0k", Some(0)),
            ("65536", Some(64 << 10)),
            ("64k", Some(64 << 10)),
            ("100K", Some(100 << 10)),
            ("8m", Some(8 << 20)),
            ("1G", Some(1 << 30)),
            ("65535", None),
            ("63k", None),
            ("2g", None),
            ("1025m", None),
            ("", None),
            ("k", None),
            ("-1", None),
            ("1.5m", None),
            ("1 m", None),
            ("1mb", None),
            ("18446744073709551615g", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(bytes(text), size, "{text:?}");
        }
    }

    #[test]
    fn annotations_before_the_environment_before_the_default() {
        let none = Buffering::default();
        for (env, annotations, expected) in [
            ((None, None), (None, None), none),
            (
                (Some("8m"), Some("drop")),
                (None, None),
                Buffering {
                    size: 8 << 20,
                    overflow: Overflow::Drop,
                },
            ),
            ((Some("lots"), Some("lose")), (None, None), none),
            (
                (Some("lots"), Some("drop")),
                (Some("0"), Some("block")),
                Buffering::NONE,
            ),
            (
                (Some("8m"), None),
                (None, Some("drop")),
                Buffering {
                    size: 8 << 20,
                    overflow: Overflow::Drop,
                },
            ),
        ] {
            let variable = |name: &str| {
                let value = if name == SIZE { env.0 } else { env.1 };
                value.map(str::to_owned)
            };
            let annotations: Annotations = [
                (SIZE_ANNOTATION, annotations.0),
                (OVERFLOW_ANNOTATION, annotations.1),
            ]
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
            .collect();
            let got = Buffering::read(variable, &annotations);
            assert_eq!(got, Ok(expected), "{env:?} {annotations:?}");
        }
    }

    #[test]
    fn an_annotation_that_cannot_be_understood_is_refused_by_name() {
        for (key, value) in [
            (SIZE_ANNOTATION, ""),
            (SIZE_ANNOTATION, "1t"),
            (OVERFLOW_ANNOTATION, "Drop"),
        ] {
            let annotations = [(key.to_owned(), value.to_owned())].into();
            let refused = Buffering::read(|_| None, &annotations).expect_err(value);
            assert_eq!(refused.code, Code::InvalidArgument);
            assert!(refused.message.contains(key), "{refused}");
        }
    }
}
