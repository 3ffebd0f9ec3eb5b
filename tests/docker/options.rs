//! Ways of daemon.json to ask for the shim, and for what it runs, that Docker has since 23.0.

use std::fs;

use serde_json::{Value, json};

use crate::common::containerd::{Form, go_shim};
use crate::common::{TempDir, tool};
use crate::engine::{Engine, Line, all_at_once};

/// An engine whose default runtime is `runtime`, with more in daemon.json.
fn start(form: Form, runtime: &Value, more: &Value) -> Engine {
    let mut config = json!({ "runtimes": { "chosen": runtime }, "default-runtime": "chosen" });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Engine::start_with(Line::V28_5, form, "RUNC_1_3", config)
}

/// A whole life.
fn lives(engine: &Engine) {
    let done = engine.run(&["--rm"], &["sh", "-c", "echo out; exit 7"]);
    assert_eq!((done.code, &*done.out), (7, "out\n"), "{done:?}");
    engine.up("lives", &[], &["sleep", "1000"]);
    assert_eq!(engine.exec(&[], "lives", &["echo", "on"]).ok(), "on\n");
    engine.docker(&["kill", "lives"]).ok();
    assert_eq!(engine.exited("lives"), 137);
    engine.docker(&["rm", "lives"]).ok();
}

/// A whole life, and that it was crun's.
fn lives_with_crun(engine: &Engine) {
    assert!(engine.crun());
    lives(engine);
    engine.up("crun", &[], &["sleep", "1000"]);
    let id = engine.inspect("crun")["Id"].as_str().unwrap().to_owned();
    // What crun keeps of a container, and runc does not.
    let status = engine
        .containerd
        .owner
        .runtime_state()
        .join(id)
        .join("status");
    assert!(status.exists(), "{}", status.display());
    engine.remove("crun");
}

#[test]
fn runtime_type() {
    let kind = if go_shim() { "runc" } else { "cotter" };
    let runtime = json!({ "runtimeType": format!("io.containerd.{kind}.v2") });
    let engine = start(Form::Name, &runtime, &json!({}));
    all_at_once(engine, &[("runtimeType in daemon.json", lives)]);
}

#[test]
fn runc_options() {
    let crun = tool("CRUN_1_21");
    let options = json!({ "BinaryName": crun });
    let runtime = json!({ "runtimeType": "io.containerd.runc.v2", "options": options });
    let mut engine = start(Form::DropIn, &runtime, &json!({}));
    engine.runtime = crun;
    all_at_once(
        engine,
        &[("runtimeType and options of runc", lives_with_crun)],
    );
}

/// For a type that Docker does not know, options are in a file.
#[test]
fn toml_options() {
    if go_shim() {
        // Its type is one that Docker knows.
        return;
    }
    let dir = TempDir::new("toml");
    let file = dir.path().join("options.toml");
    let crun = tool("CRUN_1_21");
    fs::write(&file, format!("BinaryName = \"{}\"\n", crun.display())).unwrap();
    let options = json!({ "ConfigPath": file });
    let runtime = json!({ "runtimeType": "io.containerd.cotter.v2", "options": options });
    let mut engine = start(Form::Name, &runtime, &json!({}));
    engine.runtime = crun;
    all_at_once(
        engine,
        &[("runtimeType and options in TOML", lives_with_crun)],
    );
}

/// The way in which Docker 29 keeps images by default.
#[test]
fn image_store() {
    let runtime = json!({ "path": tool("RUNC_1_3") });
    let store =
        json!({ "features": { "containerd-snapshotter": true }, "storage-driver": "overlayfs" });
    let engine = start(Form::DropIn, &runtime, &store);
    all_at_once(engine, &[("images kept by containerd", lives)]);
}
