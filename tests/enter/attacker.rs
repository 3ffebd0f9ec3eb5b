//! What somebody inside a container can do to a process that joins it. Built by the tests, as the probe is.
//!
//! Waits for a line on its standard input, does what it is told by its first argument to all processes that it finds
//! but itself and init, and tells what came of it: `what<TAB>answer`.

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn ptrace(what: c_long, pid: c_int, address: *mut c_void, data: *mut c_void) -> c_long;
    fn truncate(path: *const c_char, length: i64) -> c_int;
}

const PIDFD_OPEN: c_long = 434;
const PIDFD_GETFD: c_long = 438;
const PROCESS_VM_READV: c_long = 310;
const PTRACE_SEIZE: c_long = 0x4206;
const O_PATH: i32 = 0o10_000_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    println!("ready\tyes");
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    match args[1].as_str() {
        "look" => others().into_iter().for_each(look),
        "kill" => tell(
            "all",
            done(unsafe { kill(-1, args[2].parse().unwrap()) }.into()),
        ),
        "overwrite" => others().into_iter().for_each(overwrite),
        other => panic!("{other}"),
    }
    println!("end\tof all");
}

fn tell(what: &str, answer: io::Result<String>) {
    let answer = answer.unwrap_or_else(|why| why.to_string());
    println!("{what}\t{}", answer.escape_debug());
    io::stdout().flush().unwrap();
}

fn done(answer: c_long) -> io::Result<String> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok("DONE".into()),
    }
}

/// All processes but init and itself.
fn others() -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let all = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid| *pid != 1 && *pid != own).collect()
}

fn look(pid: i32) {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    tell("name", Ok(name.trim().into()));
    for file in [
        "environ", "mem", "maps", "auxv", "io", "stack", "syscall", "pagemap",
    ] {
        let read = File::open(format!("/proc/{pid}/{file}"))
            .and_then(|mut file| io::Read::read(&mut file, &mut [0; 64]));
        tell(file, read.map(|length| format!("DONE {length}")));
    }
    for link in ["exe", "cwd", "root", "ns/mnt", "ns/pid"] {
        let to = fs::read_link(format!("/proc/{pid}/{link}"));
        tell(link, to.map(|to| format!("DONE {}", to.display())));
    }
    // The numbers are there for root to see, not more.
    for number in 0..8 {
        let to = fs::read_link(format!("/proc/{pid}/fd/{number}"));
        tell(
            &format!("link {number}"),
            to.map(|to| format!("DONE {}", to.display())),
        );
    }
    let all = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let all = all.and_then(|all| all.collect::<io::Result<Vec<_>>>());
    tell("fdinfo", all.map(|all| format!("DONE {}", all.len())));
    let none = std::ptr::null_mut();
    // SAFETY: numbers, and buffers of this process.
    unsafe {
        let mut word = 0_u64;
        let own: [*mut c_void; 2] = [(&raw mut word).cast(), 8 as *mut c_void];
        let of_other: [*mut c_void; 2] = [0x0040_0000 as *mut c_void, 8 as *mut c_void];
        tell(
            "memory",
            done(syscall(
                PROCESS_VM_READV,
                c_long::from(pid),
                &raw const own,
                1_i64,
                &raw const of_other,
                1_i64,
                0_i64,
            )),
        );
        let pidfd = syscall(PIDFD_OPEN, c_long::from(pid), 0_i64);
        for fd in 0..8_i64 {
            tell(
                &format!("descriptor {fd}"),
                done(syscall(PIDFD_GETFD, pidfd, fd, 0_i64)),
            );
        }
        tell("trace", done(ptrace(PTRACE_SEIZE, pid, none, none)));
    }
}

/// Keeps the program of each, ends it, and then does to the program what it can.
fn overwrite(pid: i32) {
    let exe = format!("/proc/{pid}/exe");
    let to = fs::read_link(&exe).map(|to| to.display().to_string());
    tell("program", to);
    tell(
        "while it runs",
        OpenOptions::new()
            .write(true)
            .open(&exe)
            .map(|_| "DONE".into()),
    );
    let Ok(kept) = OpenOptions::new()
        .read(true)
        .custom_flags(O_PATH)
        .open(&exe)
    else {
        return tell("kept", Err(io::Error::last_os_error()));
    };
    // SAFETY: numbers only.
    unsafe { kill(pid, 9) };
    while fs::exists(format!("/proc/{pid}")).unwrap_or_default() {
        std::thread::yield_now();
    }
    let again = format!("/proc/self/fd/{}", kept.as_raw_fd());
    let opened = OpenOptions::new().write(true).open(&again);
    match opened {
        Ok(mut open) => {
            tell(
                "write",
                open.write(b"#!/bin/false\n").map(|_| "DONE".into()),
            );
            tell("shorten", open.set_len(0).map(|()| "DONE".into()));
            tell("lengthen", open.set_len(1 << 20).map(|()| "DONE".into()));
        }
        Err(why) => tell("open", Err(why)),
    }
    let path = CString::new(again.as_str()).unwrap();
    // SAFETY: a name that outlives the call.
    tell(
        "shorten by name",
        done(unsafe { truncate(path.as_ptr(), 7) }.into()),
    );
    let mode = fs::Permissions::from_mode(0);
    tell(
        "forbid",
        fs::set_permissions(&again, mode).map(|()| "DONE".into()),
    );
    tell(
        "give away",
        chown(&again, Some(7), Some(7)).map(|()| "DONE".into()),
    );
}
