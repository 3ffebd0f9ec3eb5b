//! Every option of a Create has its effect, in whichever message it comes.
//!
//! Not here: `io_uid` and `io_gid` (tests/streams/owner.rs), `shim_cgroup`, which is about a start
//! (tests/bootstrap).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cotter::manager::spec::Spec;
use cotter::proto::runc_options::Options;
use cotter::proto::task::{CreateTaskRequest, PauseRequest, ResumeRequest, UpdateTaskRequest};
use cotter::proto::{Any, pack, runtime_options};

use crate::client::{SLEEP, create, with_each_runtime, works};
use crate::common::shim::Shim;
use crate::common::{tool, unique};

with_each_runtime! {
    flags_reach_the_runtime, a_keyring_of_its_own_or_none, those_that_say_nothing_here,
    toml_from_the_configuration, toml_in_a_file,
}

/// A runtime that writes down its command lines, and then is the real one without systemd, which
/// this machine need not have.
pub struct Recorder {
    path: PathBuf,
}

impl Recorder {
    pub fn new(dir: &Path, runtime: &str) -> Self {
        let path = dir.join("recorder");
        let script = format!(
            "#!/bin/sh\n\
             echo \"$*\" >>{0}.log\n\
             for arg in \"$@\"; do\n\
             shift; [ \"$arg\" = --systemd-cgroup ] || set -- \"$@\" \"$arg\"\n\
             done\n\
             exec {1} \"$@\"\n",
            path.display(),
            tool(runtime).display(),
        );
        crate::common::write_program(&path, script);
        Self { path }
    }

    pub fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    pub fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path.with_extension("log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }
}

/// A Create of `id`, whose bundle exists, with other options.
fn with(shim: &Shim, id: &str, options: Any) -> CreateTaskRequest {
    CreateTaskRequest {
        options: Some(options).into(),
        ..shim.create_request(id)
    }
}

fn generic(options: runtime_options::Options) -> Any {
    pack(&options).unwrap()
}

async fn flags_reach_the_runtime(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    let recorder = Recorder::new(shim.dir(), runtime);
    for (id, systemd, no_pivot, no_keyring) in [
        ("none", false, false, false),
        ("systemd", true, false, false),
        ("pivot", false, true, false),
        ("keyring", false, false, true),
        ("all", true, true, true),
    ] {
        let log = recorder.path.with_extension("log");
        let _ = fs::remove_file(log);
        let bundle = shim.bundle(id, Spec::new(id, SLEEP));
        let options = Options {
            binary_name: recorder.name(),
            systemd_cgroup: systemd,
            no_pivot_root: no_pivot,
            no_new_keyring: no_keyring,
            ..shim.options.clone()
        };
        let request = with(&shim, id, pack(&options).unwrap());
        create(&shim, &request).await.unwrap();
        shim.start_process(id, "").await.unwrap();
        works(&shim, id).await;
        let pause = PauseRequest {
            id: id.into(),
            ..Default::default()
        };
        shim.tasks.pause(&pause).await.unwrap();
        let resume = ResumeRequest {
            id: id.into(),
            ..Default::default()
        };
        shim.tasks.resume(&resume).await.unwrap();
        let limits = Any {
            value: br#"{"pids":{"limit":50}}"#.to_vec(),
            ..Default::default()
        };
        let update = UpdateTaskRequest {
            id: id.into(),
            resources: Some(limits).into(),
            ..Default::default()
        };
        shim.tasks.update(&update).await.unwrap();
        shim.remove(id).await;

        let calls = recorder.calls();
        let mut commands = BTreeSet::new();
        for call in &calls {
            let words: Vec<&str> = call.split(' ').collect();
            let state = shim.state_dir();
            let begin = ["--root", state.to_str().unwrap(), "--log"];
            assert_eq!(words[..3], begin, "{call}");
            assert_eq!(words[4..6], ["--log-format", "json"], "{call}");
            let said = words[6] == "--systemd-cgroup";
            assert_eq!(said, systemd, "{call}");
            commands.insert(words[6 + usize::from(systemd)].to_owned());
        }
        for command in ["create", "start", "exec", "update", "delete"] {
            assert!(commands.contains(command), "{command}: {calls:?}");
        }
        let asked = calls.iter().find(|call| call.contains(" create ")).unwrap();
        let flags = [
            if no_pivot { " --no-pivot" } else { "" },
            if no_keyring { " --no-new-keyring" } else { "" },
        ];
        let bundle = bundle.display();
        let end = format!(
            " create --bundle {bundle} --pid-file {bundle}/init.pid{} {id}",
            flags.concat()
        );
        assert!(asked.ends_with(&end), "{asked}");
    }
    shim.end().await;
}

/// What the flag does: keyrings are named after the container's id by both runtimes.
async fn a_keyring_of_its_own_or_none(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    for no_keyring in [false, true] {
        let id = unique("keyring");
        shim.bundle(&id, Spec::new(&id, SLEEP));
        let options = Options {
            no_new_keyring: no_keyring,
            ..shim.options.clone()
        };
        let request = with(&shim, &id, pack(&options).unwrap());
        create(&shim, &request).await.unwrap();
        shim.start_process(&id, "").await.unwrap();
        let keys = fs::read_to_string("/proc/keys").unwrap();
        assert_eq!(keys.contains(&format!("{id}:")), !no_keyring, "{keys}");
        shim.remove(&id).await;
    }
    shim.end().await;
}

/// `criu_path` is gone since containerd 1.7, images and the task API's address are the manager's
/// business, CRIU works only when there is a checkpoint, and the shim has its cgroup from its start.
async fn those_that_say_nothing_here(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    let recorder = Recorder::new(shim.dir(), runtime);
    let plain = Options {
        binary_name: recorder.name(),
        ..shim.options.clone()
    };
    let all = Options {
        criu_path: "/nonexistent/criu".into(),
        criu_image_path: "/nonexistent/image".into(),
        criu_work_path: "/nonexistent/work".into(),
        task_api_address: "unix:///nonexistent/api".into(),
        task_api_version: 3,
        shim_cgroup: "/nonexistent/cgroup".into(),
        ..plain.clone()
    };
    let mut calls = Vec::new();
    for options in [plain, all] {
        let bundle = shim.bundle("b", Spec::new("b", SLEEP));
        let request = with(&shim, "b", pack(&options).unwrap());
        create(&shim, &request).await.unwrap();
        // For whoever cleans up; the names are protobuf's.
        let kept = fs::read_to_string(bundle.join("options.json")).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        let empty = serde_json::Value::Null;
        for (name, value) in [
            ("criu_image_path", &options.criu_image_path),
            ("criu_work_path", &options.criu_work_path),
            ("shim_cgroup", &options.shim_cgroup),
            ("root", &options.root),
        ] {
            let found = &kept[name];
            assert!(*found == **value || (value.is_empty() && *found == empty));
        }
        assert!(kept.get("criu_path").is_none(), "{kept}");
        shim.start_process("b", "").await.unwrap();
        shim.remove("b").await;
        let own = |call: String| {
            let words = call.split(' ').filter(|word| !word.contains(".json"));
            words.collect::<Vec<_>>().join(" ")
        };
        calls.push(recorder.calls().into_iter().map(own).collect::<Vec<_>>());
        fs::remove_file(recorder.path.with_extension("log")).unwrap();
    }
    assert_eq!(calls[0], calls[1]);
    shim.end().await;
}

/// As the CRI sends its own table for a runtime name that it does not know.
async fn toml_from_the_configuration(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    let recorder = Recorder::new(shim.dir(), runtime);
    let toml = |shim: &Shim| {
        format!(
            "BinaryName = \"{}\"\nRoot = \"{}\"\nSystemdCgroup = true\n",
            recorder.name(),
            shim.options.root
        )
    };
    for (n, url) in [
        "runtimeoptions.v1.Options",
        "type.googleapis.com/runtimeoptions.v1.Options",
        "cri.runtimeoptions.v1.Options",
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("b{n}");
        shim.bundle(&id, Spec::new(&id, SLEEP));
        let mut any = generic(runtime_options::Options {
            config_body: toml(&shim).into_bytes(),
            ..Default::default()
        });
        any.type_url = url.into();
        let request = with(&shim, &id, any);
        runs_as_recorded(&shim, &request, &recorder).await;
    }
    shim.end().await;
}

/// As ctr and dockerd send it for such a name. The file is read once: its end is no container's.
async fn toml_in_a_file(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    let recorder = Recorder::new(shim.dir(), runtime);
    let file = shim.dir().join("options.toml");
    let toml = format!(
        "binary_name = '{}'\nroot = '{}' # the test's\nsystemd_cgroup = true",
        recorder.name(),
        shim.options.root
    );
    for (id, body) in [("alone", &b""[..]), ("before-the-body", b"not toml")] {
        fs::write(&file, &toml).unwrap();
        shim.bundle(id, Spec::new(id, SLEEP));
        let any = generic(runtime_options::Options {
            type_url: "io.containerd.cotter.v2.Options".into(),
            config_path: file.to_string_lossy().into_owned(),
            config_body: body.into(),
            ..Default::default()
        });
        let request = with(&shim, id, any);
        runs_as_recorded(&shim, &request, &recorder).await;
        assert!(!file.exists());
    }
    shim.end().await;
}

/// Runs a container to its end; in its middle, the file of its options goes.
async fn runs_as_recorded(shim: &Shim, request: &CreateTaskRequest, recorder: &Recorder) {
    let id = &request.id;
    create(shim, request).await.unwrap();
    assert!(shim.state_dir().join(id).exists());
    let _ = fs::remove_file(shim.dir().join("options.toml"));
    let kept = fs::read(shim.bundle_path(id).join("options.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    let expected = serde_json::json!({
        "binary_name": recorder.name(), "root": shim.options.root, "systemd_cgroup": true,
    });
    assert_eq!(kept, expected);
    shim.start_process(id, "").await.unwrap();
    works(shim, id).await;
    shim.remove(id).await;
    let calls = recorder.calls();
    assert!(
        calls
            .iter()
            .all(|call| call.contains(" json --systemd-cgroup ")),
        "{calls:?}"
    );
    let about = format!(" {id}");
    let last = calls.iter().rfind(|call| call.ends_with(&about)).unwrap();
    assert!(last.contains(" delete "), "{calls:?}");
    fs::remove_file(recorder.path.with_extension("log")).unwrap();
}
