//! Whether an exec can be done without its runtime, and what is to be done then. Pure.
//!
//! Invariant: what is answered is the process as each known runtime would make it; wherever two of them differ
//! in a way that is not told here, or one of them would refuse, it is the runtime's.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Reason;
use super::capabilities::Set;
use super::kept::Kept;
use super::version::Ways;

/// A process as it is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its arguments; the first is its program's name.
    pub args: Vec<String>,
    /// Where its program may be, in this order.
    pub candidates: Vec<String>,
    /// Its environment, in this order.
    pub env: Vec<String>,
    /// HOME is to be looked up.
    pub home: bool,
    /// Where it begins.
    pub cwd: String,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// Its limits.
    pub limits: Vec<(Limit, u64, u64)>,
    /// It names no limit of open files, and has the most that it may.
    pub raised: bool,
    /// Its AppArmor profile.
    pub apparmor: Option<String>,
    /// It can get no more than it has.
    pub no_new_privileges: bool,
    /// Its umask; none: the caller's.
    pub umask: Option<u32>,
}

/// The five sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub bounding: Set,
    pub effective: Set,
    pub permitted: Set,
    pub inheritable: Set,
    pub ambient: Set,
}

/// Limits that strike the process only, not whoever sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    OpenFiles,
    Core,
    LockedMemory,
    Signals,
}

/// The OCI process; with a field that is not here it is not understood.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Process {
    terminal: Option<bool>,
    /// Only terminals have one.
    #[serde(rename = "consoleSize")]
    _console_size: Option<IgnoredAny>,
    user: User,
    args: Option<Vec<String>>,
    command_line: Option<String>,
    env: Option<Vec<String>>,
    cwd: String,
    capabilities: Option<Names>,
    rlimits: Option<Vec<Rlimit>>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    /// Of an exec both runtimes take no notice of it.
    #[serde(rename = "oomScoreAdj")]
    _oom_score_adj: Option<i64>,
    selinux_label: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct User {
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    umask: Option<u32>,
    additional_gids: Option<Vec<u32>>,
    username: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    bounding: Option<Vec<String>>,
    effective: Option<Vec<String>>,
    permitted: Option<Vec<String>>,
    inheritable: Option<Vec<String>>,
    ambient: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: String,
    hard: u64,
    soft: u64,
}

/// The umask of crun's processes that ask for none.
const UMASK: u32 = 0o22;

/// Fewer open files than this may be too few for the runtime itself.
const FEWEST_FILES: u64 = 64;

/// What is to be done for an exec's spec in a container of which this is kept, in this runtime's ways.
///
/// # Errors
/// Why the runtime is to do it.
pub fn decide(spec: &[u8], kept: &Kept, ways: Ways) -> Result<Wanted, Reason> {
    let process: Process =
        serde_json::from_slice(spec).map_err(|_| "its process spec is not understood")?;
    if process.terminal == Some(true) {
        return Err("it has a terminal");
    }
    let has = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    match () {
        () if has(&process.selinux_label) => return Err("it has an SELinux label"),
        () if has(&process.command_line) => return Err("its process spec is not understood"),
        // Of crun 1.21 a name of no letters is one.
        () if process.selinux_label.is_some()
            || process.apparmor_profile.as_deref() == Some("") =>
        {
            return Err("its label is empty");
        }
        () => {}
    }
    let capabilities = capabilities(process.capabilities)?;
    if kept.bounding.is_mighty() || capabilities.is_mighty() {
        return Err("it or its container has CAP_SYS_PTRACE or CAP_SYS_ADMIN");
    }
    let (env, home) = environment(process.env.unwrap_or_default())?;
    let args = process.args.unwrap_or_default();
    let candidates = candidates(&args, &env)?;
    let limits = limits(process.rlimits.unwrap_or_default(), ways)?;
    let user = process.user;
    let groups = user.additional_gids.unwrap_or_default();
    let ids = [user.uid, user.gid]
        .into_iter()
        .chain(groups.iter().copied());
    // runc takes a group once, however often it is said.
    let is_again = groups.iter().collect::<BTreeSet<_>>().len() < groups.len();
    if ids.into_iter().any(|id| id >= 1 << 31) || is_again || has(&user.username) {
        return Err("its user is not understood");
    }
    if !is_plain(&process.cwd) || is_of_processes(&process.cwd) {
        return Err("its working directory is no plain path");
    }
    let apparmor = process.apparmor_profile.or_else(|| kept.apparmor.clone());
    if apparmor.as_ref().is_some_and(|name| !is_profile(name)) {
        return Err("its AppArmor profile has an odd name");
    }
    Ok(Wanted {
        args,
        candidates,
        env,
        home,
        cwd: process.cwd,
        uid: user.uid,
        gid: user.gid,
        groups,
        capabilities,
        raised: ways == Ways::Runc11 && of_files(&limits).is_none(),
        limits,
        apparmor,
        no_new_privileges: process.no_new_privileges == Some(true),
        umask: match ways {
            Ways::Runc11 => None,
            Ways::Runc13 => kept.umask,
            Ways::Crun => Some(user.umask.unwrap_or(UMASK)),
        },
    })
}

impl Capabilities {
    fn is_mighty(&self) -> bool {
        let all = [
            self.bounding,
            self.effective,
            self.permitted,
            self.inheritable,
            self.ambient,
        ];
        all.into_iter().any(Set::is_mighty)
    }
}

fn capabilities(names: Option<Names>) -> Result<Capabilities, Reason> {
    // Without any the container's would be taken.
    let names = names.ok_or("it names no capabilities")?;
    let set = |names: Option<Vec<String>>| {
        Set::of(&names.unwrap_or_default()).ok_or("its capabilities are not known")
    };
    let all = Capabilities {
        bounding: set(names.bounding)?,
        effective: set(names.effective)?,
        permitted: set(names.permitted)?,
        inheritable: set(names.inheritable)?,
        ambient: set(names.ambient)?,
    };
    let ambient = Set(all.inheritable.0 & all.permitted.0);
    match all.effective.is_within(all.permitted) && all.ambient.is_within(ambient) {
        true => Ok(all),
        false => Err("its sets of capabilities do not fit each other"),
    }
}

/// The environment, and whether HOME is missing.
fn environment(env: Vec<String>) -> Result<(Vec<String>, bool), Reason> {
    // crun's is the container's then.
    if env.is_empty() {
        return Err("it has no environment");
    }
    let mut names = BTreeSet::new();
    for variable in &env {
        let (name, value) = variable.split_once('=').unwrap_or_default();
        let is_odd =
            name.is_empty() || variable.contains('\0') || (name == "HOME" && value.is_empty());
        if is_odd || !names.insert(name) {
            return Err("its environment is read differently by different runtimes");
        }
    }
    let home = !names.contains("HOME");
    Ok((env, home))
}

/// Where its program may be.
fn candidates(args: &[String], env: &[String]) -> Result<Vec<String>, Reason> {
    const ODD: Reason = "its program is no plain path or name";
    let name = args.first().ok_or("it has no arguments")?;
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err("its process spec is not understood");
    }
    if name.contains('/') {
        return match is_plain(name) && !is_of_processes(name) {
            true => Ok(vec![name.clone()]),
            false => Err(ODD),
        };
    }
    if matches!(name.as_str(), "" | "." | "..") {
        return Err(ODD);
    }
    let path = env
        .iter()
        .find_map(|variable| variable.strip_prefix("PATH="));
    let path = path.ok_or("its environment has no PATH")?;
    let directories = path.split(':').map(|directory| match is_plain(directory) {
        true if is_of_processes(directory) => Err(ODD),
        true if directory == "/" => Ok(format!("/{name}")),
        true => Ok(format!("{directory}/{name}")),
        false => Err("its PATH is read differently by different runtimes"),
    });
    directories.collect()
}

/// Whether it is a name as the kernel takes it, and the runtime does.
fn is_profile(name: &str) -> bool {
    name.len() < 256 && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether it is an absolute path that is said in the shortest way.
fn is_plain(path: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    let parts = path.strip_prefix('/').map(|path| path.split('/'));
    let mut parts = parts.into_iter().flatten();
    path == "/" || (path.starts_with('/') && !path.contains('\0') && parts.all(is_part))
}

fn of_files(limits: &[(Limit, u64, u64)]) -> Option<(u64, u64)> {
    let mut limits = limits.iter();
    let (_, soft, hard) = limits.find(|(limit, ..)| *limit == Limit::OpenFiles)?;
    Some((*soft, *hard))
}

/// Whether it is below /proc, where things are what they are for who asks.
fn is_of_processes(path: &str) -> bool {
    path == "/proc" || path.starts_with("/proc/")
}

fn limits(limits: Vec<Rlimit>, ways: Ways) -> Result<Vec<(Limit, u64, u64)>, Reason> {
    const ODD: Reason = "it has limits that strike its runtime too";
    let mut all: Vec<(Limit, u64, u64)> = Vec::new();
    for Rlimit { kind, hard, soft } in limits {
        let limit = match kind.as_str() {
            "RLIMIT_NOFILE" => Limit::OpenFiles,
            "RLIMIT_CORE" => Limit::Core,
            "RLIMIT_MEMLOCK" => Limit::LockedMemory,
            "RLIMIT_SIGPENDING" => Limit::Signals,
            _ => return Err(ODD),
        };
        let is_again = all.iter().any(|(other, ..)| *other == limit);
        if is_again || soft > hard || (limit == Limit::OpenFiles && soft < FEWEST_FILES) {
            return Err(ODD);
        }
        all.push((limit, soft, hard));
    }
    // Its Go raises what it has to the most it may have: what is left of one that is given lower depends on who
    // comes first.
    let lower = of_files(&all).is_some_and(|(soft, hard)| soft < hard);
    match ways == Ways::Runc11 && lower {
        true => Err("it has a limit of open files that its runtime may raise"),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests;
