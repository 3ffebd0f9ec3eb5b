use crate::counts::{Allowance, Counts, anonymous, child_of, kind};

const STRICT: Allowance = Allowance {
    open: &[],
    threads: 0,
    memory: Some(10),
};

fn counts(open: &[&str], threads: usize, children: &[&str], memory: u64) -> Counts {
    let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Counts {
        open: all(open),
        threads,
        children: all(children),
        mounts: Vec::new(),
        memory,
    }
}

#[test]
fn what_is_more_is_told_and_what_is_less_is_not() {
    let before = counts(&["pipe", "pipe", "socket"], 2, &["sleep"], 100);
    let lax = Allowance {
        open: &["socket"],
        threads: 3,
        memory: None,
    };
    for (after, allowed, told) in [
        (before.clone(), STRICT, vec![]),
        (counts(&[], 1, &[], 0), STRICT, vec![]),
        (
            counts(&["pipe", "pipe", "socket"], 2, &["sleep"], 110),
            STRICT,
            vec![],
        ),
        (
            counts(
                &["/a", "pipe", "pipe", "pipe", "zero"],
                3,
                &["sh", "sleep", "sleep"],
                111,
            ),
            STRICT,
            vec![
                "open: /a",
                "open: pipe",
                "open: zero",
                "child: sh",
                "child: sleep",
                "threads: 2 to 3",
                "memory: 100 to 111 KiB",
            ],
        ),
        (
            counts(&["socket", "socket"], 5, &["sleep"], 9999),
            lax,
            vec![],
        ),
        (
            counts(&["pipe", "pipe", "pipe"], 6, &[], 0),
            lax,
            vec!["open: pipe", "threads: 2 to 6"],
        ),
    ] {
        assert_eq!(before.more(&after, allowed), told, "{after:?}");
    }
    let mounted = Counts {
        mounts: vec!["/m".into()],
        ..before.clone()
    };
    assert_eq!(before.more(&mounted, STRICT), ["mount: /m"]);
    assert_eq!(mounted.more(&before, STRICT), [""; 0]);
}

#[test]
fn lines_of_proc() {
    for (to, want) in [
        ("pipe:[123]", "pipe"),
        ("socket:[9]", "socket"),
        ("anon_inode:[pidfd]", "anon_inode:[pidfd]"),
        ("/dev/null", "/dev/null"),
    ] {
        assert_eq!(kind(to), want);
    }
    for (stat, want) in [
        ("7 (sleep) S 42 7 7 0", Some("sleep")),
        ("7 (a) b (c) Z 42 7", Some("a) b (c")),
        ("7 (sleep) S 421 7", None),
        ("7 (sleep) S", None),
        ("", None),
    ] {
        assert_eq!(child_of(42, stat).as_deref(), want, "{stat}");
    }
    let rollup = "Rss:  10 kB\nAnonymous:      432 kB\nSwap: 1 kB\n";
    assert_eq!(anonymous(rollup), Some(432));
    assert_eq!(anonymous("Rss: 1 kB\n"), None);
}

#[test]
fn this_process_counts_itself() {
    let (reader, writer) = std::io::pipe().unwrap();
    let before = Counts::take(std::process::id(), Vec::new());
    assert!(before.threads > 0 && before.memory > 0 && !before.open.is_empty());
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let more = std::io::pipe().unwrap();
    let after = Counts::take(std::process::id(), vec!["/m".into()]);
    let _ = child.kill();
    let _ = child.wait();
    drop((reader, writer, more));
    let told = before.more(&after, STRICT);
    for what in ["open: pipe", "mount: /m"] {
        assert!(told.iter().any(|line| line == what), "{told:?}");
    }
    // Not exec'ed yet it may have this test's name.
    assert!(
        told.iter().any(|line| line.starts_with("child: ")),
        "{told:?}"
    );
}
