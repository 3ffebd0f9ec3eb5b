//! Attacks on a process that has joined the container and is not its program yet, while it is held at a step of its
//! way by a disk in the container that does not answer.
//!
//! Each was seen to succeed with the protection taken out: traced, read and asked for its descriptors by a process
//! with the same capabilities when it does not hide itself (`PR_SET_DUMPABLE`); see each test.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

use cotter::manager::stdio::{Collected, collect};
use serde_json::{Value, json};

use crate::common::LIMIT;
use crate::common::shim::{run, until};
use crate::disk::Disk;
use crate::matrix::Change;
use crate::ran::By;
use crate::root::root;
use crate::world::{Making, UNKNOWN, World, process};

/// Runtimes that the shim knows.
pub const KNOWN: [&str; 4] = ["RUNC", "RUNC_1_3", "CRUN_1_21", "CRUN_1_28"];

/// A world with a disk at `/disk` that holds a list of users, which is a script as well.
pub struct Held {
    // It comes back before anybody looks at the root directory, also after a panic.
    pub disk: Disk,
    pub world: World,
}

/// Its names are shell's null commands.
const ON_DISK: &str = "#!/bin/probe to=/out/told\n";

/// A step at which the disk is asked, and what the spec has for that.
pub const STEPS: [(&str, Change); 2] = [
    ("working directory", |spec| spec["cwd"] = json!("/disk/dir")),
    ("program", |spec| spec["args"] = json!(["/disk/program"])),
];

impl Held {
    pub async fn new(runtime: &str, making: Making) -> Self {
        let root = root();
        let at = root.path().join("disk");
        fs::create_dir(&at).unwrap();
        let disk = Disk::holding_over(&at, ON_DISK.as_bytes());
        let world = World::on(root, runtime, making).await.unwrap();
        world.shim.start_process("c", "").await.unwrap();
        Self { disk, world }
    }

    /// A spec that asks the disk at a step.
    pub fn spec(change: Change) -> Value {
        let mut spec = process(&["probe", "to=/out/told"]);
        spec["env"].as_array_mut().unwrap().push(json!("HOME=/"));
        change(&mut spec);
        spec
    }

    /// Starts `x`, does something while it is held, and lets it go; answers who started it, and both.
    pub async fn during<T>(&self, spec: &Value, act: impl AsyncFnOnce() -> T) -> (By, T) {
        let before = self.world.table().await;
        self.disk.dies();
        let act = async {
            until("it is held", || self.disk.waiting() > 0).await;
            let done = act().await;
            self.disk.is_back();
            done
        };
        let (started, done) = tokio::join!(self.world.start("x", spec), act);
        started.unwrap();
        let new = self.world.since(&before).await;
        let [(by, 1)] = &new[..] else {
            panic!("one exec, and new in the table: {new:?}");
        };
        (by.clone(), done)
    }

    /// It ran, and the program did so once.
    pub async fn ran(&self) {
        assert_eq!(self.world.finish("x").await, 0);
        let told = self.world.out.path().join("told");
        let text = fs::read_to_string(&told).unwrap();
        assert!(text.ends_with("end\tof all\n"), "{text}");
        fs::remove_file(told).unwrap();
    }

    pub async fn end(self) {
        self.disk.unmount();
        self.world.end().await;
    }
}

/// An attacker who waits for a word.
pub struct Attacker {
    output: Collected,
    input: fs::File,
}

impl Attacker {
    /// By the runtime, with the container's capabilities.
    pub async fn new(world: &World, args: &[&str]) -> Self {
        let shim = &world.shim;
        let fifos = shim.fifos("attacker", true);
        let mut spec = process(&[&["attacker"], args].concat());
        spec[UNKNOWN] = json!(1);
        let mut request = world.request("attacker", &spec);
        request.stdin.clone_from(&fifos.stdin);
        request.stdout.clone_from(&fifos.stdout);
        let output = collect(&fifos.stdout).unwrap();
        let mut open = fs::File::options();
        let input = open.read(true).write(true).open(&fifos.stdin).unwrap();
        shim.tasks.exec(&request).await.unwrap();
        shim.start_process("c", "attacker").await.unwrap();
        Self { output, input }
    }

    /// Attacks; answers what came of it.
    pub async fn attacks(mut self, world: &World) -> Vec<(String, String)> {
        self.input.write_all(b"\n").unwrap();
        assert_eq!(world.finish("attacker").await, 0);
        let text = self.output.finish(LIMIT).await.unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with("end\tof all\n"), "{text}");
        for stream in ["stdin", "stdout", "stderr"] {
            let _ = fs::remove_file(world.shim.dir().join(format!("attacker-{stream}")));
        }
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        lines
            .map(|(what, answer)| (what.to_owned(), answer.to_owned()))
            .collect()
    }
}

/// With Docker's default capabilities, as itself and as a process that has given up its own: nothing is to be had
/// of it but its name.
#[test]
fn nothing_is_seen_of_it() {
    for runtime in KNOWN {
        run(async {
            let held = Held::new(runtime, Making::PLAIN).await;
            for (step, change) in STEPS {
                let attacker = Attacker::new(&held.world, &["look"]).await;
                let act = async || attacker.attacks(&held.world).await;
                let (by, seen) = held.during(&Held::spec(change), act).await;
                assert_eq!(by, By::Shim, "{runtime} {step}");
                held.ran().await;
                let all: BTreeMap<_, _> = seen.iter().cloned().collect();
                println!("{runtime} {step}: {all:?}");
                // It was there, and was looked at.
                assert!(
                    all.contains_key("trace") && all.contains_key("descriptor 3"),
                    "{all:?}"
                );
                let had: Vec<_> = seen
                    .iter()
                    .filter(|(_, answer)| answer.contains("DONE"))
                    .collect();
                assert!(had.is_empty(), "{runtime} {step}: {had:?}");
            }
            held.end().await;
        });
    }
}

/// Whoever is killed or stopped on its way does not run; the runtime does it then.
#[test]
fn it_is_killed_or_stopped() {
    for (signal, why) in [
        ("9", "the stub was ended"),
        ("19", "the stub did not end in time"),
    ] {
        for runtime in ["RUNC", "RUNC_1_3", "CRUN_1_28"] {
            run(async {
                let held = Held::new(runtime, Making::PLAIN).await;
                for (step, change) in STEPS {
                    let attacker = Attacker::new(&held.world, &["kill", signal]).await;
                    let act = async || attacker.attacks(&held.world).await;
                    let (by, seen) = held.during(&Held::spec(change), act).await;
                    assert!(seen.contains(&("all".into(), "DONE".into())), "{seen:?}");
                    assert_eq!(by, By::Runtime(why.into()), "{runtime} {step}");
                    held.ran().await;
                }
                held.end().await;
            });
        }
    }
}

/// A shim that dies while a process is on its way leaves none that ever becomes the program: there is nobody to tell.
#[test]
fn the_shim_is_killed_midway() {
    for runtime in KNOWN {
        run(async {
            let held = Held::new(runtime, Making::PLAIN).await;
            let world = &held.world;
            let mine = world.shim.pid();
            for (step, change) in STEPS.into_iter().skip(1) {
                held.disk.dies();
                let request = world.request("x", &Held::spec(change));
                world.shim.tasks.exec(&request).await.unwrap();
                let init = world.shim.state("c", "").await.unwrap().pid;
                let die = async {
                    until("it is held", || held.disk.waiting() > 0).await;
                    // The stub's own end may still be on its way.
                    let joined = || live_children(mine).into_iter().filter(|pid| *pid != init);
                    until("it is alone", || joined().count() == 1).await;
                    let children: Vec<u32> = joined().collect();
                    crate::common::signal(mine, "KILL");
                    children
                };
                let (started, children) = tokio::join!(world.shim.start_process("c", "x"), die);
                started.unwrap_err();
                assert_eq!(children.len(), 1, "{runtime} {step}");
                held.disk.is_back();
                until("it ends", || crate::common::shim::ended(children[0])).await;
                assert!(!world.out.path().join("told").exists(), "{runtime} {step}");
            }
            held.disk.unmount();
            // As its manager does then.
            held.world.shim.launch.delete().await.unwrap();
        });
    }
}

/// Its children that are no zombies.
fn live_children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        field("PPid:").is_some_and(|of| of.trim() == parent.to_string())
            && !crate::common::shim::ended(*pid)
    };
    pids.filter(is).collect()
}
