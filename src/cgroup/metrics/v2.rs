//! Usage on the unified hierarchy. "max" is 2^64-1 here (contract 7.3).

use protobuf::MessageField;

use super::text::{device, keyed, number, pairs, rdma};
use super::{Source, page_sizes};
use crate::proto::cgroups_v2::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};

pub(in crate::cgroup) fn metrics(source: &impl Source) -> Metrics {
    Metrics {
        pids: pids(source).into(),
        cpu: cpu(source).into(),
        memory: memory(source).into(),
        rdma: rdma_stat(source).into(),
        io: io(source).into(),
        hugetlb: hugetlb(source),
        memory_events: memory_events(source).into(),
        ..Default::default()
    }
}

fn value(source: &impl Source, controller: &str, file: &str) -> Option<u64> {
    number(&source.text(controller, file)?, u64::MAX)
}

fn pids(source: &impl Source) -> Option<PidsStat> {
    let current = value(source, "pids", "pids.current");
    let limit = value(source, "pids", "pids.max");
    current.or(limit)?;
    Some(PidsStat {
        current: current.unwrap_or(0),
        limit: limit.unwrap_or(0),
        ..Default::default()
    })
}

fn cpu(source: &impl Source) -> Option<CPUStat> {
    let stat = source.text("cpu", "cpu.stat");
    let psi = pressure(source, "cpu");
    if stat.is_none() && psi.is_none() {
        return None;
    }
    let mut cpu = CPUStat {
        psi: psi.into(),
        ..Default::default()
    };
    for (key, value) in keyed(&stat.unwrap_or_default()) {
        match key {
            "usage_usec" => cpu.usage_usec = value,
            "user_usec" => cpu.user_usec = value,
            "system_usec" => cpu.system_usec = value,
            "nr_periods" => cpu.nr_periods = value,
            "nr_throttled" => cpu.nr_throttled = value,
            "throttled_usec" => cpu.throttled_usec = value,
            "nr_bursts" => cpu.nr_bursts = value,
            "burst_usec" => cpu.burst_usec = value,
            _ => {}
        }
    }
    Some(cpu)
}

fn memory(source: &impl Source) -> Option<MemoryStat> {
    let stat = source.text("memory", "memory.stat");
    let of = |what| value(source, "memory", &format!("memory.{what}"));
    let (usage, limit) = (of("current"), of("max"));
    let psi = pressure(source, "memory");
    if stat.is_none() && usage.is_none() && limit.is_none() && psi.is_none() {
        return None;
    }
    let mut memory = MemoryStat {
        usage: usage.unwrap_or(0),
        usage_limit: limit.unwrap_or(0),
        max_usage: of("peak").unwrap_or(0),
        swap_usage: of("swap.current").unwrap_or(0),
        swap_limit: of("swap.max").unwrap_or(0),
        swap_max_usage: of("swap.peak").unwrap_or(0),
        psi: psi.into(),
        ..Default::default()
    };
    for (key, value) in keyed(&stat.unwrap_or_default()) {
        if let Some(field) = memory_field(&mut memory, key) {
            *field = value;
        }
    }
    Some(memory)
}

fn memory_field<'a>(m: &'a mut MemoryStat, key: &str) -> Option<&'a mut u64> {
    Some(match key {
        "anon" => &mut m.anon,
        "file" => &mut m.file,
        "kernel_stack" => &mut m.kernel_stack,
        "slab" => &mut m.slab,
        "sock" => &mut m.sock,
        "shmem" => &mut m.shmem,
        "file_mapped" => &mut m.file_mapped,
        "file_dirty" => &mut m.file_dirty,
        "file_writeback" => &mut m.file_writeback,
        "anon_thp" => &mut m.anon_thp,
        "inactive_anon" => &mut m.inactive_anon,
        "active_anon" => &mut m.active_anon,
        "inactive_file" => &mut m.inactive_file,
        "active_file" => &mut m.active_file,
        "unevictable" => &mut m.unevictable,
        "slab_reclaimable" => &mut m.slab_reclaimable,
        "slab_unreclaimable" => &mut m.slab_unreclaimable,
        "pgfault" => &mut m.pgfault,
        "pgmajfault" => &mut m.pgmajfault,
        "workingset_refault" => &mut m.workingset_refault,
        "workingset_activate" => &mut m.workingset_activate,
        "workingset_nodereclaim" => &mut m.workingset_nodereclaim,
        "pgrefill" => &mut m.pgrefill,
        "pgscan" => &mut m.pgscan,
        "pgsteal" => &mut m.pgsteal,
        "pgactivate" => &mut m.pgactivate,
        "pgdeactivate" => &mut m.pgdeactivate,
        "pglazyfree" => &mut m.pglazyfree,
        "pglazyfreed" => &mut m.pglazyfreed,
        "thp_fault_alloc" => &mut m.thp_fault_alloc,
        "thp_collapse_alloc" => &mut m.thp_collapse_alloc,
        _ => return None,
    })
}

fn memory_events(source: &impl Source) -> Option<MemoryEvents> {
    let mut events = MemoryEvents::default();
    for (key, value) in keyed(&source.text("memory", "memory.events")?) {
        match key {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            "oom_group_kill" => events.oom_group_kill = value,
            _ => {}
        }
    }
    Some(events)
}

fn io(source: &impl Source) -> Option<IOStat> {
    let stat = source.text("io", "io.stat");
    let psi = pressure(source, "io");
    if stat.is_none() && psi.is_none() {
        return None;
    }
    Some(IOStat {
        usage: stat
            .unwrap_or_default()
            .lines()
            .filter_map(io_entry)
            .collect(),
        psi: psi.into(),
        ..Default::default()
    })
}

fn io_entry(line: &str) -> Option<IOEntry> {
    let (major, minor, rest) = device(line)?;
    let mut entry = IOEntry {
        major,
        minor,
        ..Default::default()
    };
    for (key, value) in pairs(rest) {
        let value = number(value, u64::MAX).unwrap_or(0);
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

/// Absent when the kernel keeps no pressure here, which it says when the file is read.
fn pressure(source: &impl Source, controller: &str) -> Option<PSIStats> {
    let text = source.text(controller, &format!("{controller}.pressure"))?;
    Some(pressure_of(&text))
}

/// What a file of pressure says.
pub(super) fn pressure_of(text: &str) -> PSIStats {
    let mut stats = PSIStats::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("some", rest)) => stats.some = MessageField::some(psi(rest)),
            Some(("full", rest)) => stats.full = MessageField::some(psi(rest)),
            _ => {}
        }
    }
    stats
}

fn psi(words: &str) -> PSIData {
    let mut data = PSIData::default();
    for (key, value) in pairs(words) {
        match key {
            "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
            "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
            "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
            "total" => data.total = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    data
}

fn hugetlb(source: &impl Source) -> Vec<HugeTlbStat> {
    let stat = |pagesize: String| {
        let of = |what| value(source, "hugetlb", &format!("hugetlb.{pagesize}.{what}"));
        HugeTlbStat {
            current: of("current").unwrap_or(0),
            max: of("max").unwrap_or(0),
            pagesize,
            ..Default::default()
        }
    };
    page_sizes(source, ".current")
        .into_iter()
        .map(stat)
        .collect()
}

fn rdma_stat(source: &impl Source) -> Option<RdmaStat> {
    let current = source.text("rdma", "rdma.current");
    let limit = source.text("rdma", "rdma.max");
    if current.is_none() && limit.is_none() {
        return None;
    }
    let entries = |text: Option<String>| {
        let text = text.unwrap_or_default();
        let entry = |line: super::text::Rdma| RdmaEntry {
            device: line.device.to_owned(),
            hca_handles: line.handles,
            hca_objects: line.objects,
            ..Default::default()
        };
        rdma(&text).map(entry).collect()
    };
    Some(RdmaStat {
        current: entries(current),
        limit: entries(limit),
        ..Default::default()
    })
}
