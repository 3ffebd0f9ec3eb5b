//! Containers whose cgroups systemd manages, on cgroup v2: in the virtual machine (`make test-vm`).

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use serde_json::json;

use super::common::shim::{Shim, run};
use super::common::unique;
use super::world::{KNOWN, World};

#[test]
#[ignore = "where systemd manages cgroups: make test-vm"]
fn in_a_scope() {
    for runtime in KNOWN {
        run(async {
            let name = unique("t");
            let mut spec = Spec::new("c", ["sleep", "1000"]);
            spec.cgroups_path = format!("system.slice:{name}:c");
            let environment = [("COTTER_EXEC_BY", "direct")];
            let mut shim =
                Shim::start_with(Dialect::Proto23, runtime, spec, "c", &environment).await;
            shim.options.systemd_cgroup = true;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            let world = World::around(shim);
            world.is_same(&[]).await;
            world
                .is_same(&[("user", json!({ "uid": 1000, "gid": 1000 }))])
                .await;
            world.end().await;
        });
    }
}
