use protobuf::EnumOrUnknown;

use super::*;
use crate::proto::bootstrap::{Extension, LogLevel};
use crate::proto::runc_options::Options;
use crate::proto::{self, runtime_options};

fn flags() -> Flags {
    Flags {
        namespace: "ns".into(),
        id: "c1".into(),
        address: "/run/flag.sock".into(),
        action: "start".into(),
        ..Flags::default()
    }
}

fn env(grpc: &str) -> Environment {
    Environment {
        grpc_address: grpc.into(),
        ttrpc_address: "/run/env.ttrpc".into(),
        ..Environment::default()
    }
}

fn options() -> Options {
    Options {
        binary_name: "crun".into(),
        shim_cgroup: "/shims".into(),
        ..Options::default()
    }
}

fn any(prefix: &str, options: &Options) -> Any {
    let mut any = proto::pack(options).unwrap();
    any.type_url.insert_str(0, prefix);
    any
}

fn message() -> BootstrapParams {
    BootstrapParams {
        instance_id: "c1".into(),
        namespace: "ns".into(),
        containerd_ttrpc_address: "/run/param.ttrpc".into(),
        containerd_grpc_address: "/run/param.sock".into(),
        ..BootstrapParams::default()
    }
}

fn decided(params: &BootstrapParams) -> Request {
    decide(
        &params.write_to_bytes().unwrap(),
        &flags(),
        &env("/run/env.sock"),
    )
    .unwrap()
}

#[test]
fn each_dialect_is_told_by_its_input() {
    let legacy = any("", &options()).write_to_bytes().unwrap();
    for (stdin, grpc, dialect) in [
        (&b""[..], "", Dialect::Plain),
        (&b""[..], "/run/env.sock", Dialect::Json),
        (&legacy, "", Dialect::Plain),
        (&legacy, "/run/env.sock", Dialect::Json),
        (&message().write_to_bytes().unwrap(), "", Dialect::Proto),
        (
            &message().write_to_bytes().unwrap(),
            "/run/env.sock",
            Dialect::Proto,
        ),
    ] {
        assert_eq!(
            decide(stdin, &flags(), &env(grpc)).unwrap().dialect,
            dialect
        );
    }
}

#[test]
fn options_of_an_old_manager_that_pass_as_bootstrap_params() {
    // An options message that is empty, or whose bytes are text, makes the whole Any valid params.
    let text = Options {
        root: "/r".into(),
        ..Options::default()
    };
    for options in [Options::default(), text, options()] {
        let stdin = any("", &options).write_to_bytes().unwrap();
        let as_params = BootstrapParams::parse_from_bytes(&stdin).unwrap();
        assert_eq!(as_params.instance_id, "containerd.runc.v1.Options");
        let request = decide(&stdin, &flags(), &env("/run/env.sock")).unwrap();
        assert_eq!(request.dialect, Dialect::Json);
        assert_eq!(request.id, "c1");
        assert_eq!(request.grpc_address, "/run/flag.sock");
        // Without a value there is nothing said.
        let given = (options != Options::default()).then_some(Given::from(options));
        assert_eq!(request.options, given);
    }
}

#[test]
fn params_of_another_container_are_no_request_of_this_one() {
    for (id, namespace) in [("c2", "ns"), ("c1", "other"), ("", "ns")] {
        let mut params = message();
        params.instance_id = id.into();
        params.namespace = namespace.into();
        let request = decided(&params);
        assert_eq!(
            (request.dialect, request.id.as_str()),
            (Dialect::Json, "c1")
        );
    }
}

#[test]
fn options_in_every_dialect_and_with_every_prefix() {
    for prefix in ["", "type.googleapis.com/", "types.containerd.io/a/b/"] {
        let any = any(prefix, &options());
        let legacy = any.write_to_bytes().unwrap();
        let request = decide(&legacy, &flags(), &env("")).unwrap();
        assert_eq!(request.options, Some(Given::from(options())), "{prefix}");

        let mut params = message();
        let mut other = Extension::new();
        other.value.mut_or_insert_default().type_url = "other.Thing".into();
        let mut extension = Extension::new();
        extension.value = protobuf::MessageField::some(any);
        params.extensions = vec![Extension::new(), extension, other];
        let given = decided(&params).options;
        assert_eq!(given, Some(Given::from(options())), "{prefix}");
    }
    let generic = |path: &str, body: &[u8]| {
        let options = runtime_options::Options {
            config_path: path.into(),
            config_body: body.into(),
            ..Default::default()
        };
        let stdin = proto::pack(&options).unwrap().write_to_bytes().unwrap();
        decide(&stdin, &flags(), &env("")).unwrap().options
    };
    let in_file = Some(Given::In("/etc/x.toml".into()));
    assert_eq!(generic("/etc/x.toml", b""), in_file);
    let here = Options {
        shim_cgroup: "/x".into(),
        ..Options::default()
    };
    assert_eq!(generic("", b"ShimCgroup = '/x'"), Some(Given::from(here)));

    let foreign = Any {
        type_url: "io.containerd.runhcs.v1.Options".into(),
        value: vec![0xff],
        ..Any::default()
    };
    let stdin = foreign.write_to_bytes().unwrap();
    assert_eq!(decide(&stdin, &flags(), &env("")).unwrap().options, None);
}

#[test]
fn fields_beat_the_environment_and_the_environment_beats_nothing() {
    let request = decided(&message());
    assert_eq!(request.grpc_address, "/run/param.sock");
    assert_eq!(request.ttrpc_address, "/run/param.ttrpc");

    let mut bare = message();
    bare.containerd_grpc_address.clear();
    bare.containerd_ttrpc_address.clear();
    let request = decided(&bare);
    assert_eq!(request.grpc_address, "/run/env.sock");
    assert_eq!(request.ttrpc_address, "/run/env.ttrpc");
    let stdin = bare.write_to_bytes().unwrap();
    let request = decide(&stdin, &flags(), &env("")).unwrap();
    assert_eq!(request.grpc_address, "/run/flag.sock");

    let mut flags = flags();
    flags.address.clear();
    let request = decide(b"", &flags, &env("/run/env.sock")).unwrap();
    assert_eq!(request.grpc_address, "/run/env.sock");
}

#[test]
fn the_log_level_is_an_open_scale() {
    for (level, debug) in [
        (0, false),
        (-3, false),
        (-4, true),
        (-6, true),
        (-8, true),
        (12, false),
    ] {
        let mut params = message();
        params.log_level = EnumOrUnknown::from_i32(level);
        assert_eq!(decided(&params).debug, debug, "{level}");
    }
    assert_eq!(EnumOrUnknown::new(LogLevel::LOG_LEVEL_DEBUG).value(), DEBUG);
    let debugging = Flags {
        debug: true,
        ..flags()
    };
    assert!(decide(b"", &debugging, &env("")).unwrap().debug);
}

#[test]
fn the_socket_directory_is_absolute_or_absent() {
    let with = |dir: &str| {
        let mut params = message();
        params.socket_dir = Some(dir.into());
        decide(&params.write_to_bytes().unwrap(), &flags(), &env(""))
    };
    assert_eq!(with("/run/s").unwrap().socket_dir, Some("/run/s".into()));
    assert_eq!(with("").unwrap().socket_dir, None);
    assert!(with("run/s").unwrap_err().message.contains("not absolute"));
}

#[test]
fn garbage_is_refused() {
    let bad_options = Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: vec![0xff],
        ..Any::default()
    };
    for stdin in [
        vec![0xff; 5],
        b"{}".to_vec(),
        bad_options.write_to_bytes().unwrap(),
    ] {
        let error = decide(&stdin, &flags(), &env("")).unwrap_err();
        assert_eq!(error.code, crate::error::Code::InvalidArgument);
    }
    let nameless = Flags {
        id: String::new(),
        ..flags()
    };
    assert!(decide(b"", &nameless, &env("")).is_err());
}

/// A manager that dies while it writes leaves a beginning, from which no option may be missing.
#[test]
fn a_part_is_not_taken_for_the_whole() {
    let mut params = message();
    let without = params.write_to_bytes().unwrap().len();
    params.extensions.push(Extension {
        value: Some(any("", &options())).into(),
        ..Extension::default()
    });
    let stdin = params.write_to_bytes().unwrap();
    assert!(decided(&params).options.is_some());
    for end in without + 1..stdin.len() {
        let decided = decide(&stdin[..end], &flags(), &env(""));
        assert!(decided.is_err(), "{end} of {}: {decided:?}", stdin.len());
    }
}

#[test]
fn answers() {
    let address = "unix:///run/containerd/s/ab";
    assert_eq!(encode(Dialect::Plain, address).unwrap(), address.as_bytes());
    assert_eq!(
        encode(Dialect::Json, address).unwrap(),
        br#"{"version":2,"address":"unix:///run/containerd/s/ab","protocol":"ttrpc"}"#
    );
    let proto = encode(Dialect::Proto, address).unwrap();
    assert_eq!(
        proto,
        b"\x08\x03\x12\x1bunix:///run/containerd/s/ab\x1a\x05ttrpc"
    );
    // 2.3.0 to 2.3.3 trim white space from both ends before they decode, with Go's idea of it.
    for end in [proto[0], proto[proto.len() - 1]] {
        assert!(!b"\t\n\x0b\x0c\r \x85\xa0".contains(&end));
    }
}

proptest::proptest! {
    #[test]
    fn no_input_panics(stdin: Vec<u8>) {
        let _ = decide(&stdin, &flags(), &env(""));
    }
}
