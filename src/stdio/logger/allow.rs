//! Which programs may be loggers.
//!
//! Invariant: with a list, a program that is not on it is never run, whatever name or symbolic link
//! leads to it; what is run is the path that was checked, with all links resolved.
//!
//! The list is the shim's environment variable [`VARIABLE`]: absolute paths, or directories that end
//! in `/` (everything below them), separated by colons. Without the variable everything is allowed, as
//! with the Go shim: who may create containers may run programs as root anyway. That is not so where
//! a manager lets its clients choose the log URI, with a label say; such a one wants a list. An
//! empty list allows nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

/// The environment variable that holds the list.
pub(super) const VARIABLE: &str = "COTTER_LOGGER_ALLOW";

/// The path to run for `program`, under the list of the environment.
pub(super) fn check(program: &Path) -> Result<PathBuf> {
    check_with(program, std::env::var_os(VARIABLE))
}

fn check_with(program: &Path, list: Option<OsString>) -> Result<PathBuf> {
    let Some(list) = list else {
        return Ok(program.to_owned());
    };
    let real = fs::canonicalize(program)
        .map_err(|why| Error::io(format!("start logging binary {}", program.display()), &why))?;
    // An administrator's own links are good: /bin/ is one on many systems.
    if entries(&list).any(|entry| allows(&entry, |path| fs::canonicalize(path).ok(), &real)) {
        return Ok(real);
    }
    Err(Error::new(
        Code::PermissionDenied,
        format!(
            "logging binary {} ({}) is not in {VARIABLE}: permission denied",
            program.display(),
            real.display()
        ),
    ))
}

fn entries(list: &OsStr) -> impl Iterator<Item = PathBuf> {
    let parts = list.as_bytes().split(|byte| *byte == b':');
    parts.map(|part| PathBuf::from(OsStr::from_bytes(part)))
}

/// Whether an entry, resolved, is the program or a directory above it.
fn allows(entry: &Path, resolve: impl Fn(&Path) -> Option<PathBuf>, program: &Path) -> bool {
    if !entry.is_absolute() {
        return false;
    }
    let is_directory = entry.as_os_str().as_bytes().ends_with(b"/");
    resolve(entry).is_some_and(|resolved| {
        if is_directory {
            program != resolved && program.starts_with(resolved)
        } else {
            program == resolved
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_programs() {
        let resolve = |path: &Path| match path.to_str()? {
            "/bin/" => Some("/usr/bin".into()),
            "/gone" => None,
            other => Some(other.trim_end_matches('/').into()),
        };
        for (list, program, allowed) in [
            ("/usr/bin/l", "/usr/bin/l", true),
            ("/usr/bin/l", "/usr/bin/ll", false),
            ("/usr/bin/l", "/usr/bin/l/m", false),
            ("/usr/bin/", "/usr/bin/l", true),
            ("/usr/bin/", "/usr/bin/deep/l", true),
            ("/usr/bin/", "/usr/bin", false),
            ("/usr/bin/", "/usr/binary/l", false),
            ("/usr/bin", "/usr/bin/l", false),
            ("/bin/", "/usr/bin/l", true),
            ("/gone", "/gone", false),
            ("/gone:/a:/b", "/b", true),
            ("", "/a", false),
            (":", "/a", false),
            ("relative:a", "/a", false),
        ] {
            let program = Path::new(program);
            let any = entries(OsStr::new(list)).any(|entry| allows(&entry, resolve, program));
            assert_eq!(any, allowed, "{list:?} {}", program.display());
        }
    }

    #[test]
    fn a_link_is_what_it_leads_to() {
        let dir = std::env::temp_dir().join(format!("cotter-allow-{}", std::process::id()));
        fs::create_dir_all(dir.join("good")).unwrap();
        let link = dir.join("good/sh");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        let real = fs::canonicalize("/bin/sh").unwrap();
        let list = |text: String| Some(OsString::from(text));
        let refused = check_with(&link, list(format!("{}/good/", dir.display()))).unwrap_err();
        assert_eq!(refused.code, Code::PermissionDenied);
        assert!(refused.message.contains(VARIABLE), "{refused}");
        assert_eq!(check_with(&link, list("/bin/".into())), Ok(real));
        assert_eq!(check_with(&link, None), Ok(link.clone()), "no list");
        let missing = check_with(&dir.join("no"), list("/bin/".into())).unwrap_err();
        assert_eq!(missing.code, Code::NotFound);
        fs::remove_dir_all(&dir).unwrap();
    }
}
