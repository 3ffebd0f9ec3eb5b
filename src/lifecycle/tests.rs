//! What the worlds of `tests/lifecycle/` cannot show: missed exits, shared pids, misuse, memory.

use std::time::{Duration, SystemTime};

use super::{Census, Effect, FORGOTTEN_STATUS, Lifecycle, Refusal, StartId};
use crate::lifecycle::ContainerKey;
use crate::monitor::{Exit, Pid};

type Life = Lifecycle<&'static str>;

fn exit(pid: Pid, status: u32) -> Exit {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(status));
    Exit { pid, status, at }
}

fn exited(process: &'static str, exit: Exit) -> Effect<&'static str> {
    Effect::Exited { process, exit }
}

/// A container whose init runs as `pid`.
fn created(life: &mut Life, pid: Pid, init: &'static str) -> ContainerKey {
    let c = life.add();
    let create = life.begin_create(c).unwrap();
    assert_eq!(life.announce(create, pid, init, true), Ok(vec![]));
    c
}

fn exec(life: &mut Life, c: ContainerKey, pid: Pid, process: &'static str) -> StartId {
    let id = life.begin_exec(c).unwrap();
    let started = vec![Effect::Started(process)];
    assert_eq!(life.announce(id, pid, process, true), Ok(started));
    id
}

#[test]
fn an_early_exit_of_init_goes_the_way_of_any_other() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let start = life.begin_start(c).unwrap();
    let running = life.begin_exec(c).unwrap();
    exec(&mut life, c, 11, "exec");

    let dead = exit(10, 1);
    let reaped = Effect::InitReaped {
        container: c,
        process: "init",
        exit: dead,
    };
    let hold = Effect::Hold { container: c };
    assert_eq!(life.exited(dead), [reaped, hold]);
    assert_eq!(life.begin_exec(c), Err(Refusal::InitExited));
    assert_eq!(life.announce_start(start), [Effect::Started("init")]);
    assert_eq!(life.exited(exit(11, 2)), [exited("exec", exit(11, 2))]);
    assert_eq!(life.abandon(running), [exited("init", dead)]);
    assert_eq!(life.init_exit(c), Some(dead));
}

#[test]
fn an_expired_drain_waits_for_the_outcome_of_inits_own_start() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    exec(&mut life, c, 11, "exec");
    let start = life.begin_start(c).unwrap();
    assert_eq!(life.exited(exit(10, 1)).len(), 2);
    assert_eq!(life.drain_expired(c), []);
    let both = [Effect::Started("init"), exited("init", exit(10, 1))];
    assert_eq!(life.announce_start(start), both);
    assert_eq!(life.exited(exit(11, 2)), [exited("exec", exit(11, 2))]);
}

#[test]
fn of_two_owners_of_one_pid_one_is_right() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    exec(&mut life, c, 11, "exit missed");
    let d = created(&mut life, 11, "new owner");
    let dead = exit(11, 1);
    let reaped = Effect::InitReaped {
        container: d,
        process: "new owner",
        exit: dead,
    };
    let all = [
        exited("exit missed", dead),
        reaped,
        exited("new owner", dead),
    ];
    assert_eq!(life.exited(dead), all);
    assert!(!life.tracked(11));
}

#[test]
fn one_sandbox_process_stands_for_many_containers_even_if_it_dies_in_a_create() {
    let mut life = Life::new();
    created(&mut life, 10, "first");
    let d = life.add();
    let create = life.begin_create(d).unwrap();
    let dead = exit(10, 1);
    assert_eq!(life.exited(dead).len(), 2);
    let effects = life.announce(create, 10, "second", false).unwrap();
    assert_eq!(effects.last(), Some(&exited("second", dead)));
}

#[test]
fn of_a_recycled_number_the_last_exit_is_the_start_s() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let id = life.begin_exec(c).unwrap();
    assert_eq!(life.exited(exit(11, 1)), []);
    assert_eq!(life.exited(exit(11, 2)), []);
    let both = vec![Effect::Started("exec"), exited("exec", exit(11, 2))];
    assert_eq!(life.announce(id, 11, "exec", false), Ok(both));
}

#[test]
fn a_pid_that_is_not_the_runtimes_work_is_refused_and_the_start_stays_open() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let id = life.begin_exec(c).unwrap();
    assert_eq!(life.announce(id, 1, "exec", false), Err(Refusal::Stranger));
    assert_eq!(life.census().starts, 1);

    // A stale pid file: that number died before this start began.
    assert_eq!(life.exited(exit(11, 1)), []);
    let later = life.begin_exec(c).unwrap();
    let stale = life.announce(later, 11, "exec", false);
    assert_eq!(stale, Err(Refusal::Stranger));
    assert_eq!(life.abandon(later), []);

    assert_eq!(life.exited(exit(10, 1)).len(), 2);
    assert_eq!(life.abandon(id), [exited("init", exit(10, 1))]);
}

#[test]
fn forget_gives_the_living_their_last_exit_and_init_s_comes_last() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    exec(&mut life, c, 11, "exec");
    let create = life.begin_exec(c).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
    let last = |pid| Exit {
        pid,
        status: FORGOTTEN_STATUS,
        at: now,
    };
    let both = [exited("exec", last(11)), exited("init", last(10))];
    assert_eq!(life.forget(c, now), both);
    assert_eq!(life.census(), Census::default());
    assert_eq!(life.announce(create, 12, "late", true), Err(Refusal::Gone));
    assert_eq!(life.exited(exit(10, 1)), []);
}

#[test]
fn a_start_ended_the_wrong_way_leaves_nothing_open() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let start = life.begin_start(c).unwrap();
    let started = Ok(vec![Effect::Started("init")]);
    assert_eq!(life.announce(start, 99, "other", true), started);
    let id = life.begin_exec(c).unwrap();
    assert_eq!(life.announce_start(id), []);
    let dead = life.exited(exit(10, 1));
    assert_eq!(dead.last(), Some(&exited("init", exit(10, 1))));
    assert_eq!(life.census().starts, 0);
}

#[test]
fn the_log_is_shared_by_all_starts_and_gives_its_memory_back() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let starts: Vec<StartId> = (0..64).map(|_| life.begin_exec(c).unwrap()).collect();
    for pid in 1_000..11_000 {
        assert_eq!(life.exited(exit(pid, 0)), []);
    }
    assert_eq!(life.census().recorded, 10_000);
    assert!(life.has_reaped(1_500) && !life.has_reaped(999));
    let newest = life.begin_exec(c).unwrap();
    for start in starts {
        assert_eq!(life.abandon(start), []);
    }
    assert_eq!(
        life.census().recorded,
        0,
        "older than the oldest open start"
    );
    assert_eq!(life.abandon(newest), []);
    assert!(!life.has_reaped(1_500));
    assert!(life.log.capacity() <= 64);
    assert_eq!(life.exited(exit(12, 0)), []);
    assert_eq!(life.census().recorded, 0);
}
