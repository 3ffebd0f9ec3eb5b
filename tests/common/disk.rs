//! A disk that can die and come back: a FUSE file system of the test's own, one directory in which
//! every name is a file of the same content, which takes what is written to it and forgets it, but for
//! `dir`, which is another such directory. While it is dead it takes requests and answers none, so that
//! who waits for it cannot even be killed.
//!
//! Each test file takes what it needs.
#![allow(dead_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::common::{TempDir, run as run_command};

/// From `linux/fuse.h`.
mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
}

/// Nodes: the root, every file, the directory in it.
const ROOT: u64 = 1;
const FILE: u64 = 2;
const DIR: u64 = 3;

/// Requests that nobody has answered yet: number, operation, node, length of what is written or flags of what
/// is opened. The node of a look-up is the one that was found.
type Request = (u64, u32, u64, u32);

struct State {
    content: Vec<u8>,
    health: Health,
    waiting: Vec<Request>,
}

/// What it does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Health {
    /// Answers it.
    Good,
    /// Answers it, but for a write, which finds it dead.
    DiesOfAWrite,
    /// Answers it, but for a write.
    TakesNoWrite,
    /// Lets it wait.
    Dead,
}

/// The disk, mounted.
pub struct Disk {
    fuse: Arc<File>,
    state: Arc<Mutex<State>>,
    at: PathBuf,
    _dir: Option<TempDir>,
    /// The block device of one that is told of its last unmount, and waited for.
    device: Option<String>,
}

impl Disk {
    /// A disk that answers, and has done so: no process can end that asks it once it is dead.
    pub fn new() -> Self {
        Self::holding(b"")
    }

    /// The same, whose files hold this.
    pub fn holding(content: &[u8]) -> Self {
        Self::mounted(content, None, Health::Good)
    }

    /// A disk that has never answered, not even the kernel's first request: whoever asks waits for that
    /// answer, and can be killed.
    pub fn that_never_answered() -> Self {
        Self::mounted(b"", None, Health::Dead)
    }

    /// A disk over a directory of somebody else's.
    pub fn in_place_of(directory: &Path) -> Self {
        Self::over(directory, None, b"", None, Health::Good)
    }

    /// The same, whose files hold this.
    pub fn holding_over(directory: &Path, content: &[u8]) -> Self {
        Self::over(directory, None, content, None, Health::Good)
    }

    /// The same as in place of, dead.
    pub fn dead_over(directory: &Path) -> Self {
        let disk = Self::in_place_of(directory);
        disk.dies();
        disk
    }

    /// A disk on a block device: the kernel tells it of its last unmount, and waits for the answer.
    pub fn on_a_device() -> Self {
        let image = TempDir::new("cotter-image");
        let file = image.path().join("image");
        File::create(&file).unwrap().set_len(1 << 20).unwrap();
        let made = run_command(Command::new("losetup").args(["-f", "--show"]).arg(&file));
        Self::mounted(b"", Some(made.ok().trim().to_owned()), Health::Good)
    }

    fn mounted(content: &[u8], device: Option<String>, health: Health) -> Self {
        let dir = TempDir::new("cotter-disk");
        let at = dir.path().join("disk");
        std::fs::create_dir(&at).unwrap();
        Self::over(&at, Some(dir), content, device, health)
    }

    fn over(
        at: &Path,
        dir: Option<TempDir>,
        content: &[u8],
        device: Option<String>,
        health: Health,
    ) -> Self {
        let fuse = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            fuse.as_raw_fd()
        );
        let kind = if device.is_some() { "fuseblk" } else { "fuse" };
        let disk = Self {
            fuse: Arc::new(fuse),
            state: Arc::new(Mutex::new(State {
                content: content.to_owned(),
                health,
                waiting: Vec::new(),
            })),
            at: at.to_owned(),
            _dir: dir,
            device,
        };
        mount(
            Some(disk.device.as_deref().unwrap_or("dead-disk")),
            at,
            Some(kind),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .unwrap();
        let (fuse, state) = (Arc::clone(&disk.fuse), Arc::clone(&disk.state));
        thread::spawn(move || serve(&fuse, &state));
        if health == Health::Good {
            // Until the kernel's first request is answered, whoever asks can be killed.
            std::fs::metadata(at).unwrap();
        }
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.at.clone()
    }

    /// From now on it answers nothing.
    pub fn dies(&self) {
        self.is(Health::Dead);
    }

    /// From the next write on, that one included, it answers nothing: whoever waits first has a file
    /// open for writing.
    pub fn dies_of_a_write(&self) {
        self.is(Health::DiesOfAWrite);
    }

    /// From now on it answers no write, and everything else.
    pub fn takes_no_write(&self) {
        self.is(Health::TakesNoWrite);
    }

    fn is(&self, health: Health) {
        self.state.lock().unwrap().health = health;
    }

    /// Answers everything from now on, and what has been asked meanwhile.
    pub fn is_back(&self) {
        let mut state = self.state.lock().unwrap();
        state.health = Health::Good;
        for request in std::mem::take(&mut state.waiting) {
            answer(&self.fuse, &state.content, request);
        }
    }

    /// How many wait for an answer of the dead disk.
    pub fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting.len()
    }

    /// Takes the test's own mount away; others may be left.
    pub fn unmount(&self) {
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.is_back();
        // Aborts the connection: nobody waits any more, and the serving thread ends.
        let _ = umount2(&self.path(), MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

fn serve(mut fuse: &File, state: &Mutex<State>) {
    // The kernel refuses buffers below the largest write.
    let mut buffer = vec![0; 1 << 20];
    // An error is the end of the connection.
    while let Ok(length) = fuse.read(&mut buffer) {
        let word = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().unwrap());
        // fuse_in_header; fuse_write_in has its size behind a handle and an offset.
        let operation = word(4);
        // fuse_open_in begins with its flags.
        let size = match operation {
            op::WRITE if length >= 60 => word(56),
            op::OPEN if length >= 44 => word(40),
            _ => 0,
        };
        let node = match (operation, &buffer[40..length]) {
            (op::LOOKUP, b"dir\0") => DIR,
            (op::LOOKUP, _) => FILE,
            _ => long(16),
        };
        let request = (long(8), operation, node, size);
        match operation {
            op::FORGET | op::BATCH_FORGET | op::INTERRUPT => continue,
            _ => {}
        }
        let mut state = state.lock().unwrap();
        let waits = match state.health {
            Health::Good => false,
            Health::DiesOfAWrite | Health::TakesNoWrite => operation == op::WRITE,
            Health::Dead => true,
        };
        if waits && state.health == Health::DiesOfAWrite {
            state.health = Health::Dead;
        }
        if waits {
            state.waiting.push(request);
        } else {
            answer(fuse, &state.content, request);
        }
    }
}

fn answer(mut fuse: &File, content: &[u8], (unique, operation, node, size): Request) {
    let mut body = Vec::new();
    let mut put = |bytes: &[u8]| body.extend_from_slice(bytes);
    let mut error = 0_i32;
    match operation {
        // Protocol 7.31, no features, writes of up to 4 KiB.
        op::INIT => {
            for word in [7_u32, 31, 0, 0, 0, 4096, 0, 0] {
                put(&word.to_ne_bytes());
            }
            put(&[0; 32]);
        }
        op::LOOKUP => {
            // Never cached: each look asks again.
            for long in [node, 0, 0, 0, 0] {
                put(&long.to_ne_bytes());
            }
            put(&attributes(node, content.len()));
        }
        op::GETATTR | op::SETATTR => {
            put(&[0; 16]);
            put(&attributes(node, content.len()));
        }
        // Past the page cache if it is opened so (FOPEN_DIRECT_IO).
        op::OPEN => {
            let direct = size & libc::O_DIRECT.cast_unsigned() != 0;
            put(&[0; 8]);
            put(&u32::from(direct).to_ne_bytes());
            put(&[0; 4]);
        }
        // From the start: nobody here reads twice.
        op::READ => put(content),
        op::WRITE => {
            put(&size.to_ne_bytes());
            put(&[0; 4]);
        }
        op::FLUSH | op::RELEASE | op::DESTROY => {}
        _ => error = -libc::ENOSYS,
    }
    let length = u32::try_from(16 + body.len()).unwrap();
    let mut reply = length.to_ne_bytes().to_vec();
    reply.extend(error.to_ne_bytes());
    reply.extend(unique.to_ne_bytes());
    reply.extend(body);
    // ENOENT: nobody waits any more.
    let _ = fuse.write(&reply);
}

/// A fuse_attr.
fn attributes(node: u64, size: usize) -> Vec<u8> {
    let mode = match node {
        ROOT | DIR => libc::S_IFDIR | 0o755,
        // A program may be kept there.
        _ => libc::S_IFREG | 0o755,
    };
    let mut all = node.to_ne_bytes().to_vec();
    all.extend((size as u64).to_ne_bytes());
    // Blocks and three times, then their nanoseconds.
    all.extend([0; 32]);
    all.extend([0; 12]);
    for word in [mode, 1, 0, 0, 0, 4096, 0] {
        all.extend(word.to_ne_bytes());
    }
    all
}
