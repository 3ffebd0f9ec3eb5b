//! File systems in user space: mounted by the programs `mount.fuse` and `mount.fuse3`, as the Go
//! implementation does.
//!
//! Invariant: when the program has failed, hung or lied, what it may have mounted is unmounted and
//! the error carries its own words. No process that it leaves behind can block or be killed by the
//! end of its output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::pread;
use nix::unistd::{Whence, ftruncate, lseek};

use super::{Mount, RunProgram, mountinfo, options, unmount};
use crate::errno::Words as _;
use crate::error::{Error, Result};
use crate::program::Program;

/// The most that is kept of what a program says: its beginning.
const MOST_WORDS: i64 = 8 * 1024;

/// A file system type in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind<'a> {
    program: &'static str,
    name: &'a str,
}

impl<'a> Kind<'a> {
    /// Reads `fuse.NAME` or `fuse3.NAME`; None for another file system.
    pub fn parse(kind: &'a str) -> Result<Option<Self>> {
        let (program, name) = match (kind.strip_prefix("fuse."), kind.strip_prefix("fuse3.")) {
            (Some(name), _) => ("mount.fuse", name),
            (_, Some(name)) => ("mount.fuse3", name),
            (None, None) => return Ok(None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(Error::invalid_argument(format!(
                "file system type {kind:?} names no program"
            )));
        }
        Ok(Some(Self { program, name }))
    }
}

/// All words go to the program, which knows those of fstab.
pub(super) fn check(mount: &Mount) -> Result<()> {
    mount
        .options
        .iter()
        .try_for_each(|word| options::check_word(word))
}

/// Mounts `request` at `place` with the program's help.
pub(super) fn mount(
    kind: Kind<'_>,
    request: &Mount,
    place: &Path,
    run: RunProgram<'_>,
) -> Result<(), String> {
    let before = mounted_at(place)?;
    let words = Words::new().map_err(|why| format!("memfd: {why}", why = why.words()))?;
    let mut command = Program::new(kind.program);
    command.args(arguments(kind, request, place));
    let ended = words
        .taken_from(&mut command)
        .and_then(|()| run(&mut command));
    let after = mounted_at(place)?;
    let failed = match ended {
        Ok(0) if after > before => return Ok(()),
        Ok(0) => "it succeeded, but nothing is mounted".to_owned(),
        Ok(status) => format!("exit status {status}"),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            "there is no such program on the PATH of the shim".to_owned()
        }
        Err(why) if why.kind() == io::ErrorKind::TimedOut => {
            "it did not end in time and was killed".to_owned()
        }
        Err(why) => why.words(),
    };
    let mut message = format!(
        "{} for {}: {failed}{}",
        kind.program,
        kind.name,
        words.read()
    );
    for _ in before..after {
        if let Err(why) = unmount::one(place) {
            message += &format!(" (and roll-back failed: {})", why.message);
        }
    }
    Err(message)
}

/// As mount(8) calls such a program.
fn arguments(kind: Kind<'_>, request: &Mount, place: &Path) -> Vec<std::ffi::OsString> {
    let mut arguments = vec![request.source.clone().into(), place.into()];
    for word in request.options.iter().filter(|word| !word.is_empty()) {
        arguments.extend(["-o".into(), word.into()]);
    }
    arguments.extend(["-t".into(), kind.name.into()]);
    arguments
}

fn mounted_at(place: &Path) -> Result<usize, String> {
    mountinfo::read(|entry| (entry.mount_point == place).then_some(()))
        .map(|found| found.len())
        .map_err(|why| format!("read /proc/self/mountinfo: {why}", why = why.words()))
}

/// What a program says, in memory instead of a pipe: the file system that it leaves running may
/// keep its output, which must then neither hold us up nor end with a SIGPIPE. The size is fixed:
/// writing on fails.
struct Words(OwnedFd);

impl Words {
    fn new() -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create("words", flags)?;
        ftruncate(&file, MOST_WORDS)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW))?;
        Ok(Self(file))
    }

    fn taken_from(&self, command: &mut Program) -> io::Result<()> {
        command
            .stdout(self.0.try_clone()?)
            .stderr(self.0.try_clone()?);
        Ok(())
    }

    /// As the end of an error message, on one line: empty or `: …`.
    fn read(&self) -> String {
        // The position is shared with whoever wrote.
        let length = lseek(&self.0, 0, Whence::SeekCur).unwrap_or(0);
        let mut bytes = vec![0; usize::try_from(length.min(MOST_WORDS)).unwrap_or(0)];
        let read = pread(self.0.as_fd(), &mut bytes, 0).unwrap_or(0);
        bytes.truncate(read);
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        match lines.join("; ").trim_matches([';', ' ']) {
            "" => String::new(),
            said => format!(": {said}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn types_that_need_a_program() {
        for (kind, expected) in [
            ("fuse.sshfs", Some(("mount.fuse", "sshfs"))),
            (
                "fuse3.fuse-overlayfs",
                Some(("mount.fuse3", "fuse-overlayfs")),
            ),
            ("fuse3.a.b", Some(("mount.fuse3", "a.b"))),
            ("fuse", None),
            ("fuseblk", None),
            ("fuse4.x", None),
            ("ext4", None),
        ] {
            let expected = expected.map(|(program, name)| Kind { program, name });
            assert_eq!(Kind::parse(kind), Ok(expected), "{kind}");
        }
        for kind in ["fuse.", "fuse3.", "fuse.-o"] {
            let err = Kind::parse(kind).unwrap_err();
            assert_eq!(err.code, Code::InvalidArgument, "{kind}");
        }
    }

    #[test]
    fn arguments_as_mount_gives_them() {
        let request = Mount {
            kind: "fuse3.fuse-overlayfs".into(),
            source: "overlay".into(),
            target: "/merged".into(),
            options: vec!["lowerdir=/a:/b".into(), String::new(), "ro".into()],
        };
        let kind = Kind::parse(&request.kind).unwrap().unwrap();
        assert_eq!(
            arguments(kind, &request, Path::new("/r/merged")),
            [
                "overlay",
                "/r/merged",
                "-o",
                "lowerdir=/a:/b",
                "-o",
                "ro",
                "-t",
                "fuse-overlayfs"
            ]
        );
    }

    #[test]
    fn words_on_one_line_and_no_more_than_kept() {
        let said = |script: &str| {
            let words = Words::new().unwrap();
            let mut command = Program::new("sh");
            words.taken_from(command.args(["-c", script])).unwrap();
            let pid = nix::unistd::Pid::from_raw(command.start().unwrap());
            nix::sys::wait::waitpid(pid, None).unwrap();
            words.read()
        };
        assert_eq!(said("true"), "");
        assert_eq!(said("echo out; echo; echo err >&2"), ": out; ; err");
        let long = said("head -c 1000000 /dev/zero | tr '\\\\0' x");
        assert_eq!(long.len(), 2 + usize::try_from(MOST_WORDS).unwrap());
    }
}
