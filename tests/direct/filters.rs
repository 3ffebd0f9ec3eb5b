//! Filters of system calls: what the kernel has of a process is the same both ways, or says the same of every call.
//!
//! With runc two execs of its own need not have the same instructions: it writes the architectures in an order that
//! changes. What it gives its init is what the shim takes, and the verdicts are compared.

use std::fs;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::common::shim::{run, until};
use super::world::{KNOWN, World};

/// What programs need, and what the set-up of an exec needs when the filter is loaded first.
const ALLOWED: &str = "\
    access arch_prctl brk capget capset chdir chmod chown clock_gettime clock_nanosleep clone clone3 \
    close close_range dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 execve \
    execveat exit exit_group faccessat faccessat2 fchdir fchmod fchmodat fchown fchownat fcntl fork \
    fstat fstatfs futex getcwd getdents getdents64 getegid geteuid getgid getgroups getpgid getpgrp \
    getpid getppid getrandom getrlimit getsid gettid gettimeofday getuid ioctl keyctl kill lseek lstat \
    madvise mkdir mmap mprotect munmap nanosleep newfstatat open openat openat2 pause pipe pipe2 poll \
    ppoll prctl pread64 prlimit64 pselect6 pwrite64 read readlink readlinkat readv restart_syscall rseq rt_sigaction \
    rt_sigprocmask rt_sigreturn rt_sigsuspend sched_getaffinity sched_yield seccomp select sendto \
    set_robust_list set_tid_address setgid setgroups setpgid setresgid setresuid setrlimit setsid setuid \
    sigaltstack stat statfs statx sysinfo tgkill time umask uname unlink vfork wait4 write writev \
";

fn allowing(flags: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": flags,
        "syscalls": [
            { "names": ALLOWED.split_whitespace().collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW" },
            { "names": ["personality"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] },
            { "names": ["socket"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": 40, "op": "SCMP_CMP_NE" }] },
            { "names": ["unshare"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": 0x7e02_0000_u32, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] },
        ],
    })
}

fn refusing(action: &str) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["reboot", "swapon", "getpriority"], "action": action }],
    })
}

/// All but a few of these are loaded by usual engines; a filter that logs has a flag.
fn profiles() -> Vec<Value> {
    let mut errno = refusing("SCMP_ACT_ERRNO");
    errno["syscalls"][0]["errnoRet"] = json!(77);
    vec![
        allowing(&[]),
        allowing(&["SECCOMP_FILTER_FLAG_LOG"]),
        refusing("SCMP_ACT_LOG"),
        refusing("SCMP_ACT_KILL"),
        errno,
    ]
}

fn with(profile: &Value) -> impl FnOnce(&mut Value) {
    |config| config["linux"]["seccomp"] = profile.clone()
}

#[test]
fn what_a_process_has_and_sees() {
    for runtime in KNOWN {
        for profile in profiles() {
            // It refuses flags.
            if runtime == "RUNC"
                && profile["flags"]
                    .as_array()
                    .is_some_and(|flags| !flags.is_empty())
            {
                continue;
            }
            run(async {
                let world = World::with(runtime, with(&profile)).await;
                for nnp in [true, false] {
                    let nnp = [("noNewPrivileges", json!(nnp))];
                    world.is_same(&nnp).await;
                    let user = ("user", json!({ "uid": 1000, "gid": 1000 }));
                    world.is_same(&[nnp[0].clone(), user]).await;
                    same_filters(&world, &nnp).await;
                }
                world.end().await;
            });
        }
    }
}

/// The shim could not hear what becomes of an exec whose filter keeps it from saying so.
#[test]
fn a_filter_that_is_in_the_way() {
    for runtime in KNOWN {
        // An error of 0 is a call that has been done as far as the caller can tell.
        for (name, errno) in [
            ("sendto", 0),
            ("sendto", 1),
            ("prlimit64", 38),
            ("umask", 0),
        ] {
            run(async {
                let mut profile = refusing("SCMP_ACT_ERRNO");
                profile["syscalls"][0]["names"] = json!([name]);
                profile["syscalls"][0]["errnoRet"] = json!(errno);
                let world = World::with(runtime, with(&profile)).await;
                let process = World::process(
                    &["sh", "-c", "echo ran; exit 3"],
                    &[("noNewPrivileges", json!(true))],
                );
                let is_needed =
                    name == "sendto" || (name == "umask" && runtime.starts_with("CRUN"));
                let expected = Ok((3, "ran\n".to_owned()));
                if is_needed {
                    let came = world.is_the_runtimes(&process, "in the way").await;
                    assert_eq!(came, expected, "once, {name} {errno}");
                } else {
                    assert_eq!(world.directly(&process).await, expected, "{name} {errno}");
                }
                world.end().await;
            });
        }
    }
}

/// The program of each, as the kernel has it.
async fn same_filters(world: &World, changes: &[(&str, Value)]) {
    let process = World::process(&["sleep", "1000"], changes);
    let mut filters = Vec::new();
    for direct in [true, false] {
        let before = world.ways().await.direct;
        let mut process = process.clone();
        if !direct {
            process["aFieldOfNoSpec"] = json!(true);
        }
        let (id, pid) = world.begin(&process).await;
        assert_eq!(world.ways().await.direct, before + u64::from(direct));
        until("it is the program", || {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        })
        .await;
        filters.push(filter(pid));
        world.kill(&id).await;
    }
    let [direct, runtime] = [&filters[0], &filters[1]];
    assert!(direct.len() > 3);
    if world.shim.options.binary_name.contains("crun") {
        assert_eq!(direct, runtime);
    }
    for architecture in [0xc000_003e, 0x4000_0003, 0xc000_00b7] {
        for number in (0..1024).chain(0x4000_0000..0x4000_0400) {
            for arg in [
                0,
                1,
                7,
                8,
                9,
                39,
                40,
                41,
                0x7e02_0000,
                0x2_0000,
                8 << 32,
                u64::MAX,
            ] {
                let of = |filter| verdict(filter, architecture, number, arg);
                assert_eq!(of(direct), of(runtime), "{architecture:x} {number} {arg}");
            }
        }
    }
}

/// The only filter of a process.
fn filter(pid: u32) -> Vec<[u8; 8]> {
    const GET: libc::c_uint = 0x420c;
    let number = pid.cast_signed();
    let mut room = vec![[0_u8; 8]; 4096];
    let nothing = std::ptr::null_mut::<[u8; 8]>();
    // SAFETY: the kernel takes 4096 instructions at most, and each has eight bytes.
    let trace = |what: libc::c_uint, at: usize, to: *mut [u8; 8]| unsafe {
        libc::ptrace(what, number, at, to)
    };
    assert_eq!(trace(libc::PTRACE_SEIZE, 0, nothing), 0);
    assert_eq!(trace(libc::PTRACE_INTERRUPT, 0, nothing), 0);
    waitpid(Pid::from_raw(number), Some(WaitPidFlag::__WALL)).unwrap();
    let [first, second] = [trace(GET, 0, room.as_mut_ptr()), trace(GET, 1, nothing)];
    assert_eq!(trace(libc::PTRACE_DETACH, 0, nothing), 0);
    assert_eq!(second, -1, "there is one");
    room.truncate(usize::try_from(first).unwrap());
    room
}

/// What it says of a call whose arguments are all the same.
fn verdict(filter: &[[u8; 8]], architecture: u32, number: u32, arg: u64) -> u32 {
    let (mut held, mut at) = (0_u32, 0);
    loop {
        let [code, other, yes, no, k @ ..] = filter[at];
        let (code, k) = (u16::from_ne_bytes([code, other]), u32::from_ne_bytes(k));
        at += 1;
        let is = match code {
            0x20 => {
                held = match k {
                    0 => number,
                    4 => architecture,
                    16..64 if k % 8 == 0 => u32::try_from(arg & 0xffff_ffff).unwrap(),
                    16..64 if k % 8 == 4 => u32::try_from(arg >> 32).unwrap(),
                    other => panic!("{other}"),
                };
                continue;
            }
            0x54 => {
                held &= k;
                continue;
            }
            0x05 => {
                at += usize::try_from(k).unwrap();
                continue;
            }
            0x06 => return k,
            0x15 => held == k,
            0x25 => held > k,
            0x35 => held >= k,
            0x45 => held & k != 0,
            other => panic!("{other:x}"),
        };
        at += usize::from(if is { yes } else { no });
    }
}
