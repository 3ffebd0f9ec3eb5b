//! The tool with shims of a state directory, and with its own containers, whose log nobody reads.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use cotter::dump::Dump;
use cotter::manager::spec::Spec;
use serde_json::Value;

use crate::common::shim::{RUNTIMES, SHIM, Shim, run};
use crate::common::{Done, TempDir, eventually, eventually_some, signal};
use crate::others::cotter;
use crate::{row, taken};

#[test]
fn a_pod_is_one_shim_however_it_is_named() {
    run(async {
        let mut shim = Shim::start(RUNTIMES[1], "pod-1", &["sleep", "1000"]).await;
        shim.create("pod-1").await.unwrap();
        let other = shim.bundle("pod-2", Spec::new("pod-2", ["sleep", "1000"]));
        shim.create("pod-2").await.unwrap();
        shim.endpoint.save(&other).unwrap();
        // Laid out as a manager does.
        let state = shim.dir().join("state");
        let tasks = state.join("io.containerd.runtime.v2.task").join("ns");
        fs::create_dir_all(&tasks).unwrap();
        for id in ["pod-1", "pod-2"] {
            symlink(shim.bundle_path(id), tasks.join(id)).unwrap();
        }
        let state = state.to_string_lossy().into_owned();
        for args in [
            &["--all", "-n", "ns"][..],
            &["pod-2"],
            &["-n", "ns", "pod-1"],
        ] {
            let args = [&["-q", "--json", "--state", &state], args].concat();
            let out = cotter(&args).ok();
            let read: Value = serde_json::from_str(&out).unwrap();
            let shims = read.as_array().unwrap();
            assert_eq!(shims.len(), 1, "{args:?}: {out}");
            assert_eq!(shims[0]["pid"], shim.pid());
            assert_eq!(shims[0]["dump"]["containers"].as_array().unwrap().len(), 2);
            let ids = shims[0]["ids"].as_array().unwrap();
            assert_eq!(ids.len(), 2, "{args:?}: {out}");
        }
        let many = cotter(&["--state", &state, "-n", "ns", "pod"]);
        assert_eq!(many.code, 125, "{many:?}");
        assert!(many.err.contains("pod-1 in ns, pod-2 in ns"), "{many:?}");
        let none = cotter(&["--state", &state, "absent"]);
        assert_eq!((none.code, none.out.as_str()), (125, ""), "{none:?}");
        assert!(none.err.contains("container absent: not found"), "{none:?}");
        shim.remove("pod-1").await;
        shim.remove("pod-2").await;
        shim.end().await;
    });
}

fn tool(home: &Path, args: &[&str]) -> Done {
    let mut command = Command::new(crate::common::cotter::cotter());
    crate::common::run(command.env("COTTER_HOME", home).args(args))
}

#[test]
fn a_full_log_stops_neither_signal_nor_request() {
    let home = TempDir::new("cotter-home");
    let line = [
        "run", "-d", "--id", "web", "--shim", SHIM, "--", "sleep", "1000",
    ];
    tool(home.path(), &line).ok();
    let bundle = home.path().join("c/web");
    let json = |args: &[&str]| -> Value {
        let out = tool(home.path(), &[&["dump", "--json", "web"], args].concat()).ok();
        let read: Value = serde_json::from_str(&out).unwrap();
        read[0].clone()
    };
    let pid = json(&["-q"])["pid"].as_u64().unwrap() as u32;
    // Nobody has read the log since the tool that started it went away.
    let dropped = eventually_some("the log is full", || {
        let seen = json(&[]);
        let dropped = seen["dump"]["shim"]["log_lines_dropped"].as_u64().unwrap();
        (dropped > 0).then_some(dropped)
    });
    let before = taken(&bundle);
    signal(pid, "USR1");
    eventually("the file of the signal", || taken(&bundle) > before);
    let seen = json(&["-q"]);
    assert!(seen["dump"]["shim"]["log_lines_dropped"].as_u64().unwrap() > dropped);
    let dump = Dump::from_json(&seen["dump"].to_string()).unwrap();
    assert_eq!(
        row(&dump, "containers", &[("id", "web")])["state"],
        "running"
    );

    let text = tool(home.path(), &["dump", "--all", "-n", "cotter", "-q"]).ok();
    assert!(text.contains("=== shim of cotter: web (pid"), "{text}");
    tool(home.path(), &["rm", "-f", "web"]).ok();
    let none = tool(home.path(), &["dump", "--all", "-n", "cotter"]).ok();
    assert_eq!(none, "no shims\n");
}
