//! What /proc tells of a process.

use std::fs;

use cotter::error::{Error, Result};

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io(format!("read {path}"), &e))
}

fn number(text: &str, name: &str) -> f64 {
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

/// CPU time of a process so far, in seconds.
pub fn cpu(pid: u32) -> Result<f64> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    // Fields 14 and 15, user and system, in ticks of 1/100 s; field 3 is the first here.
    let ticks: f64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<f64>().ok())
        .sum();
    Ok(ticks / 100.0)
}

/// Memory of the machine that is free to be used, in KB.
pub fn available() -> Result<f64> {
    Ok(number(&read("/proc/meminfo")?, "MemAvailable"))
}
