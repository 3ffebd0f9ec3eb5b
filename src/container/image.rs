//! Which program a process runs, as far as the kernel tells without asking any file system.
//!
//! Invariant: the same process gives the same answer until it calls execve(2), and another one
//! afterwards. It is how a Start whose runtime failed learns what became of the container, and a Kill whom
//! its signal would meet: an init waits within the runtime's program until it is started.

use std::fs;
use std::path::PathBuf;

use crate::kernel_file;
use crate::monitor::Pid;

/// The program of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// As the kernel spells it; the link is not followed.
    exe: PathBuf,
    /// Of `/proc/<pid>/stat` (proc(5)): start time, and the addresses of the program's code and
    /// stack, which are drawn anew at each execve.
    numbers: [u64; 4],
}

impl Image {
    /// None when the process is gone or a zombie.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let stat = kernel_file::text(format!("/proc/{pid}/stat")).ok()?;
        let numbers = numbers(&stat)?;
        Some(Self { exe, numbers })
    }
}

/// Fields 22, 26, 27 and 28.
fn numbers(stat: &str) -> Option<[u64; 4]> {
    // The name in parentheses may hold anything; field 3 follows it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = fields.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.trim().parse().ok();
    Some([number(22)?, number(26)?, number(27)?, number(28)?])
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn fields() {
        let rest: Vec<_> = (4..=52).map(|n| n.to_string()).collect();
        let stat = format!("1 (a) b) S {}\n", rest.join(" "));
        assert_eq!(numbers(&stat), Some([22, 26, 27, 28]));
        for short in ["", "1 (a", "1 (a) S 4 5"] {
            assert_eq!(numbers(short), None, "{short}");
        }
    }

    #[test]
    fn it_is_known_whatever_the_program_calls_itself() {
        let odd = kernel_file::OddlyNamed::new();
        assert!(Image::of(odd.pid()).is_some());
    }

    #[test]
    fn it_changes_with_exec_only() {
        let (mut ready, says_ready) = std::io::pipe().unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "echo one; read _; exec /bin/sh -c 'echo two; read _'"])
            .stdin(Stdio::piped())
            .stdout(says_ready)
            .process_group(0);
        let mut child = command.spawn().unwrap();
        drop(command);
        let pid = child.id().cast_signed();
        let mut line = [0; 4];
        ready.read_exact(&mut line).unwrap();
        let first = Image::of(pid).unwrap();
        assert_eq!(Image::of(pid).unwrap(), first);
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"\n").unwrap();
        ready.read_exact(&mut line).unwrap();
        assert_ne!(Image::of(pid).unwrap(), first, "the same file, run again");
        drop(stdin);
        child.wait().unwrap();
        assert_eq!(Image::of(pid), None);
    }
}
