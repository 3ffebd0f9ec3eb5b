//! The program that enters a container, in memory.
//!
//! Invariant: nobody can change it, not whoever gets at it from inside a container either: it is sealed
//! before anything runs it. It takes no memory before it is first used.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Made by build.rs of `stub/`.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stub"));

/// Beyond what a child gets as its own.
const LOWEST: i32 = 16;

static MADE: Mutex<Option<File>> = Mutex::new(None);

/// Where it is to be run from: a path of this process's, as long as the descriptor is open.
///
/// # Errors
/// It cannot be made, or may not be run.
pub fn open() -> io::Result<(OwnedFd, PathBuf)> {
    let own = made(high)?;
    let path = format!("/proc/self/fd/{}", own.as_raw_fd());
    Ok((own, path.into()))
}

/// Its file's device and inode, as the kernel has them.
///
/// # Errors
/// It cannot be made.
pub fn identity() -> io::Result<[usize; 2]> {
    made(|file| {
        let file = file.metadata()?;
        let word = |number: u64| usize::try_from(number).map_err(io::Error::other);
        Ok([word(file.dev())?, word(file.ino())?])
    })
}

/// Takes no more memory, nor a descriptor, until it is used again.
pub fn forget() {
    let made = MADE.lock();
    *made.unwrap_or_else(std::sync::PoisonError::into_inner) = None;
}

fn made<T>(of: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
    let mut made = MADE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = match made.take() {
        Some(file) => file,
        None => make()?,
    };
    of(made.insert(file))
}

fn make() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Before 6.3 every such file may be run.
    let may_run = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    let file = match memfd_create("cotter-stub", flags | may_run) {
        Err(Errno::EINVAL) => memfd_create("cotter-stub", flags),
        made => made,
    };
    let mut file = File::from(file?);
    file.write_all(PROGRAM)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    let exec = SealFlag::from_bits_retain(libc::F_SEAL_EXEC);
    match fcntl(&file, FcntlArg::F_ADD_SEALS(seals | exec)) {
        Err(Errno::EINVAL) => fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?,
        sealed => sealed?,
    };
    // What is open to be written to does not run.
    let read = OpenOptions::new()
        .read(true)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(read)
}

/// Another descriptor of the file, which is none that a child is given.
fn high(file: &File) -> io::Result<OwnedFd> {
    let high = fcntl(file, FcntlArg::F_DUPFD_CLOEXEC(LOWEST))?;
    // SAFETY: the kernel has just made it, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(high) })
}
