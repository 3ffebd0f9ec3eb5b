//! What the kernel tells of processes that it killed for want of memory.
//!
//! Invariant: counting costs one short read and watching one descriptor, which wakes nobody while
//! nothing happens. inotify would do on v2, but a user has 128 instances of it, and hundreds of shims.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::metrics::keyed;
use super::{Cgroup, Version};

/// Becomes ready when the kernel may have killed somebody.
#[derive(Debug)]
pub struct OomWatch {
    fd: AsyncFd<OwnedFd>,
    interest: Interest,
}

impl Cgroup {
    /// How many processes of the cgroup the kernel has killed for want of memory, of whatever limit, the
    /// cgroup's own or one above it. It counts before it kills. None when it cannot be known.
    pub fn oom_kills(&self) -> Option<u64> {
        let text = fs::read_to_string(self.oom_file()?).ok()?;
        kills(&text)
    }

    fn oom_file(&self) -> Option<std::path::PathBuf> {
        let name = match self.version {
            // The count is there since Linux 4.13.
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        Some(self.dir("memory")?.join(name))
    }

    /// Begins to watch; none when the memory controller is not there. Call it in a runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn watch_oom(&self) -> io::Result<Option<OomWatch>> {
        let Some(path) = self.oom_file() else {
            return Ok(None);
        };
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let (fd, interest) = match self.version {
            Version::V1 => {
                let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
                let control = path.with_file_name("cgroup.event_control");
                let mut control = OpenOptions::new().write(true).open(control)?;
                // In one write; the kernel keeps what it needs of both.
                let request = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
                control.write_all(request.as_bytes())?;
                (event.into(), Interest::READABLE)
            }
            Version::V2 => (OwnedFd::from(file), Interest::PRIORITY),
        };
        // Needed because tokio can't know that a descriptor stays open.
        // SAFETY: an OwnedFd does, and nothing takes it out of the AsyncFd.
        let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
        Ok(Some(OomWatch { fd, interest }))
    }
}

impl OomWatch {
    /// Waits until there may be something new to count, or the cgroup is gone.
    ///
    /// # Errors
    /// What the system said.
    pub async fn changed(&mut self) -> io::Result<()> {
        // Reading says that what there is has been seen: the count of an eventfd, the text of a file.
        let mut buffer = [0; 512];
        let read = |fd: &OwnedFd, buffer: &mut [u8]| match self.interest {
            Interest::PRIORITY => nix::sys::uio::pread(fd, buffer, 0),
            _ => nix::unistd::read(fd, buffer),
        };
        if self.interest == Interest::PRIORITY {
            read(self.fd.get_ref(), &mut buffer)?;
        }
        let mut ready = self.fd.ready(self.interest).await?;
        ready.clear_ready();
        drop(ready);
        match read(self.fd.get_ref(), &mut buffer) {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

pub(super) fn kills(text: &str) -> Option<u64> {
    keyed(text)
        .find(|(key, _)| *key == "oom_kill")
        .map(|(_, count)| count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_by_their_name() {
        for (text, expected) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", Some(3)),
            (
                "low 0\nhigh 1\nmax 9\noom 2\noom_kill 1\noom_group_kill 5\n",
                Some(1),
            ),
            // Before Linux 4.13.
            ("oom_kill_disable 0\nunder_oom 0\n", None),
            ("oom_kill x\n", None),
            ("", None),
        ] {
            assert_eq!(kills(text), expected, "{text}");
        }
    }
}
