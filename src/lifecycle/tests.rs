//! What the worlds of `tests/lifecycle/` cannot show: missed exits, shared pids, misuse, memory.

use std::time::{Duration, SystemTime};

use super::log::MOST;
use super::{Census, Claim, Effect, FORGOTTEN_STATUS, Lifecycle, Refusal, StartId};
use crate::lifecycle::ContainerKey;
use crate::monitor::{Clocks, Exit, Moment, Pid};

type Life = Lifecycle<&'static str>;

fn exit(pid: Pid, status: u32) -> Exit {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(status));
    Exit { pid, status, at }
}

fn exited(process: &'static str, exit: Exit) -> Effect<&'static str> {
    Effect::Exited { process, exit }
}

/// Where births do not matter.
fn now() -> Clocks {
    at(0)
}

fn at(ticks: u64) -> Clocks {
    Clocks {
        boot: Moment(ticks),
        wall: SystemTime::UNIX_EPOCH,
    }
}

/// Named at the last moment. `unreaped`: somebody has the number, whose birth cannot be told.
fn announce(
    life: &mut Life,
    id: StartId,
    pid: Pid,
    process: &'static str,
    unreaped: bool,
) -> Result<Vec<Effect<&'static str>>, Refusal> {
    life.named(id, pid, Moment(u64::MAX));
    let claim = life.claim(id, unreaped.then_some(None));
    // Of a start of a created init nothing is claimed.
    life.announce(
        id,
        pid,
        process,
        claim.or(match claim {
            Err(Refusal::Stranger) if life.starts[&id].kind == super::Kind::Start => {
                Ok(Claim::Unreaped)
            }
            refused => refused,
        })?,
    )
}

/// A container whose init runs as `pid`.
fn created(life: &mut Life, pid: Pid, init: &'static str) -> ContainerKey {
    let c = life.add();
    let create = life.begin_create(c, now()).unwrap();
    assert_eq!(announce(life, create, pid, init, true), Ok(vec![]));
    c
}

fn exec(life: &mut Life, c: ContainerKey, pid: Pid, process: &'static str) -> StartId {
    let id = life.begin_exec(c, now()).unwrap();
    let started = vec![Effect::Started(process)];
    assert_eq!(announce(life, id, pid, process, true), Ok(started));
    id
}

#[test]
fn an_early_exit_of_init_goes_the_way_of_any_other() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let start = life.begin_start(c, now()).unwrap();
    let running = life.begin_exec(c, now()).unwrap();
    exec(&mut life, c, 11, "exec");

    let dead = exit(10, 1);
    let reaped = Effect::InitReaped {
        container: c,
        process: "init",
        exit: dead,
    };
    let hold = Effect::Hold { container: c };
    assert_eq!(life.exited(dead, None), [reaped, hold]);
    assert_eq!(life.begin_exec(c, now()), Err(Refusal::InitExited));
    assert_eq!(life.announce_start(start), [Effect::Started("init")]);
    assert_eq!(
        life.exited(exit(11, 2), None),
        [exited("exec", exit(11, 2))]
    );
    assert_eq!(life.abandon(running), [exited("init", dead)]);
    assert_eq!(life.init_exit(c), Some(dead));
}

#[test]
fn an_expired_drain_waits_for_the_outcome_of_inits_own_start() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    exec(&mut life, c, 11, "exec");
    let start = life.begin_start(c, now()).unwrap();
    assert_eq!(life.exited(exit(10, 1), None).len(), 2);
    assert_eq!(life.drain_expired(c), []);
    let both = [Effect::Started("init"), exited("init", exit(10, 1))];
    assert_eq!(life.announce_start(start), both);
    assert_eq!(
        life.exited(exit(11, 2), None),
        [exited("exec", exit(11, 2))]
    );
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
    assert_eq!(life.exited(dead, None), all);
    assert!(!life.tracked(11));
}

#[test]
fn one_sandbox_process_stands_for_many_containers_even_if_it_dies_in_a_create() {
    let mut life = Life::new();
    created(&mut life, 10, "first");
    let d = life.add();
    let create = life.begin_create(d, now()).unwrap();
    let dead = exit(10, 1);
    assert_eq!(life.exited(dead, None).len(), 2);
    let effects = announce(&mut life, create, 10, "second", false).unwrap();
    assert_eq!(effects.last(), Some(&exited("second", dead)));
}

#[test]
fn of_a_recycled_number_the_last_exit_is_the_start_s() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let id = life.begin_exec(c, now()).unwrap();
    assert_eq!(life.exited(exit(11, 1), None), []);
    assert_eq!(life.exited(exit(11, 2), None), []);
    let both = vec![Effect::Started("exec"), exited("exec", exit(11, 2))];
    assert_eq!(announce(&mut life, id, 11, "exec", false), Ok(both));
}

#[test]
fn a_pid_that_is_not_the_runtimes_work_is_refused_and_the_start_stays_open() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let id = life.begin_exec(c, now()).unwrap();
    assert_eq!(
        announce(&mut life, id, 1, "exec", false),
        Err(Refusal::Stranger)
    );
    assert_eq!(life.census().starts, 1);

    // A stale pid file: that number died before this start began.
    assert_eq!(life.exited(exit(11, 1), None), []);
    let later = life.begin_exec(c, now()).unwrap();
    let stale = announce(&mut life, later, 11, "exec", false);
    assert_eq!(stale, Err(Refusal::Stranger));
    assert_eq!(life.abandon(later), []);

    assert_eq!(life.exited(exit(10, 1), None).len(), 2);
    assert_eq!(life.abandon(id), [exited("init", exit(10, 1))]);
}

#[test]
fn forget_gives_the_living_their_last_exit_and_init_s_comes_last() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    exec(&mut life, c, 11, "exec");
    let create = life.begin_exec(c, now()).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
    let last = |pid| Exit {
        pid,
        status: FORGOTTEN_STATUS,
        at: now,
    };
    let both = [exited("exec", last(11)), exited("init", last(10))];
    assert_eq!(life.forget(c, now), both);
    assert_eq!(life.census(), Census::default());
    assert_eq!(
        announce(&mut life, create, 12, "late", true),
        Err(Refusal::Gone)
    );
    assert_eq!(life.exited(exit(10, 1), None), []);
}

#[test]
fn a_start_ended_the_wrong_way_leaves_nothing_open() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let start = life.begin_start(c, now()).unwrap();
    let started = Ok(vec![Effect::Started("init")]);
    assert_eq!(announce(&mut life, start, 99, "other", true), started);
    let id = life.begin_exec(c, now()).unwrap();
    assert_eq!(life.announce_start(id), []);
    let dead = life.exited(exit(10, 1), None);
    assert_eq!(dead.last(), Some(&exited("init", exit(10, 1))));
    assert_eq!(life.census().starts, 0);
}

#[test]
fn of_all_that_had_the_number_the_start_s_was_born_in_its_time() {
    // Begun at 100, named at 200.
    let (before, within, after) = (Some(Moment(99)), Some(Moment(150)), Some(Moment(201)));
    let again = Some(Moment(180));
    for (reaped, unreaped, expected) in [
        (vec![within], None, Ok(Claim::Ended(exit(11, 0)))),
        (vec![None], None, Ok(Claim::Ended(exit(11, 0)))),
        (vec![before], None, Err(Refusal::Stranger)),
        (vec![before, within], None, Ok(Claim::Ended(exit(11, 1)))),
        (
            vec![before, within, after, after],
            None,
            Ok(Claim::Ended(exit(11, 1))),
        ),
        (
            vec![within, again, after],
            None,
            Ok(Claim::Ended(exit(11, 1))),
        ),
        (vec![before], Some(within), Ok(Claim::Unreaped)),
        (vec![within], Some(again), Ok(Claim::Unreaped)),
        (vec![within], Some(after), Ok(Claim::Ended(exit(11, 0)))),
        (vec![within], Some(None), Ok(Claim::Unreaped)),
        (vec![], Some(within), Ok(Claim::Unreaped)),
        (vec![], Some(before), Err(Refusal::Stranger)),
        // The clock of a file is not to be trusted where nobody else can be meant.
        (vec![], Some(after), Ok(Claim::Unreaped)),
        (vec![after], None, Ok(Claim::Ended(exit(11, 0)))),
        (vec![], None, Err(Refusal::Stranger)),
    ] {
        // It is known early whose number it is, at some time, or at the end.
        for named in 0..=reaped.len() {
            let mut life = Life::new();
            let c = created(&mut life, 10, "init");
            let id = life.begin_exec(c, at(100)).unwrap();
            for (n, born) in reaped.iter().enumerate() {
                if n == named {
                    life.named(id, 11, Moment(200));
                }
                assert_eq!(life.exited(exit(11, n as u32), *born), []);
                assert_eq!(life.exited(exit(12, 9), *born), [], "another");
            }
            life.named(id, 11, Moment(200));
            assert_eq!(
                life.claim(id, unreaped),
                expected,
                "{reaped:?} {unreaped:?} {named}"
            );
        }
    }
}

#[test]
fn a_named_start_has_nothing_more_written_down() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let id = life.begin_exec(c, now()).unwrap();
    assert!(life.asks_births());
    assert_eq!(life.exited(exit(11, 1), None), []);
    assert_eq!(life.census().recorded, 1);
    life.named(id, 12, Moment(5));
    assert_eq!(life.census().recorded, 0);
    assert_eq!(life.exited(exit(13, 1), None), []);
    assert_eq!(life.census().recorded, 0);
    assert_eq!(life.exited(exit(12, 3), None), []);
    assert!(life.has_reaped(12) && !life.has_reaped(13));
    let both = vec![Effect::Started("exec"), exited("exec", exit(12, 3))];
    assert_eq!(announce(&mut life, id, 12, "exec", false), Ok(both));
    assert!(!life.asks_births());
    let start = life.begin_start(c, now()).unwrap();
    assert!(!life.asks_births(), "init is known");
    assert_eq!(life.exited(exit(11, 1), None), []);
    assert_eq!(life.census().recorded, 0);
    assert_eq!(life.announce_start(start), [Effect::Started("init")]);
}

#[test]
fn the_log_is_bounded_and_what_it_may_have_lost_is_not_made_up() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let old = life.begin_exec(c, at(1)).unwrap();
    assert_eq!(life.exited(exit(11, 1), Some(Moment(2))), []);
    for n in 0..MOST {
        assert_eq!(life.exited(exit(100, n as u32), Some(Moment(3))), []);
    }
    assert_eq!(life.census().recorded, MOST);
    let new = life.begin_exec(c, at(3)).unwrap();
    assert_eq!(life.exited(exit(12, 1), Some(Moment(4))), []);
    // The one that died first is lost; another has its number now.
    life.named(old, 11, Moment(2));
    for unreaped in [None, Some(Some(Moment(9)))] {
        assert_eq!(life.claim(old, unreaped), Err(Refusal::Stranger));
    }
    assert_eq!(life.exited(exit(11, 9), Some(Moment(9))), []);
    assert_eq!(life.claim(old, None), Err(Refusal::Stranger));
    // Of a younger start nothing is.
    life.named(new, 12, Moment(2));
    assert_eq!(life.claim(new, None), Ok(Claim::Ended(exit(12, 1))));
}

#[test]
fn the_log_is_shared_by_all_starts_and_gives_its_memory_back() {
    let mut life = Life::new();
    let c = created(&mut life, 10, "init");
    let starts: Vec<StartId> = (0..64)
        .map(|_| life.begin_exec(c, now()).unwrap())
        .collect();
    for pid in 1_000..11_000 {
        assert_eq!(life.exited(exit(pid, 0), None), []);
    }
    assert_eq!(life.census().recorded, 10_000);
    assert!(life.has_reaped(1_500) && !life.has_reaped(999));
    let newest = life.begin_exec(c, now()).unwrap();
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
    assert_eq!(life.exited(exit(12, 0), None), []);
    assert_eq!(life.census().recorded, 0);
}
