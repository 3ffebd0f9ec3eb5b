//! A caller that ignores SIGCHLD: to the kernel, its children need not be waited for.

use std::process::{Command, Stdio};

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::proto::types::RuntimeInfo;
use cotter::proto::{pack, runc_options::Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::Message;

use crate::common::census::entries;
use crate::common::containerd::{Version, shim_under_test};
use crate::common::cotter::cotter;
use crate::common::shim::{RUNTIMES, Shim, ended, until};
use crate::common::{TempDir, run_with_input, tool};
use crate::{Odd, run};

const IGNORED: &str = "env --ignore-signal=CHLD --block-signal=CHLD";

#[test]
fn a_whole_life_is_as_ever() {
    let odd = Odd::new("", IGNORED, &shim_under_test(Version::V2_1));
    for runtime in RUNTIMES {
        run(async {
            let spec = Spec::new("c", ["/bin/sleep", "1000"]);
            let path = odd.path.clone();
            let mut shim = Shim::start_by(path, Dialect::Proto23, runtime, spec, "c", &[]).await;
            shim.create("c").await.unwrap();
            let init = shim.start_process("c", "").await.unwrap();
            shim.exec("c", "x", &["/bin/sh", "-c", "exit 7"])
                .await
                .unwrap();
            assert_eq!(shim.wait("c", "x").await.unwrap().exit_status, 7);
            shim.run("d", &["/bin/sh", "-c", "exit 5"]).await;
            assert_eq!(shim.wait("d", "").await.unwrap().exit_status, 5);
            shim.delete("d", "").await.unwrap();

            let server = shim.pid();
            kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).unwrap();
            until("the shim has ended", || ended(server)).await;
            let deleted = shim.launch.delete().await.unwrap();
            assert_eq!(deleted.warnings, "");
            assert_eq!(deleted.response.pid, init);
            until("its container has ended", || ended(init)).await;
            assert_eq!(entries(&shim.state_dir()), Vec::<std::path::PathBuf>::new());
        });
    }
}

#[test]
fn what_a_runtime_can_do_is_told() {
    let odd = Odd::new("", IGNORED, &shim_under_test(Version::V2_1));
    let options = Options {
        binary_name: tool("RUNC_1_3").display().to_string(),
        ..Options::default()
    };
    let any = pack(&options).unwrap().write_to_bytes().unwrap();
    let mut command = Command::new(&odd.path);
    command.arg("-info").stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &any).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert!(info.features.is_some());
}

#[test]
fn a_tool_is_a_manager_too() {
    let odd = Odd::new("", IGNORED, cotter());
    let home = TempDir::new("home");
    let mut command = Command::new(&odd.path);
    command
        .args(["run", "--runtime"])
        .arg(tool("RUNC"))
        .arg("--rootfs")
        .arg(tool("ROOTFS"));
    command
        .args(["--", "sh", "-c", "echo said; exit 9"])
        .env("COTTER_HOME", home.path());
    let done = run_with_input(&mut command, b"");
    assert_eq!(
        (done.code, done.out.as_str()),
        (9, "said\n"),
        "{}",
        done.err
    );
}
