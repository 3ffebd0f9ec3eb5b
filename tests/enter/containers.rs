//! Containers of all kinds, and callers of all kinds: what an exec has from them.

use serde_json::{Value, json};

use crate::common::shim::run;
use crate::matrix::{Case, Why, case, compare_all, direct};
use crate::ran::{By, Ran};
use crate::world::{Kind, Making, RUNTIMES, Streams, World, process};

/// What may depend on the container.
const CASES: [Case; 3] = [
    case("root", |_| {}, direct),
    case("user", user, direct),
    case(
        "user with a mask",
        |spec| {
            user(spec);
            spec["user"]["umask"] = json!(0o77);
            spec["noNewPrivileges"] = json!(false);
            spec["oomScoreAdj"] = json!(3);
        },
        direct,
    ),
];

fn user(spec: &mut Value) {
    spec["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
    let names = ["CAP_NET_BIND_SERVICE"];
    spec["capabilities"] = json!({"bounding": names, "permitted": names, "effective": names});
}

/// Compares in a container of each runtime that wants to make it; answers how many there were.
#[track_caller]
fn same_in(making: Making, by: Why) -> usize {
    let (mut all, mut count) = (Vec::new(), 0);
    for runtime in RUNTIMES {
        run(async {
            let mut world = match World::created(runtime, making).await {
                Ok(world) => world,
                Err(why) => return println!("{runtime}: {why}"),
            };
            world.shim.start_process("c", "").await.unwrap();
            world.why = world.kind.map_or(world.why, by);
            all.extend(compare_all(&world, &CASES).await);
            world.end().await;
            count += 1;
        });
    }
    assert!(all.is_empty(), "{all:#?}");
    count
}

fn with(config: fn(&mut Value)) -> Making {
    Making {
        config,
        ..Making::PLAIN
    }
}

fn namespaces(config: &mut Value) -> &mut Vec<Value> {
    config["linux"]["namespaces"].as_array_mut().unwrap()
}

macro_rules! same {
    ($($name:ident: $making:expr, $by:expr, $count:expr;)*) => { $(
        #[test]
        fn $name() {
            assert_eq!(same_in($making, $by), $count);
        }
    )* };
}

const USERS: Why = |_| Some("the container has a user namespace");
const ODD: Why = |_| Some("the container's spec asks for something that is the runtime's to do");

same! {
    read_only: with(|config| config["root"]["readonly"] = json!(true)), direct, 5;
    host_network: with(|config| namespaces(config).retain(|one| one["type"] != "network")), direct, 5;
    host_ipc: with(|config| {
        namespaces(config).retain(|one| one["type"] != "ipc");
        config["mounts"].as_array_mut().unwrap().retain(|one| one["type"] != "mqueue");
    }), direct, 5;
    host_names: with(|config| {
        namespaces(config).retain(|one| one["type"] != "uts");
        config.as_object_mut().unwrap().remove("hostname");
    }), direct, 5;
    host_pids: with(|config| namespaces(config).retain(|one| one["type"] != "pid")), direct, 5;
    own_cgroup_namespace: with(|config| namespaces(config).push(json!({"type": "cgroup"}))), direct, 5;
    shared_network: with(|config| {
        let others = namespaces(config).iter_mut().find(|one| one["type"] == "network");
        others.unwrap()["path"] = json!("/proc/self/ns/net");
    }), direct, 5;
    own_users: with(|config| {
        namespaces(config).push(json!({"type": "user"}));
        let all = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        config["linux"]["uidMappings"] = all.clone();
        config["linux"]["gidMappings"] = all;
    }), USERS, 5;
    limits: with(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 1 << 28});
        config["linux"]["resources"]["pids"] = json!({"limit": 100});
        config["linux"]["resources"]["cpu"] = json!({"shares": 512});
    }), direct, 5;
    score_and_mask: with(|config| {
        config["process"]["oomScoreAdj"] = json!(500);
        config["process"]["user"]["umask"] = json!(0o37);
    }), direct, 5;
    other_user: with(|config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [3, 4]});
        config["process"]["env"] = json!(["PATH=/bin", "A=of the container", "HOME=/tmp"]);
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]);
    }), direct, 5;
    may_get_more: with(|config| config["process"]["noNewPrivileges"] = json!(false)), direct, 5;
    without_keyring: Making {
        options: |options| options.no_new_keyring = true,
        ..Making::PLAIN
    }, direct, 5;
    other_personality: with(|config| config["linux"]["personality"] = json!({"domain": "LINUX32"})),
        |kind| match kind {
            // It does not know it, and keeps nothing of it.
            Kind::Runc11 => None,
            kind => ODD(kind),
        }, 5;
    annotated: with(|config| config["annotations"]["run.oci.keep_original_groups"] = json!("0")),
        |kind| (kind == Kind::Crun).then_some("an annotation asks crun for something"), 5;
    mighty: with(|config| {
        for set in ["bounding", "permitted", "effective"] {
            config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
        }
    }), |_| Some("it or its container has CAP_SYS_PTRACE or CAP_SYS_ADMIN"), 5;
    own_time: with(|config| namespaces(config).push(json!({"type": "time"}))),
        |_| Some("the container has a time namespace"), 3;
    odd_caller: Making {
        caller: (
            "umask 027; ulimit -S -n 500; ulimit -H -n 4000; ulimit -S -c 0; ulimit -S -s 9000
             echo 0x31 >/proc/self/coredump_filter; echo 77 >/proc/self/oom_score_adj",
            "env --ignore-signal=CHLD,XFSZ,PIPE,TERM,INT,USR1,USR2,ALRM,WINCH --block-signal=USR2 \
             nice -n 5 ionice -c 2 -n 7 chrt --batch 0 setarch -R",
        ),
        ..Making::PLAIN
    }, direct, 5;
    bound_caller: Making {
        caller: ("", "taskset 1"),
        ..Making::PLAIN
    }, |_| Some("the shim may not use all processors, and runtimes let execs do so"), 5;
}

#[test]
fn in_each_state() {
    for runtime in RUNTIMES {
        run(async {
            let world = World::created(runtime, Making::PLAIN).await.unwrap();
            let spec = process(&["true"]);
            let done = |ran: Ran| assert!(matches!(ran, Ran::Done { status: 0, .. }), "{ran:?}");
            // What waits to be started is the runtime's, and nothing is counted.
            let (ran, by) = world.exec(&spec, Streams::None).await;
            done(ran);
            assert_eq!(by, By::Nobody);
            world.shim.start_process("c", "").await.unwrap();
            let (ran, by) = world.exec(&spec, Streams::None).await;
            done(ran);
            assert!(world.is_by(&by, world.why), "{by:?}");
            let id = cotter::manager::request::pause("c");
            world.shim.tasks.pause(&id).await.unwrap();
            let (ran, by) = world.exec(&spec, Streams::None).await;
            assert!(matches!(ran, Ran::Refused { .. }), "{ran:?}");
            assert_eq!(by, By::Nobody);
            let id = cotter::manager::request::resume("c");
            world.shim.tasks.resume(&id).await.unwrap();
            let (ran, by) = world.exec(&spec, Streams::None).await;
            done(ran);
            assert!(world.is_by(&by, world.why), "{by:?}");
            // Frozen by somebody else.
            let frozen = Frozen::new(&world);
            let before = world.table().await;
            world
                .shim
                .tasks
                .exec(&world.request("y", &spec))
                .await
                .unwrap();
            let refused = world.shim.start_process("c", "y").await.unwrap_err();
            println!("{runtime}: {refused}");
            assert_ne!(world.table().await, before);
            drop(frozen);
            world.shim.delete("c", "y").await.unwrap();
            let (ran, by) = world.exec(&spec, Streams::None).await;
            done(ran);
            assert!(world.is_by(&by, world.why), "{by:?}");
            world.end().await;
        });
    }
}

/// A container's freezer, closed; open again in the end.
struct Frozen(std::path::PathBuf);

impl Frozen {
    fn new(world: &World) -> Self {
        let namespace = &world.shim.namespace;
        let state = format!("/sys/fs/cgroup/freezer/{namespace}/c/freezer.state");
        std::fs::write(&state, "FROZEN").unwrap();
        let is = || std::fs::read_to_string(&state).unwrap() == "FROZEN\n";
        crate::common::eventually("it is frozen", is);
        Self(state.into())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, "THAWED");
    }
}
