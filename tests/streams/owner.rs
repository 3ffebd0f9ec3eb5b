//! The container's ends of the pipes belong to the uid and gid of the options, so that a process
//! without privileges can open `/dev/stdout` again.

use std::fs;

use cotter::manager::spec::Spec;
use cotter::proto::Any;
use cotter::proto::task::ExecProcessRequest;
use serde_json::{Value, json};

use crate::client::{Reader, Writer};
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::common::tool;

const USER: u32 = 1234;
const GROUP: u32 = 5678;

/// What the process sees of its streams, and whether it can open them again.
const LOOKS: &str = "for fd in 0 1 2; do stat -Lc %u:%g /proc/self/fd/$fd; done; \
    echo again > /proc/self/fd/1; cat < /proc/self/fd/0 > /proc/self/fd/2";

/// Takes the privileges from an OCI process.
fn humble(mut process: Value) -> Value {
    process["user"] = json!({"uid": USER, "gid": GROUP});
    process["capabilities"] = json!({});
    process
}

/// A runtime that writes down who owns the streams it is given, before it can change that.
fn witness(shim_dir: &std::path::Path, runtime: &str) -> String {
    let path = shim_dir.join("witness");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" create \"*|*\" exec \"*)\n\
         for fd in 0 1 2; do who=$(stat -Lc %u:%g /proc/$$/fd/$fd); echo $who >>{0}.seen; done;; esac\n\
         exec {1} \"$@\"\n",
        path.display(),
        tool(runtime).display()
    );
    crate::common::write_program(&path, script);
    path.to_string_lossy().into_owned()
}

#[test]
fn the_pipes_belong_to_io_uid_and_io_gid() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            let script = witness(shim.dir(), runtime);
            let seen = format!("{script}.seen");
            shim.options.binary_name = script;
            (shim.options.io_uid, shim.options.io_gid) = (USER, GROUP);
            let expected = format!("{USER}:{GROUP}\n").repeat(3);

            let bundle = shim.bundle("d", Spec::new("d", ["sh", "-c", LOOKS]));
            let config = bundle.join("config.json");
            let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
            spec["process"] = humble(spec["process"].take());
            fs::write(&config, spec.to_string()).unwrap();
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            fs::remove_file(&seen).unwrap();

            for (id, exec) in [("d", ""), ("c", "x")] {
                let fifos = shim.fifos(id, true);
                let (mut out, err) = (Reader::open(&fifos.stdout), Reader::open(&fifos.stderr));
                if exec.is_empty() {
                    shim.create_with(id, &fifos).await.unwrap();
                } else {
                    let process = humble(Spec::new(id, ["sh", "-c", LOOKS]).process());
                    let request = ExecProcessRequest {
                        stdin: fifos.stdin.clone(),
                        stdout: fifos.stdout.clone(),
                        stderr: fifos.stderr.clone(),
                        spec: Some(Any {
                            value: process.to_string().into_bytes(),
                            ..Default::default()
                        })
                        .into(),
                        ..shim.exec_request(id, exec, &[])
                    };
                    shim.tasks.exec(&request).await.unwrap();
                }
                shim.start_process(id, exec).await.unwrap();
                assert_eq!(
                    fs::read_to_string(&seen).unwrap(),
                    expected,
                    "given to {runtime}"
                );
                fs::remove_file(&seen).unwrap();
                let text = out.exactly(expected.len() + "again\n".len()).await;
                assert_eq!(
                    String::from_utf8(text).unwrap(),
                    expected.clone() + "again\n"
                );
                Writer::open(&fifos.stdin).write(b"words").await;
                shim.close_io(id, exec, true).await.unwrap();
                assert_eq!(err.text().await, "words");
                assert_eq!(shim.wait(id, exec).await.unwrap().exit_status, 0);
                shim.delete(id, exec).await.unwrap();
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
