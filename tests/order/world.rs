//! A shim and a client that writes down what it asks for and is answered, so that in the end the
//! stream of events can be judged.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use cotter::error::Result;
use cotter::manager::dialect::Dialect;
use cotter::manager::events::{EventServer, Told};
use cotter::manager::spec::Spec;

pub use crate::common::shim::each;
use crate::common::shim::{Shim, until};
use crate::common::{TempDir, signal, tool};
use crate::ledger::{Ledger, key, seen};
use crate::stream::{check, time};

/// What kills.
pub const KILLED: u32 = 137;

/// Whether containers have a pid namespace of their own.
pub const PIDS: [Pids; 2] = [Pids::Private, Pids::Host];

/// A container's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pids {
    /// Of its own: the kernel ends what is left when init dies.
    Private,
    /// The host's: the shim has to.
    Host,
}

/// A shim under test.
pub struct World {
    pub shim: Shim,
    pids: Pids,
    ledger: Ledger,
    told: Vec<Told>,
    hooks: Option<TempDir>,
}

impl World {
    /// A shim for containers with such pid namespaces; its first container is `first`.
    pub async fn new(runtime: &str, pids: Pids, first: &str, args: &[&str]) -> Self {
        Self::build(runtime, pids, first, args, &[], None).await
    }

    /// The same with a runtime into which [`hook`](Self::hook) can put things, and with settings.
    pub async fn hooked(runtime: &str, pids: Pids, args: &[&str], env: &[(&str, &str)]) -> Self {
        let hooks = TempDir::new("hooks");
        let script = SCRIPT
            .replace("@HOOKS@", &hooks.path().to_string_lossy())
            .replace("@REAL@", &tool(runtime).to_string_lossy());
        let path = hooks.path().join("runtime");
        crate::common::write_program(&path, script);
        let runtime = path.to_string_lossy().into_owned();
        Self::build(&runtime, pids, "c", args, env, Some(hooks)).await
    }

    async fn build(
        runtime: &str,
        pids: Pids,
        first: &str,
        args: &[&str],
        env: &[(&str, &str)],
        hooks: Option<TempDir>,
    ) -> Self {
        let spec = spec(pids, first, args);
        Self {
            shim: Shim::start_with(Dialect::Proto23, runtime, spec, first, env).await,
            pids,
            ledger: Ledger::default(),
            told: Vec::new(),
            hooks,
        }
    }

    /// A bundle for a further container.
    pub fn bundle(&mut self, id: &str, args: &[&str]) {
        self.shim.bundle(id, spec(self.pids, id, args));
    }

    /// Has the runtime run shell commands `when` (`before`, `after`) its `command` on `id`. They
    /// may use `$dir`, and what the functions in [`SCRIPT`] offer.
    pub fn hook(&self, id: &str, command: &str, when: &str, text: &str) {
        fs::write(self.flag(&format!("{id}.{command}.{when}")), text).unwrap();
    }

    /// A file by which the test and its hooks tell each other things.
    pub fn flag(&self, name: &str) -> PathBuf {
        self.hooks.as_ref().unwrap().path().join(name)
    }

    /// Waits for the hook that stops at `gate`.
    pub async fn reached(&self, gate: &str) {
        let flag = self.flag(&format!("{gate}.reached"));
        until(&format!("the runtime is at {gate}"), || flag.exists()).await;
    }

    /// Lets that hook go on.
    pub fn open(&self, gate: &str) {
        fs::write(self.flag(gate), "").unwrap();
    }

    /// Create; the pid.
    pub async fn create(&self, id: &str) -> u32 {
        let request = self.shim.create_request(id);
        self.ledger.create(&self.shim, &request).await.unwrap()
    }

    /// Registers an exec.
    pub async fn add(&self, id: &str, exec: &str, args: &[&str]) {
        self.try_add(id, exec, args).await.unwrap();
    }

    /// Registers an exec where that may be too late.
    pub async fn try_add(&self, id: &str, exec: &str, args: &[&str]) -> Result<()> {
        self.ledger.add(&self.shim, id, exec, args).await
    }

    /// Start of an init or an exec; the pid.
    pub async fn start(&self, id: &str, exec: &str) -> Result<u32> {
        self.ledger.start(&self.shim, id, exec).await
    }

    /// Registers and starts an exec.
    pub async fn exec(&self, id: &str, exec: &str, args: &[&str]) -> u32 {
        self.add(id, exec, args).await;
        self.start(id, exec).await.unwrap()
    }

    /// The process will exit with this status.
    pub fn exits_with(&self, id: &str, exec: &str, status: u32) {
        self.ledger.note(id, exec, |f| f.status = Some(status));
    }

    /// The exec may exit after its init.
    pub fn is_late(&self, id: &str, exec: &str) {
        self.ledger.note(id, exec, |f| f.late = true);
    }

    /// Wait; the status.
    pub async fn wait(&self, id: &str, exec: &str) -> u32 {
        let answer = self.ledger.wait(&self.shim, id, exec).await.unwrap();
        answer.exit_status
    }

    /// When the process exited, as Wait has told.
    pub fn exited_at(&self, id: &str, exec: &str) -> SystemTime {
        let facts = self.ledger.facts();
        let told = facts.processes[&key(id, exec)].waited.as_ref();
        time(&told.expect("Wait has told").at)
    }

    /// Delete.
    pub async fn delete(&self, id: &str, exec: &str) {
        self.ledger.delete(&self.shim, id, exec).await.unwrap();
    }

    /// Wait and Delete.
    pub async fn gone(&self, id: &str, exec: &str) -> u32 {
        let status = self.wait(id, exec).await;
        self.delete(id, exec).await;
        status
    }

    /// Kills a process behind the shim's back.
    pub fn kill(&self, pid: u32) {
        signal(pid, "KILL");
    }

    /// Stops to receive events; the address at which the shim expects to find its manager again.
    pub async fn manager_leaves(&mut self) -> String {
        let nowhere = self.shim.dir().join("nobody.sock");
        let nobody = EventServer::listen(&nowhere).await.unwrap();
        let events = std::mem::replace(&mut self.shim.events, nobody);
        let address = events.address();
        self.told.extend(events.stop().await);
        address
    }

    /// Ends the shim and judges what it told: all processes are over and deleted by now.
    pub async fn end(mut self) {
        let log = self.shim.log();
        self.told.extend(self.shim.end().await);
        let wrong = check(&seen(&self.told), &self.ledger.into_facts());
        assert!(
            wrong.is_empty(),
            "{} wrong: {:#?}\nlog {log:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(8)]
        );
    }
}

fn spec(pids: Pids, id: &str, args: &[&str]) -> Spec {
    let mut spec = Spec::new(id, args.iter().copied());
    spec.host_pids = pids == Pids::Host;
    spec
}

/// Calls the real runtime and, around it, what the test has put there.
const SCRIPT: &str = r#"#!/bin/sh
dir=@HOOKS@
command=
pid_file=
previous=
for id; do
    [ "$previous" = --pid-file ] && pid_file=$id
    case $command$id in create|start|exec|kill|delete) command=$id ;; esac
    previous=$id
done
gate() { : >"$dir/$1.reached"; while [ ! -e "$dir/$1" ]; do sleep 0.01; done; }
kill_made() {
    read -r pid <"$pid_file" || [ -n "$pid" ]
    kill -9 "$pid"
    while [ -e "/proc/$pid" ]; do sleep 0.01; done
}
hook() { if [ -e "$dir/$id.$command.$1" ]; then . "$dir/$id.$command.$1"; fi; }
hook before
@REAL@ "$@"
status=$?
hook after
exit $status
"#;
