//! Which programs may be loggers, and which files output be written to.
//!
//! Invariant: with a list, a program that is not on it is never run nor opened, and a file that is not on it
//! is neither made nor opened, whatever name or symbolic link leads to it; what is run or opened is the path
//! that was checked, with all links resolved.
//!
//! A list is absolute paths, or directories that end in `/` (everything below them), separated by
//! colons. There may be two: the shim's environment variable [`VARIABLE`] and the container's
//! [`OPTION`]. What is run is on both, so that no option opens what the environment closes. Without
//! a list everything is allowed, as with the Go shim: who may create containers may run programs as
//! root anyway. That is not so where a manager lets its clients choose the log URI, with a label say;
//! such a one wants a list. An empty list allows nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::stdio::{Stream, exact};

/// The environment variable that holds the list.
const VARIABLE: &str = "COTTER_LOGGER_ALLOW";

/// The option that holds another, for one container.
const OPTION: &str = "option logger_allow";

/// Whether an option can be a list, before anything is made.
///
/// # Errors
/// `InvalidArgument` naming the entry that is no absolute path: nothing would ever be allowed by it.
pub fn is_list(option: &str) -> Result<()> {
    let list = OsStr::new(option);
    match entries(list).find(|entry| !entry.is_absolute()) {
        Some(entry) if !option.is_empty() => {
            let shown: String = entry.to_string_lossy().chars().take(250).collect();
            Err(Error::invalid_argument(format!(
                "{OPTION}: \"{}\" is not an absolute path",
                shown.escape_debug()
            )))
        }
        _ => Ok(()),
    }
}

/// The lists that there are.
#[derive(Clone, Debug)]
pub(in crate::stdio) struct Lists(Vec<(&'static str, OsString)>);

impl Lists {
    /// Those of the environment and of a container.
    pub(in crate::stdio) fn of(option: Option<&str>) -> Self {
        Self::given(std::env::var_os(VARIABLE), option)
    }

    fn given(variable: Option<OsString>, option: Option<&str>) -> Self {
        let lists = [(VARIABLE, variable), (OPTION, option.map(OsString::from))];
        let there = lists
            .into_iter()
            .filter_map(|(name, list)| Some((name, list?)));
        Self(there.collect())
    }

    /// Whether everything is allowed.
    pub(in crate::stdio) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The path to run for a program.
    pub(in crate::stdio) fn program(&self, program: &Path) -> Result<PathBuf> {
        if self.is_none() {
            return Ok(program.to_owned());
        }
        let what = || format!("logging binary {}", program.display());
        let real = fs::canonicalize(program)
            .map_err(|why| Error::io(format!("start {}", what()), &why))?;
        // An administrator's own links are good: /bin/ is one on many systems.
        self.ask(what, &real, |path| fs::canonicalize(path).ok())?;
        Ok(real)
    }

    /// The path to write to for an output's file, which need not be there.
    pub(in crate::stdio) fn file(&self, stream: Stream, file: &Path) -> Result<PathBuf> {
        let what = || format!("{stream} file {}", file.display());
        match exact::resolve(file) {
            Some(real) => self.ask(what, &real, exact::resolve).map(|()| real),
            None => Err(Error::new(
                Code::PermissionDenied,
                format!("{} is no plain path: permission denied", what()),
            )),
        }
    }

    /// Whether all lists have what a path leads to.
    fn ask(
        &self,
        what: impl Fn() -> String,
        real: &Path,
        resolve: impl Fn(&Path) -> Option<PathBuf>,
    ) -> Result<()> {
        let is_in = |list: &OsString| entries(list).any(|entry| allows(&entry, &resolve, real));
        match self.0.iter().find(|(_, list)| !is_in(list)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::new(
                Code::PermissionDenied,
                format!(
                    "{} ({}) is not in {name}: permission denied",
                    what(),
                    real.display()
                ),
            )),
        }
    }
}

fn entries(list: &OsStr) -> impl Iterator<Item = PathBuf> {
    let parts = list.as_bytes().split(|byte| *byte == b':');
    parts.map(|part| PathBuf::from(OsStr::from_bytes(part)))
}

/// Whether an entry, resolved, is the program or a directory above it.
fn allows(entry: &Path, resolve: &impl Fn(&Path) -> Option<PathBuf>, program: &Path) -> bool {
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

    fn check_with(program: &Path, list: Option<OsString>, option: Option<&str>) -> Result<PathBuf> {
        Lists::given(list, option).program(program)
    }

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
            let any = entries(OsStr::new(list)).any(|entry| allows(&entry, &resolve, program));
            assert_eq!(any, allowed, "{list:?} {}", program.display());
        }
    }

    #[test]
    fn an_option_that_could_allow_nothing_is_refused() {
        for good in ["", "/a", "/a:/b/", "/"] {
            assert_eq!(is_list(good), Ok(()), "{good:?}");
        }
        for bad in ["a", "/a:b", ":", "/a:", "/a::/b", " /a", "/a,b:c\n"] {
            let error = is_list(bad).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{bad:?}");
            assert!(error.message.lines().count() == 1, "{error}");
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
        let good = format!("{}/good/", dir.display());
        let refused = check_with(&link, list(good.clone()), None).unwrap_err();
        assert_eq!(refused.code, Code::PermissionDenied);
        assert!(refused.message.contains(VARIABLE), "{refused}");
        let bin = || list("/bin/".into());
        assert_eq!(check_with(&link, bin(), None), Ok(real.clone()));
        assert_eq!(check_with(&link, None, None), Ok(link.clone()), "no list");
        // Two lists: on both, whatever either says.
        let both = |variable, option: &str| check_with(&link, variable, Some(option));
        assert_eq!(both(None, "/x:/bin/"), Ok(real.clone()));
        assert_eq!(both(bin(), "/bin/sh"), Ok(real));
        for (variable, option, named) in [
            (None, "", OPTION),
            (None, &*good, OPTION),
            (bin(), "", OPTION),
            (bin(), "/usr/bin/true", OPTION),
            (list(good.clone()), "/bin/", VARIABLE),
            (list(String::new()), "/bin/", VARIABLE),
        ] {
            let refused = both(variable, option).unwrap_err();
            assert_eq!(refused.code, Code::PermissionDenied);
            assert!(refused.message.contains(named), "{refused}");
        }
        let missing = check_with(&dir.join("no"), bin(), None).unwrap_err();
        assert_eq!(missing.code, Code::NotFound);
        fs::remove_dir_all(&dir).unwrap();
    }
}
