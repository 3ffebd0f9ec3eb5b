//! What /proc tells of a process.

use std::fs;

use cotter::error::{Error, Result};

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io(format!("read {path}"), &e))
}

pub fn number(text: &str, name: &str) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter_map(|rest| rest.trim_start_matches(':').split_whitespace().next())
        .filter_map(|word| word.parse::<f64>().ok())
        .sum()
}

/// Memory in KB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Private and not a file's: heap, stacks, written data.
    pub anonymous: f64,
    /// With its share of what it shares.
    pub pss: f64,
    /// With all that it shares.
    pub rss: f64,
}

/// The memory of a process.
pub fn memory(pid: u32) -> Result<Memory> {
    let text = read(&format!("/proc/{pid}/smaps_rollup"))?;
    Ok(Memory {
        anonymous: number(&text, "Anonymous"),
        pss: number(&text, "Pss"),
        rss: number(&text, "Rss"),
    })
}

/// Threads of a process.
pub fn threads(pid: u32) -> Result<f64> {
    Ok(number(&read(&format!("/proc/{pid}/status"))?, "Threads"))
}

/// Open descriptors of a process.
pub fn fds(pid: u32) -> f64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0.0, |dir| dir.count() as f64)
}

/// How often the threads of a process were put on or off a CPU.
pub fn switches(pid: u32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0.0;
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .map(|text| number(&text, "voluntary_ctxt_switches"))
        .sum()
}

/// Fields 14 to 17 of a process's stat, in seconds: user and system time of its own and of its children
/// that it has waited for. They are ticks of 1/100 s; field 3 is the first behind the name.
fn times(pid: u32) -> Result<[f64; 4]> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let mut fields = fields.split(' ').skip(11).map(str::parse::<f64>);
    let mut next = || {
        fields
            .next()
            .and_then(std::result::Result::ok)
            .unwrap_or(0.0)
            / 100.0
    };
    Ok(std::array::from_fn(|_| next()))
}

/// CPU time of a process so far, in seconds.
pub fn cpu(pid: u32) -> Result<f64> {
    let [user, system, ..] = times(pid)?;
    Ok(user + system)
}

/// User and system time of its children that have ended, in seconds.
pub fn cpu_of_children(pid: u32) -> Result<(f64, f64)> {
    let [.., user, system] = times(pid)?;
    Ok((user, system))
}

/// CPU time of this process.
pub fn own_cpu() -> Result<f64> {
    cpu(std::process::id())
}
