//! Processes that are drawn: whatever the shim does itself is what the runtime makes of it.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::common::shim::run;
use super::world::{KNOWN, World};

/// Per runtime.
const CASES: u32 = 16;

const NAMES: [&str; 10] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_ADMIN",
    "SYS_CHROOT",
    "CHECKPOINT_RESTORE",
];

fn names(bits: u16) -> Value {
    let of = |(at, name): (usize, &&str)| (bits & (1 << at) != 0).then(|| format!("CAP_{name}"));
    json!(NAMES.iter().enumerate().filter_map(of).collect::<Vec<_>>())
}

/// Sets as a runtime takes them: what is effective is permitted, what is ambient is that and inheritable too.
fn capabilities() -> impl Strategy<Value = Value> {
    (any::<[u16; 5]>()).prop_map(|[bounding, permitted, effective, inheritable, ambient]| {
        // Nobody gets more than its container's, whose are the usual ones.
        let usual = 0b01_0111_1101 | 0b10;
        let permitted = permitted & bounding & usual;
        let inheritable = inheritable & permitted;
        json!({
            "bounding": names(bounding & usual),
            "permitted": names(permitted),
            "effective": names(effective & permitted),
            "inheritable": names(inheritable),
            "ambient": names(ambient & inheritable),
        })
    })
}

fn user() -> impl Strategy<Value = Value> {
    let id = || {
        prop_oneof![
            Just(0_u32),
            Just(1),
            Just(1000),
            Just(65534),
            0..(1_u32 << 31)
        ]
    };
    let groups = prop::collection::btree_set(id(), 0..5);
    (id(), id(), groups, prop::option::of(0_u32..0o777)).prop_map(|(uid, gid, groups, umask)| {
        let mut user = json!({ "uid": uid, "gid": gid, "additionalGids": groups });
        if let Some(umask) = umask {
            user["umask"] = json!(umask);
        }
        user
    })
}

fn environment() -> impl Strategy<Value = Value> {
    let others = prop::collection::btree_map("[A-Z_a-zä.]{1,6}", "[ -~äß\n\t]{0,20}", 0..6);
    let home = prop::option::of("/[a-z]{0,9}");
    (others, home, any::<bool>()).prop_map(|(others, home, first)| {
        let of = |(name, value)| format!("{name}={value}");
        let mut all: Vec<String> = others.into_iter().map(of).collect();
        all.retain(|one| !one.starts_with("PATH=") && !one.starts_with("HOME="));
        all.extend(home.map(|home| format!("HOME={home}")));
        all.insert(
            if first { 0 } else { all.len() },
            "PATH=/none:/bin:/usr/bin".into(),
        );
        json!(all)
    })
}

fn process() -> impl Strategy<Value = Value> {
    let limits = prop::collection::btree_set(0..4_usize, 0..4).prop_map(|kinds| {
        let of = |kind: usize| match kind {
            0 => json!({ "type": "RLIMIT_CORE", "hard": 9, "soft": 8 }),
            1 => json!({ "type": "RLIMIT_MEMLOCK", "hard": 65536, "soft": 1 }),
            2 => json!({ "type": "RLIMIT_SIGPENDING", "hard": 200, "soft": 100 }),
            _ => json!({ "type": "RLIMIT_CORE", "hard": 0, "soft": 0 }),
        };
        let mut all: Vec<Value> = kinds.into_iter().map(of).collect();
        all.dedup_by_key(|limit| limit["type"].clone());
        all.retain({
            let mut seen = std::collections::BTreeSet::new();
            move |limit| seen.insert(limit["type"].to_string())
        });
        all.push(json!({ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }));
        json!(all)
    });
    let cwd = prop_oneof![Just("/"), Just("/tmp"), Just("/bin"), Just("/dev/shm")];
    let more = prop::collection::vec("[ -~ä\n]{0,12}", 0..3);
    (
        user(),
        capabilities(),
        environment(),
        limits,
        cwd,
        any::<bool>(),
        more,
    )
        .prop_map(|(user, capabilities, env, rlimits, cwd, locked, more)| {
            let mut args = vec!["sh".to_owned(), "-c".into(), super::seen::PROBE.into()];
            args.extend(more);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            World::process(
                &args,
                &[
                    ("user", user),
                    ("capabilities", capabilities),
                    ("env", env),
                    ("rlimits", rlimits),
                    ("cwd", json!(cwd)),
                    ("noNewPrivileges", json!(locked)),
                ],
            )
        })
}

#[test]
fn each_is_the_same() {
    // Another one each time; what fails is shown whole.
    let mut runner = TestRunner::new(Config::default());
    for runtime in KNOWN {
        let cases: Vec<Value> = (0..CASES)
            .map(|_| process().new_tree(&mut runner).unwrap().current())
            .collect();
        run(async {
            let world = World::new(runtime).await;
            for case in &cases {
                world.is_same_process(case).await;
            }
            world.end().await;
        });
    }
}
