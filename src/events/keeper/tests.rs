//! The files against what they must hold: after every step, what a reader finds is what the queue has.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use protobuf::Message;

use super::super::event::Event;
use super::super::journal::{NAME, parse, read};
use super::super::queue::Entry;
use super::files::LONG;
use super::*;
use crate::proto::events::TaskExit;

fn exit(container: &str, pid: u32) -> Event {
    Event::Exit(TaskExit {
        container_id: container.to_owned(),
        pid,
        ..TaskExit::default()
    })
}

fn bundle() -> PathBuf {
    PathBuf::from("/b")
}

/// Files held in memory instead.
#[derive(Default)]
struct World {
    queue: Queue,
    files: Files,
    disk: BTreeMap<Arc<str>, Vec<u8>>,
    pid: u32,
}

impl World {
    /// One round; writes that `fails` names tear in the middle.
    fn round(&mut self, fails: bool) {
        let (head, entries) = self.queue.from(self.files.written, BATCH);
        self.files.settle(head);
        for entry in &entries {
            self.files.add(entry, Some(bundle()), "ns");
        }
        let queue = self.queue.clone();
        let whole = |id: &str| {
            let (_, all) = queue.from(0, usize::MAX);
            all.into_iter().filter(|e| &*e.container == id).collect()
        };
        let changes = self.files.changes("ns", whole);
        let done = changes.into_iter().map(|(id, _, change)| {
            let done = self.carry_out(&id, change, fails);
            (id, done)
        });
        let done = done.collect();
        self.files.done(done);
    }

    fn carry_out(&mut self, id: &Arc<str>, change: Change, fails: bool) -> io::Result<()> {
        let torn = |bytes: &mut Vec<u8>, from: usize| {
            if fails {
                bytes.truncate(from + (bytes.len() - from) / 2);
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            Ok(())
        };
        match change {
            Change::Append { at, bytes } => {
                let file = self.disk.entry(Arc::clone(id)).or_default();
                let at = usize::try_from(at).unwrap();
                assert!(at <= file.len(), "no holes");
                file.truncate(at);
                file.extend(bytes);
                torn(file, at)
            }
            // Either the old content or the new one.
            Change::Rewrite(_) if fails => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Change::Rewrite(bytes) => {
                self.disk.insert(Arc::clone(id), bytes);
                Ok(())
            }
            Change::Remove => {
                self.disk.remove(id);
                Ok(())
            }
        }
    }

    fn push(&mut self, container: &str) {
        self.pid += 1;
        self.queue.push(exit(container, self.pid));
    }

    fn settle(&mut self) {
        if let (Some(head), _) = self.queue.from(0, 0) {
            self.queue.settle(head);
        }
    }

    fn kept(&self, container: &str) -> Vec<Event> {
        let bytes = self.disk.get(container).map(Vec::as_slice);
        let events = parse(bytes.unwrap_or_default());
        events.into_iter().map(|kept| kept.event).collect()
    }

    fn waiting(&self, container: &str) -> Vec<Event> {
        let (_, all) = self.queue.from(0, usize::MAX);
        let pid = |e: &Entry| TaskExit::parse_from_bytes(&e.payload).unwrap();
        let of = all.iter().filter(|e| &*e.container == container);
        of.map(|e| Event::Exit(pid(e))).collect()
    }

    fn holds(&self) {
        for container in ["a", "b"] {
            assert_eq!(self.kept(container), self.waiting(container));
        }
    }
}

fn in_order(events: &[Event]) -> bool {
    let pid = |event: &Event| match event {
        Event::Exit(exit) => exit.pid,
        other => panic!("unexpected {other:?}"),
    };
    events.is_sorted_by_key(pid)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(&'static str),
    Settle,
    Round,
    Fail,
}

proptest! {
    #[test]
    fn after_a_round_that_went_well_the_files_hold_what_waits(
        steps in prop::collection::vec(
            prop_oneof![
                3 => Just(Step::Push("a")),
                1 => Just(Step::Push("b")),
                3 => Just(Step::Settle),
                2 => Just(Step::Round),
                1 => Just(Step::Fail),
            ],
            0..200,
        )
    ) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Push(container) => world.push(container),
                Step::Settle => world.settle(),
                Step::Round => {
                    world.round(false);
                    world.holds();
                }
                Step::Fail => {
                    world.round(true);
                    for container in ["a", "b"] {
                        prop_assert!(in_order(&world.kept(container)));
                    }
                }
            }
        }
        while !world.queue.is_empty() {
            world.settle();
        }
        world.round(false);
        world.round(false);
        prop_assert!(world.disk.is_empty() && world.files.is_empty());
    }
}

#[test]
fn what_is_settled_is_cut_out_of_a_long_file() {
    let mut world = World::default();
    let mut longest = 0;
    for _ in 0..3_000 {
        for _ in 0..20 {
            world.push("a");
        }
        world.round(false);
        for _ in 0..20 {
            world.settle();
        }
        world.push("a");
        world.round(false);
        longest = longest.max(world.disk["a"].len() as u64);
        world.settle();
    }
    // 3,000 rounds of 21 records would be above 4 MiB.
    assert!(longest < LONG + 64 * 1024, "{longest}");
}

#[test]
fn a_container_that_is_gone_gets_no_file() {
    let mut world = World::default();
    world.push("a");
    let (head, entries) = world.queue.from(0, BATCH);
    world.files.settle(head);
    world.files.add(&entries[0], None, "ns");
    assert!(world.files.changes("ns", |_| Vec::new()).is_empty());
    world.push("a");
    world.round(false);
    assert_eq!(world.kept("a").len(), 1);
    world.files.forget("a");
    world.round(false);
    assert!(world.files.is_empty());
}

#[test]
fn a_torn_or_foreign_tail_ends_a_file() {
    let mut world = World::default();
    for _ in 0..3 {
        world.push("a");
    }
    world.round(false);
    let bytes = &world.disk["a"];
    let mut end = 0;
    let ends = world.files.by_id["a"].open.iter().map(|(_, len)| {
        end += len;
        end as usize
    });
    let ends: Vec<usize> = ends.collect();
    assert_eq!(ends.last(), Some(&bytes.len()));
    for cut in 0..bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(parse(&bytes[..cut]).len(), whole, "cut at {cut}");
    }
    for tail in [
        &b"\0"[..],
        b"\xff\xff\xff\xff\x7f",
        b"\x02hi",
        b"\x05\x0a\x03abc",
    ] {
        let bytes = [bytes, tail].concat();
        assert_eq!(parse(&bytes).len(), 3, "{tail:?}");
    }
    assert!(parse(b"anything at all").is_empty());
}

#[test]
fn the_changes_on_a_real_disk() {
    let dir = std::env::temp_dir().join(format!("cotter-journal-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let mut world = World::default();
    world.push("a");
    world.push("a");
    let (_, entries) = world.queue.from(0, BATCH);
    let [one, two] = [0, 1].map(|i| journal::record("ns", &entries[i]));
    let at = |bytes: &Vec<u8>| bytes.len() as u64;

    let first = Change::Append {
        at: 0,
        bytes: [&one[..], &two[..3]].concat(),
    };
    first.carry_out(&dir).unwrap();
    assert_eq!(read(&dir).unwrap().len(), 1);
    let second = Change::Append {
        at: at(&one),
        bytes: two.clone(),
    };
    // Of a write that is said to have failed all may be there: it is not what is known to be good.
    let failed = Change::Append {
        at: at(&one),
        bytes: [&two[..], &two[..]].concat(),
    };
    failed.carry_out(&dir).unwrap();
    assert_eq!(read(&dir).unwrap().len(), 3);
    second.carry_out(&dir).unwrap();
    assert_eq!(read(&dir).unwrap().len(), 2);
    let settle = Change::Append {
        at: at(&one) + at(&two),
        bytes: journal::settled(1),
    };
    settle.carry_out(&dir).unwrap();
    assert_eq!(read(&dir).unwrap().len(), 1);
    Change::Rewrite(one).carry_out(&dir).unwrap();
    assert_eq!(read(&dir).unwrap()[0].event, exit("a", 1));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    Change::Remove.carry_out(&dir).unwrap();
    Change::Remove.carry_out(&dir).unwrap();
    assert!(read(&dir).unwrap().is_empty());

    // Nobody's link is followed.
    std::os::unix::fs::symlink("/dev/null", dir.join(NAME)).unwrap();
    assert!(second.carry_out(&dir).is_err());
    fs::remove_dir_all(&dir).unwrap();
    let gone = second.carry_out(&dir).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
}
