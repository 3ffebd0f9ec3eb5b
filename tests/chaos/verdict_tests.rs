//! The judge and its table.

use std::time::{Duration, SystemTime};

use cotter::manager::events::Event;
use cotter::proto::Timestamp;
use cotter::proto::events::{TaskCreate, TaskDelete, TaskExit, TaskStart};

use crate::counts::Counts;
use crate::stream::{End, Fact, Facts, Seen};
use crate::verdict::{Call, Outcome, Row, growth, json, sums, table};

fn at(seconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        ..Timestamp::default()
    }
}

fn seen(topic: &str, second: u64, event: Event) -> Seen {
    let stamp = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    Seen {
        event,
        topic: topic.into(),
        stamp,
        received: stamp,
    }
}

/// A container that ran from 1 to 4 and was deleted, and what its client knows of it.
fn life() -> (Vec<Seen>, Facts) {
    let id = || "c".to_owned();
    let create = TaskCreate {
        container_id: id(),
        pid: 7,
        ..TaskCreate::default()
    };
    let start = TaskStart {
        container_id: id(),
        pid: 7,
        ..TaskStart::default()
    };
    let exit = TaskExit {
        container_id: id(),
        id: id(),
        pid: 7,
        exit_status: 3,
        exited_at: Some(at(4)).into(),
        ..TaskExit::default()
    };
    let delete = TaskDelete {
        container_id: id(),
        pid: 7,
        exit_status: 3,
        exited_at: Some(at(4)).into(),
        ..TaskDelete::default()
    };
    let stream = vec![
        seen("/tasks/create", 2, Event::Create(create)),
        seen("/tasks/start", 3, Event::Start(start)),
        seen("/tasks/exit", 5, Event::Exit(exit)),
        seen("/tasks/delete", 6, Event::Delete(delete)),
    ];
    let end = End {
        status: 3,
        at: at(4),
    };
    let fact = Fact {
        asked: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)),
        pid: Some(7),
        started: Some(true),
        waited: Some(end.clone()),
        deleted: Some(end),
        ..Fact::default()
    };
    let mut facts = Facts::default();
    facts.processes.insert(("c".into(), String::new()), fact);
    (stream, facts)
}

/// What the judge counts: expected, received, again, and whether anything is wrong.
fn judged(stream: Vec<Seen>, facts: Facts) -> (usize, usize, usize, bool) {
    let mut outcome = Outcome::default();
    outcome.judge(stream, facts);
    let wrong = !outcome.wrong.is_empty();
    (outcome.expected, outcome.received, outcome.again, wrong)
}

#[test]
fn a_stream_is_counted_and_checked() {
    let (stream, facts) = life();
    assert_eq!(judged(stream.clone(), facts.clone()), (1, 1, 0, false));

    // Lost is counted as lost, and not as wrong too, unless something else is told of its end.
    let mut lost = stream.clone();
    lost.truncate(2);
    assert_eq!(judged(lost, facts.clone()), (1, 0, 0, false));

    // Sent again because the answer was lost: the same in every byte, right after itself.
    let mut again = stream.clone();
    again.insert(2, stream[2].clone());
    again.insert(2, stream[2].clone());
    assert_eq!(judged(again, facts.clone()), (1, 1, 2, false));

    let mut later = stream.clone();
    later.push(stream[2].clone());
    assert_eq!(judged(later, facts.clone()), (1, 1, 0, true));

    let mut another = stream.clone();
    let mut exit = stream[2].clone();
    exit.stamp += Duration::from_millis(1);
    another.insert(3, exit);
    assert_eq!(judged(another, facts.clone()), (1, 1, 0, true));

    let mut swapped = stream.clone();
    swapped.swap(2, 3);
    assert_eq!(judged(swapped, facts.clone()), (1, 1, 0, true));

    let mut lied = stream.clone();
    if let Event::Exit(exit) = &mut lied[2].event {
        exit.exit_status = 0;
    }
    assert_eq!(judged(lied, facts.clone()), (1, 1, 0, true));

    // Nobody knows what became of it, and nobody asks.
    let mut unsure = facts;
    for fact in unsure.processes.values_mut() {
        fact.unsure = true;
    }
    assert_eq!(judged(Vec::new(), unsure), (0, 0, 0, false));
}

fn called(took: u64, limit: u64) -> Option<Call> {
    let what = "State".into();
    Some(Call { what, took, limit })
}

#[test]
fn one_bad_thing_is_enough() {
    let good = Outcome {
        expected: 2,
        received: 2,
        again: 5,
        call: called(1000, 1000),
        ..Outcome::default()
    };
    assert!(good.good() && good.complaints().is_empty());
    let all = |word: &str| vec![word.to_owned()];
    let with = |change: fn(&mut Outcome)| {
        let mut outcome = good.clone();
        change(&mut outcome);
        outcome
    };
    for (bad, told) in [
        (with(|o| o.received = 1), "1 exits lost"),
        (with(|o| o.received = 3), "1 exits too many"),
        (with(|o| o.wrong = vec!["order".into()]), "wrong: order"),
        (with(|o| o.left = vec!["a mount".into()]), "left: a mount"),
        (with(|o| o.failed = vec!["start".into()]), "failed: start"),
        (
            with(|o| o.call = called(1001, 1000)),
            "State took 1001 ms of 1000",
        ),
    ] {
        assert!(!bad.good(), "{bad:?}");
        assert_eq!(bad.complaints(), all(told));
    }
}

#[test]
fn the_call_nearest_to_its_limit_stays() {
    let ms = Duration::from_millis;
    let mut outcome = Outcome::default();
    for (what, took, limit, stays) in [
        ("Create", 0, 48_000, "Create"),
        ("Start", 1000, 48_000, "Start"),
        ("State", 500, 2_000, "State"),
        ("Delete", 11_000, 48_000, "State"),
        ("Kill", 500, 2_000, "State"),
        // No limit is taken for the shortest.
        ("Wait", 5, 0, "Wait"),
    ] {
        outcome.called(what, ms(took), ms(limit));
        assert_eq!(outcome.call.as_ref().unwrap().what, stays);
    }
}

#[test]
fn rounds_add_up() {
    let round = |n: usize, took: u64| Outcome {
        expected: n,
        received: n,
        again: n,
        wrong: vec![format!("w{n}")],
        left: vec![format!("l{n}")],
        failed: vec![format!("f{n}")],
        call: called(took, 1000),
        counts: None,
    };
    let mut all = Outcome::default();
    all.add(round(1, 30));
    all.add(round(2, 20));
    let both = |c: &str| vec![format!("{c}1"), format!("{c}2")];
    let want = Outcome {
        expected: 3,
        received: 3,
        again: 3,
        wrong: both("w"),
        left: both("l"),
        failed: both("f"),
        call: called(30, 1000),
        counts: None,
    };
    assert_eq!(all, want);
}

#[test]
fn tables() {
    let counts = |threads: usize, memory: u64| Counts {
        open: vec!["pipe".into(); threads],
        threads,
        memory,
        ..Counts::default()
    };
    let good = Outcome {
        expected: 3,
        received: 3,
        again: 1,
        call: called(1500, 2000),
        counts: Some((counts(1, 500), counts(1, 520))),
        ..Outcome::default()
    };
    let bad = Outcome {
        expected: 3,
        received: 1,
        wrong: vec!["a".into(), "b".into()],
        left: vec!["c".into()],
        call: called(2500, 2000),
        failed: vec!["d".into()],
        ..Outcome::default()
    };
    let row = |fault: &str, ours: &Outcome, theirs: Option<&Outcome>| Row {
        fault: fault.into(),
        outcomes: vec![Some(ours.clone()), theirs.cloned()],
    };
    let rows = [
        row("one", &good, Some(&bad)),
        row("two", &Outcome::default(), None),
    ];
    let shims = ["ours", "Go"];
    assert_eq!(
        table(&shims, &rows),
        "| fault | ours: exits | wrong | left | longest call of its limit | Go: exits | wrong | left | longest call of its limit |\n\
         |---|---:|---:|---:|---|---:|---:|---:|---|\n\
         | one | 3/3 (+1 again) | 0 | 0 | State 1.50 of 2 s | **1/3** | **2** | **1** | **State 2.50 of 2 s**, **failed** |\n\
         | two | 0/0 | 0 | 0 | – | n/a | – | – | – |\n"
    );
    assert_eq!(
        growth(&shims, &rows),
        "| before → after | shim | open files | threads | children | mounts | private memory |\n\
         |---|---|---:|---:|---:|---:|---:|\n\
         | one | ours | 1 → 1 | 1 → 1 | 0 → 0 | 0 → 0 | 500 → 520 KiB |\n"
    );
    assert_eq!(growth(&shims, &rows[1..]), "");
    // With the first shim alone.
    assert!(!table(&shims[..1], &rows).contains("**"));
    assert_eq!(
        sums(0, &rows),
        "2 faults, 3 of 3 exits, 0 wrong, 0 left, 0 beyond a limit, 0 failed"
    );
    assert_eq!(
        sums(1, &rows),
        "1 faults, 1 of 3 exits, 2 wrong, 1 left, 1 beyond a limit, 1 failed"
    );
    let told = json(&shims, &rows);
    assert_eq!(told[0]["outcomes"]["Go"]["received"], 1);
    assert_eq!(told[1]["fault"], "two");
    assert!(told[1]["outcomes"]["Go"].is_null());
    let back: Outcome = serde_json::from_value(told[0]["outcomes"]["ours"].clone()).unwrap();
    assert_eq!(back, good);
}
