//! What is read of specs, and how it is refused.

use super::*;
use crate::error::Code;

#[test]
fn kill_all_unless_the_pid_namespace_is_its_own() {
    for (json, kill_all) in [
        (r"{}", true),
        (r#"{"linux":null}"#, true),
        (r#"{"linux":{"namespaces":null}}"#, true),
        (r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#, true),
        (r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#, false),
        (
            r#"{"linux":{"namespaces":[{"type":"pid","path":""}]}}"#,
            false,
        ),
        (
            r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
            true,
        ),
    ] {
        let spec = Spec::parse(json.as_bytes()).unwrap();
        assert_eq!(spec.kill_all_on_exit, kill_all, "{json}");
    }
    assert!(Spec::default().kill_all_on_exit);
}

#[test]
fn fields_are_found_among_unknown_ones() {
    let json = br#"{"ociVersion":"1.0.2","process":{"terminal":true,"args":["sh"],"new":{}},
        "annotations":{"a":"b"},"linux":{"cgroupsPath":"/x/y","seccomp":{"x":[1]}},"z":[[]]}"#;
    let spec = Spec::parse(json).unwrap();
    assert!(spec.terminal);
    assert_eq!(spec.oci_version, "1.0.2");
    assert_eq!(spec.cgroups_path, "/x/y");
    assert_eq!(spec.annotations, [("a".into(), "b".into())].into());
    let nulls = br#"{"annotations":null,"process":{"terminal":null},"linux":{"cgroupsPath":null}}"#;
    assert_eq!(Spec::parse(nulls).unwrap(), Spec::default());
}

#[test]
fn errors_name_the_file() {
    let bundle = std::env::temp_dir().join(format!("cotter-spec-{}", std::process::id()));
    std::fs::create_dir_all(&bundle).unwrap();
    let path = bundle.join("config.json");

    let missing = Spec::read(&bundle).unwrap_err();
    assert_eq!(missing.code, Code::NotFound);
    std::fs::write(&path, "{\"annotations\":").unwrap();
    let short = Spec::read(&bundle).unwrap_err();
    assert_eq!(short.code, Code::Unknown);
    std::fs::File::create(&path)
        .unwrap()
        .set_len(LONGEST + 1)
        .unwrap();
    let long = Spec::read(&bundle).unwrap_err();
    assert_eq!(long.code, Code::InvalidArgument);
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = Spec::read(&bundle).unwrap_err();

    std::fs::remove_dir_all(&bundle).unwrap();
    for err in [missing, short, long, fifo] {
        let name = path.display().to_string();
        assert!(err.message.contains(&name), "{}", err.message);
    }
}

#[test]
fn limits_of_processes_and_cpus() {
    for (resources, limit, cpus) in [
        ("null", None, None),
        ("{}", None, None),
        (r#"{"pids":{"limit":7}}"#, Some(7), None),
        (
            r#"{"pids":{"limit":-1},"cpu":{"quota":-1}}"#,
            Some(-1),
            None,
        ),
        (r#"{"pids":{"limit":"x"},"cpu":"x"}"#, None, None),
        (r#"{"cpu":{"quota":150000}}"#, None, Some(1500)),
        (
            r#"{"cpu":{"quota":150000,"period":50000}}"#,
            None,
            Some(3000),
        ),
        (r#"{"cpu":{"quota":150000,"period":0}}"#, None, Some(1500)),
        (r#"{"cpu":{"cpus":"0-3,7"}}"#, None, Some(5000)),
        (
            r#"{"cpu":{"cpus":"0-3,7","quota":100000}}"#,
            None,
            Some(1000),
        ),
        (r#"{"cpu":{"cpus":""}}"#, None, None),
        (r#"{"cpu":{"cpus":"3-0"}}"#, None, None),
    ] {
        let json = format!(r#"{{"linux":{{"resources":{resources}}}}}"#);
        let spec = Spec::parse(json.as_bytes()).unwrap();
        assert_eq!((spec.pids_limit, spec.cpus_milli), (limit, cpus), "{json}");
    }
}

#[test]
fn the_group_is_the_first_annotation_present() {
    let both: Annotations = [
        ("io.containerd.runc.v2.group".into(), "g".into()),
        ("io.kubernetes.cri.sandbox-id".into(), "s".into()),
    ]
    .into();
    let named = |name: &str| Ok(name.to_owned());
    assert_eq!(group(&both, "id"), named("g"));
    let sandbox: Annotations = [("io.kubernetes.cri.sandbox-id".into(), "s".into())].into();
    assert_eq!(group(&sandbox, "id"), named("s"));
    assert_eq!(group(&Annotations::new(), "id"), named("id"));
    for good in ["", "a..b", "...", "a b", "ä:_-%2f\\"] {
        let one: Annotations = [(GROUP_KEYS[1].into(), good.into())].into();
        assert_eq!(group(&one, "id"), named(good));
    }
    let long = "../".repeat(1000);
    for bad in [
        ".", "..", "/", "a/b", "../a", "a\n", "\0", "\u{9b}", "\u{7f}", &long,
    ] {
        let one: Annotations = [(GROUP_KEYS[1].into(), bad.into())].into();
        let error = group(&one, "id").unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{bad:?}");
        let said = error.message.chars();
        assert!(said.clone().count() < 500 && !said.clone().any(char::is_control));
    }
}

#[test]
fn a_size_for_the_terminal() {
    for (json, out) in [
        ("{}", r#"{"consoleSize":{"height":2,"width":1}}"#),
        (
            r#"{"zz":1,"consoleSize":{"height":9,"width":9,"x":0},"args":[]}"#,
            r#"{"zz":1,"consoleSize":{"height":2,"width":1},"args":[]}"#,
        ),
        ("[", "["),
    ] {
        let with = with_console_size(json.as_bytes(), 1, 2);
        assert_eq!(String::from_utf8(with).unwrap(), out, "{json}");
    }
}

#[test]
fn an_exec_spec_keeps_everything_but_terminal() {
    for (json, terminal, out) in [
        (r"{}", false, r#"{"terminal":false}"#),
        (
            r#"{"zz":1,"terminal":true,"args":["a","\u00e9"],"n":18446744073709551615,"o":{"b":null,"a":1.5}}"#,
            false,
            r#"{"zz":1,"terminal":false,"args":["a","é"],"n":18446744073709551615,"o":{"b":null,"a":1.5}}"#,
        ),
        (r#"{"args":[]}"#, true, r#"{"args":[],"terminal":true}"#),
    ] {
        let patched = exec_process(json.as_bytes(), terminal).unwrap();
        assert_eq!(String::from_utf8(patched).unwrap(), out);
    }
}

#[test]
fn bad_exec_specs_are_unknown_errors() {
    for (json, message) in [
        ("", "unexpected end of JSON input"),
        ("{\"args\":[", "unexpected end of JSON input"),
        ("[]", "json: cannot unmarshal array into a process spec"),
        ("null", "json: cannot unmarshal null into a process spec"),
    ] {
        let err = exec_process(json.as_bytes(), false).unwrap_err();
        assert_eq!(err, Error::unknown(message), "{json}");
    }
    let deep = "[".repeat(100_000);
    for json in ["{]", "{} x", &deep] {
        let err = exec_process(json.as_bytes(), true).unwrap_err();
        assert_eq!(err.code, Code::Unknown);
        assert!(err.message.starts_with("invalid JSON: "), "{}", err.message);
    }
}
