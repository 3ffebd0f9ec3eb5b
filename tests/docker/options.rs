//! The shim asked for by a runtimeType of daemon.json, as Docker has it since 23.0.

use crate::engine::{Case, Engine};

pub const CASES: &[Case] = &[("runtimeType in daemon.json", by_type)];

fn by_type(engine: &Engine) {
    assert_eq!(
        engine
            .run(&["--rm"], &["sh", "-c", "echo out; exit 7"])
            .code,
        7
    );
    engine.up("typed", &[], &["sleep", "1000"]);
    assert_eq!(engine.exec(&[], "typed", &["echo", "on"]).ok(), "on\n");
    engine.docker(&["kill", "typed"]).ok();
    assert_eq!(engine.exited("typed"), 137);
    engine.docker(&["rm", "typed"]).ok();
}
