//! The checker sees what it is there to see: a good stream, broken in one way at a time.

use std::time::{Duration, SystemTime};

use cotter::manager::events::Event;
use cotter::proto::Timestamp;
use cotter::proto::events::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskStart,
};

use crate::stream::{End, Fact, Facts, Key, Seen, check, expected};

const INIT: u32 = 10;
const EXEC: u32 = 11;

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + second)
}

fn stamp(second: i64) -> Timestamp {
    Timestamp {
        seconds: 1000 + second,
        ..Default::default()
    }
}

fn create() -> Event {
    Event::Create(TaskCreate {
        container_id: "c".into(),
        pid: INIT,
        ..Default::default()
    })
}

fn start() -> Event {
    Event::Start(TaskStart {
        container_id: "c".into(),
        pid: INIT,
        ..Default::default()
    })
}

fn added(exec: &str) -> Event {
    let exec_id = exec.into();
    Event::ExecAdded(TaskExecAdded {
        container_id: "c".into(),
        exec_id,
        ..Default::default()
    })
}

fn started() -> Event {
    let (container_id, exec_id) = ("c".into(), "x".into());
    Event::ExecStarted(TaskExecStarted {
        container_id,
        exec_id,
        pid: EXEC,
        ..Default::default()
    })
}

fn exit(id: &str, pid: u32, exit_status: u32, second: i64) -> Event {
    Event::Exit(TaskExit {
        container_id: "c".into(),
        id: id.into(),
        pid,
        exit_status,
        exited_at: Some(stamp(second)).into(),
        ..Default::default()
    })
}

fn delete(exit_status: u32, second: i64) -> Event {
    Event::Delete(TaskDelete {
        container_id: "c".into(),
        pid: INIT,
        exit_status,
        exited_at: Some(stamp(second)).into(),
        ..Default::default()
    })
}

/// One container with an exec `x` that ends and an exec `y`, asked for once `x` had been waited
/// for, that is never started. Event n is stamped second n.
fn good() -> Vec<Event> {
    vec![
        create(),
        start(),
        added("x"),
        started(),
        exit("x", EXEC, 7, 4),
        added("y"),
        exit("c", INIT, 137, 6),
        delete(137, 6),
    ]
}

fn key(exec: &str) -> Key {
    ("c".into(), exec.into())
}

fn facts() -> Facts {
    let init_end = Some(End {
        status: 137,
        at: stamp(6),
    });
    let init = Fact {
        asked: Some(at(0)),
        pid: Some(INIT),
        started: Some(true),
        status: Some(137),
        waited: init_end.clone(),
        deleted: init_end,
        ..Fact::default()
    };
    let x = Fact {
        asked: Some(at(2)),
        pid: Some(EXEC),
        started: Some(true),
        status: Some(7),
        waited: Some(End {
            status: 7,
            at: stamp(4),
        }),
        ..Fact::default()
    };
    let y = Fact {
        after: 1,
        ..Fact::default()
    };
    Facts {
        processes: [(key(""), init), (key("x"), x), (key("y"), y)].into(),
        answered: vec![key("x"), key("")],
        starving: Default::default(),
    }
}

fn topic(event: &Event) -> &'static str {
    match event {
        Event::Create(_) => "/tasks/create",
        Event::Start(_) => "/tasks/start",
        Event::ExecAdded(_) => "/tasks/exec-added",
        Event::ExecStarted(_) => "/tasks/exec-started",
        Event::Exit(_) => "/tasks/exit",
        Event::Delete(_) => "/tasks/delete",
        _ => "/tasks/oom",
    }
}

fn stream(events: Vec<Event>) -> Vec<Seen> {
    let seen = |(n, event): (usize, Event)| Seen {
        topic: topic(&event).into(),
        event,
        stamp: at(n as u64),
        received: at(n as u64 + 2),
    };
    events.into_iter().enumerate().map(seen).collect()
}

/// Checks that the good stream is bad with this change, and that the complaint says so.
fn bad(what: &str, change: impl FnOnce(&mut Vec<Event>)) {
    let mut events = good();
    change(&mut events);
    complains(what, &check(&stream(events), &facts()));
}

fn complains(what: &str, wrong: &[String]) {
    assert!(
        wrong.iter().any(|w| w.contains(what)),
        "expected {what:?}, got {wrong:#?}"
    );
}

#[test]
fn a_good_stream_is_good() {
    assert_eq!(check(&stream(good()), &facts()), Vec::<String>::new());
}

#[test]
fn every_lost_event_is_missed() {
    for n in 0..good().len() {
        let mut events = good();
        let lost = events.remove(n);
        let wrong = check(&stream(events), &facts());
        assert!(!wrong.is_empty(), "{lost:?} is not missed");
    }
}

#[test]
fn every_repeated_event_is_seen() {
    for n in 0..good().len() {
        let mut events = good();
        events.insert(n, events[n].clone());
        let wrong = check(&stream(events), &facts());
        assert!(!wrong.is_empty(), "{:?} may come twice", good()[n]);
    }
}

#[test]
fn every_swap_of_neighbours_is_seen() {
    for n in 1..good().len() {
        let mut events = good();
        // Init's start and the registration of an exec depend on nothing in each other.
        if n == 2 {
            continue;
        }
        events.swap(n - 1, n);
        let wrong = check(&stream(events), &facts());
        assert!(
            !wrong.is_empty(),
            "{:?} may come before {:?}",
            good()[n],
            good()[n - 1]
        );
    }
}

#[test]
fn what_does_not_fit_is_seen() {
    bad("started without an init", |e| e.swap(3, 6));
    bad("exit of no live process", |e| e.swap(3, 4));
    bad("while [(\"c\", \"x\")] run", |e| e.swap(4, 6));
    bad("delete of no exited init", |e| e.swap(6, 7));
    bad("overtook an exit that was waited for", |e| e.swap(4, 5));
    bad("pids differ", |e| e[4] = exit("x", EXEC + 1, 7, 4));
    bad("pids differ", |e| e[6] = exit("c", 0, 137, 6));
    bad("another status", |e| e[4] = exit("x", EXEC, 8, 4));
    bad("Wait told otherwise", |e| e[4] = exit("x", EXEC, 7, 3));
    bad("died after its exit was told", |e| {
        e[4] = exit("x", EXEC, 7, 5)
    });
    bad("died before it was asked for", |e| {
        e[4] = exit("x", EXEC, 7, 1)
    });
    bad("not the end that its exit told", |e| e[7] = delete(0, 6));
    bad("nobody asked for it", |e| e.insert(4, exit("z", 12, 0, 4)));
    bad("created twice", |e| e.push(create()));
    bad("uncalled for", |e| {
        e.insert(4, Event::Oom(TaskOOM::default()))
    });
    bad("added without an init", |e| e.push(added("z")));
}

#[test]
fn who_may_run_out_of_memory_is_told_of_while_it_lives() {
    let oom = || {
        Event::Oom(TaskOOM {
            container_id: good()[0].container().to_owned(),
            ..TaskOOM::default()
        })
    };
    let mut facts = facts();
    facts.starving.insert(good()[0].container().to_owned());
    let mut events = good();
    events.insert(4, oom());
    assert!(check(&stream(events.clone()), &facts).is_empty());
    events.push(oom());
    complains(
        "out of memory without an init",
        &check(&stream(events), &facts),
    );
}

#[test]
fn what_was_answered_counts() {
    let with = |change: fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        check(&stream(good()), &facts)
    };
    complains(
        "started or not",
        &with(|f| f.processes.get_mut(&key("x")).unwrap().started = Some(false)),
    );
    complains(
        "started or not",
        &with(|f| f.processes.get_mut(&key("y")).unwrap().started = Some(true)),
    );
    complains(
        "pids differ",
        &with(|f| f.processes.get_mut(&key("x")).unwrap().pid = Some(12)),
    );
    complains(
        "Delete told otherwise",
        &with(|f| {
            f.processes
                .get_mut(&key(""))
                .unwrap()
                .deleted
                .as_mut()
                .unwrap()
                .status = 0;
        }),
    );
    complains(
        "deleted or not",
        &with(|f| f.processes.get_mut(&key("")).unwrap().deleted = None),
    );
    complains(
        "added or not",
        &with(|f| {
            f.processes.insert(key("z"), Fact::default());
        }),
    );
}

#[test]
fn only_a_late_exec_may_outlive_its_init() {
    let events = vec![
        create(),
        start(),
        added("x"),
        added("y"),
        exit("c", INIT, 137, 4),
        started(),
        exit("x", EXEC, 7, 6),
        delete(137, 4),
    ];
    let mut facts = facts();
    facts.answered.clear();
    facts.processes.get_mut(&key("y")).unwrap().after = 0;
    facts.processes.get_mut(&key("x")).unwrap().waited = None;
    for end in [
        |f: &mut Fact| f.waited = None,
        |f: &mut Fact| {
            f.deleted = Some(End {
                status: 137,
                at: stamp(4),
            })
        },
    ] {
        end(facts.processes.get_mut(&key("")).unwrap());
    }
    complains(
        "started without an init",
        &check(&stream(events.clone()), &facts),
    );
    facts.processes.get_mut(&key("x")).unwrap().late = true;
    assert_eq!(check(&stream(events.clone()), &facts), Vec::<String>::new());
    // But not the container.
    let mut longer = events;
    longer.swap(6, 7);
    complains(
        "while [(\"c\", \"x\")] run",
        &check(&stream(longer), &facts),
    );
}

#[test]
fn the_clock_and_the_topic_count() {
    let mut late = stream(good());
    late[3].stamp = at(9);
    complains("goes back in time", &check(&late, &facts()));
    let mut early = stream(good());
    early[4].received = at(1);
    complains("told before it happened", &check(&early, &facts()));
    let mut other = stream(good());
    other[4].topic = "/tasks/start".into();
    complains("another topic", &check(&other, &facts()));
}

/// What nobody can know is not judged, what came in the wrong order is.
#[test]
fn a_process_whose_call_was_not_answered_may_be_there_or_not() {
    let mut facts = facts();
    let x = facts.processes.get_mut(&key("x")).unwrap();
    *x = Fact {
        unsure: true,
        ..Fact::default()
    };
    facts.answered.retain(|answered| *answered != key("x"));
    facts.processes.get_mut(&key("y")).unwrap().after = 0;
    assert_eq!(expected(&facts), [key("")].into());
    assert_eq!(check(&stream(good()), &facts), Vec::<String>::new());
    let mut without = good();
    without.drain(2..5);
    let mut without = stream(without);
    // The times of death in it are those of the whole stream.
    for seen in &mut without {
        (seen.stamp, seen.received) = (at(7), at(8));
    }
    assert_eq!(check(&without, &facts), Vec::<String>::new());
    let mut swapped = good();
    swapped.swap(3, 4);
    complains("exit of no live process", &check(&stream(swapped), &facts));
}
