//! Who it is, and what it may do.

use serde_json::{Value, json};

use crate::matrix::{Case, Why, case, direct, same_with_all};
use crate::world::{NOT_UNDERSTOOD, Streams};

const USER: Why = |_| Some("its user is not understood");
const SETS: Why = |_| Some("its sets of capabilities do not fit each other");
const UNKNOWN: Why = |_| Some("its capabilities are not known");
const MIGHTY: Why = |_| Some("it or its container has CAP_SYS_PTRACE or CAP_SYS_ADMIN");

/// In all five sets.
fn in_all(names: &[&str]) -> Value {
    json!({
        "bounding": names, "effective": names, "permitted": names, "inheritable": names, "ambient": names,
    })
}

fn user(spec: &mut Value, uid: u32, gid: u32) {
    spec["user"] = json!({"uid": uid, "gid": gid});
}

#[test]
fn users_and_groups() {
    let cases = [
        case("root", |_| {}, direct),
        case("user", |spec| user(spec, 1000, 1000), direct),
        case("another group", |spec| user(spec, 1000, 7), direct),
        case("group alone", |spec| user(spec, 0, 7), direct),
        case("unknown", |spec| user(spec, 4711, 42), direct),
        case("home with a blank", |spec| user(spec, 1001, 1001), direct),
        case(
            "largest",
            |spec| user(spec, 0x7fff_ffff, 0x7fff_ffff),
            direct,
        ),
        case("too large", |spec| user(spec, 0x8000_0000, 1), USER),
        case("too large a group", |spec| user(spec, 1, 0xffff_fffe), USER),
        case("no id", |spec| user(spec, u32::MAX, 1), USER),
        case("no user", |spec| spec["user"] = json!({}), direct),
        case(
            "name",
            |spec| spec["user"] = json!({"uid": 1000, "username": "user"}),
            USER,
        ),
        case(
            "groups",
            |spec| spec["user"]["additionalGids"] = json!([5, 1, 3, 1000]),
            direct,
        ),
        case(
            "same groups",
            |spec| spec["user"]["additionalGids"] = json!([5, 5, 0]),
            USER,
        ),
        case(
            "no groups",
            |spec| spec["user"]["additionalGids"] = json!([]),
            direct,
        ),
        case(
            "many groups",
            |spec| spec["user"]["additionalGids"] = (1000..1300).rev().collect(),
            direct,
        ),
        case(
            "user with groups",
            |spec| {
                spec["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [27, 1000, 44]});
            },
            direct,
        ),
        case(
            "too large another",
            |spec| spec["user"]["additionalGids"] = json!([1, 0xffff_ffff_u32]),
            USER,
        ),
        case("umask", |spec| spec["user"]["umask"] = json!(0o27), direct),
        case(
            "odd umask",
            |spec| spec["user"]["umask"] = json!(0o7777),
            direct,
        ),
        case(
            "field of nobody",
            |spec| spec["user"]["shoe"] = json!(1),
            |_| Some(NOT_UNDERSTOOD),
        ),
    ];
    same_with_all(&cases);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list")]
fn capabilities() {
    let cases = [
        case(
            "none named",
            |spec| spec["capabilities"] = Value::Null,
            |_| Some("it names no capabilities"),
        ),
        case("no set", |spec| spec["capabilities"] = json!({}), direct),
        case("empty", |spec| spec["capabilities"] = in_all(&[]), direct),
        case(
            "all alike",
            |spec| spec["capabilities"] = in_all(&["CAP_KILL", "CAP_CHOWN"]),
            direct,
        ),
        case(
            "bounding alone",
            |spec| spec["capabilities"] = json!({"bounding": ["CAP_SETUID", "CAP_MKNOD"]}),
            direct,
        ),
        case(
            "not in the bounding set",
            |spec| {
                let one = ["CAP_SETUID"];
                spec["capabilities"] = json!({"bounding": [], "permitted": one, "effective": one});
            },
            direct,
        ),
        case(
            "permitted only",
            |spec| {
                let one = ["CAP_SETUID"];
                spec["capabilities"] = json!({"bounding": one, "permitted": one});
            },
            direct,
        ),
        case(
            "inheritable",
            |spec| {
                let one = ["CAP_NET_RAW", "CAP_SETUID"];
                spec["capabilities"]["inheritable"] = json!(one);
            },
            direct,
        ),
        case(
            "ambient of a user",
            |spec| {
                user(spec, 1000, 1000);
                spec["capabilities"] = in_all(&["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
            },
            direct,
        ),
        case(
            "user with some",
            |spec| {
                user(spec, 1000, 1000);
                let one = ["CAP_NET_BIND_SERVICE"];
                spec["capabilities"] = json!({"bounding": one, "permitted": one, "effective": one});
            },
            direct,
        ),
        case(
            "more than the container",
            |spec| spec["capabilities"] = in_all(&["CAP_NET_ADMIN", "CAP_SYS_TIME"]),
            direct,
        ),
        case(
            "newest",
            |spec| spec["capabilities"] = in_all(&["CAP_CHECKPOINT_RESTORE"]),
            direct,
        ),
        case(
            "effective beyond",
            |spec| spec["capabilities"] = json!({"effective": ["CAP_KILL"]}),
            SETS,
        ),
        case(
            "ambient alone",
            |spec| spec["capabilities"]["ambient"] = json!(["CAP_KILL"]),
            SETS,
        ),
        case(
            "unknown",
            |spec| spec["capabilities"]["bounding"] = json!(["CAP_NEWER"]),
            UNKNOWN,
        ),
        case(
            "lower case",
            |spec| spec["capabilities"]["bounding"] = json!(["cap_kill"]),
            UNKNOWN,
        ),
        case(
            "to trace",
            |spec| spec["capabilities"]["bounding"] = json!(["CAP_SYS_PTRACE"]),
            MIGHTY,
        ),
        case(
            "to administer",
            |spec| spec["capabilities"] = in_all(&["CAP_SYS_ADMIN"]),
            MIGHTY,
        ),
        case(
            "set of nobody",
            |spec| spec["capabilities"]["extra"] = json!([]),
            |_| Some(NOT_UNDERSTOOD),
        ),
    ];
    same_with_all(&cases);
}

#[test]
fn privileges() {
    let cases = [
        case(
            "may get more",
            |spec| spec["noNewPrivileges"] = json!(false),
            direct,
        ),
        case(
            "not told",
            |spec| spec["noNewPrivileges"] = Value::Null,
            direct,
        ),
        case(
            "another's program",
            |spec| spec["args"] = json!(["/bin/set-user"]),
            direct,
        ),
        case(
            "another's program, as its owner",
            |spec| {
                spec["noNewPrivileges"] = json!(false);
                spec["args"] = json!(["/bin/set-user"]);
            },
            direct,
        ),
        case(
            "another's program, from a user to its owner",
            |spec| {
                user(spec, 1000, 1000);
                spec["noNewPrivileges"] = json!(false);
                spec["args"] = json!(["/bin/set-user"]);
            },
            direct,
        ),
        case(
            "profile",
            |spec| spec["apparmorProfile"] = json!("cotter-none"),
            |_| Some("it has an AppArmor profile, and the machine has no AppArmor"),
        ),
        case(
            "label",
            |spec| spec["selinuxLabel"] = json!("a:b:c:s0"),
            |_| Some("it has an SELinux label"),
        ),
        case(
            "empty profile",
            |spec| spec["apparmorProfile"] = json!(""),
            |_| Some("its label is empty"),
        ),
        case(
            "empty labels",
            |spec| {
                spec["apparmorProfile"] = json!("");
                spec["selinuxLabel"] = json!("");
            },
            |_| Some("its label is empty"),
        ),
    ];
    same_with_all(&cases);
}

#[test]
fn streams() {
    const TO_FILE: fn(&mut Value) = |spec| spec["args"] = json!(["probe", "to=/out/told"]);
    const USERS: fn(&mut Value) = |spec| {
        TO_FILE(spec);
        user(spec, 1000, 7);
    };
    const TERMINAL: Why = |_| Some("it has a terminal");
    let with = |streams, case| Case { streams, ..case };
    let cases = [
        with(Streams::All, case("all", |_| {}, direct)),
        with(
            Streams::All,
            case("all a user's", |spec| user(spec, 1000, 7), direct),
        ),
        with(Streams::None, case("none", TO_FILE, direct)),
        with(Streams::None, case("none a user's", USERS, direct)),
        with(Streams::Errors, case("errors", TO_FILE, direct)),
        with(Streams::Errors, case("errors a user's", USERS, direct)),
        with(
            Streams::Terminal,
            case("terminal", |spec| spec["args"] = json!(["tty"]), TERMINAL),
        ),
    ];
    same_with_all(&cases);
}
