//! What the figures were made on.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::contestant::Runtime;

/// Processors, memory, kernel, cgroups, runtimes, and how busy it is at this moment.
pub fn describe(runtimes: &[&Runtime]) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cpuinfo = read("/proc/cpuinfo");
    let total = field(&read("/proc/meminfo"), "MemTotal");
    let total = total
        .split(' ')
        .next()
        .and_then(|kb| kb.parse::<f64>().ok());
    let load = read("/proc/loadavg");
    let cgroup = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => "cgroup v2",
        false => "cgroup v1",
    };
    let mut parts = vec![
        format!(
            "{} × {}",
            cpuinfo.matches("processor\t").count(),
            field(&cpuinfo, "model name")
        ),
        format!(
            "{:.1} GiB of memory",
            total.unwrap_or_default() / f64::from(1 << 20)
        ),
        format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        cgroup.to_owned(),
    ];
    parts.extend(runtimes.iter().map(|runtime| version(runtime)));
    let load = load.split(' ').next().unwrap_or_default();
    parts.push(format!("load {load} at the start"));
    parts.join(", ")
}

fn version(runtime: &Runtime) -> String {
    let told = Command::new(&runtime.binary).arg("--version").output();
    let told = told.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let told = told.unwrap_or_default();
    told.lines().next().unwrap_or(runtime.name).to_owned()
}
