//! A real containerd that is killed, stopped and started again in a loop, and shims that die under it.
//!
//! What counts is what containerd says in the end: a container that has exited is stopped, with the
//! status it exited with, and everything that is deleted is gone.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Scale;
use crate::common::census::Census;
use crate::common::containerd::{Containerd, Form, Version, go_shim};
use crate::common::{signal, tool};
use crate::patience::Patience;
use crate::verdict::Outcome;

/// How long containerd may take to see what has become of its containers.
const SETTLE: Duration = Duration::from_secs(20);
/// How long what is left of Go shims is looked at that changes no more: what containerd itself has `delete`
/// take at most.
const GO_STILL: Duration = Duration::from_secs(5);

/// Ends with 7 when it is told to; init of a pid namespace, so that its child goes with it.
const OBEDIENT: [&str; 3] = ["sh", "-c", "trap 'exit 7' TERM; sleep 100000 & wait"];

struct Node {
    daemon: Containerd,
    before: Census,
    outcome: Outcome,
}

impl Node {
    fn new() -> Self {
        Self::under("CRUN_1_21")
    }

    fn under(runtime: &str) -> Self {
        let daemon = Containerd::start(Version::V2_1, Form::DropIn, &tool(runtime));
        let before = daemon.census();
        Self {
            daemon,
            before,
            outcome: Outcome::default(),
        }
    }

    /// A container that obeys; its init.
    fn run(&self, id: &str) -> u32 {
        self.daemon.run_detached(id, &OBEDIENT);
        self.daemon.pid(id).unwrap()
    }

    /// The container has exited with this status: containerd has to know. One that died with its shim it clears
    /// away by itself; and one of the Go shim's that ended while no containerd was there (since 1.7 a shim
    /// without processes is taken for a leaked one).
    fn has_ended(&mut self, id: &str, status: u32, unseen: bool) {
        self.outcome.expected += 1;
        let deadline = Instant::now() + SETTLE;
        let mut is = String::new();
        while Instant::now() < deadline {
            is = self.daemon.status(id).unwrap_or("gone".into());
            if is != "RUNNING" {
                break;
            }
            sleep(Duration::from_millis(50));
        }
        let done = self.daemon.ctr(&["tasks", "delete", id]);
        let told = done.err.contains(&format!("non-zero exit code {status}"));
        if told || is == "gone" && unseen {
            self.outcome.received += 1;
        } else {
            eprintln!("{id} is {is}: {done:?}");
            self.daemon.ctr(&["tasks", "delete", "--force", id]);
        }
        self.remove(id);
    }

    fn remove(&mut self, id: &str) {
        let done = self.daemon.ctr(&["containers", "delete", id]);
        if done.code != 0 {
            self.outcome
                .failed
                .push(format!("remove {id}: {}", done.err));
        }
    }

    /// The container runs on, and works.
    fn lives(&mut self, id: &str) {
        let done = self.daemon.exec(id, &["echo", "on"]);
        if done.out != "on\n" {
            self.outcome.failed.push(format!("exec in {id}: {done:?}"));
        }
    }

    fn end(mut self) -> Outcome {
        let still = go_shim().then_some(GO_STILL);
        let mut patience = Patience::new(Instant::now(), SETTLE, still);
        loop {
            let left = self.before.diff(&self.daemon.census());
            let left: Vec<String> = left.lines().map(str::to_owned).collect();
            if patience.is_over(&left, Instant::now()) {
                self.outcome.left.extend(left);
                break;
            }
            sleep(Duration::from_millis(50));
        }
        if !self.outcome.good() {
            eprintln!("{:#?}\n{}", self.outcome, self.daemon.log());
        }
        self.outcome
    }
}

/// Killed; some of its containers exit, others run on; started again.
pub async fn killed(scale: Scale, runtime: &str) -> Outcome {
    let mut node = Node::under(runtime);
    let ids: Vec<String> = (0..scale.flaps).map(|n| format!("c{n}")).collect();
    let pids: Vec<u32> = ids.iter().map(|id| node.run(id)).collect();
    node.daemon.kill();
    let (dead, live) = pids.split_at(pids.len() / 2);
    dead.iter().for_each(|pid| signal(*pid, "TERM"));
    sleep(Duration::from_secs(1));
    node.daemon.relaunch();
    for id in &ids[dead.len()..] {
        node.lives(id);
    }
    live.iter().for_each(|pid| signal(*pid, "TERM"));
    for (n, id) in ids.iter().enumerate() {
        node.has_ended(id, 7, go_shim() && n < dead.len());
    }
    node.end()
}

/// Stopped; its containers exit; it goes on.
pub async fn stopped(scale: Scale) -> Outcome {
    let mut node = Node::new();
    let ids: Vec<String> = (0..scale.flaps).map(|n| format!("c{n}")).collect();
    let pids: Vec<u32> = ids.iter().map(|id| node.run(id)).collect();
    let all = node.daemon.owner.processes();
    let is_daemon = |argv: &str| {
        argv.split(' ')
            .next()
            .is_some_and(|a| a.ends_with("/containerd"))
    };
    let daemon = all.iter().find(|p| is_daemon(&p.argv)).unwrap().pid;
    signal(daemon, "STOP");
    pids.iter().for_each(|pid| signal(*pid, "TERM"));
    sleep(Duration::from_secs(3));
    signal(daemon, "CONT");
    for id in &ids {
        node.has_ended(id, 7, false);
    }
    node.end()
}

/// Killed at moments of chance while containers come and go.
pub async fn flapping(mut scale: Scale) -> Outcome {
    let mut node = Node::new();
    let mut last: Option<(String, u32)> = None;
    for n in 0..scale.flaps / 2 {
        let id = format!("c{n}");
        let mut run = node
            .daemon
            .run_command(&["-d", "--null-io"], &id, &OBEDIENT);
        let mut run = run
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if let Some((_, pid)) = &last {
            signal(*pid, "TERM");
        }
        sleep(Duration::from_millis(scale.random(1000)));
        node.daemon.kill();
        let _ = run.wait();
        node.daemon.relaunch();
        if let Some((id, _)) = last.take() {
            node.has_ended(&id, 7, go_shim());
        }
        match (node.daemon.status(&id).as_deref(), node.daemon.pid(&id)) {
            (Some("RUNNING"), Some(pid)) => {
                node.lives(&id);
                last = Some((id, pid));
            }
            _ => {
                // In the middle of being made: to be taken away.
                node.daemon.ctr(&["tasks", "delete", "--force", &id]);
                node.daemon.ctr(&["containers", "delete", &id]);
            }
        }
    }
    if let Some((id, pid)) = last {
        signal(pid, "TERM");
        node.has_ended(&id, 7, false);
    }
    node.end()
}

/// The shim of a running container is killed.
pub async fn shim_killed(scale: Scale) -> Outcome {
    let mut node = Node::new();
    let ids: Vec<String> = (0..scale.flaps / 2).map(|n| format!("c{n}")).collect();
    for id in &ids {
        node.run(id);
    }
    for id in &ids {
        signal(node.daemon.owner.shim(id).unwrap().pid, "KILL");
    }
    for id in &ids {
        node.has_ended(id, 137, true);
    }
    node.end()
}

/// The shim is killed at moments of chance while `ctr run` makes a container with it.
pub async fn shim_killed_in_run(mut scale: Scale) -> Outcome {
    let node = Node::new();
    for n in 0..scale.flaps {
        let id = format!("c{n}");
        let mut run = node
            .daemon
            .run_command(&["-d", "--null-io"], &id, &OBEDIENT);
        let mut run = run
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + SETTLE;
        while node.daemon.owner.shim(&id).is_none() {
            if run.try_wait().unwrap().is_some() || Instant::now() > deadline {
                break;
            }
        }
        sleep(Duration::from_millis(scale.random(40)));
        if let Some(shim) = node.daemon.owner.shim(&id) {
            signal(shim.pid, "KILL");
        }
        let _ = run.wait();
        let gone = || {
            node.daemon
                .status(&id)
                .is_none_or(|status| status != "RUNNING")
        };
        let deadline = Instant::now() + SETTLE;
        while !gone() && Instant::now() < deadline {
            sleep(Duration::from_millis(50));
        }
        node.daemon.ctr(&["tasks", "delete", "--force", &id]);
        node.daemon.ctr(&["containers", "delete", &id]);
    }
    node.end()
}
