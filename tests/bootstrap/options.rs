//! What a start does with the runtime's options, in every dialect and every message they come in.

use std::fs;
use std::path::Path;

use cotter::proto::runc_options::Options;
use cotter::proto::{Any, pack, runtime_options};
use nix::sys::signal::Signal;

use crate::DIALECTS;
use crate::harness::*;

pub fn generic(path: &Path, body: &str) -> Any {
    let options = runtime_options::Options {
        config_path: path.to_str().unwrap().into(),
        config_body: body.into(),
        ..Default::default()
    };
    pack(&options).unwrap()
}

#[test]
fn the_server_joins_the_cgroup_it_is_told_to() {
    // One hierarchy of v1 alone, and two; on v2 there is only one.
    let v1: Vec<&Path> = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory"]
        .map(Path::new)
        .into_iter()
        .filter(|dir| dir.is_dir())
        .collect();
    let roots = if v1.is_empty() {
        vec![Path::new("/sys/fs/cgroup")]
    } else {
        v1
    };
    for dialect in DIALECTS {
        for form in ["runc", "body", "file"] {
            let manager = Manager::new(&format!("cgroup-{dialect:?}-{form}"));
            let bundle = manager.bundle("c1", None);
            let cgroup = format!("/{}", manager.namespace);
            let file = manager.dir.join("options.toml");
            let toml = format!("ShimCgroup = '{cgroup}'");
            let options = match form {
                "runc" => pack(&Options {
                    shim_cgroup: cgroup,
                    ..Options::default()
                })
                .unwrap(),
                "body" => generic(Path::new(""), &toml),
                _ => {
                    fs::write(&file, toml).unwrap();
                    generic(&file, "")
                }
            };
            let some = if dialect == Dialect::Plain { 1 } else { 2 };
            let dirs: Vec<_> = roots
                .iter()
                .take(some)
                .map(|root| root.join(&manager.namespace))
                .collect();
            for dir in &dirs {
                fs::create_dir(dir).unwrap();
            }
            succeeded(&bundle.start_any(dialect, options));
            for dir in &dirs {
                let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
                assert_eq!(members, format!("{}\n", manager.server()), "{form}");
            }
            manager.end(Signal::SIGTERM);
            // A zombie is still in its cgroup.
            for dir in &dirs {
                eventually("the cgroup to be empty", || fs::remove_dir(dir).is_ok());
            }
        }
    }
}

#[test]
fn what_cannot_hold_starts_nothing() {
    for dialect in DIALECTS {
        let manager = Manager::new(&format!("bad-options-{dialect:?}"));
        let bundle = manager.bundle("c1", None);
        let before = (
            entries(&bundle.path),
            entries(Path::new("/run/containerd/s")),
        );
        let typo = manager.dir.join("typo.toml");
        fs::write(&typo, "ShimCgoup = '/x'").unwrap();
        let garbage = |url: &str| Any {
            type_url: url.into(),
            value: vec![0xff],
            ..Any::default()
        };
        for (options, words) in [
            (
                generic(&typo, ""),
                "typo.toml: there is no option \"ShimCgoup\"",
            ),
            (
                generic(Path::new("/nonexistent/x"), ""),
                "read /nonexistent/x",
            ),
            (
                generic(Path::new(""), "Root"),
                "options in config_body: line 1",
            ),
            (generic(Path::new("x"), ""), "not an absolute path"),
            (garbage("runtimeoptions.v1.Options"), "runtimeoptions.v1"),
            (garbage("containerd.runc.v1.Options"), "containerd.runc.v1"),
        ] {
            let output = bundle.start_any(dialect, options);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), output.stdout), (Some(1), vec![]));
            let named = stderr.starts_with("io.containerd.cotter.v2: ") && stderr.contains(words);
            assert!(named && stderr.lines().count() == 1, "{words}: {stderr}");
            assert!(manager.servers().is_empty());
            assert_eq!(entries(&bundle.path), before.0);
            assert!(entries(&manager.sockets()).is_empty());
            let name = cotter::shim::socket::name(&manager.grpc(), &manager.namespace, "c1");
            assert!(!Path::new("/run/containerd/s").join(name).exists());
        }
        // Options that are another runtime's: the Create will say so, if they are sent there too.
        succeeded(&bundle.start_any(dialect, garbage("io.containerd.runhcs.v1.Options")));
    }
}
