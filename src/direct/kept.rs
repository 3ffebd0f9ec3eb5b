//! What a runtime keeps of a container, as far as an exec of it depends on it. Pure.
//!
//! Invariant: what is not known is no container for us: a field without a meaning here that is not empty, a
//! namespace of another kind, a flag of another name.
//!
//! Sources: libcontainer's `State` and `configs.Config` (runc's state.json); crun's `status`, and the config.json
//! that it has copied beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Reason;
use super::capabilities::Set;

/// What an exec depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The kinds of namespaces to join, as clone's flags.
    pub namespaces: i32,
    /// The capabilities that its processes can ever have.
    pub bounding: Set,
    /// The AppArmor profile of an exec that names none.
    pub apparmor: Option<String>,
    /// An exec gets a session keyring of this name; none: it has the caller's.
    pub keyring: Option<String>,
    /// An exec's, if it is not the caller's.
    pub oom_score_adj: Option<i64>,
    /// An exec's, if the container sets one.
    pub umask: Option<u32>,
    /// Where its filter of system calls is to be had.
    pub filter: Filter,
    /// Its cgroups.
    pub cgroups: Cgroups,
}

/// Where a filter is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// There is none.
    None,
    /// In the runtime's file, with these flags.
    File(u64),
    /// In the kernel, with these flags.
    Kernel(u64),
}

/// Where an exec is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// These directories.
    In(Vec<PathBuf>),
    /// This path in each hierarchy.
    Below(String),
}

const ODD: Reason = "what the runtime keeps of the container is not understood";

/// runc's fields that say nothing about an exec.
const OF_RUNC: [&str; 30] = [
    "no_pivot_root",
    "rootfs",
    "readonlyfs",
    "rootPropagation",
    "mounts",
    "devices",
    "hostname",
    "domainname",
    "networks",
    "routes",
    "cgroups",
    "mask_paths",
    "readonly_paths",
    "sysctl",
    "rlimits",
    "Hooks",
    "version",
    "labels",
    "no_new_privileges",
    "mount_label",
    // Read below.
    "namespaces",
    "capabilities",
    "oom_score_adj",
    "umask",
    "seccomp",
    "no_new_keyring",
    "uid_mappings",
    "gid_mappings",
    "apparmor_profile",
    "process_label",
];

/// The same of a spec's `process`.
const OF_PROCESS: [&str; 13] = [
    "terminal",
    "consoleSize",
    "user",
    "args",
    "env",
    "cwd",
    "capabilities",
    "rlimits",
    "noNewPrivileges",
    "oomScoreAdj",
    "commandLine",
    "apparmorProfile",
    "selinuxLabel",
];

/// The same of its `linux`.
const OF_LINUX: [&str; 13] = [
    "sysctl",
    "resources",
    "cgroupsPath",
    "namespaces",
    "devices",
    "netDevices",
    "seccomp",
    "rootfsPropagation",
    "maskedPaths",
    "readonlyPaths",
    "mountLabel",
    "uidMappings",
    "gidMappings",
];

#[derive(Deserialize)]
struct State {
    id: String,
    config: Map<String, Value>,
    rootless: bool,
    cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default)]
    intel_rdt_path: String,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Bounding {
    #[serde(rename = "Bounding", alias = "bounding")]
    names: Option<Vec<String>>,
}

impl Kept {
    /// From runc's state.json.
    pub fn of_runc(state: &[u8]) -> Result<Self, Reason> {
        let state: State = serde_json::from_slice(state).map_err(|_| ODD)?;
        let config = &state.config;
        only(config, &OF_RUNC)?;
        unlabelled(config, "process_label")?;
        if config
            .get("apparmor_profile")
            .is_some_and(|it| !is_empty(it))
        {
            return Err(ODD);
        }
        if state.rootless || !state.intel_rdt_path.is_empty() {
            return Err(ODD);
        }
        own_users(config, "uid_mappings", "gid_mappings")?;
        let flag = |name: &str| {
            config
                .get(name)
                .and_then(Value::as_bool)
                .unwrap_or_default()
        };
        let seccomp = config.get("seccomp").filter(|it| !is_empty(it));
        Ok(Self {
            namespaces: namespaces(config.get("namespaces"), of_runc)?,
            bounding: bounding(config.get("capabilities"))?,
            // On its side runc keeps none: an exec has what it names.
            apparmor: None,
            keyring: (!flag("no_new_keyring")).then(|| format!("_ses.{}", state.id)),
            oom_score_adj: number(config.get("oom_score_adj"))?,
            umask: number(config.get("umask"))?,
            filter: match seccomp {
                None => Filter::None,
                Some(seccomp) => Filter::Kernel(flags(seccomp, 0)?),
            },
            cgroups: Cgroups::In(state.cgroup_paths.into_values().collect()),
        })
    }

    /// From crun's `status` and config.json; `filtered` if it keeps a filter.
    pub fn of_crun(status: &[u8], config: &[u8], filtered: bool) -> Result<Self, Reason> {
        let status: Map<String, Value> = serde_json::from_slice(status).map_err(|_| ODD)?;
        let config: Map<String, Value> = serde_json::from_slice(config).map_err(|_| ODD)?;
        let part = |name: &str| config.get(name).and_then(Value::as_object).ok_or(ODD);
        let (process, linux) = (part("process")?, part("linux")?);
        only(process, &OF_PROCESS)?;
        only(linux, &OF_LINUX)?;
        unlabelled(process, "selinuxLabel")?;
        own_users(linux, "uidMappings", "gidMappings")?;
        let annotations = config.get("annotations").and_then(Value::as_object);
        let asks_crun = |key: &String| key.starts_with("run.oci.");
        if annotations.is_some_and(|all| all.keys().any(asks_crun)) {
            return Err("an annotation asks crun for something");
        }
        let is_text = |name: &str| status.get(name).and_then(Value::as_str);
        if !is_text("intelrdt").unwrap_or_default().is_empty() {
            return Err(ODD);
        }
        let seccomp = linux.get("seccomp").filter(|it| !is_empty(it));
        let flags = seccomp.map(|it| flags(it, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW));
        Ok(Self {
            namespaces: namespaces(linux.get("namespaces"), of_spec)?,
            bounding: bounding(process.get("capabilities"))?,
            apparmor: profile(process.get("apparmorProfile"))?,
            keyring: None,
            oom_score_adj: None,
            umask: None,
            filter: match (flags.transpose()?, filtered) {
                (None, false) => Filter::None,
                (Some(flags), true) => Filter::File(flags),
                _ => return Err(ODD),
            },
            cgroups: Cgroups::Below(is_text("cgroup-path").ok_or(ODD)?.to_owned()),
        })
    }
}

/// Nothing but these, or empty.
fn only(fields: &Map<String, Value>, known: &[&str]) -> Result<(), Reason> {
    let is_known =
        |(name, value): (&String, &Value)| known.contains(&name.as_str()) || is_empty(value);
    match fields.iter().all(is_known) {
        true => Ok(()),
        false => Err("the container's spec asks for something that is the runtime's to do"),
    }
}

/// As Go writes what was not given.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(it) => !it,
        Value::Number(it) => it.as_i64() == Some(0),
        Value::String(it) => it.is_empty(),
        Value::Array(it) => it.is_empty(),
        Value::Object(it) => it.is_empty(),
    }
}

fn unlabelled(fields: &Map<String, Value>, selinux: &str) -> Result<(), Reason> {
    match fields.get(selinux).is_some_and(|label| !is_empty(label)) {
        true => Err("the container has an SELinux label"),
        false => Ok(()),
    }
}

fn profile(value: Option<&Value>) -> Result<Option<String>, Reason> {
    let value = value.filter(|value| !is_empty(value));
    let name = value.map(|value| value.as_str().ok_or(ODD));
    Ok(name.transpose()?.map(str::to_owned))
}

fn own_users(fields: &Map<String, Value>, uids: &str, gids: &str) -> Result<(), Reason> {
    let has = |name| fields.get(name).is_some_and(|value| !is_empty(value));
    match has(uids) || has(gids) {
        true => Err(USERS),
        false => Ok(()),
    }
}

const USERS: Reason = "the container has a user namespace";

fn number<T: TryFrom<i64>>(value: Option<&Value>) -> Result<Option<T>, Reason> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let number = value.as_i64().and_then(|number| T::try_from(number).ok());
    number.map(Some).ok_or(ODD)
}

fn of_runc(kind: &str) -> Option<&str> {
    Some(match kind {
        "NEWPID" => "pid",
        "NEWNET" => "network",
        "NEWIPC" => "ipc",
        "NEWUTS" => "uts",
        "NEWNS" => "mount",
        "NEWCGROUP" => "cgroup",
        "NEWUSER" => "user",
        "NEWTIME" => "time",
        _ => return None,
    })
}

#[allow(clippy::unnecessary_wraps)]
fn of_spec(kind: &str) -> Option<&str> {
    Some(kind)
}

fn namespaces(list: Option<&Value>, name: fn(&str) -> Option<&str>) -> Result<i32, Reason> {
    let list = list.filter(|list| !list.is_null()).ok_or(ODD)?;
    let list = Vec::<Namespace>::deserialize(list).map_err(|_| ODD)?;
    let mut all = 0;
    for Namespace { kind } in &list {
        all |= match name(kind).ok_or(ODD)? {
            "pid" => libc::CLONE_NEWPID,
            "network" => libc::CLONE_NEWNET,
            "ipc" => libc::CLONE_NEWIPC,
            "uts" => libc::CLONE_NEWUTS,
            "mount" => libc::CLONE_NEWNS,
            "cgroup" => libc::CLONE_NEWCGROUP,
            "user" => return Err(USERS),
            "time" => return Err("the container has a time namespace"),
            _ => return Err(ODD),
        };
    }
    match all & libc::CLONE_NEWNS != 0 {
        true => Ok(all),
        false => Err("the container has no mount namespace of its own"),
    }
}

fn bounding(capabilities: Option<&Value>) -> Result<Set, Reason> {
    let none = "the container's capabilities are not known";
    let capabilities = capabilities.filter(|it| !it.is_null()).ok_or(none)?;
    let Bounding { names } = Bounding::deserialize(capabilities).map_err(|_| none)?;
    Set::of(&names.unwrap_or_default()).ok_or(none)
}

/// The flags with which a filter is loaded; `default` where a profile names none.
fn flags(seccomp: &Value, default: u64) -> Result<u64, Reason> {
    const NOTIFY: &str = "its filter of system calls notifies somebody";
    let listens = ["listener_path", "listenerPath"];
    if listens
        .iter()
        .any(|name| seccomp.get(name).is_some_and(|path| !is_empty(path)))
    {
        return Err(NOTIFY);
    }
    // runc's number for the action, the spec's name of it.
    let notifies =
        |action: &Value| action.as_i64() == Some(7) || action.as_str() == Some("SCMP_ACT_NOTIFY");
    let rules = seccomp.get("syscalls").and_then(Value::as_array);
    let rules = rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule.get("action"));
    let first = ["default_action", "defaultAction"]
        .iter()
        .filter_map(|name| seccomp.get(*name));
    if rules.chain(first).any(notifies) {
        return Err(NOTIFY);
    }
    let Some(names) = seccomp.get("flags").filter(|flags| !is_empty(flags)) else {
        return Ok(default);
    };
    let names = Vec::<String>::deserialize(names).map_err(|_| ODD)?;
    let mut all = 0;
    for name in &names {
        all |= match name.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            _ => return Err("its filter of system calls has flags that are not known"),
        };
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
