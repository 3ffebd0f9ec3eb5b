//! `delete` where something cannot be read: it says so in one line, and takes nothing for not there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cotter::container::exit_file;
use cotter::events::journal;
use cotter::proto::task::DeleteResponse;
use nix::sys::signal::Signal;
use protobuf::Message;
use serde_json::json;

use crate::delete::write_script;
use crate::harness::*;

/// Runs the action as a root who may not read everything, and returns its warnings.
fn delete(bundle: &Bundle) -> String {
    let shim = bundle.command("delete");
    let mut limited = Command::new("setpriv");
    limited.args(["--bounding-set", "-dac_override,-dac_read_search"]);
    limited.arg(shim.get_program()).args(shim.get_args());
    limited.current_dir(&bundle.path);
    limited
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in shim.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let output = run(limited, b"");
    assert!(output.status.success());
    let answer = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(answer.exit_status, 137);
    String::from_utf8(output.stderr).unwrap()
}

fn close(path: &Path) -> Permissions {
    let before = path.metadata().unwrap().permissions();
    fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
    before
}

#[test]
fn a_file_that_cannot_be_read_is_told_of() {
    let manager = Manager::new("delete-unread");
    let bundle = manager.bundle("c1", None);
    assert_eq!(delete(&bundle), "");
    for name in [
        "options.json",
        "runtime",
        "init.pid",
        "address",
        "bootstrap.json",
        "config.json",
        exit_file::NAME,
        journal::NAME,
    ] {
        let path = bundle.path.join(name);
        let content = fs::read(&path).unwrap_or_default();
        fs::write(&path, &content).unwrap();
        let before = close(&path);
        let expected = format!("read {}: permission denied\n", path.display());
        assert_eq!(delete(&bundle), expected, "{name}");
        fs::set_permissions(&path, before).unwrap();
    }
    // ENOTDIR.
    let file = bundle.path.join("log.json");
    fs::write(&file, "").unwrap();
    let runtime = bundle.path.join("fake");
    write_script(&runtime, "exit 0");
    let options = json!({ "root": file, "binary_name": runtime });
    fs::write(bundle.path.join("options.json"), options.to_string()).unwrap();
    let known = file.join(&manager.namespace).join("c1");
    let expected = format!("look for {}: not a directory\n", known.display());
    assert_eq!(delete(&bundle), expected);
}

/// A shim whose socket cannot be looked for may live.
#[test]
fn nothing_of_a_shim_that_may_live_is_removed() {
    let manager = Manager::new("delete-unread-socket");
    let bundle = manager.bundle("pod", Some("pod"));
    let socket = bundle.start(Dialect::Json);
    manager.end(Signal::SIGKILL);
    let kept = bundle.path.join("log-1-0.json");
    fs::write(&kept, "").unwrap();

    let address = ["address", "bootstrap.json"]
        .map(|name| bundle.path.join(name))
        .into_iter()
        .find(|path| path.exists())
        .unwrap();
    let before = close(&address);
    let warnings = delete(&bundle);
    assert!(warnings.contains(&*address.to_string_lossy()), "{warnings}");
    assert!(kept.exists());
    fs::set_permissions(&address, before).unwrap();

    // Now it can: it is dead.
    assert_eq!(delete(&bundle), "");
    assert!(!kept.exists() && !socket.exists());
}

/// The pod's other containers.
#[test]
fn a_container_that_does_not_say_whose_it_is_is_left_alone() {
    let manager = Manager::new("delete-unread-pod");
    let bundle = manager.bundle("pod", Some("pod"));
    let [mine, unread] = ["mine", "unread"].map(|id| {
        let bundle = manager.bundle(id, Some("pod"));
        fs::write(bundle.path.join("sandbox"), "pod").unwrap();
        fs::write(bundle.path.join("log-1-0.json"), "").unwrap();
        bundle.path
    });
    let left = |bundle: &Path| bundle.join("log-1-0.json").exists();
    let crash = || {
        bundle.start(Dialect::Json);
        manager.end(Signal::SIGKILL);
    };

    crash();
    let dir = bundle.path.parent().unwrap();
    let before = dir.metadata().unwrap().permissions();
    fs::set_permissions(dir, Permissions::from_mode(0o300)).unwrap();
    let expected = format!(
        "look for containers in {}: permission denied\n",
        dir.display()
    );
    assert_eq!(delete(&bundle), expected);
    fs::set_permissions(dir, before).unwrap();
    assert!(left(&mine) && left(&unread));

    crash();
    let sandbox = unread.join("sandbox");
    close(&sandbox);
    let expected = format!("read {}: permission denied\n", sandbox.display());
    // That the manager takes no events comes behind it.
    let warnings = delete(&bundle);
    assert!(warnings.starts_with(&expected), "{warnings}");
    assert!(!left(&mine) && left(&unread));
}
