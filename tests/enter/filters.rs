//! Filters of system calls: an exec has the container's, as its runtime would have given it.

use serde_json::{Value, json};

use crate::bpf;
use crate::common::shim::{run, until};
use crate::matrix::{Case, case, compare_all, direct};
use crate::ran::Ran;
use crate::world::{Kind, Making, RUNTIMES, Streams, UNKNOWN, World, process};

/// As engines give by default, in short: what is not named is an error, some calls depend on their arguments.
const ALLOWED: &str = "access arch_prctl brk capget capset chdir chmod chown clock_gettime clone3 close \
    close_range connect dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 execve \
    execveat exit exit_group faccessat faccessat2 fchdir fchmod fchown fcntl fork fstat fstatfs fsync \
    ftruncate futex getcwd getdents getdents64 getegid geteuid getgid getgroups getpeername getpgid \
    getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getsid getsockopt gettid \
    gettimeofday getuid ioctl ioprio_get keyctl kill lseek lstat madvise mkdir mmap mprotect munmap \
    nanosleep newfstatat open openat openat2 pause pipe pipe2 poll ppoll prctl pread64 prlimit64 read \
    readlink readlinkat recvfrom recvmsg restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn \
    rt_sigsuspend sched_getaffinity sched_getattr sched_yield select sendmsg sendto set_robust_list \
    set_tid_address setgid setgroups setpgid setregid setresgid setresuid setreuid setsid setuid \
    sigaltstack stat statfs statx symlink sysinfo tgkill umask uname unlink vfork wait4 waitid write writev \
    clock_nanosleep epoll_create epoll_pwait2 mremap getcpu get_mempolicy";

fn docker(config: &mut Value) {
    let names: Vec<&str> = ALLOWED.split_whitespace().collect();
    let arg = |index: u32, value: u64, op: &str, two: u64| json!([{"index": index, "value": value, "valueTwo": two, "op": op}]);
    let allow = "SCMP_ACT_ALLOW";
    let mut rules = vec![json!({"names": names, "action": allow})];
    for value in [0, 8, 0x20000, 0x20008, u64::from(u32::MAX)] {
        let args = arg(0, value, "SCMP_CMP_EQ", 0);
        rules.push(json!({"names": ["flock"], "action": allow, "args": args}));
    }
    let args = arg(0, 0x7e02_0000, "SCMP_CMP_MASKED_EQ", 0);
    rules.push(json!({"names": ["clone"], "action": allow, "args": args}));
    let args = arg(0, 40, "SCMP_CMP_NE", 0);
    rules.push(json!({"names": ["socket"], "action": allow, "args": args}));
    rules.push(json!({"names": ["bpf", "mount", "no_call_at_all"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    });
}

/// All is allowed but these.
fn but(config: &mut Value, names: &[&str], action: &str, number: Option<u32>) {
    let mut rule = json!({"names": names, "action": action});
    if let Some(number) = number {
        rule["errnoRet"] = json!(number);
    }
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule],
    });
}

fn flags(config: &mut Value, flags: &[&str]) {
    but(config, &["swapon"], "SCMP_ACT_ERRNO", None);
    config["linux"]["seccomp"]["flags"] = json!(flags);
}

const CASES: [Case; 3] = [
    case("no more privileges", |_| {}, direct),
    case(
        "more privileges",
        |spec| spec["noNewPrivileges"] = json!(false),
        direct,
    ),
    case(
        "user",
        |spec| {
            spec["user"] = json!({"uid": 1000, "gid": 1000});
            spec["capabilities"] = json!({});
            spec["noNewPrivileges"] = json!(false);
        },
        direct,
    ),
];

/// Of a process that runs a program of the container, without or with the runtime.
async fn filter(world: &World, by_runtime: bool) -> Vec<bpf::Instruction> {
    let before = world.table().await;
    let mut spec = process(&["sleep", "100000"]);
    if by_runtime {
        spec[UNKNOWN] = json!(1);
    }
    world
        .shim
        .tasks
        .exec(&world.request("f", &spec))
        .await
        .unwrap();
    let pid = world.shim.start_process("c", "f").await.unwrap();
    assert_eq!(
        world.table().await[0].1 - before[0].1,
        u64::from(!by_runtime)
    );
    let comm = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    until("it runs", || comm() == "sleep\n").await;
    let filter = bpf::of(pid);
    world.shim.kill("c", "f", 9).await.unwrap();
    world.shim.wait("c", "f").await.unwrap();
    world.shim.delete("c", "f").await.unwrap();
    filter
}

/// What is to be so in a container with a filter.
struct Wanted {
    cases: &'static [Case],
    /// Its bytes are compared, or what it says.
    filter: bool,
    /// All are the runtime's.
    why: Option<&'static str>,
    count: usize,
}

const ALL: Wanted = Wanted {
    cases: &CASES,
    filter: true,
    why: None,
    count: 5,
};

fn same_with(config: fn(&mut Value), wanted: &Wanted) {
    let (mut all, mut count) = (Vec::new(), 0);
    for runtime in RUNTIMES {
        let making = Making {
            config,
            ..Making::PLAIN
        };
        run(async {
            let mut world = match World::created(runtime, making).await {
                Ok(world) => world,
                Err(why) => return println!("{runtime}: {why}"),
            };
            world.shim.start_process("c", "").await.unwrap();
            world.why = world.why.or(wanted.why);
            all.extend(compare_all(&world, wanted.cases).await);
            if wanted.filter && world.kind.is_some() {
                let (own, of_runtime) = (filter(&world, false).await, filter(&world, true).await);
                let (different, asked) = bpf::differences(&own, &of_runtime);
                println!(
                    "{runtime}: {} and {} instructions, {asked} calls",
                    own.len(),
                    of_runtime.len()
                );
                all.extend(different.iter().map(|line| format!("{runtime}: {line}")));
                if world.kind == Some(Kind::Crun) && bpf::words(&own) != bpf::words(&of_runtime) {
                    all.push(format!("{runtime}: not the same instructions"));
                }
            }
            world.end().await;
            count += 1;
        });
    }
    assert!(all.is_empty(), "{all:#?}");
    assert_eq!(count, wanted.count);
}

macro_rules! same {
    ($($name:ident: $config:expr, $wanted:expr;)*) => { $(
        #[test]
        fn $name() {
            same_with($config, &$wanted);
        }
    )* };
}

same! {
    as_engines_give: docker, ALL;
    logged: |config| but(config, &["getpriority", "swapon"], "SCMP_ACT_LOG", None), ALL;
    killed: |config| but(config, &["swapon", "swapoff"], "SCMP_ACT_KILL_PROCESS", None), ALL;
    killed_by_thread: |config| but(config, &["swapon"], "SCMP_ACT_KILL_THREAD", None), ALL;
    trapped: |config| but(config, &["swapon"], "SCMP_ACT_TRAP", None), ALL;
    with_an_error: |config| but(config, &["getpriority", "swapon"], "SCMP_ACT_ERRNO", Some(77)), ALL;
    of_this_architecture_twice: |config| {
        but(config, &["getpriority"], "SCMP_ACT_ERRNO", Some(5));
        config["linux"]["seccomp"]["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
    }, ALL;
    told_to_log: |config| flags(config, &["SECCOMP_FILTER_FLAG_LOG"]), Wanted { count: 4, ..ALL };
    mitigated: |config| flags(config, &[]), ALL;
    // What the runtime itself needs is refused, and so is what the shim's way needs alone.
    no_groups: |config| but(config, &["setgroups"], "SCMP_ACT_ERRNO", Some(1)), Wanted { cases: &NEEDED, filter: false, ..ALL };
    told_to_somebody: |config| but(config, &["swapon"], "SCMP_ACT_NOTIFY", None),
        Wanted { why: Some("its filter of system calls notifies somebody"), filter: false, count: 3, ..ALL };
}

const IN_THE_WAY: &str = "its filter of system calls is in the way of its own set-up";

const NEEDED: [Case; 2] = [
    case("no more privileges", |_| {}, direct),
    case(
        "more privileges",
        |spec| spec["noNewPrivileges"] = json!(false),
        |_| Some(IN_THE_WAY),
    ),
];

/// What tells the shim that the program is next may be refused to it, or end it.
#[test]
fn what_cannot_be_told() {
    for (action, config) in [
        (
            "refused",
            (|config| but(config, &["sendto"], "SCMP_ACT_ERRNO", Some(1))) as fn(&mut Value),
        ),
        ("deadly", |config| {
            but(config, &["sendto"], "SCMP_ACT_KILL_PROCESS", None)
        }),
    ] {
        for runtime in RUNTIMES {
            let making = Making {
                config,
                ..Making::PLAIN
            };
            run(async {
                let world = World::new(runtime, making).await;
                for privileges in [true, false, true, false] {
                    let mut spec = process(&["probe"]);
                    spec["noNewPrivileges"] = json!(privileges);
                    let (ran, by) = world.exec(&spec, Streams::Outputs).await;
                    assert!(
                        matches!(ran, Ran::Done { status: 0, .. }),
                        "{runtime} {action}: {ran:?}"
                    );
                    assert!(
                        world.is_by(&by, Some(IN_THE_WAY)),
                        "{runtime} {action}: {by:?}"
                    );
                }
                world.end().await;
            });
        }
    }
}
