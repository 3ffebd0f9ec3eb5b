use proptest::prelude::*;

use super::*;

fn entry(rank: Rank, payload: usize) -> Entry {
    Entry {
        seq: 0,
        time: SystemTime::UNIX_EPOCH,
        topic: "/tasks/test",
        type_name: "containerd.events.Test",
        rank,
        container: "c".into(),
        payload: vec![0; payload].into(),
    }
}

fn places(inner: &Inner) -> Vec<u64> {
    inner.entries.keys().copied().collect()
}

fn filled(max_events: usize, ranks: &[Rank]) -> Inner {
    let mut inner = Inner::new(max_events, usize::MAX);
    for rank in ranks {
        inner.push(entry(*rank, 0));
    }
    inner
}

use Rank::{Expendable, Useful, Vital};

#[test]
fn events_leave_in_the_order_in_which_they_came() {
    let mut inner = filled(10, &[Useful, Expendable, Vital]);
    for seq in 0..3 {
        assert_eq!(inner.head().map(|head| head.seq), Some(seq));
        inner.settle(seq);
    }
    assert_eq!((inner.len(), inner.bytes), (0, 0));
}

#[test]
fn only_the_head_can_be_settled() {
    let mut inner = filled(10, &[Useful, Useful]);
    inner.settle(1);
    assert_eq!(places(&inner), [0, 1]);
}

#[test]
fn a_full_queue_drops_the_expendable_first_then_the_useful_oldest_first() {
    let mut inner = filled(5, &[Vital, Useful, Expendable, Useful, Expendable]);
    for left in [
        [0, 1, 3, 4, 5],
        [0, 1, 3, 5, 6],
        [0, 3, 5, 6, 7],
        [0, 5, 6, 7, 8],
    ] {
        inner.push(entry(Vital, 0));
        assert_eq!(places(&inner), left);
    }
    assert_eq!(inner.dropped, 4);
}

#[test]
fn the_head_is_not_dropped() {
    let mut inner = filled(2, &[Expendable, Useful, Expendable]);
    assert_eq!(places(&inner), [0, 1]);
    inner.push(entry(Vital, 0));
    assert_eq!(places(&inner), [0, 3]);
    inner.push(entry(Vital, 0));
    assert_eq!(places(&inner), [0, 3, 4], "nothing is left to drop");
}

#[test]
fn exits_are_never_dropped_and_later_chatter_is() {
    let mut inner = filled(3, &[Vital; 10]);
    assert_eq!(inner.len(), 10);
    inner.push(entry(Useful, 0));
    assert_eq!(places(&inner), (0..10).collect::<Vec<_>>());
    assert_eq!(inner.dropped, 1);
}

#[test]
fn bytes_are_bounded_too() {
    let mut inner = Inner::new(usize::MAX, 10 * 1024);
    for _ in 0..100 {
        inner.push(entry(Useful, 1000));
    }
    assert!(inner.bytes <= 10 * 1024);
    let fit = 10 * 1024 / (ENTRY_COST + 1001);
    assert_eq!((inner.len(), inner.dropped), (fit, 100 - fit as u64));
    assert_eq!(inner.head().map(|head| head.seq), Some(0));
    assert_eq!(
        inner.entries.last_key_value().map(|(seq, _)| *seq),
        Some(99)
    );
}

#[test]
fn the_index_gives_its_memory_back() {
    let mut inner = filled(1000, &[Expendable; 1000]);
    for seq in 0..1000 {
        inner.settle(seq);
    }
    assert_eq!(
        inner
            .droppable
            .iter()
            .map(VecDeque::capacity)
            .sum::<usize>(),
        0
    );
}

#[derive(Clone, Debug)]
enum Step {
    Push(Rank),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Push(Expendable)),
        Just(Step::Push(Useful)),
        Just(Step::Push(Vital)),
        Just(Step::Settle),
    ]
}

proptest! {
    /// Against a model that is a plain list and looks for its victim from the front.
    #[test]
    fn the_queue_is_its_model(steps in prop::collection::vec(step(), 0..200)) {
        const MAX: usize = 8;
        let mut inner = Inner::new(MAX, usize::MAX);
        let mut model: Vec<(u64, Rank)> = Vec::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Push(rank) => {
                    inner.push(entry(rank, 0));
                    model.push((next, rank));
                    next += 1;
                    if model.len() > MAX {
                        let of = |rank| model.iter().skip(1).position(|(_, r)| *r == rank);
                        if let Some(at) = of(Expendable).or_else(|| of(Useful)) {
                            model.remove(at + 1);
                        }
                    }
                }
                Step::Settle => {
                    if let Some(seq) = inner.head().map(|head| head.seq) {
                        inner.settle(seq);
                        model.remove(0);
                    }
                }
            }
            prop_assert_eq!(places(&inner), model.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
            prop_assert_eq!(inner.bytes, inner.len() * (ENTRY_COST + 1));
        }
    }
}
