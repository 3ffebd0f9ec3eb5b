//! A shim with a container, and what it holds: the measure of what an attack leaves behind.

use std::fs;
use std::time::Duration;

use cotter::manager::spec::Spec;
use cotter::proto::task::Status;

use crate::common::shim::{Shim, run, until};

/// The program of the container that every other client's calls are about.
const SLEEP: [&str; 2] = ["sleep", "1000"];

/// More than one attack after another leaves in the allocator's lists, and less than one attack holds.
const SLACK_KIB: u64 = 3 * 1024;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds {
    pub fds: usize,
    pub threads: usize,
    /// Memory of its own.
    pub kib: u64,
}

/// Lets `attack` loose on a shim with a running container `c` and a bundle for `b`, and checks that the
/// shim is afterwards what it was before, has nothing to do, and ends as it should.
pub fn survives(attack: impl AsyncFnOnce(&Shim)) {
    run(async {
        let shim = world().await;
        let before = holds(&shim);
        attack(&shim).await;
        as_before(&shim, before).await;
        rests(&shim).await;
        end(shim).await;
    });
}

async fn world() -> Shim {
    let mut shim = Shim::start("CRUN", "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    shim.bundle("b", Spec::new("b", SLEEP));
    works(&shim).await;
    shim
}

pub fn holds(shim: &Shim) -> Holds {
    let proc = format!("/proc/{}", shim.pid());
    let count = |dir: &str| fs::read_dir(format!("{proc}/{dir}")).unwrap().count();
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    Holds {
        fds: count("fd"),
        threads: count("task"),
        kib: memory.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// Every other client is served: an answer, and a whole exec.
pub async fn works(shim: &Shim) {
    let state = shim.state("c", "").await.unwrap();
    assert_eq!(state.status.enum_value().unwrap(), Status::RUNNING);
    shim.exec("c", "x", &["true"]).await.unwrap();
    assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 0);
    shim.delete("c", "x").await.unwrap();
}

/// The shim is what it was.
pub async fn as_before(shim: &Shim, before: Holds) {
    works(shim).await;
    until("descriptors and threads are given back", || {
        let now = holds(shim);
        now.fds == before.fds && now.threads == before.threads
    })
    .await;
    let mut now = 0;
    until("memory is given back", || {
        now = holds(shim).kib;
        now <= before.kib + SLACK_KIB
    })
    .await;
}

/// The shim has nothing to do, and does nothing: of half a second it uses less than a tenth. One
/// that spins uses most of it, on a busy machine a third.
pub async fn rests(shim: &Shim) {
    let used = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", shim.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2);
        ticks.map(|n| n.parse::<u64>().unwrap()).sum::<u64>()
    };
    let before = used();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ticks = used() - before;
    assert!(ticks < 5, "used {ticks} ticks for nothing");
}

/// Everybody goes, and nothing is left.
async fn end(shim: Shim) {
    shim.remove("c").await;
    // Of a panic the request's answer and this line are all that is seen.
    let panics: Vec<String> = shim.log();
    let panics: Vec<&String> = panics
        .iter()
        .filter(|line| line.contains("panicked at"))
        .collect();
    assert!(panics.is_empty(), "{panics:#?}");
    shim.end().await;
}
