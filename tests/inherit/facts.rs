//! All that a process inherits, as one can see it from outside, line by line.

use std::collections::BTreeMap;
use std::fs;

use nix::sched::sched_getaffinity;
use nix::unistd::{Pid, getpgid, getsid};

/// By name.
pub type Facts = BTreeMap<String, String>;

/// Lines of `status` that tell of one process, not of what it has inherited.
const ITS_OWN: [&str; 30] = [
    "Pid",
    "Tgid",
    "PPid",
    "Ngid",
    "TracerPid",
    "NStgid",
    "NSpid",
    "NSpgid",
    "NSsid",
    "State",
    "FDSize",
    "SigQ",
    "VmPeak",
    "VmSize",
    "VmLck",
    "VmPin",
    "VmHWM",
    "VmRSS",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "VmData",
    "VmStk",
    "VmExe",
    "VmLib",
    "VmPTE",
    "VmSwap",
    "HugetlbPages",
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
];

/// Of a running process, a child of `shim` or not.
pub fn of(pid: u32, shim: u32) -> Facts {
    let mut facts = Facts::new();
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    facts.extend(status(&read("status").unwrap()));
    facts.extend(limits(&read("limits").unwrap()));
    let mut environment: Vec<_> = read("environ")
        .unwrap()
        .split('\0')
        .map(str::to_owned)
        .collect();
    environment.sort();
    facts.insert("environment".into(), environment.join(" "));
    for name in [
        "oom_score_adj",
        "timerslack_ns",
        "coredump_filter",
        "personality",
        "loginuid",
        "sessionid",
        "setgroups",
        "uid_map",
        "gid_map",
    ] {
        let text = read(name).unwrap_or_else(|e| e.kind().to_string());
        facts.insert(name.into(), text.trim().to_owned());
    }
    scheduling(pid, &mut facts);
    family(pid, shim, &mut facts);
    facts.extend(descriptors(pid));
    facts
}

/// What is in a copy of `status`.
pub fn status(text: &str) -> Facts {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let lines = lines.filter(|(name, _)| !ITS_OWN.contains(name));
    let fact = |(name, value): (&str, &str)| (name.to_owned(), value.trim().to_owned());
    lines.map(fact).collect()
}

/// What is in a copy of `limits`: soft and hard.
pub fn limits(text: &str) -> Facts {
    let lines = text.lines().skip(1).map(|line| {
        let (name, values) = line.split_at(25.min(line.len()));
        let values: Vec<_> = values.split_whitespace().take(2).collect();
        (name.trim().to_owned(), values.join(" "))
    });
    lines.collect()
}

fn scheduling(pid: u32, facts: &mut Facts) {
    let raw = pid.cast_signed();
    let cpus = sched_getaffinity(Pid::from_raw(raw)).unwrap();
    facts.insert("affinity".into(), format!("{cpus:?}"));
    // SAFETY: nix has no wrappers. All three take numbers only.
    let (policy, nice, io) = unsafe {
        const PROCESS: libc::c_int = 1; // IOPRIO_WHO_PROCESS, which libc does not export.
        (
            libc::sched_getscheduler(raw),
            libc::getpriority(libc::PRIO_PROCESS, pid),
            libc::syscall(libc::SYS_ioprio_get, PROCESS, raw),
        )
    };
    facts.insert("policy".into(), policy.to_string());
    facts.insert("nice".into(), nice.to_string());
    facts.insert("io priority".into(), format!("{io:#x}"));
}

fn family(pid: u32, shim: u32, facts: &mut Facts) {
    let own = Pid::from_raw(pid.cast_signed());
    let (group, session) = (getpgid(Some(own)).unwrap(), getsid(Some(own)).unwrap());
    let of_shim = getsid(Some(Pid::from_raw(shim.cast_signed()))).unwrap();
    let session = match session {
        session if session == own => "leads one",
        session if session == of_shim => "the shim's",
        _ => "another's",
    };
    facts.insert("session".into(), session.into());
    facts.insert("leads its group".into(), (group == own).to_string());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit_once(") ").unwrap().1;
    let parent = after.split(' ').nth(1).unwrap();
    facts.insert(
        "is the shim's child".into(),
        (parent == shim.to_string()).to_string(),
    );
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let last = |line: &str| line.rsplit('/').next().unwrap_or_default().to_owned();
    let cgroups: Vec<_> = cgroups.lines().map(last).collect();
    facts.insert("cgroups".into(), cgroups.join(" "));
    for name in ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time"] {
        let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
        facts.insert(
            format!("its {name} namespace"),
            (of(pid) != of(shim)).to_string(),
        );
    }
}

/// What kind each is, and how it is open.
fn descriptors(pid: u32) -> Facts {
    let mut facts = Facts::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number = entry.file_name().into_string().unwrap();
        let to = fs::read_link(entry.path()).unwrap();
        let to = to.to_string_lossy().into_owned();
        let kind = to.split([':', '[']).next().unwrap_or_default().to_owned();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        facts.insert(
            format!("descriptor {number}"),
            format!("{kind} {}", flags.trim()),
        );
    }
    facts
}

/// What differs, one a line: the name, what it is on the left, and on the right.
pub fn differences(left: &Facts, right: &Facts) -> Vec<String> {
    let mut names: Vec<_> = left.keys().chain(right.keys()).collect();
    names.sort();
    names.dedup();
    let of = |facts: &Facts, name: &str| facts.get(name).cloned().unwrap_or("none".into());
    let differing = names
        .into_iter()
        .filter(|name| left.get(*name) != right.get(*name));
    differing
        .map(|name| format!("{name}: {} | {}", of(left, name), of(right, name)))
        .collect()
}
