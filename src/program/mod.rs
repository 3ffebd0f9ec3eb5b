//! How a program is started.
//!
//! Invariant: what a program gets from this process is what is said here and no more: its three standard
//! streams and what else it is given, an environment, and nothing that this process has set up for itself.
//! Every signal has its default meaning and none is blocked, whatever whoever started us, this process, or
//! the C library made of them; the limit of open files is the one that this process was started with
//! ([`own`]). tests/inherit.rs compares it all, as it reaches containers, with the Go shim's.
//!
//! The standard library can do this only with a hook that runs before exec, and forks then, which copies
//! this process's page tables. glibc's posix_spawn(3), its other way, leaves signals 32 and 33 ignored and
//! knows no limits. So the child is made here, as vfork(2) would ([`child`]).

mod child;
pub mod own;

use std::ffi::{CString, OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::errno::Words;
use child::{Plan, Step};

/// Where execvp(3) looks when nobody says.
const PATH: &str = "/bin:/usr/bin";

/// A program to be started. It has the environment of this process unless told otherwise, and `/dev/null`,
/// open for reading and writing, wherever it is given no descriptor.
#[derive(Debug)]
pub struct Program {
    name: OsString,
    called: Option<OsString>,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    /// By number.
    descriptors: Vec<Option<OwnedFd>>,
    leads_group: bool,
}

impl Program {
    /// A path, or a name to be looked up in the `PATH` of its own environment.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.as_ref().to_owned(),
            called: None,
            args: Vec::new(),
            environment: std::env::vars_os().collect(),
            directory: None,
            descriptors: (0..3).map(|_| None).collect(),
            leads_group: false,
        }
    }

    /// The last part of its name, for people.
    pub fn name(&self) -> String {
        let name = Path::new(&self.name).file_name().unwrap_or(&self.name);
        name.to_string_lossy().into_owned()
    }

    /// What it is told that it is called; else the name.
    pub fn called(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.called = Some(name.as_ref().to_owned());
        self
    }

    /// One more argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.args.extend(args);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.env_remove(&name);
        let variable = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push(variable);
        self
    }

    /// Takes a variable out of its environment.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.environment.retain(|(has, _)| has != name.as_ref());
        self
    }

    /// Takes all variables out.
    pub fn env_clear(&mut self) -> &mut Self {
        self.environment.clear();
        self
    }

    /// Its arguments, without the name it is called by.
    pub fn arguments(&self) -> impl Iterator<Item = &OsStr> {
        self.args.iter().map(OsString::as_os_str)
    }

    /// The names of the variables in its environment.
    pub fn variables(&self) -> impl Iterator<Item = &OsStr> {
        self.environment.iter().map(|(name, _)| name.as_os_str())
    }

    /// Where it begins; else where this process is.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Descriptor 0. It is closed here with this value.
    pub fn stdin(&mut self, fd: impl Into<OwnedFd>) -> &mut Self {
        self.descriptor(0, fd)
    }

    /// Descriptor 1.
    pub fn stdout(&mut self, fd: impl Into<OwnedFd>) -> &mut Self {
        self.descriptor(1, fd)
    }

    /// Descriptor 2.
    pub fn stderr(&mut self, fd: impl Into<OwnedFd>) -> &mut Self {
        self.descriptor(2, fd)
    }

    /// A descriptor of any number. Those below it that are not given are `/dev/null`.
    pub fn descriptor(&mut self, number: usize, fd: impl Into<OwnedFd>) -> &mut Self {
        if self.descriptors.len() <= number {
            self.descriptors.resize_with(number + 1, || None);
        }
        self.descriptors[number] = Some(fd.into());
        self
    }

    /// It leads a process group of its own.
    pub fn leads_group(&mut self) -> &mut Self {
        self.leads_group = true;
        self
    }

    /// Starts it; answers its pid. It is a child of this process that the caller has to see to; the call
    /// returns once it runs the program. The descriptors stay open here: drop this value to close them.
    ///
    /// # Errors
    /// When it cannot run: then there is no child. What exec said is told as it is, so that "not found" is
    /// about the program; of what comes before that, with the words for it.
    pub fn start(&self) -> io::Result<libc::pid_t> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(|e| io::Error::other(format!("open /dev/null: {}", e.words())))?;
        let descriptors: Vec<_> = self
            .descriptors
            .iter()
            .map(|fd| fd.as_ref().map_or(null.as_fd(), AsFd::as_fd))
            .collect();
        let name = self.called.as_ref().unwrap_or(&self.name);
        let args = std::iter::once(name).chain(&self.args);
        let variables = self.environment.iter().map(|(name, value)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            variable
        });
        let directory = self.directory.as_deref().map(Path::as_os_str);
        let limit = own::open_files_of_children();
        let plan = Plan {
            paths: terminated(self.candidates())?,
            args: terminated(args)?,
            environment: terminated(variables)?,
            directory: directory.map(text).transpose()?,
            descriptors: &descriptors,
            leads_group: self.leads_group,
            open_files: limit.as_ref(),
        };
        plan.start().map_err(|(step, why)| match step {
            Step::Make | Step::Exec => why.into(),
            Step::Group => io::Error::other(format!("lead a process group: {}", why.words())),
            Step::Directory => {
                let directory = self.directory.as_deref().unwrap_or(Path::new("."));
                io::Error::other(format!(
                    "change to directory {}: {}",
                    directory.display(),
                    why.words()
                ))
            }
            Step::Descriptors => {
                io::Error::other(format!("pass on its descriptors: {}", why.words()))
            }
        })
    }

    /// Where it may be, in the order of execvp(3).
    fn candidates(&self) -> Vec<PathBuf> {
        let path = self.environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new(PATH), |(_, path)| path);
        candidates(Path::new(&self.name), path)
    }
}

/// Where a program may be: with a slash in its name there, else in each directory of `path` in turn.
pub fn candidates(name: &Path, path: &OsStr) -> Vec<PathBuf> {
    if name.as_os_str().as_encoded_bytes().contains(&b'/') {
        return vec![name.to_owned()];
    }
    std::env::split_paths(path)
        .map(|directory| directory.join(name))
        .collect()
}

fn terminated(texts: impl IntoIterator<Item = impl AsRef<OsStr>>) -> io::Result<Vec<CString>> {
    texts.into_iter().map(text).collect()
}

/// As the kernel takes it.
fn text(text: impl AsRef<OsStr>) -> io::Result<CString> {
    let text = text.as_ref();
    CString::new(text.as_bytes()).map_err(|_| {
        let message = format!("{text:?} has a zero byte in it");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

#[cfg(test)]
mod tests;
