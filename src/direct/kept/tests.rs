use serde_json::json;

use super::*;

fn runc(changes: &[(&str, Value)]) -> Result<Kept, Reason> {
    let mut state = json!({
        "id": "c",
        "rootless": false,
        "cgroup_paths": { "memory": "/cg/memory/c", "pids": "/cg/pids/c" },
        "intel_rdt_path": "",
        "config": {
            "namespaces": [
                { "type": "NEWPID", "path": "" },
                { "type": "NEWNS", "path": "" },
                { "type": "NEWNET", "path": "/proc/7/ns/net" },
            ],
            "capabilities": { "Bounding": ["CAP_KILL"], "Effective": [] },
            "oom_score_adj": 500,
            "umask": null,
            "seccomp": null,
            "no_new_keyring": false,
            "uid_mappings": null,
            "personality": null,
            "something_new": false,
        },
    });
    for (path, value) in changes {
        let mut at = &mut state;
        for part in path.split('.') {
            at = &mut at[part];
        }
        *at = value.clone();
    }
    Kept::of_runc(state.to_string().as_bytes())
}

fn crun(changes: &[(&str, Value)], filtered: bool) -> Result<Kept, Reason> {
    let mut all = json!({
        "status": { "pid": 7, "cgroup-path": "/c", "intelrdt": "" },
        "config": {
            "process": {
                "terminal": true,
                "args": ["sh"],
                "cwd": "/",
                "capabilities": { "bounding": ["CAP_KILL"] },
                "apparmorProfile": "a-profile",
            },
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "cgroup" }], "resources": {} },
            "annotations": { "a": "b" },
        },
    });
    for (path, value) in changes {
        let mut at = &mut all;
        for part in path.split('/') {
            at = &mut at[part];
        }
        *at = value.clone();
    }
    let [status, config] = ["status", "config"].map(|part| all[part].to_string());
    Kept::of_crun(status.as_bytes(), config.as_bytes(), filtered)
}

#[test]
fn what_is_kept() {
    let paths = ["/cg/memory/c", "/cg/pids/c"].map(PathBuf::from);
    let expected = Kept {
        namespaces: libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET,
        bounding: Set(1 << 5),
        apparmor: None,
        keyring: Some("_ses.c".into()),
        oom_score_adj: Some(500),
        umask: None,
        filter: Filter::None,
        cgroups: Cgroups::In(paths.into()),
    };
    assert_eq!(runc(&[]).unwrap(), expected);
    let expected = Kept {
        namespaces: libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP,
        bounding: Set(1 << 5),
        apparmor: Some("a-profile".into()),
        keyring: None,
        oom_score_adj: None,
        umask: None,
        filter: Filter::None,
        cgroups: Cgroups::Below("/c".into()),
    };
    assert_eq!(crun(&[], false).unwrap(), expected);
    let other = runc(&[
        ("config.no_new_keyring", json!(true)),
        ("config.umask", json!(0o77)),
    ]);
    let other = other.unwrap();
    assert_eq!((other.keyring, other.umask), (None, Some(0o77)));
}

#[test]
fn what_is_the_runtimes() {
    for (path, value) in [
        ("rootless", json!(true)),
        ("intel_rdt_path", json!("/r")),
        ("config.process_label", json!("a:b")),
        ("config.apparmor_profile", json!("a")),
        ("config.personality", json!({ "domain": 8 })),
        ("config.something_new", json!(true)),
        ("config.time_offsets", json!({ "a": 1 })),
        ("config.uid_mappings", json!([{ "host_id": 1 }])),
        ("config.gid_mappings", json!([{ "host_id": 1 }])),
        ("config.namespaces", json!(null)),
        ("config.namespaces", json!([{ "type": "NEWPID" }])),
        (
            "config.namespaces",
            json!([{ "type": "NEWNS" }, { "type": "NEWUSER" }]),
        ),
        (
            "config.namespaces",
            json!([{ "type": "NEWNS" }, { "type": "NEWTIME" }]),
        ),
        (
            "config.namespaces",
            json!([{ "type": "NEWNS" }, { "type": "mount" }]),
        ),
        ("config.capabilities", json!(null)),
        ("config.capabilities", json!({ "Bounding": ["CAP_NEW"] })),
        ("config.oom_score_adj", json!("x")),
        ("config.umask", json!(-1)),
        ("id", json!(null)),
        ("cgroup_paths", json!(null)),
    ] {
        assert!(runc(&[(path, value.clone())]).is_err(), "{path} {value}");
    }
    for (path, value) in [
        ("config/process/selinuxLabel", json!("a:b")),
        ("config/process/apparmorProfile", json!(1)),
        ("config/process/scheduler", json!({ "policy": "x" })),
        ("config/process/ioPriority", json!({ "class": "x" })),
        ("config/linux/personality", json!({ "domain": "x" })),
        ("config/linux/timeOffsets", json!({ "a": 1 })),
        ("config/linux/uidMappings", json!([{ "size": 1 }])),
        (
            "config/linux/namespaces",
            json!([{ "type": "mount" }, { "type": "new" }]),
        ),
        (
            "config/linux/namespaces",
            json!([{ "type": "mount" }, { "type": "user" }]),
        ),
        (
            "config/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW" }),
        ),
        ("config/annotations/run.oci.handler", json!("krun")),
        ("status/intelrdt", json!("x")),
        ("status/cgroup-path", json!(null)),
        ("config/process", json!(null)),
    ] {
        assert!(
            crun(&[(path, value.clone())], false).is_err(),
            "{path} {value}"
        );
    }
    // A filter that its spec does not have.
    assert!(crun(&[], true).is_err());
    assert!(Kept::of_runc(b"{").is_err() && Kept::of_crun(b"{}", b"", false).is_err());
}

#[test]
fn where_the_filter_is_to_be_had() {
    let flagged = json!({ "default_action": 1, "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{ "action": 4 }] });
    let of = |seccomp: Value| runc(&[("config.seccomp", seccomp)]).map(|kept| kept.filter);
    assert_eq!(of(flagged), Ok(Filter::Kernel(2)));
    assert_eq!(of(json!({ "default_action": 1 })), Ok(Filter::Kernel(0)));
    assert_eq!(of(json!({})), Ok(Filter::None));
    for odd in [
        json!({ "flags": ["SECCOMP_FILTER_FLAG_NEW"] }),
        json!({ "flags": "x" }),
        json!({ "listener_path": "/x" }),
        json!({ "default_action": 7 }),
        json!({ "syscalls": [{ "action": 4 }, { "action": 7 }] }),
    ] {
        assert!(of(odd.clone()).is_err(), "{odd}");
    }
    let of = |seccomp: Value| {
        let kept = crun(&[("config/linux/seccomp", seccomp)], true);
        kept.map(|kept| kept.filter)
    };
    assert_eq!(
        of(json!({ "defaultAction": "SCMP_ACT_ERRNO" })),
        Ok(Filter::File(4))
    );
    let none = json!({ "defaultAction": "SCMP_ACT_ERRNO", "flags": [] });
    assert_eq!(of(none), Ok(Filter::File(4)));
    for odd in [
        json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x" }),
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "action": "SCMP_ACT_NOTIFY" }] }),
    ] {
        assert!(of(odd.clone()).is_err(), "{odd}");
    }
}
