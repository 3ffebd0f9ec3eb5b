//! Everything that a process can see of itself, one line each: `name<TAB>value`.
//!
//! Invariant: it looks before it changes anything: it has no run time of Rust's before `main`, which would change
//! what it inherits, and opens nothing before its descriptors are told. It is built by the tests, statically and
//! without cargo (`world.rs`), so it declares what it needs of libc itself.
//!
//! `probe`, `probe to=FILE`, and with `stay` after what is told it waits until its standard input ends.

#![no_main]

use std::ffi::{CStr, c_char, c_int, c_long, c_ulong};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

unsafe extern "C" {
    fn prctl(what: c_int, ...) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn fcntl(fd: c_int, what: c_int, ...) -> c_int;
    fn getauxval(what: c_ulong) -> c_ulong;
    fn getpriority(which: c_int, who: u32) -> c_int;
    fn personality(what: c_ulong) -> c_int;
}

const KEYCTL: c_long = 250;
const IOPRIO_GET: c_long = 252;
const SCHED_GETATTR: c_long = 315;
const GET_MEMPOLICY: c_long = 239;
const GETCWD: c_long = 79;

/// Its lines.
struct Told(String);

impl Told {
    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        let _ = writeln!(self.0, "{name}\t{}", value.trim_end().escape_debug());
    }

    fn file(&mut self, path: &str) {
        self.line(path, read(path));
    }
}

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, args: *const *const c_char) -> c_int {
    let mut told = Told(String::new());
    descriptors(&mut told);
    let args: Vec<String> = (0..count as usize)
        // SAFETY: as many as there are.
        .map(|at| {
            unsafe { CStr::from_ptr(*args.add(at)) }
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    for (at, arg) in args.iter().enumerate() {
        told.line(&format!("argument {at}"), arg);
    }
    status(&mut told);
    files(&mut told);
    stat(&mut told);
    asked(&mut told);
    keyrings(&mut told);
    told.0.push_str("end\tof all\n");
    let to = args.iter().find_map(|arg| arg.strip_prefix("to="));
    let written = match to {
        Some(path) => fs::write(path, &told.0),
        None => std::io::stdout().write_all(told.0.as_bytes()),
    };
    if args.iter().any(|arg| arg == "stay") {
        let _ = std::io::stdin().read(&mut [0]);
    }
    if written.is_ok() { 0 } else { 9 }
}

fn read(path: &str) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(why) => why.to_string(),
    }
}

/// First of all: none is open but those that were handed down, and the directory's own.
fn descriptors(told: &mut Told) {
    let all = match fs::read_dir("/proc/self/fd") {
        Ok(all) => all,
        Err(why) => return told.line("descriptors", why),
    };
    let mut numbers: Vec<i32> = all
        .filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    for number in numbers {
        // SAFETY: takes numbers only.
        let flags = unsafe { fcntl(number, 1) };
        if flags < 0 {
            // The directory's, which is closed by now.
            continue;
        }
        // SAFETY: it is open, and is not closed here.
        let file = ManuallyDrop::new(unsafe { fs::File::from_raw_fd(number) });
        let name = format!("descriptor {number}");
        let to = fs::read_link(format!("/proc/self/fd/{number}"));
        let to = to.map_or_else(
            |why| why.to_string(),
            |to| to.to_string_lossy().into_owned(),
        );
        let kind = file.metadata();
        let is_pipe = kind.as_ref().is_ok_and(|kind| kind.file_type().is_fifo());
        let to = if is_pipe { "pipe".to_owned() } else { to };
        told.line(&name, format!("{to}, close on exec: {}", flags & 1));
        if let Ok(kind) = kind {
            // A device is the machine's; crun up to 1.21 at least gives even /dev/null to an exec's user.
            let owner = match kind.file_type().is_char_device() {
                true => "all".to_owned(),
                false => format!("{}:{}", kind.uid(), kind.gid()),
            };
            let (mode, device, of) = (kind.mode(), kind.rdev(), kind.dev());
            let what = format!("{mode:o} of {owner}, device {device:x}, of {of:x}");
            told.line(&format!("{name} is"), what);
        }
        let info = read(&format!("/proc/self/fdinfo/{number}"));
        let info = info
            .lines()
            .filter(|line| !(is_pipe && line.starts_with("ino:")));
        told.line(&format!("{name} info"), info.collect::<Vec<_>>().join(", "));
    }
}

/// But for what tells one process from another, and counters.
fn status(told: &mut Told) {
    const ITS_OWN: [&str; 14] = [
        "Pid",
        // Told below.
        "PPid",
        "Tgid",
        "NStgid",
        "NSpid",
        "NSpgid",
        "NSsid",
        "State",
        "FDSize",
        "SigQ",
        "HugetlbPages",
        "TracerPid",
        "voluntary_ctxt_switches",
        "nonvoluntary_ctxt_switches",
    ];
    let text = read("/proc/self/status");
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let is_memory = name.starts_with("Vm") || name.starts_with("Rss");
        if !is_memory && !ITS_OWN.contains(&name) {
            told.line(&format!("status {name}"), value.trim());
        }
    }
    let depth = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let depth = depth.map_or(0, |pids| pids.split_whitespace().count());
    told.line("depth of pid namespaces", depth);
}

fn files(told: &mut Told) {
    for name in [
        "cgroup",
        "mountinfo",
        "comm",
        "oom_score_adj",
        "coredump_filter",
        "loginuid",
        "sessionid",
        "setgroups",
        "uid_map",
        "gid_map",
        "timens_offsets",
        "attr/current",
        "attr/exec",
        "attr/prev",
        "attr/fscreate",
        "attr/keycreate",
        "attr/sockcreate",
        "cpuset",
    ] {
        told.file(&format!("/proc/self/{name}"));
    }
    for line in read("/proc/self/limits").lines().skip(1) {
        let (name, values) = line.split_at(25.min(line.len()));
        let values: Vec<&str> = values.split_whitespace().take(2).collect();
        told.line(&format!("limit {}", name.trim()), values.join(" "));
    }
    // In order.
    let environment = read("/proc/self/environ");
    for (at, variable) in environment.split_terminator('\0').enumerate() {
        told.line(&format!("variable {at:02}"), variable);
    }
    told.line("command line", read("/proc/self/cmdline"));
    for name in [
        "cgroup",
        "ipc",
        "mnt",
        "net",
        "pid",
        "pid_for_children",
        "time",
        "time_for_children",
        "user",
        "uts",
    ] {
        link(told, &format!("ns/{name}"));
    }
    for name in ["cwd", "root", "exe"] {
        link(told, name);
    }
    let tty = fs::File::open("/dev/tty").map_or_else(|why| why.to_string(), |_| "there".into());
    told.line("controlling terminal", tty);
}

fn link(told: &mut Told, name: &str) {
    let to = fs::read_link(format!("/proc/self/{name}"));
    let to = to.map_or_else(
        |why| why.to_string(),
        |to| to.to_string_lossy().into_owned(),
    );
    told.line(name, without_own(&to));
}

/// A path below its own directory in /proc is that of no other.
fn without_own(path: &str) -> String {
    path.replace(&format!("/proc/{}", std::process::id()), "/proc/its own")
}

/// Numbers are compared with its own: those differ.
fn stat(told: &mut Told) {
    let text = read("/proc/self/stat");
    let fields: Vec<&str> = text
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let own = std::process::id().to_string();
    let relative = |number: usize| {
        if field(number) == own {
            "its own"
        } else {
            field(number)
        }
    };
    // With the host's pids it has one, which may be a runtime that is about to end.
    told.line("has a parent here", field(4) != "0");
    for (name, number) in [
        ("process group", 5),
        ("session", 6),
        ("terminal", 7),
        ("foreground", 8),
    ] {
        told.line(name, relative(number));
    }
    for (name, number) in [
        ("priority", 18),
        ("nice", 19),
        ("threads", 20),
        ("signal of its end", 38),
        ("real-time priority", 40),
        ("policy", 41),
    ] {
        told.line(name, field(number));
    }
}

fn asked(told: &mut Told) {
    let flag = |what: c_int| {
        let mut answer: c_int = -77;
        // SAFETY: those that take an address write an int there; the others take no notice of it.
        let done = unsafe { prctl(what, &raw mut answer, 0, 0, 0) };
        if answer == -77 { done } else { answer }
    };
    // SAFETY: takes numbers only.
    let plain = |what: c_int| unsafe { prctl(what, 0, 0, 0, 0) };
    for (name, what) in [
        ("dumpable", 3),
        ("kept capabilities", 7),
        ("timing", 13),
        ("secure bits", 27),
        ("timer slack", 30),
        ("machine checks", 34),
        ("no new privileges", 39),
        ("huge pages", 42),
        ("io flusher", 58),
        ("mdwe", 66),
    ] {
        told.line(name, plain(what));
    }
    for (name, what) in [
        ("signal of the parent's death", 2),
        ("time stamps", 25),
        ("subreaper", 37),
    ] {
        told.line(name, flag(what));
    }
    let mut name = [0_u8; 16];
    // SAFETY: it writes sixteen bytes.
    unsafe { prctl(16, name.as_mut_ptr()) };
    told.line("its name", String::from_utf8_lossy(&name));
    let mut attributes = [0_u32; 14];
    let mut memory = (0_i32, [0_u64; 16]);
    let mut cwd = [0_u8; 4096];
    // SAFETY: buffers with their lengths; numbers.
    unsafe {
        told.line("io priority", syscall(IOPRIO_GET, 1_i64, 0_i64));
        told.line("nice as asked", getpriority(0, 0));
        told.line("domain of execution", personality(0xffff_ffff));
        syscall(SCHED_GETATTR, 0_i64, attributes.as_mut_ptr(), 56_i64, 0_i64);
        syscall(
            GET_MEMPOLICY,
            &raw mut memory.0,
            memory.1.as_mut_ptr(),
            1024_i64,
            0_i64,
            0_i64,
        );
        told.line("length of cwd", syscall(GETCWD, cwd.as_mut_ptr(), 4096_i64));
    }
    told.line("scheduling", format!("{attributes:?}"));
    told.line("memory policy", format!("{memory:?}"));
    let cwd = CStr::from_bytes_until_nul(&cwd).unwrap_or_default();
    told.line("cwd by the kernel", without_own(&cwd.to_string_lossy()));
    for (name, what) in [
        ("uid", 11),
        ("euid", 12),
        ("gid", 13),
        ("egid", 14),
        ("secure", 23),
        ("flags", 8),
    ] {
        // SAFETY: a number.
        told.line(&format!("vector {name}"), unsafe { getauxval(what) });
    }
    // SAFETY: the kernel has put the name there.
    let name = unsafe { getauxval(31) as *const c_char };
    if !name.is_null() {
        // SAFETY: as above; it ends with a zero byte.
        told.line(
            "vector name",
            unsafe { CStr::from_ptr(name) }.to_string_lossy(),
        );
    }
}

/// Their numbers too: whether it is the same.
fn keyrings(told: &mut Told) {
    for (name, which) in [
        ("thread keyring", -1_i64),
        ("process keyring", -2),
        ("session keyring", -3),
        ("user keyring", -4),
        ("user session keyring", -5),
    ] {
        let mut text = [0_u8; 256];
        // SAFETY: numbers, and a buffer with its length. The first makes none.
        let (number, length) = unsafe {
            (
                syscall(KEYCTL, 0_i64, which, 0_i64),
                syscall(KEYCTL, 6_i64, which, text.as_mut_ptr(), 256_i64),
            )
        };
        let why = std::io::Error::last_os_error();
        match usize::try_from(length) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&text[..length.min(256)]).into_owned();
                told.line(name, text.trim_end_matches('\0'));
                // A user's may be made by asking; a session's is handed down.
                if which == -3 {
                    told.line("number of the session keyring", number);
                }
            }
            Err(_) => told.line(name, why),
        }
    }
}
