//! Process specs drawn at random: whatever comes, a process is the one that its runtime makes.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use crate::ran::{By, compare};
use crate::world::{Making, RUNTIMES, Streams, UNKNOWN, World, process};

/// For each runtime; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 24;

const NAMES: [&str; 18] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
    "NET_ADMIN",
    "SYS_TIME",
    "LINUX_IMMUTABLE",
    "BPF",
];

fn id() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1000), Just(1001), Just(4711), 0..1_u32 << 31]
}

fn names(most: usize) -> impl Strategy<Value = Vec<String>> {
    let some = subsequence(NAMES.to_vec(), 0..=most);
    some.prop_map(|names| names.iter().map(|name| format!("CAP_{name}")).collect())
}

/// Sets that mostly fit each other.
fn capabilities() -> impl Strategy<Value = Value> {
    let parts = (names(18), names(18), names(6), 0..8_u8, 0..10_u8);
    parts.prop_map(|(mut bounding, mut permitted, own, which, odd)| {
        let with_own = |all: &mut Vec<String>| {
            all.retain(|name| !own.contains(name));
            all.extend(own.clone());
        };
        with_own(&mut permitted);
        if odd != 0 {
            with_own(&mut bounding);
        }
        let some = |is: bool| if is { own.clone() } else { Vec::new() };
        json!({
            "bounding": bounding, "permitted": permitted, "effective": some(which & 1 != 0),
            "inheritable": some(which & 2 != 0), "ambient": some(which & 6 == 6),
        })
    })
}

fn environment() -> impl Strategy<Value = Vec<String>> {
    let paths = [
        "PATH=/bin",
        "PATH=/nowhere:/bin",
        "PATH=/private:/bin",
        "PATH=/:/home/user:/bin",
        "PATH=/third:/bin",
    ];
    let paths = prop_oneof![3 => Just("PATH=/bin"), 1 => select(paths.to_vec())];
    let home = prop::option::of(select(vec!["HOME=/tmp", "HOME=x", "HOME=/a b"]));
    let others = prop::collection::btree_map(
        "[A-GI-Z_][A-Za-z0-9_.]{0,6}[a-z]",
        "[ -~äß\n\t]{0,12}",
        0..6,
    );
    let all = (paths, home, others).prop_map(|(path, home, others)| {
        let mut all: Vec<String> = others
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        all.push(path.to_owned());
        all.extend(home.map(str::to_owned));
        all
    });
    all.prop_shuffle()
}

fn limits() -> impl Strategy<Value = Value> {
    let kinds = vec!["RLIMIT_CORE", "RLIMIT_MEMLOCK", "RLIMIT_SIGPENDING"];
    let others = prop::collection::btree_map(select(kinds), (0..5000_u64, 0..5000_u64), 0..3);
    // Of open files both are the same: see the matrix.
    (64..4000_u64, others).prop_map(|(files, others)| {
        let mut all = vec![json!({"type": "RLIMIT_NOFILE", "soft": files, "hard": files})];
        let other = |(kind, (soft, more)): (&str, (u64, u64))| json!({"type": kind, "soft": soft, "hard": soft + more});
        all.extend(others.into_iter().map(other));
        Value::from(all)
    })
}

fn args() -> impl Strategy<Value = Vec<String>> {
    let good = [
        "probe",
        "/bin/probe",
        "a-link",
        "a-script",
        "/bin/a-script",
        "/bin/set-user",
    ];
    let odd = ["/private/probe", "only-roots", "nowhere", "plain-text"];
    let programs = prop_oneof![6 => select(good.to_vec()), 1 => select(odd.to_vec())];
    let words = prop::collection::vec(
        "[ -~äß\n]{0,8}".prop_filter("not its own", |it| it != "stay" && !it.starts_with("to=")),
        0..4,
    );
    (programs, words)
        .prop_map(|(program, words)| std::iter::once(program.to_owned()).chain(words).collect())
}

fn spec() -> impl Strategy<Value = Value> {
    let user = (
        id(),
        id(),
        prop::collection::btree_set(id(), 0..5),
        prop::option::of(0..0o1000_u32),
    );
    let user = user.prop_map(|(uid, gid, groups, umask)| {
        let mut user = json!({"uid": uid, "gid": gid, "additionalGids": groups});
        if let Some(umask) = umask {
            user["umask"] = json!(umask);
        }
        user
    });
    let good = ["/", "/tmp", "/home/user", "/odd/link", "/dev", "/private"];
    let odd = ["/nowhere", "/odd/only-users", "/proc"];
    let cwd = prop_oneof![8 => select(good.to_vec()), 1 => select(odd.to_vec())];
    let all = (
        user,
        capabilities(),
        environment(),
        limits(),
        args(),
        cwd,
        any::<Option<bool>>(),
    );
    all.prop_map(
        |(user, capabilities, env, rlimits, args, cwd, privileges)| {
            let mut spec = process(&[]);
            spec["user"] = user;
            spec["capabilities"] = capabilities;
            spec["env"] = json!(env);
            spec["rlimits"] = rlimits;
            spec["args"] = json!(args);
            spec["cwd"] = json!(cwd);
            spec["noNewPrivileges"] = json!(privileges);
            spec
        },
    )
}

#[test]
fn drawn_at_random() {
    for runtime in RUNTIMES {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let world = tokio.block_on(World::new(runtime, Making::PLAIN));
        if world.kind.is_none() {
            tokio.block_on(world.end());
            continue;
        }
        let config = Config {
            cases: std::env::var("PROPTEST_CASES").map_or(CASES, |cases| cases.parse().unwrap()),
            failure_persistence: None,
            max_shrink_iters: 200,
            ..Config::default()
        };
        let direct = RefCell::new(std::collections::BTreeMap::<String, u32>::new());
        let mut runner = TestRunner::new(config.clone());
        let streams = select(vec![Streams::Outputs, Streams::All]);
        let done = runner.run(&(spec(), streams), |(spec, streams)| {
            let (by, different) = tokio.block_on(judge(&world, &spec, streams));
            *direct.borrow_mut().entry(format!("{by:?}")).or_default() += 1;
            match different.is_empty() {
                true => Ok(()),
                false => Err(TestCaseError::fail(format!(
                    "{runtime} by {by:?}: {different:#?}"
                ))),
            }
        });
        if let Err(why) = done {
            panic!("{runtime}: {why}");
        }
        let direct = direct.take();
        println!("{runtime}: {direct:#?}");
        let direct = direct["Shim"];
        assert!(
            direct * 3 > config.cases,
            "{runtime}: {direct} by the shim alone"
        );
        tokio.block_on(world.end());
    }
}

async fn judge(world: &World, spec: &Value, streams: Streams) -> (By, Vec<String>) {
    let mut healthy = process(&["true"]);
    healthy["env"].as_array_mut().unwrap().push(json!("HOME=/"));
    assert_eq!(world.exec(&healthy, Streams::None).await.1, By::Shim);
    let (own, by) = world.exec(spec, streams).await;
    let mut spec = spec.clone();
    spec[UNKNOWN] = json!(1);
    let (of_runtime, _) = world.exec(&spec, streams).await;
    (by, compare(&own, &of_runtime))
}
