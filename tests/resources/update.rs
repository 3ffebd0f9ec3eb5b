//! Update.

use cotter::cgroup::Version;
use cotter::error::Code;

use crate::common::shim::{RUNTIMES, Shim, run, until};
use crate::gate::Gated;
use crate::{cgroup, read, resources, update};

#[test]
fn limits_change_from_create_to_exit() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let pid = shim.create("c").await.unwrap();
            let cgroup = cgroup(pid);
            let memory = match cgroup.version() {
                Version::V1 => "memory.limit_in_bytes",
                Version::V2 => "memory.max",
            };
            let json = r#"{"memory":{"limit":67108864},"pids":{"limit":77}}"#;
            update(&shim, Some(resources(json)), &[]).await.unwrap();
            assert_eq!(read(&cgroup, "memory", memory), "67108864", "{runtime}");
            assert_eq!(read(&cgroup, "pids", "pids.max"), "77");
            shim.start_process("c", "").await.unwrap();
            // Annotations beside resources do not get in their way.
            let more = resources(r#"{"pids":{"limit":78}}"#);
            update(&shim, Some(more), &[("a", "b")]).await.unwrap();
            assert_eq!(read(&cgroup, "pids", "pids.max"), "78");
            assert_eq!(
                read(&cgroup, "memory", memory),
                "67108864",
                "what was not named stays"
            );

            shim.kill("c", "", 9).await.unwrap();
            shim.wait("c", "").await.unwrap();
            for resources in [Some(resources(json)), None] {
                let error = update(&shim, resources, &[]).await.unwrap_err();
                assert_eq!(
                    (error.code, error.message.as_str()),
                    (Code::Unknown, "cannot update a stopped container")
                );
            }
            shim.delete("c", "").await.unwrap();
            let error = update(&shim, None, &[]).await.unwrap_err();
            assert_eq!(error.message, "container not created: not found");
            shim.end().await;
        });
    }
}

/// The Go shim decodes and encodes again what it is given, and dies without any.
#[test]
fn the_runtime_gets_what_the_client_wrote() {
    run(async {
        let gated = Gated::new("RUNC", "update", "cat >$dir/got");
        let shim = Shim::start(&gated.path(), "c", &["sleep", "1000"]).await;
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        let got = gated.file("got");

        update(&shim, None, &[("org.b", "secret"), ("a", "")])
            .await
            .unwrap();
        assert!(!got.exists(), "nothing to do, nobody asked");
        let told = "container c: update: annotations without effect: a, org.b";
        until("the log names the annotations", || {
            shim.log().iter().any(|line| line.contains(told))
        })
        .await;
        assert!(!shim.log().iter().any(|line| line.contains("secret")));
        for bad in ["", "{", "[]", "null", "7", "{} {}", "\u{0}"] {
            let error = update(&shim, Some(resources(bad)), &[]).await.unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{bad:?}: {error}");
            assert!(error.message.starts_with("resources: "), "{error}");
            assert!(!got.exists(), "{bad:?}");
        }
        let odd = "{ \"unified\":{\"memory.high\":\"1\"},\n \"of\\u0020tomorrow\" : [1.50, 18446744073709551616],\"pids\":{\"limit\":-1} }\n";
        let mut any = resources(odd);
        any.type_url = "whatever".into();
        update(&shim, Some(any), &[]).await.unwrap();
        assert_eq!(std::fs::read_to_string(got).unwrap(), odd);
        shim.remove("c").await;
        shim.end().await;
    });
}

#[test]
fn the_runtimes_refusal_is_passed_on() {
    for runtime in RUNTIMES {
        run(async {
            let shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let pid = shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let before = read(&cgroup(pid), "cpuset", "cpuset.cpus");
            let cpus = resources(r#"{"cpu":{"cpus":"4000"}}"#);
            let error = update(&shim, Some(cpus), &[]).await.unwrap_err();
            assert_eq!(error.code, Code::Unknown);
            let words = error
                .message
                .strip_prefix("OCI runtime update failed: ")
                .unwrap();
            assert!(words.contains("cpuset"), "{runtime}: {words}");
            assert_eq!(read(&cgroup(pid), "cpuset", "cpuset.cpus"), before);
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
