//! Every parser of text that is not the shim's own, as a function of bytes that panics when the
//! parser does or when what it answers cannot be. `cargo fuzz` drives each by itself, tests/fuzz.rs all
//! of them.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use cotter::container::exit_file as exit_files;
use cotter::error::Error;
use cotter::events::{Event, journal as journals};
use cotter::manager::dialect::Dialect;
use cotter::mount::mountinfo;
use cotter::options::Given;
use cotter::proto::task::*;
use cotter::proto::{Any, pack, runtime_options};
use cotter::shim::bootstrap::{self, Environment};
use cotter::shim::flags::Flags;
use cotter::spec::{self, Spec};
use cotter::stdio::{Command, Output, Plan, Stdio};
use cotter::{cgroup, fuzzing};
use protobuf::Message;

/// A parser's name, and the parser.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 18] = [
    ("bootstrap", bootstrap),
    ("cgroup_metrics", cgroup_metrics),
    ("cgroup_place", cgroup_place),
    ("config", config),
    ("event", event),
    ("exec_spec", exec_spec),
    ("exit_file", exit_file),
    ("flags", flags),
    ("journal", journal),
    ("limit", limit),
    ("mount_options", mount_options),
    ("mountinfo", mountinfo),
    ("options", options),
    ("pid_file", pid_file),
    ("requests", requests),
    ("runtime_log", runtime_log),
    ("shim_address", shim_address),
    ("stdio", stdio),
];

/// What a person reads is a line, and not a long one beside what was to be parsed.
fn readable(error: &Error, input: &[u8]) {
    let message = &error.message;
    assert!(!message.is_empty());
    assert!(!message.contains(['\0', '\n']), "{message:?}");
    assert!(message.len() < 4096 + 8 * input.len(), "{message:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A line with a type and then the message.
fn named(bytes: &[u8]) -> Any {
    let at = bytes
        .iter()
        .position(|b| *b == b'\n')
        .unwrap_or(bytes.len());
    Any {
        type_url: text(&bytes[..at]),
        value: bytes.get(at + 1..).unwrap_or_default().to_vec(),
        ..Any::default()
    }
}

/// The standard input of `start`.
fn bootstrap(bytes: &[u8]) {
    let flags = Flags {
        namespace: "default".into(),
        id: "one".into(),
        ..Flags::default()
    };
    match bootstrap::decide(bytes, &flags, &Environment::default()) {
        Ok(request) => {
            assert_eq!((&*request.id, &*request.namespace), ("one", "default"));
            assert!(request.socket_dir.is_none_or(|dir| dir.is_absolute()));
        }
        Err(why) => readable(&why, bytes),
    }
}

/// Files of a cgroup: a line `== controller/file` and the text.
fn cgroup_metrics(bytes: &[u8]) {
    let all = text(bytes);
    let mut files = BTreeMap::new();
    for part in all.split("== ") {
        let (name, content) = part.split_once('\n').unwrap_or((part, ""));
        fuzzing::oom_kills(content);
        files.insert(name.to_owned(), content.to_owned());
    }
    // Without any the answer is empty, and with all of them it can be sent.
    fuzzing::cgroup_metrics(files);
}

/// Three texts with an empty line between: cgroups of a process, the own ones, the mount table.
fn cgroup_place(bytes: &[u8]) {
    let all = text(bytes);
    let mut parts = all.splitn(3, "\n\n");
    let mut part = || parts.next().unwrap_or_default().as_bytes();
    let (of, own, mounts) = (part(), part(), part());
    let climbs = |dir: &Path| dir.components().any(|part| part == Component::ParentDir);
    let sane = mountinfo::parse(mounts).all(|entry| !climbs(&entry.mount_point));
    if let Ok(found) = cgroup::Cgroup::from_text(of, own, mounts) {
        for controller in ["memory", "pids", "freezer", ""] {
            assert!(!sane || found.dir(controller).is_none_or(|dir| !climbs(dir)));
        }
        found.is_shared_with_us();
    }
}

/// config.json.
fn config(bytes: &[u8]) {
    match Spec::parse(bytes) {
        Ok(spec) => drop(spec::group(&spec.annotations, "one")),
        Err(why) => readable(&why, bytes),
    }
}

/// An event: a line with its type and the message.
fn event(bytes: &[u8]) {
    let any = named(bytes);
    if let Ok(Some(event)) = Event::from_any(&any) {
        let sent = event.any().expect("encoded");
        assert_eq!(Event::from_any(&sent).expect("decoded"), Some(event));
    }
}

/// The process of an exec.
fn exec_spec(bytes: &[u8]) {
    spec::with_console_size(bytes, 80, 24);
    match spec::exec_process(bytes, true) {
        Ok(json) => {
            // Not the same bytes: a number that no field of a process can have may change its last digit.
            spec::exec_process(&json, true).expect("what was written is read");
        }
        Err(why) => readable(&why, bytes),
    }
}

/// The shim's command line, an argument a line.
fn flags(bytes: &[u8]) {
    let words = text(bytes);
    let words: Vec<&str> = words.split('\n').collect();
    match Flags::parse(&words).and_then(|flags| flags.check().map(|()| flags)) {
        Ok(flags) => assert!(!flags.id.contains(['/', '\0']) && !flags.namespace.is_empty()),
        Err(why) => assert!(!why.message.is_empty()),
    }
}

/// A time limit of the environment.
fn limit(bytes: &[u8]) {
    if let Some(limit) = fuzzing::limit(&text(bytes)) {
        assert!(!limit.is_zero() && limit.as_secs() <= 86_400);
    }
}

/// Mount options, separated by commas.
fn mount_options(bytes: &[u8]) {
    let all = text(bytes);
    let words: Vec<&str> = all.split(',').collect();
    fuzzing::mount_options(&words);
}

/// The mount table.
fn mountinfo(bytes: &[u8]) {
    assert!(mountinfo::parse(bytes).count() <= bytes.len());
}

/// Options: a line with their type and the message, or TOML as it comes.
fn options(bytes: &[u8]) {
    let any = named(bytes);
    let toml = runtime_options::Options {
        config_body: bytes.to_vec(),
        ..Default::default()
    };
    for any in [any, pack(&toml).expect("encoded")] {
        match Given::required(Some(&any)) {
            Ok(Given::In(path)) => assert!(path.is_absolute()),
            Ok(Given::Here(_)) => {}
            Err(why) => readable(&why, bytes),
        }
    }
}

/// What a runtime wrote as a pid.
fn pid_file(bytes: &[u8]) {
    if let Some(pid) = fuzzing::pid_file(bytes) {
        assert!(pid > 0);
    }
}

/// The payload of a call of the task service.
fn requests(bytes: &[u8]) {
    macro_rules! each {
        ($($request:ident)*) => {$(
            if let Ok(request) = $request::parse_from_bytes(bytes) {
                let sent = request.write_to_bytes().expect("encoded");
                assert_eq!($request::parse_from_bytes(&sent).expect("decoded"), request);
            }
        )*};
    }
    each! {
        CreateTaskRequest DeleteRequest ExecProcessRequest ResizePtyRequest StateRequest KillRequest
        CloseIORequest PidsRequest CheckpointTaskRequest UpdateTaskRequest StartRequest WaitRequest
        StatsRequest ConnectRequest ShutdownRequest PauseRequest ResumeRequest
    }
}

/// A runtime's log.
fn runtime_log(bytes: &[u8]) {
    if let Some(message) = fuzzing::runtime_log(bytes) {
        assert!(message.len() <= 3 * bytes.len());
    }
}

/// What `start` answers, and what is kept of it in a bundle.
fn shim_address(bytes: &[u8]) {
    for dialect in Dialect::ALL {
        if let Ok(endpoint) = dialect.answer(bytes) {
            assert!(endpoint.socket().is_absolute());
        }
    }
}

/// The strings of the streams, a line each; a fourth asks for a terminal.
fn stdio(bytes: &[u8]) {
    let all = text(bytes);
    let mut lines = all.splitn(4, '\n').map(str::to_owned);
    let mut line = || lines.next().unwrap_or_default();
    let asked = Stdio {
        stdin: line(),
        stdout: line(),
        stderr: line(),
        terminal: !line().is_empty(),
    };
    let paths = match cotter::stdio::plan(&asked) {
        Ok(Plan::Null) => vec![],
        Ok(Plan::Terminal { stdin, stdout }) => vec![stdin.map(Output::Path), stdout],
        Ok(Plan::Pipes {
            stdin,
            stdout,
            stderr,
        }) => vec![stdin.map(Output::Path), stdout, stderr],
        Err(why) => return readable(&why, bytes),
    };
    for output in paths.into_iter().flatten() {
        let (Output::Path(path)
        | Output::File(path)
        | Output::Listed(path)
        | Output::Logger(Command { path, .. })) = output;
        assert!(path.is_absolute());
        assert!(!path.to_string_lossy().contains('\0'));
    }
}

/// How an init ended, as a shim of any make wrote it down.
fn exit_file(bytes: &[u8]) {
    if let Some(exit) = exit_files::parse(&text(bytes)) {
        assert!(exit.pid > 0);
    }
}

/// What is kept of unpublished events: a cut file never tells more than the whole one, nor anything else.
fn journal(bytes: &[u8]) {
    let whole = journals::parse(bytes);
    let half = journals::parse(&bytes[..bytes.len() / 2]);
    assert!(whole.len() + half.len() <= bytes.len());
    for unpublished in whole {
        assert!(unpublished.event.any().is_ok());
    }
}
