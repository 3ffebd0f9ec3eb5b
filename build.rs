//! Turns proto/ into Rust, without protoc.
//!
//! Every file of proto/ has a name of its own, so all generated modules can be siblings, as the
//! generators expect (they refer to each other as `super::<file>`). Both generators can write a
//! mod.rs and would overwrite each other's; neither is asked to, this script writes it.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

const MESSAGES: [&str; 15] = [
    "bootstrap",
    "cgroups_v1",
    "cgroups_v2",
    "cotter_oom",
    "cotter_pids",
    "events",
    "events_service",
    "introspection",
    "journal",
    "process",
    "runc_options",
    "runtime_options",
    "task",
    "task_v2",
    "types",
];

/// Those of the above that declare a service.
const SERVICES: [&str; 4] = ["events_service", "introspection", "task", "task_v2"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    Codegen::new()
        .out_dir(&out)
        .include("proto")
        .inputs(MESSAGES.map(|name| format!("proto/{name}.proto")))
        .rust_protobuf()
        .rust_protobuf_customize(
            ProtobufCustomize::default()
                .gen_mod_rs(false)
                // No descriptors and no reflection: half the code, and nothing to build at start.
                .lite_runtime(true)
                .generate_accessors(false)
                .generate_getter(false),
        )
        .customize(Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;

    let modules: String = MESSAGES
        .iter()
        .map(|name| format!("pub mod {name};\n"))
        .chain(
            SERVICES
                .iter()
                .map(|name| format!("pub mod {name}_ttrpc;\n")),
        )
        .collect();
    fs::write(out.join("mod.rs"), modules)?;
    Ok(())
}
