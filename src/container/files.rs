//! The files a shim keeps in a bundle (contract 1.8), and the names that become part of paths.
//!
//! Invariant: no id that reaches a path or an argument list can name anything but itself.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::errno::Words;
use crate::error::{Error, Result};
use crate::proto::runc_options::Options;

/// The runc options that Create was given, for the `delete` action.
pub const OPTIONS: &str = "options.json";
/// The runtime binary, for the `delete` action; empty means runc.
pub const RUNTIME: &str = "runtime";
/// The init's pid, written by the runtime.
pub const INIT_PID: &str = "init.pid";

/// Longest id: with `.pid` behind it, it still is a file name.
const MAX_ID: usize = 250;

/// Checks an id that will be part of a path and an argument of the runtime.
///
/// # Errors
/// `InvalidArgument` naming what is wrong.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let starts_well = id.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let all_well = id
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_-+.".contains(c));
    if id.is_empty() {
        Err(Error::invalid_argument(format!("{what} id is empty")))
    } else if id.len() > MAX_ID {
        Err(Error::invalid_argument(format!(
            "{what} id is longer than {MAX_ID} bytes"
        )))
    } else if !starts_well || !all_well {
        Err(Error::invalid_argument(format!(
            "{what} id \"{}\": only letters, digits and _-+. are allowed, beginning with a letter, digit or _",
            shown(id)
        )))
    } else {
        Ok(())
    }
}

/// An id as a message may hold it, whatever a client sent: on one line, and no longer than an id
/// can be. A sound one is shown as it is.
pub fn shown(id: &str) -> String {
    id.escape_debug().take(MAX_ID).collect()
}

/// Where the runtime writes the pid of an exec. An exec may be called `init`.
pub fn exec_pid_file(bundle: &Path, exec_id: &str) -> PathBuf {
    if exec_id == "init" {
        bundle.join("exec-init.pid")
    } else {
        bundle.join(format!("{exec_id}.pid"))
    }
}

/// Writes [`OPTIONS`] and [`RUNTIME`].
///
/// # Errors
/// The file that could not be written and why.
pub fn record(bundle: &Path, options: &Options) -> Result<()> {
    write(&bundle.join(OPTIONS), options_json(options).as_bytes())?;
    write(&bundle.join(RUNTIME), options.binary_name.as_bytes())
}

/// Removes what a failed Create may have written. Missing files are fine.
pub fn forget(bundle: &Path) {
    for name in [OPTIONS, RUNTIME, INIT_PID] {
        remove(&bundle.join(name));
    }
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            log::warn!("remove {}: {e}", path.display(), e = e.words())
        }
        _ => {}
    }
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// The file that could not be written and why.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        // A FIFO in its place must not stop the shim, nor a link lead it elsewhere.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
        .and_then(|mut f| f.write_all(content))
        .map_err(|e| Error::io(format!("write {}", path.display()), &e))
}

/// The options as the Go shim writes them: proto field names, zero values left out.
fn options_json(o: &Options) -> String {
    let mut map = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| {
        let zero = matches!(&value, serde_json::Value::Bool(false))
            || value.as_str() == Some("")
            || value.as_u64() == Some(0);
        if !zero {
            map.insert(name.to_owned(), value);
        }
    };
    put("no_pivot_root", o.no_pivot_root.into());
    put("no_new_keyring", o.no_new_keyring.into());
    put("shim_cgroup", o.shim_cgroup.clone().into());
    put("io_uid", o.io_uid.into());
    put("io_gid", o.io_gid.into());
    put("binary_name", o.binary_name.clone().into());
    put("root", o.root.clone().into());
    put("systemd_cgroup", o.systemd_cgroup.into());
    put("criu_image_path", o.criu_image_path.clone().into());
    put("criu_work_path", o.criu_work_path.clone().into());
    serde_json::Value::Object(map).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_name_only_themselves() {
        for id in ["a", "0", "_x", "web-1.2_3", "a+b", &"f".repeat(250)] {
            assert_eq!(check_id("container", id), Ok(()), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "-x",
            "--root",
            "a b",
            "a\0",
            "ä",
            "a\n",
            &"f".repeat(251),
        ] {
            assert!(check_id("container", id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn options_leave_zero_values_out() {
        assert_eq!(options_json(&Options::new()), "{}");
        let mut o = Options::new();
        o.binary_name = "crun".into();
        o.systemd_cgroup = true;
        o.io_uid = 7;
        assert_eq!(
            options_json(&o),
            r#"{"io_uid":7,"binary_name":"crun","systemd_cgroup":true}"#
        );
    }
}
