use protobuf::Message;

use super::*;

fn any(url: &str, value: &[u8]) -> Any {
    Any {
        type_url: url.into(),
        value: value.to_vec(),
        ..Any::default()
    }
}

fn runc() -> Options {
    Options {
        binary_name: "crun".into(),
        systemd_cgroup: true,
        ..Options::default()
    }
}

fn generic(path: &str, body: &[u8]) -> Any {
    let options = runtime_options::Options {
        type_url: "anything".into(),
        config_path: path.into(),
        config_body: body.into(),
        ..Default::default()
    };
    proto::pack(&options).unwrap()
}

fn of(any: &Any) -> Result<Given> {
    Given::required(Some(any))
}

#[test]
fn the_last_part_of_the_type_decides() {
    let value = runc().write_to_bytes().unwrap();
    let body = generic("", b"BinaryName = 'crun'\nSystemdCgroup = true").value;
    let path = generic("/etc/x.toml", b"").value;
    for prefix in ["", "type.googleapis.com/", "types.containerd.io/a/b/"] {
        let with = |name: &str, value: &[u8]| of(&any(&format!("{prefix}{name}"), value)).unwrap();
        let runcs = "containerd.runc.v1.Options";
        assert_eq!(with(runcs, &value), Given::from(runc()));
        for name in ["runtimeoptions.v1.Options", "cri.runtimeoptions.v1.Options"] {
            assert_eq!(with(name, &body), Given::from(runc()), "{prefix}{name}");
            assert_eq!(with(name, &path), Given::In("/etc/x.toml".into()));
        }
    }
}

#[test]
fn no_value_means_defaults() {
    let defaults = Given::from(Options::new());
    assert_eq!(Given::required(None), Ok(defaults.clone()));
    for url in ["", "anything", "containerd.runc.v1.Options"] {
        assert_eq!(of(&any(url, b"")), Ok(defaults.clone()), "{url}");
        assert_eq!(Given::known(&any(url, b"")), Ok(None), "{url}");
    }
    assert_eq!(of(&generic("", b"")), Ok(defaults));
}

#[test]
fn another_type_is_not_found() {
    for url in [
        "containerd.runc.v1.CheckpointOptions",
        "containerd.linux.runc.RuncOptions",
        "Options",
        "containerd.runc.v1.Options/",
        "containerd.runc.v1.options",
        "",
    ] {
        let foreign = any(url, &[8, 1]);
        let e = of(&foreign).unwrap_err();
        let words = format!("type with url {url}: not found");
        assert_eq!((e.code, e.message), (Code::Unknown, words));
        assert_eq!(Given::known(&foreign), Ok(None), "{url}");
    }
}

#[test]
fn what_is_no_message_is_refused() {
    let runcs = "containerd.runc.v1.Options";
    let generics = "runtimeoptions.v1.Options";
    let older = "cri.runtimeoptions.v1.Options";
    let cases: [(&str, &[u8]); 7] = [
        (runcs, b"\xff\xff"),
        (generics, b"\xff\xff"),
        // A length beyond the end.
        (runcs, b"\x32\x7fx"),
        (generics, b"\x12\x7fx"),
        // Text that is none.
        (runcs, b"\x32\x02\xc3\x28"),
        (older, b"\x12\x02\xc3\x28"),
        // A wire type that does not exist.
        (generics, b"\x0f"),
    ];
    for (url, value) in cases {
        let bad = any(url, value);
        for e in [of(&bad).unwrap_err(), Given::known(&bad).unwrap_err()] {
            assert_eq!(e.code, Code::InvalidArgument, "{url} {value:?}");
            assert!(e.message.contains(url), "{e}");
        }
    }
}

#[test]
fn a_path_comes_before_a_body_and_is_absolute() {
    let both = generic("/etc/x.toml", b"not toml at all");
    assert_eq!(of(&both), Ok(Given::In("/etc/x.toml".into())));
    for path in ["x.toml", "./x", "../x", " /x"] {
        let e = of(&generic(path, b"")).unwrap_err();
        assert_eq!(e.code, Code::InvalidArgument);
        assert!(e.message.contains("not an absolute path"), "{e}");
    }
}

#[test]
fn every_option_in_both_spellings() {
    let expected = Options {
        no_pivot_root: true,
        no_new_keyring: true,
        shim_cgroup: "/a".into(),
        io_uid: 1,
        io_gid: u32::MAX,
        binary_name: "b".into(),
        root: "/r".into(),
        criu_path: "c".into(),
        systemd_cgroup: true,
        criu_image_path: "i".into(),
        criu_work_path: "w".into(),
        task_api_address: "t".into(),
        task_api_version: 3,
        oom_group: true,
        logger_allow: Some("/bin/".into()),
        ..Options::default()
    };
    let go = r#"
        # As `containerd config dump` prints them, and what stands beside them.
        BinaryName = "b"
        CriuImagePath = "i"
        CriuPath = "c"
        CriuWorkPath = "w"
        IoGid = 4294967295
        IoUid = 0x1
        NoNewKeyring = true
        NoPivotRoot = true
        Root = '/r'
        ShimCgroup = "/a"
        SystemdCgroup = true
        TaskApiAddress = "t"
        TaskApiVersion = 3
        OomGroup = true
        LoggerAllow = "/bin/"
        TypeUrl = "io.containerd.cotter.v2.Options"
        ConfigPath = ""
    "#;
    let snake = r#"
        no_pivot_root = true
        no_new_keyring = true
        shim_cgroup = "/a"
        io_uid = 1
        io_gid = 4_294_967_295
        binary_name = "b"
        root = "/r"
        criu_path = "c"
        systemd_cgroup = true
        criu_image_path = "i"
        criu_work_path = "w"
        task_api_address = "t"
        task_api_version = 3
        oom_group = true
        logger_allow = "/bin/"
    "#;
    for text in [go, snake] {
        assert_eq!(toml(text.as_bytes(), "x"), Ok(expected.clone()), "{text}");
    }
    for nothing in ["", "\n", "# nothing", "SystemdCgroup = false", "Root = ''"] {
        assert_eq!(toml(nothing.as_bytes(), "x"), Ok(Options::new()));
    }
}

#[test]
fn what_cannot_hold_is_named() {
    let deep = format!("a = {}", "[".repeat(100_000));
    let long = format!("{} = 1", "k".repeat(1000));
    let cases: &[(&[u8], &str)] = &[
        (
            b"SystemdCgoup = true",
            "there is no option \"SystemdCgoup\"",
        ),
        (b"[options]\nRoot = '/r'", "there is no option \"options\""),
        (b"\"a\\nb\" = 1", "there is no option \"a\\nb\""),
        (long.as_bytes(), "there is no option \"kkk"),
        (b"ConfigBody = ''", "there is no option \"ConfigBody\""),
        (
            b"SystemdCgroup = 'true'",
            "SystemdCgroup is a TOML string, not true or false",
        ),
        (
            b"SystemdCgroup = 1",
            "SystemdCgroup is a TOML integer, not true or false",
        ),
        (
            b"BinaryName = true",
            "BinaryName is a TOML boolean, not a string",
        ),
        (b"Root = ['/r']", "Root is a TOML array, not a string"),
        (b"[Root]\na = 1", "Root is a TOML table, not a string"),
        (
            b"io_uid = -1",
            "io_uid is a TOML integer, not a number from 0",
        ),
        (b"IoGid = 4294967296", "not a number from 0 to 4294967295"),
        (b"IoGid = 1.0", "IoGid is a TOML float"),
        (
            b"ConfigPath = '/x'",
            "ConfigPath is a TOML string, not an empty string",
        ),
        (b"Root = 'a'\nroot = 'b'", "in two spellings"),
        (b"Root = 'a'\nRoot = 'b'", "line 2: duplicate key"),
        (b"\n\nRoot", "line 3: "),
        (b"Root = ", "line 1: "),
        (b"{\"Root\": \"/r\"}", "line 1: "),
        (b"Root = \"\xc3\x28\"", "invalid utf-8"),
        (b"\0", "line 1: "),
        (deep.as_bytes(), "line 1: "),
    ];
    for (text, words) in cases {
        let e = toml(text, "/etc/x.toml").unwrap_err();
        let line = String::from_utf8_lossy(&text[..text.len().min(60)]);
        assert_eq!(e.code, Code::InvalidArgument, "{line}: {e}");
        assert!(
            e.message.starts_with("options in /etc/x.toml: "),
            "{line}: {e}"
        );
        assert!(e.message.contains(words), "{line}: {e}");
        assert!(
            e.message.lines().count() == 1 && e.message.len() < 400,
            "{e}"
        );
    }
    let huge = vec![b'#'; 1 << 20];
    assert!(toml(&huge, "x").is_ok());
    let e = toml(&[huge, vec![b'#']].concat(), "x").unwrap_err();
    assert!(e.message.contains("longer than 1048576 bytes"), "{e}");
}

proptest::proptest! {
    #[test]
    fn no_input_panics(content: Vec<u8>, text: String, url: String) {
        let _ = toml(&content, "x");
        let _ = toml(text.as_bytes(), "x");
        let _ = Given::required(Some(&any(&url, &content)));
        let _ = Given::required(Some(&any("runtimeoptions.v1.Options", &content)));
        let _ = of(&generic(&url, text.as_bytes()));
    }
}

/// An empty list is one, which allows nothing.
#[test]
fn a_list_of_loggers_is_there_or_not() {
    for (text, list) in [("", None), ("LoggerAllow = ''", Some(String::new()))] {
        let options = toml(text.as_bytes(), "x").unwrap();
        assert_eq!(options.logger_allow, list, "{text}");
    }
    for text in ["LoggerAllow = ['/a']", "logger_allow = true"] {
        let error = toml(text.as_bytes(), "x").unwrap_err();
        assert!(error.message.contains("not a string"), "{error}");
    }
}

#[test]
fn a_limit_of_processes_is_a_number_or_a_word() {
    for (text, expected) in [
        ("pids_limit = 20", "20"),
        ("PidsLimit = \"auto\"", "auto"),
        ("pids_limit = \"many\"", "many"),
        ("pids_limit = -1", "-1"),
    ] {
        let options = toml(text.as_bytes(), "x").unwrap();
        assert_eq!(options.pids_limit, expected, "{text}");
    }
    for text in ["pids_limit = true", "pids_limit = 1.5", "pids_limit = [1]"] {
        let error = toml(text.as_bytes(), "x").unwrap_err();
        let message = error.message;
        assert!(message.contains("not a number or a string"), "{message}");
    }
}
