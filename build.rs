//! Turns proto/ into Rust, without protoc.
//!
//! Every file of proto/ has a name of its own, so all generated modules can be siblings, as the
//! generators expect (they refer to each other as `super::<file>`). Both generators can write a
//! mod.rs and would overwrite each other's; neither is asked to, this script writes it.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    build_stub(&out)?;

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

/// Builds `stub/`, the program without a library that enters containers, for the same target.
///
/// By the compiler itself, without cargo: it is one file of code without dependencies, and `core` is with every
/// target that there is a compiler for.
fn build_stub(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=stub");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.args(["--edition", "2024", "--crate-name", "cotter_stub"]);
    rustc.args(["--crate-type", "bin", "--target", &env::var("TARGET")?]);
    // All in one piece, and nothing unwinds; at fixed addresses, so that nothing is to be done before it begins.
    for option in [
        "panic=abort",
        "opt-level=s",
        "lto=fat",
        "codegen-units=1",
        "strip=symbols",
    ] {
        rustc.args(["-C", option]);
    }
    rustc.args(["-C", "relocation-model=static"]);
    let of_linker = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-Wl,--build-id=none",
        "-Wl,-z,noseparate-code",
        "-Wl,-z,norelro",
        "-Wl,--no-eh-frame-hdr",
    ];
    for option in of_linker {
        rustc.arg("-C").arg(format!("link-arg={option}"));
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let built = rustc
        .arg("-o")
        .arg(out.join("stub"))
        .arg("stub/main.rs")
        .status()?;
    match built.success() {
        true => Ok(()),
        false => Err(format!("build stub/main.rs: {built}").into()),
    }
}
