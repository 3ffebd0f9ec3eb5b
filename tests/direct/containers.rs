//! Containers of all kinds, and a usual process in each.

use std::process::Stdio;

use serde_json::{Value, json};

use super::common::eventually;
use super::common::shim::run;
use super::world::{KNOWN, World};

fn same(change: impl Fn(&mut Value) + Copy) {
    for runtime in KNOWN {
        run(async {
            let world = World::with(runtime, change).await;
            world.is_same(&[]).await;
            let user = json!({ "uid": 1000, "gid": 1000 });
            world
                .is_same(&[("user", user), ("noNewPrivileges", json!(false))])
                .await;
            world.end().await;
        });
    }
}

#[test]
fn with_settings_that_execs_have_too() {
    same(|config| {
        config["process"]["oomScoreAdj"] = json!(500);
        config["process"]["user"] =
            json!({ "uid": 3, "gid": 4, "umask": 0o27, "additionalGids": [9] });
        config["process"]["capabilities"] = json!({ "bounding": ["CAP_KILL"] });
        config["process"]["noNewPrivileges"] = json!(false);
        config["process"]["rlimits"] =
            json!([{ "type": "RLIMIT_NPROC", "hard": 900, "soft": 800 }]);
        config["process"]["cwd"] = json!("/tmp");
        config["root"]["readonly"] = json!(true);
        config["linux"]["resources"]["pids"] = json!({ "limit": 50 });
        config["linux"]["resources"]["memory"] = json!({ "limit": 100 << 20 });
    });
}

#[test]
fn with_the_hosts_pids() {
    same(|config| {
        let all = config["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|namespace| namespace["type"] != "pid");
    });
}

#[test]
fn with_few_namespaces() {
    same(|config| {
        config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid" }]);
        config.as_object_mut().unwrap().remove("hostname");
    });
}

#[test]
fn with_a_namespace_of_cgroups() {
    same(|config| {
        let all = config["linux"]["namespaces"].as_array_mut().unwrap();
        all.push(json!({ "type": "cgroup" }));
    });
}

/// As in a pod: they are those of another process, here of one that the test has put into some.
#[test]
fn with_namespaces_of_others() {
    let other = Other::new();
    let of = |kind: &str| format!("/proc/{}/ns/{kind}", other.0.id());
    for runtime in KNOWN {
        run(async {
            let world = World::with(runtime, |config| {
                config["linux"]["namespaces"] = json!([
                    { "type": "pid" }, { "type": "mount" },
                    { "type": "ipc", "path": of("ipc") },
                    { "type": "uts", "path": of("uts") },
                    { "type": "network", "path": of("net") },
                ]);
                config.as_object_mut().unwrap().remove("hostname");
            });
            let world = world.await;
            world.is_same(&[]).await;
            world.end().await;
        });
    }
}

/// A process with namespaces of its own.
struct Other(std::process::Child);

impl Other {
    fn new() -> Self {
        let mut command = std::process::Command::new("unshare");
        command.args(["--ipc", "--uts", "--net", "sleep", "1000"]);
        let streams = [Stdio::null(), Stdio::null()];
        let [out, err] = streams;
        let other = Self(
            command
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(err)
                .spawn()
                .unwrap(),
        );
        let net = format!("/proc/{}/ns/net", other.0.id());
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let is_apart = || std::fs::read_link(&net).is_ok_and(|net| net != own);
        eventually("it is in its own", is_apart);
        other
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_the_runtimes_in_a_whole_container() {
    for (change, reason) in [
        (
            (|config: &mut Value| {
                let sets = config["process"]["capabilities"].as_object_mut().unwrap();
                for set in sets.values_mut() {
                    set.as_array_mut().unwrap().push(json!("CAP_SYS_PTRACE"));
                }
            }) as fn(&mut Value),
            "CAP_SYS_PTRACE",
        ),
        (
            |config| config["linux"]["personality"] = json!({ "domain": "LINUX32" }),
            "asks for something",
        ),
    ] {
        for runtime in KNOWN {
            // The oldest runc knows nothing of these, and takes no notice.
            if runtime == "RUNC" && reason == "asks for something" {
                continue;
            }
            run(async {
                let world = World::with(runtime, change).await;
                let process = World::process(&["sh", "-c", "exit 3"], &[]);
                let came = world.is_the_runtimes(&process, reason).await;
                assert_eq!(came, Ok((3, String::new())));
                world.end().await;
            });
        }
    }
}
