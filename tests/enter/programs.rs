//! Which program is run, with which arguments, in which environment and directory.

use serde_json::{Value, json};

use crate::matrix::{Case, PROGRAM, Why, case, direct, same_with_all};
use crate::world::Kind;

const NO_PATH: Why = |_| Some("its environment has no PATH");
const ODD_PATH: Why = |_| Some("its PATH is read differently by different runtimes");
const ODD_NAME: Why = |_| Some("its program is no plain path or name");
const ODD_ENVIRONMENT: Why = |_| Some("its environment is read differently by different runtimes");
const NONE: Why = |_| Some("it has no arguments");
const DIRECTORY: Why = |_| Some("its working directory could not be entered");
const ODD_DIRECTORY: Why = |_| Some("its working directory is no plain path");
const LIMITS: Why = |_| Some("it has limits that strike its runtime too");
const NO_ENVIRONMENT: Why = |_| Some("it has no environment");
/// Of runc 1.1, whose Go has the last word or the first.
const RAISED: Why = |kind| {
    let why = "it has a limit of open files that its runtime may raise";
    (kind == Kind::Runc11).then_some(why)
};
/// crun tries once more what has failed the first time, this once more in any case: as a user who may not.
const TWICE: Why = |kind| match kind {
    Kind::Crun => DIRECTORY(kind),
    Kind::Runc11 | Kind::Runc13 => None,
};
const TOO_LONG: Why = |_| Some("its spec is too long");

macro_rules! args {
    ($($arg:expr),*) => { |spec: &mut Value| spec["args"] = json!([$($arg),*]) };
}

macro_rules! env {
    ($($variable:expr),*) => { |spec: &mut Value| spec["env"] = json!([$($variable),*]) };
}

/// As a user without any capability.
fn as_user(spec: &mut Value) {
    spec["user"] = json!({"uid": 1000, "gid": 1000});
    spec["capabilities"] = json!({});
}

#[test]
fn names_and_paths() {
    let cases = [
        case("by its path", args!("/bin/probe"), direct),
        case("link", args!("/bin/a-link"), direct),
        case("link by name", args!("a-link"), direct),
        case("script", args!("/bin/a-script"), direct),
        case(
            "script by name",
            args!("a-script", "a b", "", "ä\n\u{1}"),
            direct,
        ),
        case(
            "arguments of a script's interpreter",
            args!("a-words"),
            direct,
        ),
        case(
            "many arguments",
            |spec| {
                let words = (0..2000).map(|n| format!("word {n}"));
                spec["args"] = std::iter::once("probe".to_owned()).chain(words).collect();
            },
            direct,
        ),
        case(
            "too much",
            |spec| spec["args"] = json!(["probe", "x".repeat(140_000)]),
            PROGRAM,
        ),
        case(
            "far too much",
            |spec| spec["args"] = json!(["probe", "x".repeat(300_000)]),
            TOO_LONG,
        ),
        case("relative", args!("./probe"), ODD_NAME),
        case("relative, below", args!("bin/probe"), ODD_NAME),
        case("upwards", args!("/bin/../bin/probe"), ODD_NAME),
        case("two slashes", args!("//bin/probe"), ODD_NAME),
        case("slash at the end", args!("/bin/probe/"), ODD_NAME),
        case("through proc", args!("/proc/self/root/bin/probe"), ODD_NAME),
        case(
            "searched in proc",
            env!("PATH=/proc/self/root/bin"),
            ODD_NAME,
        ),
        case("itself", args!("/proc/self/exe"), ODD_NAME),
        case("absent", args!("/nowhere"), PROGRAM),
        case("absent by name", args!("nowhere"), PROGRAM),
        case("dangling", args!("/bin/a-dangling"), PROGRAM),
        case("dangling by name", args!("a-dangling"), PROGRAM),
        case("loop", args!("/bin/a-loop"), PROGRAM),
        case("directory", args!("/bin"), PROGRAM),
        case("below a file", args!("/bin/probe/below"), PROGRAM),
        case("FIFO", args!("/odd/fifo"), PROGRAM),
        case("not executable", args!("/bin/not-executable"), PROGRAM),
        case("not executable by name", args!("not-executable"), PROGRAM),
        case("no program", args!("/bin/plain-text"), PROGRAM),
        case("no program by name", args!("plain-text"), PROGRAM),
        case("empty", args!("/bin/an-empty"), PROGRAM),
        case("no interpreter", args!("/bin/no-interpreter"), PROGRAM),
        case("empty name", args!(""), ODD_NAME),
        case("dot", args!("."), ODD_NAME),
        case(
            "too long a name",
            |spec| spec["args"] = json!(["x".repeat(300)]),
            PROGRAM,
        ),
        case("nothing", args!(), NONE),
        case("not told", |spec| spec["args"] = Value::Null, NONE),
        case("a zero byte", args!("probe", "a\0b"), |_| {
            Some("its process spec is not understood")
        }),
    ];
    same_with_all(&cases);
}

#[test]
fn not_for_this_user() {
    macro_rules! of_user {
        ($name:literal, $($arg:expr),*; $by:expr) => {
            case($name, |spec| { as_user(spec); spec["args"] = json!([$($arg),*]); }, $by)
        };
    }
    let cases = [
        of_user!("only root's", "/bin/only-roots"; PROGRAM),
        of_user!("only root's by name", "only-roots"; PROGRAM),
        of_user!("in root's directory", "/private/probe"; PROGRAM),
        case(
            "in root's directory, by name",
            |spec| {
                as_user(spec);
                spec["env"] = json!(["PATH=/private:/bin"]);
            },
            PROGRAM,
        ),
        case(
            "with the capability for it",
            |spec| {
                as_user(spec);
                let one = ["CAP_DAC_OVERRIDE"];
                spec["capabilities"] = json!({"bounding": one, "permitted": one, "effective": one});
                spec["args"] = json!(["/private/probe"]);
            },
            direct,
        ),
        case(
            "root without the capability",
            |spec| {
                spec["capabilities"] = json!({});
                spec["args"] = json!(["/private/probe"]);
            },
            direct,
        ),
        case(
            "in root's working directory",
            |spec| {
                as_user(spec);
                spec["cwd"] = json!("/private");
            },
            TWICE,
        ),
        case(
            "in a user's, as root without capabilities",
            |spec| {
                spec["capabilities"] = json!({});
                spec["cwd"] = json!("/odd/only-users");
            },
            TWICE,
        ),
        case(
            "in a user's",
            |spec| {
                as_user(spec);
                spec["cwd"] = json!("/odd/only-users");
            },
            direct,
        ),
    ];
    same_with_all(&cases);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list")]
fn environments() {
    let cases = [
        case("PATH alone", env!("PATH=/bin"), direct),
        case(
            "order",
            env!("Z=1", "PATH=/nowhere:/bin", "A=", "B=C=D", "a b=\n"),
            direct,
        ),
        case("HOME", env!("HOME=/tmp", "PATH=/bin"), direct),
        case(
            "HOME in the middle",
            env!("PATH=/bin", "HOME=relative", "C=1"),
            direct,
        ),
        case("root of all", env!("PATH=/:/bin"), direct),
        case(
            "second",
            |spec| {
                spec["env"] = json!(["PATH=/odd:/second"]);
                spec["args"] = json!(["tool"]);
            },
            direct,
        ),
        case(
            "not executable before",
            |spec| {
                spec["env"] = json!(["PATH=/first:/second"]);
                spec["args"] = json!(["tool"]);
            },
            PROGRAM,
        ),
        case(
            "directory before",
            |spec| {
                spec["env"] = json!(["PATH=/third:/second"]);
                spec["args"] = json!(["tool"]);
            },
            PROGRAM,
        ),
        case("no directory before", env!("PATH=/bin/probe:/bin"), PROGRAM),
        case(
            "long",
            |spec| {
                let all = (0..500).map(|n| format!("V{n}=some value {n}"));
                spec["env"] = std::iter::once("PATH=/bin".to_owned()).chain(all).collect();
            },
            direct,
        ),
        case("none", env!(), NO_ENVIRONMENT),
        case("not told", |spec| spec["env"] = Value::Null, NO_ENVIRONMENT),
        case("no PATH", env!("A=1"), NO_PATH),
        case(
            "no PATH, by its path",
            |spec| {
                spec["env"] = json!(["A=1"]);
                spec["args"] = json!(["/bin/probe"]);
            },
            direct,
        ),
        case(
            "none, by its path",
            |spec| {
                spec["env"] = json!([]);
                spec["args"] = json!(["/bin/probe"]);
            },
            NO_ENVIRONMENT,
        ),
        case("empty PATH", env!("PATH="), ODD_PATH),
        case("relative PATH", env!("PATH=bin"), ODD_PATH),
        case("here", env!("PATH=.:/bin"), ODD_PATH),
        case("empty part", env!("PATH=/bin:"), ODD_PATH),
        case("slash at the end", env!("PATH=/bin/"), ODD_PATH),
        case("empty HOME", env!("PATH=/bin", "HOME="), ODD_ENVIRONMENT),
        case(
            "twice",
            env!("PATH=/bin", "A=1", "B=2", "A=3"),
            ODD_ENVIRONMENT,
        ),
        case(
            "PATH twice",
            env!("PATH=/nowhere", "PATH=/bin"),
            ODD_ENVIRONMENT,
        ),
        case("no value", env!("PATH=/bin", "A"), ODD_ENVIRONMENT),
        case("no name", env!("PATH=/bin", "=A"), ODD_ENVIRONMENT),
        case("empty variable", env!("PATH=/bin", ""), ODD_ENVIRONMENT),
        case("a zero byte", env!("PATH=/bin", "A=\0"), ODD_ENVIRONMENT),
    ];
    same_with_all(&cases);
}

#[test]
fn directories() {
    macro_rules! cwd {
        ($name:literal, $path:expr, $by:expr) => {
            case($name, |spec| spec["cwd"] = json!($path), $by)
        };
    }
    let cases = [
        cwd!("home", "/home/user", direct),
        cwd!("link", "/odd/link", direct),
        cwd!("a mount", "/dev/shm", direct),
        cwd!("proc", "/proc", ODD_DIRECTORY),
        cwd!("descriptor", "/proc/self/fd/7", ODD_DIRECTORY),
        cwd!("through a link", "/odd/self/fd", direct),
        cwd!("absent", "/nowhere", DIRECTORY),
        cwd!("dangling", "/odd/dangling", DIRECTORY),
        cwd!("file", "/bin/probe", DIRECTORY),
        cwd!("not told", Value::Null, |_| Some(
            "its process spec is not understood"
        )),
        cwd!("empty", "", ODD_DIRECTORY),
        cwd!("relative", "bin", ODD_DIRECTORY),
        cwd!("upwards", "/bin/..", ODD_DIRECTORY),
        cwd!("slash at the end", "/bin/", ODD_DIRECTORY),
        cwd!("two slashes", "//bin", ODD_DIRECTORY),
    ];
    same_with_all(&cases);
}

fn limits(all: &[(&str, u64, u64)]) -> Value {
    let one =
        |(kind, soft, hard): &(&str, u64, u64)| json!({"type": kind, "soft": soft, "hard": hard});
    all.iter().map(one).collect()
}

#[test]
fn resources() {
    macro_rules! limits {
        ($name:literal, $all:expr, $by:expr) => {
            case($name, |spec| spec["rlimits"] = limits(&$all), $by)
        };
    }
    const FILES: (&str, u64, u64) = ("RLIMIT_NOFILE", 1000, 1000);
    let cases: Vec<Case> = vec![
        limits!("none", [], direct),
        case("not told", |spec| spec["rlimits"] = Value::Null, direct),
        limits!("files", [FILES], direct),
        limits!("files to come", [("RLIMIT_NOFILE", 100, 1000)], RAISED),
        limits!("fewest files", [("RLIMIT_NOFILE", 64, 64)], direct),
        limits!("too few files", [("RLIMIT_NOFILE", 63, 64)], LIMITS),
        limits!("more files", [("RLIMIT_NOFILE", 4000, 4000)], direct),
        limits!(
            "too many files",
            [("RLIMIT_NOFILE", u64::MAX, u64::MAX)],
            |_| { Some("a step of its set-up failed") }
        ),
        limits!("core", [FILES, ("RLIMIT_CORE", 0, u64::MAX)], direct),
        limits!("without files", [("RLIMIT_CORE", 7, 77)], direct),
        limits!("memory", [FILES, ("RLIMIT_MEMLOCK", 4096, 65536)], direct),
        limits!("signals", [("RLIMIT_SIGPENDING", 10, 20), FILES], direct),
        limits!("processes", [FILES, ("RLIMIT_NPROC", 1000, 1000)], LIMITS),
        limits!("sizes", [FILES, ("RLIMIT_FSIZE", 1 << 30, 1 << 30)], LIMITS),
        limits!(
            "address space",
            [FILES, ("RLIMIT_AS", u64::MAX, u64::MAX)],
            LIMITS
        ),
        limits!("unknown", [FILES, ("RLIMIT_NEWER", 1, 1)], LIMITS),
        limits!("soft above hard", [("RLIMIT_NOFILE", 1000, 100)], LIMITS),
        limits!("twice", [FILES, ("RLIMIT_NOFILE", 200, 300)], LIMITS),
        case("score", |spec| spec["oomScoreAdj"] = json!(77), direct),
        case(
            "size of a console",
            |spec| spec["consoleSize"] = json!({"height": 1, "width": 2}),
            direct,
        ),
        case(
            "scheduler",
            |spec| spec["scheduler"] = json!({"policy": "SCHED_BATCH"}),
            |_| Some("its process spec is not understood"),
        ),
        case(
            "command line",
            |spec| spec["commandLine"] = json!("a b"),
            |_| Some("its process spec is not understood"),
        ),
    ];
    same_with_all(&cases);
}
