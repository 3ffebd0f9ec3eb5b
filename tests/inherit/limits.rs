//! Limits under which a shim was started: of open files, and of a file's size.

use std::fs;
use std::path::Path;

use cotter::dump::Dump;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::{Collected, Fifos, collect};
use cotter::proto::introspection::{DumpRequest, IntrospectionClient};
use serde_json::Value;
use tokio::time::timeout;
use ttrpc::r#async::Client;

use crate::common::LIMIT;
use crate::common::containerd::{Version, shim_under_test};
use crate::common::shim::{RUNTIMES, Shim, until};
use crate::gaps::with_gaps;
use crate::{Odd, run};

async fn start(odd: &Odd, runtime: &str, annotations: &[(&str, &str)]) -> Shim {
    let mut spec = Spec::new("c", ["/bin/sleep", "1000"]);
    let annotations = annotations
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    spec.annotations.extend(annotations);
    let path = odd.path.clone();
    Shim::start_by(path, Dialect::Proto23, runtime, spec, "c", &[]).await
}

async fn text(out: Collected) -> String {
    String::from_utf8(out.finish(LIMIT).await.unwrap()).unwrap()
}

fn limit(pid: u32, name: &str) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    crate::facts::limits(&limits)[name].clone()
}

/// Has a container get the limits that the runtime has.
pub fn without_limits(config: &Path) {
    let mut spec: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    spec["process"].as_object_mut().unwrap().remove("rlimits");
    fs::write(config, spec.to_string()).unwrap();
}

/// The same of an exec.
fn own_limits(process: &[u8]) -> Vec<u8> {
    let mut process: Value = serde_json::from_slice(process).unwrap();
    process.as_object_mut().unwrap().remove("rlimits");
    process.to_string().into_bytes()
}

/// Each holds three FIFOs open: three times as many as the soft limit, were it the shim's.
#[test]
fn as_many_processes_as_the_hard_limit_allows() {
    const MANY: usize = 60;
    let odd = Odd::new(
        "ulimit -S -n 64; ulimit -H -n 5000",
        "",
        &shim_under_test(Version::V2_1),
    );
    for runtime in RUNTIMES {
        run(async {
            let shim = start(&odd, runtime, &[]).await;
            without_limits(&shim.bundle_path("c").join("config.json"));
            shim.create("c").await.unwrap();
            let init = shim.start_process("c", "").await.unwrap();
            let mut outs = Vec::new();
            for n in 0..MANY {
                let exec = format!("x{n}");
                let fifos = shim.fifos(&exec, true);
                let out = collect(&fifos.stdout).unwrap();
                let args = ["/bin/sh", "-c", "ulimit -S -n; ulimit -H -n; read _"];
                let mut request = shim.exec_request("c", &exec, &args);
                request.spec.as_mut().unwrap().value = own_limits(&request.spec.value);
                (request.stdin, request.stdout) = (fifos.stdin, fifos.stdout);
                request.stderr = fifos.stderr;
                shim.tasks.exec(&request).await.unwrap();
                shim.start_process("c", &exec).await.unwrap();
                outs.push((exec, out));
            }
            let name = "Max open files";
            assert_eq!(limit(shim.pid(), name), "5000 5000");
            // runc raises its own, and its containers keep that where their spec is silent, here as below the
            // Go shim: see `compare`.
            let soft = if runtime == "RUNC" { "5000" } else { "64" };
            assert_eq!(limit(init, name), format!("{soft} 5000"));
            for (exec, out) in outs {
                shim.close_io("c", &exec, true).await.unwrap();
                assert_eq!(text(out).await, format!("{soft}\n5000\n"), "{exec}");
                shim.wait("c", &exec).await.unwrap();
                shim.delete("c", &exec).await.unwrap();
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// In the units of sh(1).
const SMALL_FILES: &str = "ulimit -f 512";
const LARGEST: u64 = 256 << 10;

async fn lost(shim: &Shim, container: &str) -> u64 {
    let client = Client::connect(&shim.endpoint.address).await.unwrap();
    let client = IntrospectionClient::new(client);
    let request = DumpRequest {
        quiet: true,
        ..Default::default()
    };
    let within = ttrpc::context::with_duration(LIMIT);
    let answer = client.dump(within, &request).await.unwrap();
    let dump = Dump::from_json(&answer.json).unwrap();
    let streams = dump.section("streams").unwrap().as_array().unwrap();
    let of = |row: &&serde_json::Value| row["container"] == container;
    let lost = |row: &serde_json::Value| row["lost_bytes"].as_u64().unwrap();
    streams.iter().filter(of).map(lost).sum()
}

fn lines(count: u32) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

/// A container that is well beside, in the same shim.
async fn healthy(shim: &mut Shim, meanwhile: impl AsyncFnOnce(&Shim)) {
    let fifos = shim.fifos("h", false);
    let out = collect(&fifos.stdout).unwrap();
    shim.bundle(
        "h",
        Spec::new("h", ["/bin/sh", "-c", "seq 1 200000; sleep 1000"]),
    );
    shim.create_with("h", &fifos).await.unwrap();
    shim.start_process("h", "").await.unwrap();
    meanwhile(shim).await;
    let removed = shim.remove("h").await;
    assert_eq!(removed.exit_status, 137);
    assert!(text(out).await == lines(200_000));
}

#[test]
fn a_file_that_may_not_grow_costs_what_does_not_fit() {
    let odd = Odd::new(SMALL_FILES, "", &shim_under_test(Version::V2_1));
    for runtime in RUNTIMES {
        run(async {
            let mut shim = start(&odd, runtime, &[]).await;
            let server = shim.pid();
            healthy(&mut shim, async |shim| {
                shim.create("c").await.unwrap();
                shim.start_process("c", "").await.unwrap();
                let file = shim.dir().join("out");
                let args = ["/bin/sh", "-c", "seq 1 100000; sleep 0.1; exit 3"];
                let fifos = Fifos {
                    stdout: format!("file://{}", file.display()),
                    ..Fifos::default()
                };
                shim.exec_with("c", "x", &args, &fifos).await.unwrap();
                assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 3);
                let written = lines(100_000);
                let all = written.len() as u64;
                until("all that fits is in the file", || size(&file) == LARGEST).await;
                assert!(written.as_bytes().starts_with(&fs::read(&file).unwrap()));
                let mut counted = 0;
                while counted != all - LARGEST {
                    let now = lost(shim, "c").await;
                    assert!((counted..=all - LARGEST).contains(&now), "{now}");
                    counted = now;
                }
                shim.delete("c", "x").await.unwrap();
            })
            .await;
            assert_eq!(shim.pid(), server, "the same shim");
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

fn size(file: &Path) -> u64 {
    file.metadata().map_or(0, |file| file.len())
}

/// The backlog is a file as well, to the kernel.
#[test]
fn what_nobody_reads_waits_or_is_counted_as_lost() {
    let odd = Odd::new(SMALL_FILES, "", &shim_under_test(Version::V2_1));
    for (runtime, policy) in RUNTIMES.iter().flat_map(|r| [(r, "block"), (r, "drop")]) {
        run(async {
            let annotations = [
                ("io.cotter.stdout-buffer", "1m"),
                ("io.cotter.stdout-overflow", policy),
            ];
            let mut shim = start(&odd, runtime, &annotations).await;
            let server = shim.pid();
            healthy(&mut shim, async |shim| {
                shim.create("c").await.unwrap();
                shim.start_process("c", "").await.unwrap();
                let fifos = shim.fifos("x", false);
                let script = "seq 1 500000; exit 4";
                shim.exec_with("c", "x", &["/bin/sh", "-c", script], &fifos)
                    .await
                    .unwrap();
                if policy == "drop" {
                    let ended = timeout(LIMIT, shim.wait("c", "x")).await;
                    assert_eq!(ended.expect("it waits for nobody").unwrap().exit_status, 4);
                } else {
                    until("it is buffered", || backlog(server) > 0).await;
                }
                let out = collect(&fifos.stdout).unwrap();
                let written = lines(500_000);
                assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 4);
                shim.delete("c", "x").await.unwrap();
                let (arrived, missing, gaps) = with_gaps(&text(out).await, &written);
                assert_eq!(arrived + missing, written.len() as u64);
                assert_eq!(gaps > 0, policy == "drop");
            })
            .await;
            assert_eq!(shim.pid(), server, "the same shim");
            shim.remove("c").await;
            shim.end().await;
        });
    }
}

/// Bytes of memory that hold output in a shim.
fn backlog(shim: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let fds = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().flatten();
    let of = |fd: fs::DirEntry| {
        let name = fs::read_link(fd.path()).ok()?;
        let is_one = name.to_string_lossy().starts_with("/memfd:cotter-output");
        is_one.then(|| fd.path().metadata().map_or(0, |file| file.blocks() * 512))
    };
    fds.filter_map(of).sum()
}
