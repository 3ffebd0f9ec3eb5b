//! Profiles of AppArmor, as managers give them: a container's, an exec's own, one that nobody has loaded.
//!
//! Where the kernel has AppArmor, which is in the virtual machine (`make test-vm`).

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::common::shim::run;
use super::world::{KNOWN, World};

/// Loads profiles that allow everything but to write to two places.
fn load() {
    let profile = |name: &str, denied: &str| {
        format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n network, capability, file, umount, \
             signal, ptrace, mount,\n deny {denied}/** w,\n}}\n"
        )
    };
    let text = profile("cotter-a", "/dev/shm") + &profile("cotter-b", "/run");
    let mut parser = Command::new("apparmor_parser");
    let parser = parser
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped());
    let mut parser = parser.spawn().expect("the tool of AppArmor");
    parser
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(parser.wait().unwrap().success());
}

fn confined(profile: &str) -> impl FnOnce(&mut Value) {
    move |config| config["process"]["apparmorProfile"] = json!(profile)
}

#[test]
#[ignore = "where the kernel has AppArmor: make test-vm"]
fn a_profile_is_the_same() {
    load();
    for runtime in KNOWN {
        run(async {
            let world = World::with(runtime, confined("cotter-a")).await;
            for nnp in [true, false] {
                let nnp = ("noNewPrivileges", json!(nnp));
                world.is_same(std::slice::from_ref(&nnp)).await;
                for profile in ["cotter-a", "cotter-b", "unconfined"] {
                    world
                        .is_same(&[nnp.clone(), ("apparmorProfile", json!(profile))])
                        .await;
                }
                let user = ("user", json!({ "uid": 1000, "gid": 1000 }));
                world
                    .is_same(&[nnp, user, ("apparmorProfile", json!("cotter-b"))])
                    .await;
            }
            world.end().await;
        });
    }
}

/// That it is the profile which stands in the way.
#[test]
#[ignore = "where the kernel has AppArmor: make test-vm"]
fn a_profile_holds() {
    load();
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            let script = "cat /proc/self/attr/current; echo >/dev/shm/x && echo shm; echo >/run/x && echo run";
            for (profile, allowed) in [("cotter-a", "run"), ("cotter-b", "shm")] {
                let changes = [
                    ("apparmorProfile", json!(profile)),
                    ("noNewPrivileges", json!(false)),
                ];
                let process = World::process(&["sh", "-c", script], &changes);
                let (_, text) = world.directly(&process).await.unwrap();
                let told: Vec<&str> = text
                    .lines()
                    .filter(|line| !line.contains("denied"))
                    .collect();
                assert_eq!(
                    told,
                    [&format!("{profile} (enforce)")[..], allowed],
                    "{text}"
                );
            }
            world.end().await;
        });
    }
}

#[test]
#[ignore = "where the kernel has AppArmor: make test-vm"]
fn a_profile_that_is_not_loaded() {
    for runtime in KNOWN {
        run(async {
            let world = World::new(runtime).await;
            let process = World::process(&["true"], &[("apparmorProfile", json!("cotter-none"))]);
            let came = world.exec(&process).await;
            assert!(came.is_err(), "{came:?}");
            assert_eq!(came, world.by_runtime(&process).await);
            assert_eq!(world.ways().await.direct, 0);
            world.end().await;
        });
    }
}
