//! Who a process is and who descends from it, as the kernel tells without asking the process.
//!
//! Invariant: only `stat` and `children` of /proc are read, which wait for no lock that a process can
//! hold: `cmdline`, `environ`, `maps` and their like can keep whoever reads them waiting for as long as
//! the process wants (`tests/docs.rs::nobody_reads_what_can_hold_up_the_reader`). And who is given out
//! as a descendant certainly was one, whatever pids are used again meanwhile. What cannot be read is told
//! beside who was found: it is never a process without children.

use std::io;

use crate::error::{Error, Result};
use crate::kernel_file;
use crate::monitor::{Moment, Pid, children, fields};
use crate::pidfd;

/// The most descendants that are held: each is a descriptor, and a process can make as many as it likes.
const MOST: usize = 256;

/// A process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// As the kernel writes it: `S`, `D`, `Z`, …
    pub state: char,
    /// Who made it, or got it.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// When it was forked, in ticks of 1/100 s (USER_HZ) since boot. With the pid it is one process and no
    /// other, as no pid is used twice within a tick.
    pub since: u64,
}

impl Stat {
    /// The process that has this pid now; none if there is none.
    pub fn of(pid: Pid) -> Option<Self> {
        Self::read(&kernel_file::bytes(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Reads the text of `/proc/<pid>/stat` (fields 3 to 6, and 22).
    fn read(stat: &[u8]) -> Option<Self> {
        let mut fields = fields(stat)?;
        let state = fields.next()?.chars().next()?;
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        let since = fields.nth(15)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            group,
            session,
            since,
        })
    }

    /// When it was forked.
    pub fn born(&self) -> Moment {
        Moment(self.since)
    }

    /// Whether it is dead, reaped or not.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// A process that is held: whoever has its pid later is not it.
pub type Held = (Pid, pidfd::Process);

/// Who descends from a process.
#[derive(Debug)]
pub struct Descendants {
    /// Each held; no more than 256.
    pub held: Vec<Held>,
    /// Why they may not be all. A process that has ended meanwhile is no reason.
    pub whole: Result<()>,
}

/// The children of a process that is held, theirs, and so on; none of one that has ended.
///
/// As long as their lists are: not for the event loop.
pub fn descendants(of: &Held) -> Descendants {
    descendants_by(of, children)
}

fn descendants_by(
    (pid, process): &Held,
    children: impl Fn(&str) -> io::Result<Vec<Pid>>,
) -> Descendants {
    let mut whole = Ok(());
    let mut found = theirs(*pid, &children, &mut whole);
    // As long as it lives, the pid is its own, and so were the children.
    if pidfd::has_ended(process) {
        found.clear();
        whole = Ok(());
    }
    let mut next = 0;
    while let Some((pid, process)) = found.get(next)
        && found.len() < MOST
    {
        let mut all = Ok(());
        let more = theirs(*pid, &children, &mut all);
        // The same of each of them.
        if !pidfd::has_ended(process) {
            found.extend(more);
            whole = whole.and(all);
        }
        next += 1;
    }
    Descendants { held: found, whole }
}

/// The children of one process; `whole` is why they may not be all.
fn theirs(
    parent: Pid,
    children: impl Fn(&str) -> io::Result<Vec<Pid>>,
    whole: &mut Result<()>,
) -> Vec<Held> {
    let mut failed = |what: String, why: &io::Error| {
        if !is_gone(why) && whole.is_ok() {
            *whole = Err(Error::io(what, why));
        }
    };
    let name = parent.to_string();
    let list = |failed: &mut dyn FnMut(String, &io::Error)| {
        children(&name).unwrap_or_else(|why| {
            failed(format!("read the children of process {parent}"), &why);
            Vec::new()
        })
    };
    let mut held = Vec::new();
    for pid in list(&mut failed).into_iter().take(MOST) {
        match pidfd::open(pid.cast_unsigned()) {
            Ok(process) => held.push((pid, process)),
            Err(why) => failed(format!("hold process {pid}"), &why),
        }
    }
    // What was opened is a child only if the pid still is one's.
    let now = list(&mut failed);
    held.retain(|(pid, _)| now.contains(pid));
    held
}

/// Whether this says that the process has ended.
pub fn is_gone(why: &io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn a_stat_is_read() {
        let tail = "-1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 9 9";
        let expected = Stat {
            state: 'S',
            parent: 1,
            group: 34,
            session: 35,
            since: 4711,
        };
        let text = format!("12 (a) b) S 1 34 35 0 {tail}");
        assert_eq!(Stat::read(text.as_bytes()), Some(expected));
        assert!(!expected.has_ended());
        // A process may call itself anything.
        let named = [b"12 (\xff \n) S 2) ".as_slice(), &text.as_bytes()[10..]].concat();
        assert_eq!(Stat::read(&named), Some(expected));
        let zombie = Stat::read(format!("12 (a) Z 1 34 35 0 {tail}").as_bytes());
        assert!(zombie.unwrap().has_ended());
        for text in [
            "",
            "12 (a",
            "12 (a) ",
            "12 (a) S 1 34",
            "12 (a) S x 34 35 0",
        ] {
            assert_eq!(Stat::read(text.as_bytes()), None, "{text}");
        }
        let odd = kernel_file::OddlyNamed::new();
        assert!(Stat::of(odd.pid()).is_some());
        let own = Stat::of(std::process::id().cast_signed()).unwrap();
        assert_eq!(own.parent, nix::unistd::getppid().as_raw());
        assert_eq!(own.group, nix::unistd::getpgrp().as_raw());
        assert!(!own.has_ended() && own.since > 0);
    }

    /// Children of `sh`, and of another below it; once they are somebody else's they do not count.
    #[test]
    fn what_descends_is_held() {
        let script = "sleep 1000 & sh -c 'sleep 1000 & sleep 1000' & sleep 1000";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = child.id().cast_signed();
        let top = (pid, pidfd::open(child.id()).unwrap());
        let mut held = Vec::new();
        while held.len() < 5 {
            std::thread::yield_now();
            let found = descendants(&top);
            assert_eq!(found.whole, Ok(()));
            held = found.held;
        }
        // Another's children are not those of one that has ended.
        let ended = |_: &str| Ok(vec![std::process::id().cast_signed()]);
        assert_eq!(descendants_by(&top, ended).held.len(), MOST);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(descendants(&top).held.is_empty());
        assert!(descendants_by(&top, ended).held.is_empty());
        for (_, process) in held {
            // ESRCH: the inner shell's last, which it waits for.
            let _ = pidfd::signal(&process, Signal::SIGKILL);
            while !pidfd::has_ended(&process) {
                std::thread::yield_now();
            }
        }
    }
    #[test]
    fn what_cannot_be_read_is_told() {
        let own = std::process::id();
        let top = (own.cast_signed(), pidfd::open(own).unwrap());
        for (number, told) in [
            (libc::ENOENT, None),
            (libc::ESRCH, None),
            (libc::EIO, Some("input/output error")),
            (libc::EMFILE, Some("too many open files")),
        ] {
            let found = descendants_by(&top, |_| Err(io::Error::from_raw_os_error(number)));
            let what = format!("read the children of process {own}: ");
            let expected = told.map(|why| format!("{what}{why}"));
            assert_eq!(found.whole.err().map(|why| why.message), expected);
        }
    }
}
