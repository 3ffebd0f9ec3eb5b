//! The ways in which generations of containerd start a shim: what they set in its environment,
//! what they write to its standard input and what they accept on its standard output.
//!
//! Invariant: each dialect says what its containerd says and accepts no more than it accepts, so a
//! shim that gets along with all three gets along with all of them (contract 1.3 to 1.5 and 11).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::proto::bootstrap::BootstrapResult;
use crate::proto::parse;
use crate::spec::read_bounded;

/// The longest file that is looked into for a shim's address.
const LONGEST: u64 = 1 << 20;

/// A generation of containerd, as far as starting a shim goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Containerd 1.6: options on standard input, a bare address on standard output.
    Plain16,
    /// Containerd 1.7 to 2.2: the same request, and JSON is accepted too.
    Json17,
    /// Containerd 2.3 and newer: bootstrap messages in both directions.
    Proto23,
}

impl Dialect {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Plain16, Self::Json17, Self::Proto23];

    /// By the name that the `cotter` tool knows it under.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "plain" => Some(Self::Plain16),
            "json" => Some(Self::Json17),
            "proto" => Some(Self::Proto23),
            _ => None,
        }
    }

    /// Reads what `start` wrote.
    ///
    /// # Errors
    /// When this dialect's containerd would not understand it.
    pub fn answer(self, bytes: &[u8]) -> Result<Endpoint> {
        let endpoint = match self {
            Self::Plain16 => Endpoint::from_plain(bytes),
            Self::Json17 => Endpoint::from_json(bytes).or_else(|| Endpoint::from_plain(bytes)),
            Self::Proto23 => Endpoint::from_proto(bytes)
                .or_else(|| Endpoint::from_json(bytes))
                .or_else(|| Endpoint::from_plain(bytes)),
        };
        endpoint.ok_or_else(|| {
            let text = String::from_utf8_lossy(bytes);
            Error::unknown(format!(
                "the shim's answer to start is no address: {text:?}"
            ))
        })
    }
}

/// Where a shim listens and what it speaks there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Version of the task service: 2 or 3.
    pub version: i32,
    /// `unix://` and a path.
    pub address: String,
    /// Always `ttrpc`.
    pub protocol: String,
}

impl Endpoint {
    /// The highest version of the task service there is.
    const NEWEST: i32 = 3;

    fn new(version: i32, address: &str, protocol: &str) -> Option<Self> {
        let usable = protocol == "ttrpc"
            && (2..=Self::NEWEST).contains(&version)
            && address.strip_prefix("unix://")?.starts_with('/')
            && !address.contains(char::is_whitespace);
        usable.then(|| Self {
            version,
            address: address.to_owned(),
            protocol: protocol.to_owned(),
        })
    }

    fn from_plain(bytes: &[u8]) -> Option<Self> {
        Self::new(2, str::from_utf8(bytes).ok()?.trim(), "ttrpc")
    }

    fn from_json(bytes: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(bytes).ok()?;
        Self::new(read.version, &read.address, &read.protocol)
    }

    fn from_proto(bytes: &[u8]) -> Option<Self> {
        let read: BootstrapResult = parse(bytes).ok()?;
        Self::new(read.version, &read.address, &read.protocol)
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        Path::new(self.address.trim_start_matches("unix://"))
    }

    /// Keeps it in a bundle, as containerd 2.x does, for a manager that comes back later.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join("bootstrap.json");
        let text = serde_json::to_vec(self)
            .map_err(|why| Error::unknown(format!("encode {}: {why}", path.display())))?;
        std::fs::write(&path, text)
            .map_err(|why| Error::io(format_args!("write {}", path.display()), &why))
    }

    /// Finds it in a bundle: `bootstrap.json`, which the manager wrote, or `address`, which shims
    /// write for containerd 1.x.
    ///
    /// # Errors
    /// When neither is there or usable.
    pub fn load(bundle: &Path) -> Result<Self> {
        let read = |name| read_bounded(&bundle.join(name), LONGEST).ok();
        read("bootstrap.json")
            .and_then(|bytes| Self::from_json(&bytes))
            .or_else(|| read("address").and_then(|bytes| Self::from_plain(&bytes)))
            .ok_or_else(|| {
                Error::not_found(format_args!("address of a shim in {}", bundle.display()))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(version: i32) -> Endpoint {
        Endpoint {
            version,
            address: "unix:///run/s/1".into(),
            protocol: "ttrpc".into(),
        }
    }

    const PLAIN: &[u8] = b"unix:///run/s/1";
    const JSON: &[u8] = br#"{"version":3,"address":"unix:///run/s/1","protocol":"ttrpc"}"#;
    const PROTO: &[u8] = b"\x08\x03\x12\x0funix:///run/s/1\x1a\x05ttrpc";

    #[test]
    fn a_dialect_understands_itself_and_its_elders() {
        let answer = |dialect: Dialect, bytes| dialect.answer(bytes).ok();
        for dialect in Dialect::ALL {
            assert_eq!(answer(dialect, PLAIN), Some(endpoint(2)));
        }
        assert_eq!(answer(Dialect::Plain16, JSON), None);
        assert_eq!(answer(Dialect::Json17, JSON), Some(endpoint(3)));
        assert_eq!(answer(Dialect::Proto23, JSON), Some(endpoint(3)));
        assert_eq!(answer(Dialect::Plain16, PROTO), None);
        assert_eq!(answer(Dialect::Json17, PROTO), None);
        assert_eq!(answer(Dialect::Proto23, PROTO), Some(endpoint(3)));
    }

    #[test]
    fn rubbish_is_refused() {
        let rubbish: [&[u8]; 7] = [
            b"",
            b"hello",
            b"unix://relative",
            b"warning: x\nunix:///run/s/1",
            br#"{"version":9,"address":"unix:///run/s/1","protocol":"ttrpc"}"#,
            br#"{"version":2,"address":"unix:///run/s/1","protocol":"grpc"}"#,
            b"\xff\xfe",
        ];
        for bytes in rubbish {
            for dialect in Dialect::ALL {
                assert!(dialect.answer(bytes).is_err(), "{bytes:?}");
            }
        }
    }
}
