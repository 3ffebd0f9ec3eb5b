//! Below a filter that refuses what came after Linux 4.14, as an old kernel does, or as a sandbox's filter may.
//!
//! Pinned: a whole life is as ever, and so are `-info` and the `delete` of what a shim that was killed has
//! left. The filter is the thread's that starts all of it, and so the shim's, the runtime's and the
//! containers'; the manager's side in this process is below it, too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/mod.rs"]
mod common;

use std::fs::File;
use std::process::{Command, Stdio};

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::proto::types::{Mount, RuntimeInfo};
use cotter::proto::{pack, runc_options::Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::Message;

use common::census::entries;
use common::containerd::{Version, shim_under_test};
use common::shim::{RUNTIMES, Shim, ended, until};
use common::{LIMIT, descriptors, tool};
use cotter::manager::stdio::collect;

/// From here on all numbers are the same on every architecture, and of Linux 5.1 and newer. Two calls lie
/// between 4.14 and this: io_pgetevents(2), which nobody here uses, and rseq(2), which glibc alone does,
/// and which a process that has begun with it, as this one, cannot be without.
const FIRST_OF_ALL: libc::c_long = libc::SYS_pidfd_send_signal;

fn line(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    let code = u16::try_from(code).unwrap();
    libc::sock_filter { code, jt, jf, k }
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap()
}

/// The calling thread, and whatever it starts, may make no call that Linux 4.14 does not know.
fn forget_what_is_new(pidfd_open: libc::c_int) {
    let refuse = |why: libc::c_int| {
        let answer = libc::SECCOMP_RET_ERRNO | why.cast_unsigned();
        line(libc::BPF_RET | libc::BPF_K, 0, 0, answer)
    };
    let equals = |call| {
        line(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            number(call),
        )
    };
    // Its number is the first thing that the kernel tells of a call.
    let mut filter = vec![line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    filter.extend([equals(libc::SYS_pidfd_open), refuse(pidfd_open)]);
    let from = line(
        libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K,
        0,
        1,
        number(FIRST_OF_ALL),
    );
    filter.extend([from, refuse(libc::ENOSYS)]);
    filter.push(line(
        libc::BPF_RET | libc::BPF_K,
        0,
        0,
        libc::SECCOMP_RET_ALLOW,
    ));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program is alive until the call returns, which copies it.
    let done = unsafe {
        let mode = libc::SECCOMP_MODE_FILTER;
        libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: two numbers.
    let refused = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
    let why = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((refused, why), (-1, Some(pidfd_open)));
}

/// On a thread with the filter: the others of this process keep what they have.
fn below(pidfd_open: libc::c_int, runtimes: &[&str], test: impl AsyncFn(&str) + Send + Sync) {
    for runtime in runtimes {
        let test = &test;
        let all = move || {
            forget_what_is_new(pidfd_open);
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            tokio.unwrap().block_on(test(runtime));
        };
        std::thread::scope(|scope| scope.spawn(all).join().unwrap());
    }
}

async fn a_life(runtime: &str) {
    // As a sloppy manager lets one through, for the shim to close.
    let stray = nix::unistd::dup(File::open("/dev/zero").unwrap()).unwrap();
    let mut shim = Shim::start(runtime, "c", &["/bin/sleep", "1000"]).await;
    drop(stray);
    let open = descriptors(shim.pid());
    assert!(!open.iter().any(|name| name == "/dev/zero"), "{open:?}");
    shim.create("c").await.unwrap();
    shim.start_process("c", "").await.unwrap();
    healthy(&mut shim).await;
    let fifos = shim.fifos("x", true);
    let out = collect(&fifos.stdout).unwrap();
    let file = shim.dir().join("file");
    shim.exec_with(
        "c",
        "x",
        &["/bin/sh", "-c", "echo said; cat; exit 7"],
        &fifos,
    )
    .await
    .unwrap();
    shim.close_io("c", "x", true).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 7);
    shim.delete("c", "x").await.unwrap();
    assert_eq!(out.finish(LIMIT).await.unwrap(), b"said\n");
    // To a file, and to be killed.
    let mut request = shim.exec_request("c", "y", &["/bin/sh", "-c", "echo said; sleep 1000"]);
    request.stdout = format!("file://{}", file.display());
    shim.tasks.exec(&request).await.unwrap();
    shim.start_process("c", "y").await.unwrap();
    until("it is in the file", || {
        std::fs::read(&file).unwrap_or_default() == b"said\n"
    })
    .await;
    shim.kill("c", "y", 9).await.unwrap();
    assert_eq!(shim.wait("c", "y").await.unwrap().exit_status, 137);
    shim.delete("c", "y").await.unwrap();
    assert!(shim.exec("c", "z", &["/no/such/program"]).await.is_err());
    shim.delete("c", "z").await.unwrap();
    is_well(&mut shim).await;
    assert_eq!(shim.remove("c").await.exit_status, 137);
    shim.end().await;
}

/// Its root file system is the shim's to mount, with another one below it.
async fn mounts(runtime: &str) {
    let spec = Spec {
        rootfs: "./rootfs".into(),
        ..Spec::new("c", ["/bin/sleep", "1000"])
    };
    let mut shim = Shim::start_as(Dialect::Proto23, runtime, spec, "c").await;
    let mount = |kind: &str, source: &str, target: &str, options: &[&str]| Mount {
        type_: kind.into(),
        source: source.into(),
        target: target.into(),
        options: options.iter().map(|option| (*option).into()).collect(),
        ..Mount::default()
    };
    let image = tool("ROOTFS");
    let mut request = shim.create_request("c");
    request.rootfs = vec![
        mount("bind", image.to_str().unwrap(), "", &["rbind", "rw"]),
        mount("tmpfs", "inner", "/bin/../tmp", &["size=64k"]),
    ];
    shim.tasks.create(&request).await.unwrap();
    shim.start_process("c", "").await.unwrap();
    healthy(&mut shim).await;
    let script = "grep -q '^inner /tmp tmpfs .*size=64k' /proc/mounts";
    shim.exec("c", "x", &["/bin/sh", "-c", script])
        .await
        .unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
    is_well(&mut shim).await;
    shim.remove("c").await;
    shim.end().await;
}

/// A neighbour in the same shim.
async fn healthy(shim: &mut Shim) {
    shim.run(
        "h",
        &[
            "/bin/sh",
            "-c",
            "trap 'exit 5' TERM; while :; do sleep 0.1; done",
        ],
    )
    .await;
}

async fn is_well(shim: &mut Shim) {
    shim.kill("h", "", 15).await.unwrap();
    assert_eq!(shim.wait("h", "").await.unwrap().exit_status, 5);
    shim.delete("h", "").await.unwrap();
}

/// What is left of a shim's container is cleared away, and what another shim has is not.
async fn a_death(runtime: &str) {
    let mut other = Shim::start(runtime, "o", &["/bin/sleep", "1000"]).await;
    other.create("o").await.unwrap();
    other.start_process("o", "").await.unwrap();
    healthy(&mut other).await;
    let shim = Shim::start(runtime, "c", &["/bin/sleep", "1000"]).await;
    shim.create("c").await.unwrap();
    let init = shim.start_process("c", "").await.unwrap();
    let exec = shim.exec("c", "x", &["/bin/sleep", "1000"]).await.unwrap();
    let server = shim.pid();
    kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).unwrap();
    until("the shim has ended", || ended(server)).await;
    let deleted = shim.launch.delete().await.unwrap();
    assert_eq!(deleted.warnings, "");
    assert_eq!(
        (deleted.response.pid, deleted.response.exit_status),
        (init, 137)
    );
    until("its processes have ended", || ended(init) && ended(exec)).await;
    assert!(entries(&shim.state_dir()).is_empty());
    is_well(&mut other).await;
    other.remove("o").await;
    other.end().await;
}

/// And what its runtime can do is told.
async fn features(runtime: &str) {
    let name = if runtime == "RUNC" {
        "RUNC_1_3"
    } else {
        "CRUN_1_21"
    };
    let options = Options {
        binary_name: tool(name).display().to_string(),
        ..Options::default()
    };
    let any = pack(&options).unwrap().write_to_bytes().unwrap();
    let mut command = Command::new(shim_under_test(Version::V2_1));
    command.arg("-info").stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &any).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert!(info.features.is_some(), "{runtime}");
}

#[test]
fn a_whole_life_on_linux_4_14() {
    below(libc::ENOSYS, &RUNTIMES, a_life);
}

#[test]
fn mounts_below_the_root_file_system_on_linux_4_14() {
    below(libc::ENOSYS, &RUNTIMES, mounts);
}

#[test]
fn a_shim_that_was_killed_on_linux_4_14() {
    below(libc::ENOSYS, &RUNTIMES, a_death);
}

#[test]
fn what_a_runtime_can_do_on_linux_4_14() {
    below(libc::ENOSYS, &RUNTIMES, features);
}

/// crun fails itself where pidfd_open(2) is there and not permitted.
const TOLERANT: [&str; 1] = ["RUNC"];

/// As the filters of some sandboxes say it.
#[test]
fn a_whole_life_where_pidfds_are_not_permitted() {
    below(libc::EPERM, &TOLERANT, a_life);
}

#[test]
fn a_shim_that_was_killed_where_pidfds_are_not_permitted() {
    below(libc::EPERM, &TOLERANT, a_death);
}
