//! Usage on the v1 hierarchies. "max" is 0 here, since clients take it so (contract 7.3).

use protobuf::MessageField;

use super::text::{device, keyed, number, rdma};
use super::{Source, page_sizes};
use crate::proto::cgroups_v1::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};

/// Nanoseconds in a tick of USER_HZ, which is 100 on every architecture with a Rust toolchain.
const TICK: u64 = 1_000_000_000 / 100;

pub(in crate::cgroup) fn metrics(source: &impl Source) -> Metrics {
    Metrics {
        hugetlb: hugetlb(source),
        pids: pids(source).into(),
        cpu: cpu(source).into(),
        memory: memory(source).into(),
        blkio: blkio(source).into(),
        rdma: rdma_stat(source).into(),
        memory_oom_control: oom_control(source).into(),
        ..Default::default()
    }
}

fn value(source: &impl Source, controller: &str, file: &str) -> Option<u64> {
    number(&source.text(controller, file)?, 0)
}

fn hugetlb(source: &impl Source) -> Vec<HugetlbStat> {
    let sizes = page_sizes(source, ".usage_in_bytes");
    let stat = |pagesize: String| {
        let of = |what| value(source, "hugetlb", &format!("hugetlb.{pagesize}.{what}"));
        HugetlbStat {
            usage: of("usage_in_bytes").unwrap_or(0),
            max: of("max_usage_in_bytes").unwrap_or(0),
            failcnt: of("failcnt").unwrap_or(0),
            pagesize,
            ..Default::default()
        }
    };
    sizes.into_iter().map(stat).collect()
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
    let (usage, throttling) = (cpu_usage(source), throttle(source));
    if usage.is_none() && throttling.is_none() {
        return None;
    }
    Some(CPUStat {
        usage: MessageField::some(usage.unwrap_or_default()),
        throttling: MessageField::some(throttling.unwrap_or_default()),
        ..Default::default()
    })
}

fn cpu_usage(source: &impl Source) -> Option<CPUUsage> {
    let total = value(source, "cpuacct", "cpuacct.usage");
    let stat = source.text("cpuacct", "cpuacct.stat");
    let per_cpu = source.text("cpuacct", "cpuacct.usage_percpu");
    if total.is_none() && stat.is_none() && per_cpu.is_none() {
        return None;
    }
    let mut usage = CPUUsage {
        total: total.unwrap_or(0),
        per_cpu: per_cpu
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| number(word, 0))
            .collect(),
        ..Default::default()
    };
    for (key, ticks) in keyed(&stat.unwrap_or_default()) {
        match key {
            "user" => usage.user = ticks.saturating_mul(TICK),
            "system" => usage.kernel = ticks.saturating_mul(TICK),
            _ => {}
        }
    }
    Some(usage)
}

fn throttle(source: &impl Source) -> Option<Throttle> {
    let mut throttle = Throttle::default();
    for (key, value) in keyed(&source.text("cpu", "cpu.stat")?) {
        match key {
            "nr_periods" => throttle.periods = value,
            "nr_throttled" => throttle.throttled_periods = value,
            "throttled_time" => throttle.throttled_time = value,
            _ => {}
        }
    }
    Some(throttle)
}

fn memory(source: &impl Source) -> Option<MemoryStat> {
    let stat = source.text("memory", "memory.stat");
    let usage = memory_entry(source, "memory");
    let swap = memory_entry(source, "memory.memsw");
    let kernel = memory_entry(source, "memory.kmem");
    let kernel_tcp = memory_entry(source, "memory.kmem.tcp");
    if stat.is_none()
        && [&usage, &swap, &kernel, &kernel_tcp]
            .iter()
            .all(|e| e.is_none())
    {
        return None;
    }
    let mut memory = MemoryStat {
        usage: MessageField::some(usage.unwrap_or_default()),
        swap: MessageField::some(swap.unwrap_or_default()),
        kernel: MessageField::some(kernel.unwrap_or_default()),
        kernel_tcp: MessageField::some(kernel_tcp.unwrap_or_default()),
        ..Default::default()
    };
    for (key, value) in keyed(&stat.unwrap_or_default()) {
        if let Some(field) = memory_field(&mut memory, key) {
            *field = value;
        }
    }
    Some(memory)
}

fn memory_entry(source: &impl Source, prefix: &str) -> Option<MemoryEntry> {
    let of = |what| value(source, "memory", &format!("{prefix}.{what}"));
    let usage = of("usage_in_bytes");
    let max = of("max_usage_in_bytes");
    let failcnt = of("failcnt");
    let limit = of("limit_in_bytes");
    usage.or(max).or(failcnt).or(limit)?;
    Some(MemoryEntry {
        usage: usage.unwrap_or(0),
        max: max.unwrap_or(0),
        failcnt: failcnt.unwrap_or(0),
        limit: limit.unwrap_or(0),
        ..Default::default()
    })
}

fn memory_field<'a>(m: &'a mut MemoryStat, key: &str) -> Option<&'a mut u64> {
    Some(match key {
        "cache" => &mut m.cache,
        "rss" => &mut m.rss,
        "rss_huge" => &mut m.rss_huge,
        "mapped_file" => &mut m.mapped_file,
        "dirty" => &mut m.dirty,
        "writeback" => &mut m.writeback,
        "pgpgin" => &mut m.pg_pg_in,
        "pgpgout" => &mut m.pg_pg_out,
        "pgfault" => &mut m.pg_fault,
        "pgmajfault" => &mut m.pg_maj_fault,
        "inactive_anon" => &mut m.inactive_anon,
        "active_anon" => &mut m.active_anon,
        "inactive_file" => &mut m.inactive_file,
        "active_file" => &mut m.active_file,
        "unevictable" => &mut m.unevictable,
        "hierarchical_memory_limit" => &mut m.hierarchical_memory_limit,
        "hierarchical_memsw_limit" => &mut m.hierarchical_swap_limit,
        "total_cache" => &mut m.total_cache,
        "total_rss" => &mut m.total_rss,
        "total_rss_huge" => &mut m.total_rss_huge,
        "total_mapped_file" => &mut m.total_mapped_file,
        "total_dirty" => &mut m.total_dirty,
        "total_writeback" => &mut m.total_writeback,
        "total_pgpgin" => &mut m.total_pg_pg_in,
        "total_pgpgout" => &mut m.total_pg_pg_out,
        "total_pgfault" => &mut m.total_pg_fault,
        "total_pgmajfault" => &mut m.total_pg_maj_fault,
        "total_inactive_anon" => &mut m.total_inactive_anon,
        "total_active_anon" => &mut m.total_active_anon,
        "total_inactive_file" => &mut m.total_inactive_file,
        "total_active_file" => &mut m.total_active_file,
        "total_unevictable" => &mut m.total_unevictable,
        _ => return None,
    })
}

fn oom_control(source: &impl Source) -> Option<MemoryOomControl> {
    let mut control = MemoryOomControl::default();
    for (key, value) in keyed(&source.text("memory", "memory.oom_control")?) {
        match key {
            "oom_kill_disable" => control.oom_kill_disable = value,
            "under_oom" => control.under_oom = value,
            "oom_kill" => control.oom_kill = value,
            _ => {}
        }
    }
    Some(control)
}

/// The CFQ scheduler's files, up to Linux 4.20, if they say anything; else the throttling layer's,
/// which count for every scheduler.
fn blkio(source: &impl Source) -> Option<BlkIOStat> {
    let partitions = source.partitions();
    let read = |name: &str| {
        let text = source.text("blkio", &format!("blkio.{name}"))?;
        Some(blkio_entries(&text, &partitions))
    };
    let serviced = read("io_serviced_recursive");
    let cfq = |name: &str| {
        let entries = serviced.as_ref().and_then(|_| read(name));
        entries.unwrap_or_default()
    };
    let mut stat = BlkIOStat {
        io_service_bytes_recursive: cfq("io_service_bytes_recursive"),
        io_queued_recursive: cfq("io_queued_recursive"),
        io_service_time_recursive: cfq("io_service_time_recursive"),
        io_wait_time_recursive: cfq("io_wait_time_recursive"),
        io_merged_recursive: cfq("io_merged_recursive"),
        io_time_recursive: cfq("time_recursive"),
        sectors_recursive: cfq("sectors_recursive"),
        io_serviced_recursive: serviced.clone().unwrap_or_default(),
        ..Default::default()
    };
    if stat != BlkIOStat::default() {
        return Some(stat);
    }
    let throttled = read("throttle.io_serviced");
    let bytes = read("throttle.io_service_bytes");
    if serviced.is_none() && throttled.is_none() && bytes.is_none() {
        return None;
    }
    stat.io_serviced_recursive = throttled.unwrap_or_default();
    stat.io_service_bytes_recursive = bytes.unwrap_or_default();
    Some(stat)
}

/// Lines `<major>:<minor> [<operation>] <value>`; the last line, a total of all devices, is none.
fn blkio_entries(text: &str, partitions: &str) -> Vec<BlkIOEntry> {
    let entry = |line: &str| {
        let (major, minor, rest) = device(line)?;
        let (op, value) = rest.rsplit_once(' ').unwrap_or(("", rest));
        Some(BlkIOEntry {
            op: op.trim().to_owned(),
            device: device_path(partitions, major, minor).unwrap_or_default(),
            major,
            minor,
            value: number(value, 0)?,
            ..Default::default()
        })
    };
    text.lines().filter_map(entry).collect()
}

/// The device's path by `/proc/partitions`: columns major, minor, size, name.
fn device_path(partitions: &str, major: u64, minor: u64) -> Option<String> {
    partitions.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let found = words.next()?.parse() == Ok(major) && words.next()?.parse() == Ok(minor);
        let name = words.nth(1)?;
        found.then(|| format!("/dev/{name}"))
    })
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
