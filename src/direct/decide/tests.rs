use serde_json::{Value, json};

use super::super::kept::{Cgroups, Filter};
use super::*;

fn kept() -> Kept {
    Kept {
        namespaces: libc::CLONE_NEWNS,
        bounding: Set(1),
        apparmor: None,
        keyring: None,
        oom_score_adj: None,
        umask: Some(0o27),
        filter: Filter::None,
        cgroups: Cgroups::Below("/c".into()),
    }
}

/// What a probe is, with these fields given otherwise; null takes one away.
fn process(changes: &[(&str, Value)]) -> Vec<u8> {
    let mut process = json!({
        "user": { "uid": 0, "gid": 0 },
        "args": ["true"],
        "env": ["PATH=/usr/bin:/bin", "A=b"],
        "cwd": "/",
        "capabilities": { "bounding": ["CAP_KILL"] },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
    });
    let fields = process.as_object_mut().unwrap();
    for (path, value) in changes {
        let (field, inner) = path.split_once('.').unwrap_or((path, ""));
        match (inner, value) {
            ("", Value::Null) => drop(fields.remove(field)),
            ("", value) => drop(fields.insert(field.to_owned(), value.clone())),
            (inner, value) => fields[field][inner] = value.clone(),
        }
    }
    process.to_string().into_bytes()
}

const ALL: [Ways; 3] = [Ways::Runc11, Ways::Runc13, Ways::Crun];

fn decided(changes: &[(&str, Value)]) -> [Result<Wanted, Reason>; 3] {
    ALL.map(|ways| decide(&process(changes), &kept(), ways))
}

#[test]
fn a_probe_is_the_same_by_all_but_for_its_umask() {
    let [runc11, runc13, crun] = decided(&[]).map(Result::unwrap);
    assert_eq!(runc11.candidates, ["/usr/bin/true", "/bin/true"]);
    assert_eq!(runc11.limits, [(Limit::OpenFiles, 1024, 1024)]);
    assert!(runc11.home && !runc11.no_new_privileges);
    assert_eq!(runc11.capabilities.bounding, Set(1 << 5));
    assert_eq!(
        [runc11.umask, runc13.umask, crun.umask],
        [None, Some(0o27), Some(0o22)]
    );
    let like_crun = |wanted: Wanted| Wanted {
        umask: crun.umask,
        ..wanted
    };
    assert_eq!(like_crun(runc11), crun);
    assert_eq!(like_crun(runc13), crun);
}

#[test]
fn what_is_taken_as_it_is_said() {
    let [_, _, crun] = decided(&[
        (
            "user",
            json!({ "uid": 7, "gid": 8, "umask": 0o77, "additionalGids": [9, 8] }),
        ),
        ("args", json!(["/bin/x", "", "ä"])),
        ("env", json!(["HOME=/h", "X=", "Y=a=b"])),
        ("cwd", json!("/a/b")),
        ("noNewPrivileges", json!(true)),
        ("oomScoreAdj", json!(-3)),
        ("apparmorProfile", json!("docker-default")),
        ("terminal", json!(false)),
        ("consoleSize", json!({ "height": 1, "width": 2 })),
        ("rlimits", json!([])),
        (
            "capabilities",
            json!({ "effective": ["CAP_KILL"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"], "bounding": null }),
        ),
    ]);
    let wanted = crun.unwrap();
    assert_eq!((wanted.uid, wanted.gid, wanted.umask), (7, 8, Some(0o77)));
    assert_eq!(wanted.groups, [9, 8]);
    assert_eq!(wanted.candidates, ["/bin/x"]);
    assert_eq!(wanted.args, ["/bin/x", "", "ä"]);
    assert_eq!((wanted.env.len(), wanted.home), (3, false));
    assert_eq!(wanted.cwd, "/a/b");
    assert_eq!(wanted.apparmor.as_deref(), Some("docker-default"));
    assert!(wanted.no_new_privileges);
    assert_eq!(wanted.capabilities.ambient, Set(1));
}

#[track_caller]
fn are_the_runtimes(cases: &[(&str, Value)]) {
    for (field, value) in cases {
        for (ways, decided) in ALL.into_iter().zip(decided(&[(field, value.clone())])) {
            assert!(decided.is_err(), "{ways:?} {field} {value}");
        }
    }
}

/// Whatever runtimes read in different ways, would refuse, or do for themselves too.
#[test]
fn what_is_the_runtimes() {
    are_the_runtimes(&[
        ("terminal", json!(true)),
        ("selinuxLabel", json!("a:b:c:d")),
        ("selinuxLabel", json!("")),
        ("apparmorProfile", json!("")),
        ("apparmorProfile", json!("a b")),
        ("apparmorProfile", json!("a\n")),
        ("apparmorProfile", json!("x".repeat(256))),
        ("commandLine", json!("x")),
        ("scheduler", json!({})),
        ("ioPriority", json!({})),
        ("execCPUAffinity", json!({})),
        ("aField", json!(1)),
        ("user.username", json!("me")),
        ("user.aField", json!(1)),
        ("user.uid", json!(1_u32 << 31)),
        ("user.gid", json!(u32::MAX)),
        ("user.uid", json!(-1)),
        ("user.additionalGids", json!([1, u32::MAX])),
        ("user.additionalGids", json!([7, 5, 7])),
        ("user", Value::Null),
        ("args", Value::Null),
        ("args", json!([])),
        ("args", json!([""])),
        ("args", json!(["."])),
        ("args", json!([".."])),
        ("args", json!(["./x"])),
        ("args", json!(["a/b"])),
        ("args", json!(["/a/../b"])),
        ("args", json!(["/a//b"])),
        ("args", json!(["/a/"])),
        ("args", json!(["/proc/self/exe"])),
        ("env", json!(["PATH=/proc/self"])),
        ("args", json!(["x", "a\0b"])),
    ]);
}

#[test]
fn surroundings_that_are_the_runtimes() {
    are_the_runtimes(&[
        ("env", Value::Null),
        ("env", json!(["A=b"])),
        ("env", json!(["PATH=/bin", "A"])),
        ("env", json!(["PATH=/bin", "=a"])),
        ("env", json!(["PATH=/bin", "A=1", "A=2"])),
        ("env", json!(["PATH=/bin", "HOME="])),
        ("env", json!(["PATH=/bin", "A=\0"])),
        ("env", json!(["PATH="])),
        ("env", json!(["PATH=bin"])),
        ("env", json!(["PATH=/bin:"])),
        ("env", json!(["PATH=/bin:/./usr"])),
        ("cwd", json!("")),
        ("cwd", json!("a")),
        ("cwd", json!("/a/..")),
        ("cwd", json!("/a/")),
        ("cwd", json!("/proc/self/fd/7")),
        ("cwd", Value::Null),
        ("capabilities", Value::Null),
        ("capabilities", json!({ "aSet": [] })),
        ("capabilities.bounding", json!(["CAP_NEW"])),
        ("capabilities.bounding", json!(["CAP_SYS_ADMIN"])),
        ("capabilities.inheritable", json!(["CAP_SYS_PTRACE"])),
        ("capabilities.effective", json!(["CAP_KILL"])),
        ("capabilities.ambient", json!(["CAP_KILL"])),
        (
            "rlimits",
            json!([{ "type": "RLIMIT_NPROC", "hard": 9, "soft": 9 }]),
        ),
        (
            "rlimits",
            json!([{ "type": "RLIMIT_NOFILE", "hard": 99, "soft": 63 }]),
        ),
        (
            "rlimits",
            json!([{ "type": "RLIMIT_CORE", "hard": 1, "soft": 2 }]),
        ),
        (
            "rlimits",
            json!([{ "type": "RLIMIT_CORE", "hard": 1, "soft": 1 }, { "type": "RLIMIT_CORE", "hard": 1, "soft": 1 }]),
        ),
    ]);
    let empty = [("args", json!(["/bin/true"])), ("env", json!([]))];
    assert!(decided(&empty).iter().all(Result::is_err));
    for text in ["", "{", "[]", "{\"user\":{}} {}", "null"] {
        assert!(
            decide(text.as_bytes(), &kept(), Ways::Crun).is_err(),
            "{text}"
        );
    }
}

/// The Go of runc 1.1 raises the limit of open files that it has, before or after it is given one.
#[test]
fn a_limit_that_the_runtime_raises() {
    let lower = json!([{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512 }]);
    let [runc11, runc13, crun] = decided(&[("rlimits", lower)]);
    assert!(runc11.is_err() && runc13.is_ok() && crun.is_ok());
    let of_none = decided(&[("rlimits", json!([]))]).map(|wanted| wanted.unwrap().raised);
    assert_eq!(of_none, [true, false, false]);
    assert!(!decided(&[])[0].as_ref().unwrap().raised);
}

#[test]
fn a_mighty_container_and_its_profile() {
    let mighty = Kept {
        bounding: Set(1 << 21),
        ..kept()
    };
    let confined = Kept {
        apparmor: Some("its".into()),
        ..kept()
    };
    for ways in ALL {
        assert!(decide(&process(&[]), &mighty, ways).is_err());
        let of = |changes: &[(&str, Value)]| {
            decide(&process(changes), &confined, ways).unwrap().apparmor
        };
        assert_eq!(of(&[]).as_deref(), Some("its"));
        assert_eq!(
            of(&[("apparmorProfile", json!("own"))]).as_deref(),
            Some("own")
        );
    }
}

proptest::proptest! {
    /// What is decided upon is as plain as the rules say, whatever was asked.
    #[test]
    fn what_is_decided_upon_is_plain(
        args in proptest::collection::vec("[a/.\\x00]{0,5}", 0..3),
        env in proptest::collection::vec("(PATH=|HOME=|A=|)[a/:.=\\x00]{0,6}", 0..4),
        cwd in "(/|/proc|)[a/.]{0,5}",
    ) {
        let spec = process(&[("args", json!(args)), ("env", json!(env)), ("cwd", json!(cwd))]);
        if let Ok(wanted) = decide(&spec, &kept(), Ways::Crun) {
            for path in wanted.candidates.iter().chain([&wanted.cwd]) {
                let clean: std::path::PathBuf = std::path::Path::new(path).components().collect();
                proptest::prop_assert!(path.starts_with('/') && clean.to_str() == Some(path));
                proptest::prop_assert!(!path.starts_with("/proc/"));
                proptest::prop_assert!(!path.contains("..") || path.split('/').all(|part| part != ".."));
            }
            proptest::prop_assert_eq!(&wanted.args, &args);
            proptest::prop_assert_eq!(&wanted.env, &env);
            let names: BTreeSet<_> = env.iter().map(|it| it.split('=').next()).collect();
            proptest::prop_assert_eq!(names.len(), env.len());
        }
    }
}
