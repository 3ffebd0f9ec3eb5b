//! Every signal there is, to an exec each.

use cotter::error::Code::Unknown;
use cotter::proto::task::Status;
use nix::libc;

use crate::client::{SLEEP, refused, until, until_catches, until_runs, with_each_runtime, works};
use crate::common::shim::Shim;

with_each_runtime! { that_end_a_process, that_do_not, that_are_none, that_stop_and_go_on, that_are_caught, }

async fn running(runtime: &str) -> Shim {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    shim
}

async fn end(shim: Shim) {
    works(&shim, "c").await;
    shim.remove("c").await;
    shim.end().await;
}

/// What a process that takes no care of them survives: ignored by default, or only stopped.
const HARMLESS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// The C library's own; its posix_spawn, by which the runtime is called, has them ignored from there on.
const INTERNAL: [i32; 2] = [32, 33];

/// All others, the real-time ones from 34 to 64 included.
async fn that_end_a_process(runtime: &'static str) {
    let shim = running(runtime).await;
    let harmless = |signal: &i32| HARMLESS.contains(signal) || INTERNAL.contains(signal);
    for signal in (1..=64).filter(|signal| !harmless(signal)) {
        let (exec, signal) = (format!("x{signal}"), signal.cast_unsigned());
        let pid = shim.exec("c", &exec, &SLEEP).await.unwrap();
        until_runs(pid, "sleep").await;
        shim.kill("c", &exec, signal).await.unwrap();
        assert_eq!(
            shim.wait("c", &exec).await.unwrap().exit_status,
            128 + signal
        );
        shim.delete("c", &exec).await.unwrap();
    }
    end(shim).await;
}

async fn that_do_not(runtime: &'static str) {
    let shim = running(runtime).await;
    let pid = shim.exec("c", "x", &SLEEP).await.unwrap();
    until_runs(pid, "sleep").await;
    for signal in [
        0,
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
    ] {
        shim.kill("c", "x", signal.cast_unsigned()).await.unwrap();
        assert_eq!(
            shim.state("c", "x").await.unwrap().status.unwrap(),
            Status::RUNNING
        );
    }
    // Only now: an exit that one of them caused would be this one's otherwise.
    shim.kill("c", "x", 10).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 138);
    end(shim).await;
}

async fn that_are_none(runtime: &'static str) {
    let shim = running(runtime).await;
    let pid = shim.exec("c", "x", &SLEEP).await.unwrap();
    until_runs(pid, "sleep").await;
    for signal in [
        65,
        127,
        128,
        256 + 9,
        999,
        65536 + 9,
        i32::MAX as u32,
        1 << 31,
        u32::MAX - 8,
        u32::MAX,
    ] {
        refused(
            shim.kill("c", "x", signal).await,
            Unknown,
            "exec kill error: ",
        );
        assert_eq!(
            shim.state("c", "x").await.unwrap().status.unwrap(),
            Status::RUNNING
        );
    }
    shim.kill("c", "x", 10).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 138);
    end(shim).await;
}

/// A stopped process is a running one to the shim, and is no exit.
async fn that_stop_and_go_on(runtime: &'static str) {
    let shim = running(runtime).await;
    let pid = shim.exec("c", "x", &SLEEP).await.unwrap();
    until_runs(pid, "sleep").await;
    let stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    };
    for _ in 0..3 {
        shim.kill("c", "x", libc::SIGSTOP.cast_unsigned())
            .await
            .unwrap();
        until("it is stopped", async || stopped()).await;
        assert_eq!(
            shim.state("c", "x").await.unwrap().status.unwrap(),
            Status::RUNNING
        );
        shim.kill("c", "x", libc::SIGCONT.cast_unsigned())
            .await
            .unwrap();
        until("it goes on", async || !stopped()).await;
    }
    shim.kill("c", "x", libc::SIGSTOP.cast_unsigned())
        .await
        .unwrap();
    shim.kill("c", "x", 9).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 137);
    end(shim).await;
}

/// The handler's own status, also of a real-time signal.
async fn that_are_caught(runtime: &'static str) {
    let shim = running(runtime).await;
    for signal in [1, 2, 15, 34, 50, 64] {
        let script = format!("trap 'exit {signal}' {signal}; while :; do sleep 0.01; done");
        let pid = shim.exec("c", "x", &["sh", "-c", &script]).await.unwrap();
        until_catches(pid, signal).await;
        shim.kill("c", "x", signal).await.unwrap();
        assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, signal);
        shim.delete("c", "x").await.unwrap();
    }
    end(shim).await;
}
