//! What only the process itself can tell that it has inherited: its keyrings, its secure bits, what it has asked the
//! kernel for.

use std::fs;
use std::path::Path;

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::collect;
use cotter::proto::pack;
use cotter::proto::runc_options::Options;
use cotter::proto::task::CreateTaskRequest;
use serde_json::{Value, json};

use crate::common::LIMIT;
use crate::common::containerd::{Version, shim_under_test};
use crate::common::shim::{RUNTIMES, Shim, process};
use crate::compare::go;
use crate::facts::{Facts, differences};
use crate::{Odd, run};

/// What each fact that is told begins with.
const TOLD: &str = "inherited ";
/// The session keyring of whoever starts the shim.
const KEYRING: &std::ffi::CStr = c"cotter-callers";

/// What there is to be told can be; in containers it is run by the test below.
#[test]
fn told_from_inside() {
    let prctl = |what: libc::c_int| {
        let mut answer: libc::c_int = -1;
        let at = (&raw mut answer) as libc::c_ulong;
        // SAFETY: those that take an address write an int there; the others take no notice of it.
        let done = unsafe { libc::prctl(what, at, 0, 0, 0) };
        if answer == -1 { done } else { answer }
    };
    let keyring = |which: i32| {
        let mut text = [0_u8; 256];
        // SAFETY: numbers, and a buffer with its length.
        let length = unsafe {
            libc::syscall(
                libc::SYS_keyctl,
                libc::c_ulong::from(libc::KEYCTL_DESCRIBE),
                libc::c_long::from(which),
                text.as_mut_ptr(),
                text.len(),
            )
        };
        match usize::try_from(length) {
            Ok(length) => String::from_utf8_lossy(&text[..length - 1]).into_owned(),
            Err(_) => std::io::Error::last_os_error().to_string(),
        }
    };
    let plain = |what: libc::c_int| {
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(what, 0, 0, 0, 0) }
    };
    let facts = [
        ("secure bits", plain(libc::PR_GET_SECUREBITS).to_string()),
        (
            "kept capabilities",
            plain(libc::PR_GET_KEEPCAPS).to_string(),
        ),
        ("dumpable", plain(libc::PR_GET_DUMPABLE).to_string()),
        ("machine checks", plain(libc::PR_MCE_KILL_GET).to_string()),
        ("timer slack", plain(libc::PR_GET_TIMERSLACK).to_string()),
        (
            "signal of the parent's death",
            prctl(libc::PR_GET_PDEATHSIG).to_string(),
        ),
        ("subreaper", prctl(libc::PR_GET_CHILD_SUBREAPER).to_string()),
        ("session keyring", keyring(libc::KEY_SPEC_SESSION_KEYRING)),
        ("user keyring", keyring(libc::KEY_SPEC_USER_KEYRING)),
        ("thread keyring", keyring(libc::KEY_SPEC_THREAD_KEYRING)),
        ("process keyring", keyring(libc::KEY_SPEC_PROCESS_KEYRING)),
    ];
    for (name, value) in facts {
        assert_ne!(value, "-1", "{name}");
        println!("\n{TOLD}{name}: {value}");
    }
}

/// The command line of that program, for a container that has the machine's files at `/dev/host`.
fn program() -> Vec<String> {
    let own = std::env::current_exe().unwrap();
    let words = ["chroot", "/dev/host", own.to_str().unwrap()];
    let which = ["--exact", "--nocapture", "inside::told_from_inside"];
    words
        .iter()
        .chain(&which)
        .map(|word| (*word).to_owned())
        .collect()
}

fn with_the_machine_s_files(config: &Path) {
    let mut spec: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    let mount = json!({
        "destination": "/dev/host", "type": "bind", "source": "/", "options": ["rbind", "ro"],
    });
    spec["mounts"].as_array_mut().unwrap().push(mount);
    fs::write(config, spec.to_string()).unwrap();
}

fn facts(text: &[u8]) -> Facts {
    let text = String::from_utf8_lossy(text);
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(TOLD)?.split_once(": "));
    let facts: Facts = lines
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    assert!(facts.len() > 8, "{text}");
    facts
}

/// Of an init and of an exec below one shim.
async fn seen(shim: &Path, runtime: &str, no_new_keyring: bool) -> [Facts; 2] {
    let odd = Odd::new("", "", shim);
    let spec = Spec::new("c", program());
    let mut shim =
        Shim::start_by(odd.path.clone(), Dialect::Proto23, runtime, spec, "c", &[]).await;
    shim.bundle("d", Spec::new("d", ["sleep", "1000"]));
    for id in ["c", "d"] {
        with_the_machine_s_files(&shim.bundle_path(id).join("config.json"));
    }
    let options = Options {
        no_new_keyring,
        ..shim.options.clone()
    };
    let fifos = shim.fifos("c", false);
    // The Go shim takes both or none.
    let (out, _errors) = (collect(&fifos.stdout).unwrap(), collect(&fifos.stderr));
    let request = CreateTaskRequest {
        stdout: fifos.stdout.clone(),
        stderr: fifos.stderr.clone(),
        options: Some(pack(&options).unwrap()).into(),
        ..shim.create_request("c")
    };
    shim.tasks.create(&request).await.unwrap();
    shim.start_process("c", "").await.unwrap();
    assert_eq!(shim.wait("c", "").await.unwrap().exit_status, 0);
    let init = facts(&out.finish(LIMIT).await.unwrap());
    let request = CreateTaskRequest {
        options: Some(pack(&options).unwrap()).into(),
        ..shim.create_request("d")
    };
    shim.tasks.create(&request).await.unwrap();
    shim.start_process("d", "").await.unwrap();
    let fifos = shim.fifos("x", false);
    // The Go shim takes both or none.
    let (out, _errors) = (collect(&fifos.stdout).unwrap(), collect(&fifos.stderr));
    let words = program();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut request = shim.exec_request("d", "x", &words);
    request.stdout.clone_from(&fifos.stdout);
    request.stderr.clone_from(&fifos.stderr);
    request.spec = Some(process("d", &words)).into();
    shim.tasks.exec(&request).await.unwrap();
    shim.start_process("d", "x").await.unwrap();
    assert_eq!(shim.wait("d", "x").await.unwrap().exit_status, 0);
    let exec = facts(&out.finish(LIMIT).await.unwrap());
    shim.remove("c").await;
    shim.remove("d").await;
    if odd.program != go() {
        shim.end().await;
    }
    [init, exec]
}

#[test]
fn keyrings_and_secure_bits_are_those_that_the_go_shim_hands_down() {
    // SAFETY: a name, and numbers. It is this thread's keyring, which what it starts gets.
    let joined = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::c_ulong::from(libc::KEYCTL_JOIN_SESSION_KEYRING),
            KEYRING.as_ptr(),
        )
    };
    assert!(joined > 0, "{}", std::io::Error::last_os_error());
    for runtime in RUNTIMES {
        for no_new_keyring in [false, true] {
            run(async {
                let ours = shim_under_test(Version::V2_1);
                let ours = seen(&ours, runtime, no_new_keyring).await;
                let theirs = seen(&go(), runtime, no_new_keyring).await;
                // An exec of crun's has the caller's in any case.
                let callers = ours[0]["session keyring"].ends_with(KEYRING.to_str().unwrap());
                assert_eq!(callers, no_new_keyring, "{runtime}: {ours:?}");
                for (who, (ours, theirs)) in ["init", "exec"].iter().zip(ours.iter().zip(&theirs)) {
                    let all = differences(ours, theirs);
                    assert!(all.is_empty(), "{runtime} {who} {no_new_keyring}: {all:#?}");
                }
            });
        }
    }
}
