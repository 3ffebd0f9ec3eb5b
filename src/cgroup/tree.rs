//! Which processes or threads are in a cgroup and in those below it, whatever a container made of them.
//!
//! Invariant: it ends, and what could not be read is said and never taken for none. Read step by step
//! ([`Walk::step`]), each a bounded piece of work: one read, [`NAMES`] names, or [`THREADS`] threads. Two
//! directories are open at most and no path is built, so neither the depth of a tree nor the length of its
//! names is a limit. All in all no more than [`MOST`] cgroups are looked into and [`MOST_NAMES`] bytes of
//! names kept. Pinned by `tests/cgroup.rs`.
//!
//! Facts of the kernel: a cgroup keeps its parent for life, so `..` leads back. Removed before the open of a
//! file of it that is ENOENT, after it ENODEV. `cgroup.procs` of a threaded cgroup is EOPNOTSUPP: its
//! processes are listed by the domain above it, and by `cgroup.threads` thread by thread.

use std::ffi::{CStr, CString};
use std::fs::{self, File, ReadDir};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};

use super::is_gone;
use crate::error::{Error, Result};
use crate::kernel_file;

/// Cgroups that are looked into.
const MOST: usize = 65_536;
/// Bytes of names of cgroups that are kept until they are looked into.
const MOST_NAMES: usize = 4 << 20;
/// Bytes of a list that are read in one step.
const CHUNK: usize = 16 << 10;
/// Names of a directory in one step.
const NAMES: usize = 256;
/// Threads whose process is asked for in one step.
const THREADS: usize = 16;

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Processes,
    /// Of v2 or v1.
    Threads,
}

/// A tree that is being read.
pub(super) struct Walk {
    what: What,
    top: PathBuf,
    /// The one that is looked into, or whose children are next.
    here: OwnedFd,
    /// The one above it, until it is known what is below it.
    parent: Option<OwnedFd>,
    levels: Vec<Level>,
    doing: Doing,
    found: Vec<i32>,
    seen: usize,
    names: usize,
    /// The top's processes can be listed, so those of threaded cgroups below it are listed by their domain.
    has_domain: bool,
    failed: Option<Error>,
}

/// A cgroup on the way from the top to where the walk is.
struct Level {
    id: Id,
    children: Vec<CString>,
}

enum Doing {
    Open,
    Read(File, Numbers),
    /// Asks for the processes of threads.
    Map(Vec<i32>),
    Names(ReadDir, Vec<CString>),
    Next,
    Over,
}

impl Walk {
    /// Begins at the top.
    ///
    /// # Errors
    /// What the system said; nothing is added to it.
    pub(super) fn begin(what: What, top: &Path) -> io::Result<Self> {
        Ok(Self {
            what,
            top: top.to_owned(),
            here: open(top, DIRECTORY, Mode::empty())?,
            parent: None,
            levels: Vec::new(),
            doing: Doing::Open,
            found: Vec::new(),
            seen: 0,
            names: 0,
            has_domain: false,
            failed: None,
        })
    }

    /// Where it began.
    pub(super) fn top(&self) -> &Path {
        &self.top
    }

    /// Does one step; whether there may be more.
    pub(super) fn step(&mut self) -> bool {
        let doing = std::mem::replace(&mut self.doing, Doing::Over);
        let next = match doing {
            Doing::Open => self.open_list(),
            Doing::Read(file, numbers) => self.read(file, numbers),
            Doing::Map(threads) => self.map(threads),
            Doing::Names(names, children) => self.list(names, children),
            Doing::Next => self.next(),
            Doing::Over => Ok(Doing::Over),
        };
        self.doing = next.unwrap_or_else(|why| {
            // One that was removed meanwhile, with all below it: what was in it is elsewhere.
            if self.levels.is_empty() || !is_gone(&why) {
                self.incomplete(&why);
            }
            // Its neighbours can be read, and what was found is there all the same.
            if let Some(parent) = self.parent.take() {
                self.here = parent;
            }
            match self.levels.is_empty() {
                true => Doing::Over,
                false => Doing::Next,
            }
        });
        !matches!(self.doing, Doing::Over)
    }

    /// What was found, in ascending order, and why that may not be all.
    pub(super) fn end(self) -> (Vec<i32>, Result<()>) {
        let Self {
            mut found, failed, ..
        } = self;
        // What moves while the tree is read can be seen twice; v1 promises no order either.
        found.sort_unstable();
        found.dedup();
        (found, failed.map_or(Ok(()), Err))
    }

    fn incomplete(&mut self, why: &io::Error) {
        let what = match self.levels.len() {
            0 => format!("read {}", self.top.display()),
            depth => format!("read a cgroup {depth} below {}", self.top.display()),
        };
        self.failed.get_or_insert_with(|| Error::io(what, why));
    }

    fn file(&self, name: &CStr) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.here, name, flags, Mode::empty())?))
    }

    fn open_list(&mut self) -> io::Result<Doing> {
        self.seen += 1;
        let file = match self.what {
            What::Processes => self.file(c"cgroup.procs"),
            What::Threads => {
                let v2 = self.file(c"cgroup.threads");
                v2.or_else(|_| self.file(c"tasks"))
            }
        }?;
        Ok(Doing::Read(file, Numbers::default()))
    }

    fn read(&mut self, mut file: File, mut numbers: Numbers) -> io::Result<Doing> {
        let mut chunk = vec![0; CHUNK];
        match file.read(&mut chunk) {
            Ok(0) => {
                numbers.end();
                self.has_domain |= self.levels.is_empty();
                match self.what == What::Processes && numbers.of_threads {
                    true => Ok(Doing::Map(numbers.all)),
                    false => {
                        self.found.append(&mut numbers.all);
                        self.names()
                    }
                }
            }
            Ok(count) => {
                numbers.take(&chunk[..count]);
                Ok(Doing::Read(file, numbers))
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => Ok(Doing::Read(file, numbers)),
            Err(why) if why.raw_os_error() == Some(libc::EOPNOTSUPP) && !numbers.of_threads => {
                if self.has_domain {
                    return self.names();
                }
                let threads = Numbers {
                    of_threads: true,
                    ..Numbers::default()
                };
                Ok(Doing::Read(self.file(c"cgroup.threads")?, threads))
            }
            Err(why) => Err(why),
        }
    }

    fn map(&mut self, mut threads: Vec<i32>) -> io::Result<Doing> {
        for _ in 0..THREADS {
            match threads.pop() {
                // One that is gone was in none.
                Some(thread) => self.found.extend(process_of(thread)),
                None => return self.names(),
            }
        }
        Ok(Doing::Map(threads))
    }

    fn names(&self) -> io::Result<Doing> {
        // The descriptor's own link in proc leads to what it is of, wherever that is.
        let names = fs::read_dir(format!("/proc/self/fd/{}", self.here.as_raw_fd()))?;
        Ok(Doing::Names(names, Vec::new()))
    }

    fn list(&mut self, mut names: ReadDir, mut children: Vec<CString>) -> io::Result<Doing> {
        for _ in 0..NAMES {
            let Some(entry) = names.next() else {
                return self.listed(children);
            };
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let name = CString::new(entry.file_name().as_bytes())?;
            if self.names + name.count_bytes() > MOST_NAMES {
                self.incomplete(&io::Error::other("it has too many cgroups"));
                return self.listed(children);
            }
            self.names += name.count_bytes();
            children.push(name);
        }
        Ok(Doing::Names(names, children))
    }

    fn listed(&mut self, children: Vec<CString>) -> io::Result<Doing> {
        let id = id_of(&self.here)?;
        self.levels.push(Level { id, children });
        self.parent = None;
        Ok(Doing::Next)
    }

    /// Into the next child, or back to the parent of one that has no more.
    fn next(&mut self) -> io::Result<Doing> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(Doing::Over);
        };
        if let Some(name) = level.children.pop() {
            self.names -= name.count_bytes();
            if self.seen == MOST {
                self.incomplete(&io::Error::other("it has too many cgroups"));
                return Ok(Doing::Over);
            }
            let child = openat(&self.here, &*name, DIRECTORY, Mode::empty())?;
            self.parent = Some(std::mem::replace(&mut self.here, child));
            return Ok(Doing::Open);
        }
        self.levels.pop();
        let Some(id) = self.levels.last().map(|level| level.id) else {
            return Ok(Doing::Over);
        };
        let back = openat(&self.here, c"..", DIRECTORY, Mode::empty()).map_err(io::Error::from);
        match back.and_then(|parent| Ok((id_of(&parent)?, parent))) {
            Ok((there, parent)) if there == id => {
                self.here = parent;
                Ok(Doing::Next)
            }
            failed => {
                let moved = || io::Error::other("it has another parent than before");
                self.incomplete(&failed.err().unwrap_or_else(moved));
                Ok(Doing::Over)
            }
        }
    }
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

type Id = (libc::dev_t, libc::ino_t);

fn id_of(dir: &OwnedFd) -> io::Result<Id> {
    let stat = fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The process that a thread is of; none when it is gone.
fn process_of(thread: i32) -> Option<i32> {
    let status = kernel_file::text(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line?.trim().parse().ok()
}

/// Numbers, a line each, that come in chunks. v2 lists a process of another pid namespace as 0, which is none.
#[derive(Default)]
struct Numbers {
    all: Vec<i32>,
    begun: Option<i32>,
    of_threads: bool,
}

impl Numbers {
    fn take(&mut self, chunk: &[u8]) {
        for byte in chunk {
            match byte {
                b'0'..=b'9' => {
                    let digit = i32::from(byte - b'0');
                    let so_far = self.begun.unwrap_or(0).saturating_mul(10);
                    self.begun = Some(so_far.saturating_add(digit));
                }
                _ => self.end(),
            }
        }
    }

    fn end(&mut self) {
        self.all
            .extend(self.begun.take().filter(|&number| number > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_s_process_is_known_whatever_it_calls_itself() {
        let odd = kernel_file::OddlyNamed::new();
        assert_eq!(process_of(odd.pid()), Some(odd.pid()));
    }

    #[test]
    fn numbers_come_in_any_chunks() {
        let text = b"1\n23\n0\n4567\n89";
        for at in 0..text.len() {
            let mut numbers = Numbers::default();
            numbers.take(&text[..at]);
            numbers.take(&text[at..]);
            numbers.end();
            assert_eq!(numbers.all, [1, 23, 4567, 89], "{at}");
        }
    }

    #[test]
    fn a_thread_is_of_its_process() {
        let me = std::process::id().cast_signed();
        let own = nix::unistd::gettid().as_raw();
        assert_eq!(process_of(own), Some(me));
        assert_eq!(process_of(i32::MAX), None);
    }
}
