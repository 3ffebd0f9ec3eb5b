use std::time::{Duration, Instant};

use crate::patience::Patience;

const LONGEST: Duration = Duration::from_secs(15);
const SOCKET: &str = "+ socket of c: /run/containerd/s/1";
const PROCESS: &str = "+ process 77 runc delete c";

/// Goes through what is left at these seconds; the first at which that is the verdict.
fn over(still: Option<Duration>, seen: &[(u64, &[&str])]) -> Option<u64> {
    let begun = Instant::now();
    let mut patience = Patience::new(begun, LONGEST, still);
    let mut over = |(second, left): &&(u64, &[&str])| {
        let left: Vec<String> = left.iter().map(|line| (*line).to_owned()).collect();
        patience.is_over(&left, begun + Duration::from_secs(*second))
    };
    seen.iter()
        .find(|seen| over(seen))
        .map(|(second, _)| *second)
}

#[test]
fn what_may_still_go_is_waited_for() {
    let one = Some(Duration::from_secs(1));
    for (still, seen, expected) in [
        (None, vec![(0, &[][..])], Some(0)),
        (one, vec![(0, &[])], Some(0)),
        // Everything, to the end, and no longer.
        (
            None,
            vec![(0, &[SOCKET]), (15, &[SOCKET]), (16, &[SOCKET])],
            Some(16),
        ),
        (None, vec![(0, &[SOCKET]), (15, &[])], Some(15)),
        // What nobody can take away stays.
        (one, vec![(0, &[SOCKET]), (1, &[SOCKET])], Some(1)),
        // It is going.
        (
            one,
            vec![(0, &[SOCKET, "+ x"]), (1, &[SOCKET]), (2, &[SOCKET])],
            Some(2),
        ),
        // Somebody is there.
        (
            one,
            vec![(0, &[SOCKET, PROCESS]), (15, &[SOCKET, PROCESS])],
            None,
        ),
        (one, vec![(0, &[PROCESS]), (16, &[PROCESS])], Some(16)),
        (
            one,
            vec![(0, &[SOCKET, PROCESS]), (5, &[SOCKET]), (6, &[])],
            Some(6),
        ),
    ] {
        assert_eq!(over(still, &seen), expected, "{still:?}: {seen:?}");
    }
}
