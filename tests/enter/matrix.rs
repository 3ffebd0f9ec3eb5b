//! The same process spec by the runtime and by the shim, case by case.

use serde_json::{Value, json};

use crate::common::shim::run;
use crate::ran::{By, Ran, compare};
use crate::world::{Kind, Making, RUNTIMES, Streams, UNKNOWN, World, process};

/// Why the runtime does it; none: the shim does.
pub type Why = fn(Kind) -> Option<&'static str>;

/// What is otherwise in a spec.
pub type Change = fn(&mut Value);

/// One spec, and who is to do it.
pub struct Case {
    pub name: &'static str,
    pub streams: Streams,
    pub change: Change,
    /// Why it is the runtime's; none: it is not.
    pub by: Why,
}

/// The shim does it, whatever the runtime is.
pub fn direct(_: Kind) -> Option<&'static str> {
    None
}

/// The runtime does it, whatever it is.
pub const PROGRAM: Why = |_| Some("its program could not be run");

/// The probe with its outputs.
pub const fn case(name: &'static str, change: Change, by: Why) -> Case {
    Case {
        name,
        streams: Streams::Outputs,
        change,
        by,
    }
}

/// Compares all of them in one container.
pub async fn compare_all(world: &World, cases: &[Case]) -> Vec<String> {
    let mut all = Vec::new();
    for case in cases {
        // Attempts that fail one after another would have an end.
        let mut healthy = process(&["true"]);
        healthy["env"].as_array_mut().unwrap().push(json!("HOME=/"));
        let (healthy, by) = world.exec(&healthy, Streams::None).await;
        assert!(
            matches!(healthy, Ran::Done { status: 0, .. }),
            "{healthy:?}"
        );
        assert!(world.is_by(&by, world.why), "{by:?}, not {:?}", world.why);
        let mut spec = process(&["probe"]);
        (case.change)(&mut spec);
        all.extend(compare_one(world, case, &spec).await);
    }
    all
}

async fn compare_one(world: &World, case: &Case, spec: &Value) -> Vec<String> {
    let expected = world.why.or_else(|| world.kind.and_then(case.by));
    let (own, by) = world.exec(spec, case.streams).await;
    let mut all = Vec::new();
    if !world.is_by(&by, expected) {
        all.push(format!("by {by:?}, not {expected:?}; {own:?}"));
    }
    let mut spec = spec.clone();
    spec[UNKNOWN] = json!(1);
    let (of_runtime, by) = world.exec(&spec, case.streams).await;
    assert!(matches!(by, By::Runtime(_)), "{}: {by:?}", case.name);
    // Two by the runtime itself need not agree.
    if world.why.is_none() {
        // The Go of runc 1.1 raises the limit of open files before or after it is given the exec's.
        let is_chance = |line: &String| {
            let raised = world.kind == Some(Kind::Runc11) && expected.is_some();
            raised && line.contains("Max open files")
        };
        let lines = compare(&own, &of_runtime).into_iter();
        all.extend(lines.filter(|line| !is_chance(line)));
    }
    let line = |line| {
        format!(
            "{} {:?}: {}: {line}",
            world.shim.options.binary_name, world.kind, case.name
        )
    };
    all.into_iter().map(line).collect()
}

/// Has each runtime's container judge these.
#[track_caller]
pub fn same_with_all(cases: &[Case]) {
    let mut all = Vec::new();
    for runtime in RUNTIMES {
        run(async {
            let world = World::new(runtime, Making::PLAIN).await;
            all.extend(compare_all(&world, cases).await);
            world.end().await;
        });
    }
    assert!(all.is_empty(), "{all:#?}");
}
