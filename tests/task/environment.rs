//! Whose the variables are that a runtime is started with: the operator's, and none of the shim's own.

use std::fs;

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::{TempDir, tool};

const TUNABLES: &str = "GLIBC_TUNABLES";

/// The variables that the runtime and the shim have got, with some of the operator's.
async fn variables(operator: &[(&str, &str)]) -> [Vec<String>; 2] {
    let dir = TempDir::new("cotter-env");
    let wrapper = dir.path().join("runtime");
    let seen = dir.path().join("seen");
    let runtime = tool(RUNTIMES[0]);
    let script = format!(
        "#!/bin/sh\ncat /proc/$$/environ >{}\nexec {} \"$@\"\n",
        seen.display(),
        runtime.display(),
    );
    crate::common::write_program(&wrapper, script);
    let spec = Spec::new("c", ["sleep", "1000"]);
    let wrapper = wrapper.to_str().unwrap();
    let mut shim = Shim::start_with(Dialect::Proto23, wrapper, spec, "c", operator).await;
    shim.run("c", &["sleep", "1000"]).await;
    let shims = format!("/proc/{}/environ", shim.pid());
    let split = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        text.split('\0').map(str::to_owned).collect()
    };
    let both = [seen, shims.into()].map(|path| split(fs::read(path).unwrap()));
    shim.remove("c").await;
    shim.end().await;
    both
}

fn tunables(variables: &[String]) -> Option<&str> {
    variables
        .iter()
        .find_map(|variable| variable.strip_prefix(TUNABLES)?.strip_prefix('='))
}

#[test]
fn a_runtime_gets_the_operators_and_not_the_shims() {
    run(async {
        let [runtime, shim] = variables(&[("OPERATOR", "says"), ("COTTER_X", "1")]).await;
        assert!(runtime.contains(&"OPERATOR=says".into()), "{runtime:?}");
        assert!(!runtime.iter().any(|v| v.starts_with("COTTER_")));
        assert_eq!(tunables(&runtime), None);
        // So that it keeps little memory.
        let ours = tunables(&shim).unwrap();
        assert!(ours.contains("glibc.malloc.tcache_count=0"), "{ours}");
    });
}

#[test]
fn an_operators_settings_of_the_library_hold_for_both() {
    run(async {
        let own = "glibc.malloc.check=0";
        let both = variables(&[(TUNABLES, own)]).await;
        for variables in &both {
            assert_eq!(tunables(variables), Some(own));
        }
    });
}
