//! What the program says of itself: `-v` and `-info` (contract 1.2, 1.9).
//!
//! Invariant: the features told are the configured runtime's own, or none; never a guess. What the
//! runtime was built for and this machine cannot do is taken back ([`mask`]): a manager that believes it
//! would fail much later, with worse words.
//!
//! Nothing else is masked: the shim itself brings about all that a runtime's features speak of. The
//! annotation `containerd.io/runtime-allow-mounts` stays absent: it lists types of mounts that are the
//! shim's own to bring about, which containerd (2.2 and newer) would else activate first and hand over as
//! mounts of the kernel.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use protobuf::{Message, MessageField};
use serde_json::Value;

use super::call::call;
use super::{RUNTIME_NAME, start};
use crate::container::operations::DEFAULT_RUNTIME;
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::mount;
use crate::options::Given;
use crate::program::Program;
use crate::proto::types::{RuntimeInfo, RuntimeVersion};
use crate::proto::{self, Any};

/// The version of this crate.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from; empty unless the build says so.
const REVISION: &str = match option_env!("COTTER_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// The type under which containerd looks for a runtime's features; the value is JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// How long a runtime may take to tell its features, unless [`Limits::runtime_call`] says so. A
/// manager asks when it starts, for each of its runtimes in turn.
const LIMIT: Duration = Duration::from_secs(5);

/// What `-v` prints.
pub fn version(program: &OsStr) -> String {
    let program = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    format!("{program}:\n  Version:  {VERSION}\n  Revision: {REVISION}\n\n")
}

/// What `-info` prints: a serialized `RuntimeInfo`. Standard input holds an options `Any` or nothing.
///
/// # Errors
/// When the input is malformed or of a type that is not known, or the runtime's program cannot be
/// started.
pub fn info(stdin: impl Read) -> Result<Vec<u8>> {
    let input = start::read_all(stdin)?;
    let any: Any = proto::parse(&input)
        .map_err(|e| Error::invalid_argument(format!("read options from standard input: {e}")))?;
    let options = Given::required(Some(&any))?.read_within(Limits::from_env().disk)?;
    let binary = match options.binary_name.as_str() {
        "" => DEFAULT_RUNTIME,
        name => name,
    };
    let info = RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: VERSION.to_owned(),
            revision: REVISION.to_owned(),
            ..RuntimeVersion::default()
        }),
        options: (!input.is_empty()).then_some(any).into(),
        features: features(binary)?.into(),
        ..RuntimeInfo::default()
    };
    let bytes = info.write_to_bytes();
    bytes.map_err(|e| Error::unknown(format!("encode the runtime's information: {e}")))
}

/// A runtime's features; none if it cannot tell them.
fn features(binary: &str) -> Result<Option<Any>> {
    let limit = Limits::from_env().runtime_call.unwrap_or(LIMIT);
    let what = format!("run {binary} features");
    let mut command = Program::new(binary);
    command.arg("features");
    let output = match call(command, &what, limit) {
        Err(e) if e.code == Code::DeadlineExceeded => return Ok(None),
        output => output?,
    };
    let json = serde_json::from_slice::<Value>(&output.stdout).ok();
    let features = json.filter(|json| json.is_object() && output.status.success());
    Ok(features.map(|mut features| {
        mask(&mut features, &Machine::look());
        Any {
            type_url: FEATURES.to_owned(),
            value: features.to_string().into_bytes(),
            ..Any::default()
        }
    }))
}

/// What a runtime's features take for granted.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// The kernel maps the ids of a mount.
    idmap: bool,
    /// There is a `criu`, which both runtimes look up in `PATH`.
    criu: bool,
}

impl Machine {
    fn look() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let executable = |dir: PathBuf| access(&dir.join("criu"), AccessFlags::X_OK).is_ok();
        Self {
            idmap: mount::kernel_maps_ids(),
            criu: std::env::split_paths(&path).any(executable),
        }
    }
}

/// Takes back what this machine cannot do. Says nothing where the runtime says nothing.
fn mask(features: &mut Value, machine: &Machine) {
    if !machine.idmap
        && let Some(enabled) = features.pointer_mut("/linux/mountExtensions/idmap/enabled")
    {
        *enabled = false.into();
    }
    if !machine.criu
        && let Some(Value::Object(annotations)) = features.get_mut("annotations")
    {
        for (name, value) in annotations {
            if name.ends_with(".checkpoint.enabled") {
                *value = "false".into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_machine_cannot_do_is_taken_back() {
        let features = |idmap: bool, checkpoint: &str| {
            json!({
                "ociVersionMax": "1.2.0",
                "linux": { "mountExtensions": { "idmap": { "enabled": idmap } } },
                "annotations": {
                    "org.opencontainers.runc.checkpoint.enabled": checkpoint,
                    "run.oci.crun.checkpoint.enabled": checkpoint,
                    "run.oci.crun.wasm": "true",
                },
            })
        };
        for (idmap, criu, text) in [
            (true, true, "true"),
            (false, true, "true"),
            (true, false, "false"),
            (false, false, "false"),
        ] {
            let mut told = features(true, "true");
            mask(&mut told, &Machine { idmap, criu });
            assert_eq!(told, features(idmap, text));
            // A runtime that was built without is believed.
            let mut told = features(false, "false");
            mask(&mut told, &Machine { idmap, criu });
            assert_eq!(told, features(false, "false"));
        }
        for silent in [json!({}), json!({ "linux": [], "annotations": 7 })] {
            let mut told = silent.clone();
            let nothing = Machine {
                idmap: false,
                criu: false,
            };
            mask(&mut told, &nothing);
            assert_eq!(told, silent);
        }
    }
}
