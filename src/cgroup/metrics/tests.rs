//! Parsers against what kernels write.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protobuf::Message;

use super::*;

/// Files of a cgroup, by `<controller>/<file>`; `partitions` is `/proc/partitions`.
#[derive(Clone, Debug, Default)]
struct Table(BTreeMap<String, String>);

impl Table {
    fn new(files: &[(&str, &str)]) -> Self {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        Self(files.iter().map(own).collect())
    }
}

impl Source for Table {
    fn text(&self, controller: &str, file: &str) -> Option<String> {
        self.0.get(&format!("{controller}/{file}")).cloned()
    }

    fn files(&self, controller: &str) -> Vec<String> {
        let prefix = format!("{controller}/");
        let names = self.0.keys().filter_map(|name| name.strip_prefix(&prefix));
        names.map(str::to_owned).collect()
    }

    fn partitions(&self) -> String {
        self.0.get("partitions").cloned().unwrap_or_default()
    }
}

const V1: &[(&str, &str)] = &[
    (
        "partitions",
        "major minor  #blocks  name\n\n   8        0  100 sda\n 254        0  268435456 vda\n",
    ),
    ("pids/pids.current", "3\n"),
    ("pids/pids.max", "max\n"),
    ("cpuacct/cpuacct.usage", "123456789\n"),
    ("cpuacct/cpuacct.usage_percpu", "100000000 23456789 \n"),
    ("cpuacct/cpuacct.stat", "user 7\nsystem 12\n"),
    (
        "cpu/cpu.stat",
        "nr_periods 5\nnr_throttled 2\nthrottled_time 77\nwait_sum 1\n",
    ),
    ("memory/memory.usage_in_bytes", "4096\n"),
    ("memory/memory.max_usage_in_bytes", "8192\n"),
    ("memory/memory.failcnt", "1\n"),
    ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
    ("memory/memory.memsw.usage_in_bytes", "4097\n"),
    ("memory/memory.memsw.max_usage_in_bytes", "8193\n"),
    ("memory/memory.memsw.failcnt", "2\n"),
    ("memory/memory.memsw.limit_in_bytes", "100\n"),
    ("memory/memory.kmem.usage_in_bytes", "40\n"),
    ("memory/memory.kmem.tcp.limit_in_bytes", "41\n"),
    (
        "memory/memory.oom_control",
        "oom_kill_disable 1\nunder_oom 0\noom_kill 6\n",
    ),
    ("hugetlb/hugetlb.2MB.usage_in_bytes", "2097152\n"),
    ("hugetlb/hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
    ("hugetlb/hugetlb.2MB.failcnt", "3\n"),
    ("hugetlb/hugetlb.2MB.rsvd.usage_in_bytes", "9\n"),
    ("hugetlb/hugetlb.1GB.usage_in_bytes", "0\n"),
    ("rdma/rdma.current", "mlx4_0 hca_handle=1 hca_object=20\n"),
    ("rdma/rdma.max", "mlx4_0 hca_handle=2 hca_object=max\n"),
    (
        "blkio/blkio.throttle.io_serviced",
        "254:0 Read 10\n254:0 Total 11\n9:9 Write 12\nTotal 33\n",
    ),
    ("blkio/blkio.throttle.io_service_bytes", "Total 0\n"),
];

#[test]
fn v1_small_files() {
    let m = v1::metrics(&Table::new(V1));
    assert_eq!((m.pids.current, m.pids.limit), (3, 0));

    let usage = &m.cpu.usage;
    assert_eq!(
        (usage.total, usage.user, usage.kernel),
        (123_456_789, 70_000_000, 120_000_000)
    );
    assert_eq!(usage.per_cpu, [100_000_000, 23_456_789]);
    let t = &m.cpu.throttling;
    assert_eq!(
        (t.periods, t.throttled_periods, t.throttled_time),
        (5, 2, 77)
    );

    let memory = [
        &m.memory.usage,
        &m.memory.swap,
        &m.memory.kernel,
        &m.memory.kernel_tcp,
    ];
    assert_eq!(
        memory.map(|e| (e.usage, e.max, e.failcnt, e.limit)),
        [
            (4096, 8192, 1, 9_223_372_036_854_771_712),
            (4097, 8193, 2, 100),
            (40, 0, 0, 0),
            (0, 0, 0, 41)
        ]
    );
    let oom = &m.memory_oom_control;
    assert_eq!(
        (oom.oom_kill_disable, oom.under_oom, oom.oom_kill),
        (1, 0, 6)
    );

    let pages: Vec<_> = m
        .hugetlb
        .iter()
        .map(|h| (h.pagesize.as_str(), h.usage, h.max, h.failcnt))
        .collect();
    assert_eq!(pages, [("1GB", 0, 0, 0), ("2MB", 2_097_152, 4_194_304, 3)]);

    let rdma = [&m.rdma.current[0], &m.rdma.limit[0]]
        .map(|e| (e.device.as_str(), e.hca_handles, e.hca_objects));
    assert_eq!(rdma, [("mlx4_0", 1, 20), ("mlx4_0", 2, u32::MAX)]);

    let io = &m.blkio.io_serviced_recursive;
    let io: Vec<_> = io
        .iter()
        .map(|e| (e.op.as_str(), e.device.as_str(), e.major, e.minor, e.value))
        .collect();
    assert_eq!(
        io,
        [
            ("Read", "/dev/vda", 254, 0, 10),
            ("Total", "/dev/vda", 254, 0, 11),
            ("Write", "", 9, 9, 12)
        ]
    );
    assert_eq!(m.blkio.io_service_bytes_recursive, []);
}

/// Every line of memory.stat has a number of its own and shows up in the field of its name.
#[test]
fn v1_memory_stat_line_by_line() {
    let own = [
        "cache",
        "rss",
        "rss_huge",
        "mapped_file",
        "dirty",
        "writeback",
        "pgpgin",
        "pgpgout",
        "pgfault",
        "pgmajfault",
        "inactive_anon",
        "active_anon",
        "inactive_file",
        "active_file",
        "unevictable",
    ];
    let mut keys: Vec<String> = own.iter().map(|&key| key.to_owned()).collect();
    keys.extend(["hierarchical_memory_limit", "hierarchical_memsw_limit"].map(str::to_owned));
    keys.extend(own.iter().map(|key| format!("total_{key}")));
    let stat: String = (1..)
        .zip(&keys)
        .map(|(n, key)| format!("{key} {n}\n"))
        .collect();
    let m = v1::metrics(&Table::new(&[(
        "memory/memory.stat",
        &format!("shmem 99\n{stat}swap 98\n"),
    )]));
    // The fields are numbered in the order of the keys.
    let mut expected = Vec::new();
    for n in 1u64..=32 {
        let mut out = protobuf::CodedOutputStream::vec(&mut expected);
        out.write_uint64(u32::try_from(n).unwrap(), n).unwrap();
        out.flush().unwrap();
    }
    let mut memory = m.memory.unwrap();
    for entry in [
        &memory.usage,
        &memory.swap,
        &memory.kernel,
        &memory.kernel_tcp,
    ] {
        assert!(entry.is_some(), "clients read it without a look");
    }
    (memory.usage, memory.swap) = Default::default();
    (memory.kernel, memory.kernel_tcp) = Default::default();
    assert_eq!(memory.write_to_bytes().unwrap(), expected);
}

#[test]
fn v1_block_io_of_cfq_where_it_counts() {
    let mut files = V1.to_vec();
    let cfq = [
        ("blkio/blkio.io_serviced_recursive", "8:0 Read 1\nTotal 1\n"),
        ("blkio/blkio.io_service_bytes_recursive", "8:0 Read 2\n"),
        ("blkio/blkio.io_queued_recursive", "8:0 Read 3\n"),
        ("blkio/blkio.io_service_time_recursive", "8:0 Read 4\n"),
        ("blkio/blkio.io_wait_time_recursive", "8:0 Read 5\n"),
        ("blkio/blkio.io_merged_recursive", "8:0 Read 6\n"),
        ("blkio/blkio.time_recursive", "8:0 7\n"),
        ("blkio/blkio.sectors_recursive", "8:0 8\n"),
    ];
    files.extend(cfq);
    let blkio = v1::metrics(&Table::new(&files)).blkio.unwrap();
    let values = [
        &blkio.io_serviced_recursive,
        &blkio.io_service_bytes_recursive,
        &blkio.io_queued_recursive,
        &blkio.io_service_time_recursive,
        &blkio.io_wait_time_recursive,
        &blkio.io_merged_recursive,
        &blkio.io_time_recursive,
        &blkio.sectors_recursive,
    ]
    .map(|entries| {
        entries
            .iter()
            .map(|e| (e.op.as_str(), e.device.as_str(), e.value))
            .collect::<Vec<_>>()
    });
    let expected: Vec<Vec<(&str, &str, u64)>> = (1..=8)
        .map(|n| vec![(if n < 7 { "Read" } else { "" }, "/dev/sda", n)])
        .collect();
    assert_eq!(values.to_vec(), expected);

    // A device without the CFQ scheduler: its files are there and empty.
    let mut files = V1.to_vec();
    files.extend(cfq.map(|(name, _)| (name, "")));
    let blkio = v1::metrics(&Table::new(&files)).blkio.unwrap();
    assert_eq!(blkio.io_serviced_recursive.len(), 3);
}

const V2: &[(&str, &str)] = &[
    ("pids/pids.current", "3\n"),
    ("pids/pids.max", "max\n"),
    (
        "cpu/cpu.stat",
        "usage_usec 10\nuser_usec 4\nsystem_usec 6\ncore_sched.force_idle_usec 0\nnr_periods 1\nnr_throttled 2\n\
         throttled_usec 3\nnr_bursts 5\nburst_usec 7\n",
    ),
    (
        "cpu/cpu.pressure",
        "some avg10=1.50 avg60=0.25 avg300=0.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.75 total=0\n",
    ),
    ("memory/memory.current", "4096\n"),
    ("memory/memory.max", "max\n"),
    ("memory/memory.peak", "8192\n"),
    ("memory/memory.swap.current", "5\n"),
    ("memory/memory.swap.max", "6\n"),
    ("memory/memory.swap.peak", "7\n"),
    (
        "memory/memory.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
    ),
    (
        "memory/memory.events",
        "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n",
    ),
    (
        "io/io.stat",
        "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n7:0\n",
    ),
    ("io/io.pressure", ""),
    ("hugetlb/hugetlb.2MB.current", "2097152\n"),
    ("hugetlb/hugetlb.2MB.max", "max\n"),
    ("hugetlb/hugetlb.2MB.rsvd.current", "9\n"),
    (
        "rdma/rdma.current",
        "ocrdma1 hca_handle=1 hca_object=20\nmlx4_0 hca_handle=2\n",
    ),
    ("rdma/rdma.max", ""),
];

#[test]
fn v2_files() {
    let m = v2::metrics(&Table::new(V2));
    assert_eq!((m.pids.current, m.pids.limit), (3, u64::MAX));

    let c = &m.cpu;
    assert_eq!((c.usage_usec, c.user_usec, c.system_usec), (10, 4, 6));
    assert_eq!((c.nr_periods, c.nr_throttled, c.throttled_usec), (1, 2, 3));
    assert_eq!((c.nr_bursts, c.burst_usec), (5, 7));
    let psi = [&c.psi.some, &c.psi.full].map(|p| (p.avg10, p.avg60, p.avg300, p.total));
    assert_eq!(psi, [(1.5, 0.25, 0.0, 99), (0.0, 0.0, 0.75, 0)]);

    let u = &m.memory;
    assert_eq!(
        (u.usage, u.usage_limit, u.max_usage),
        (4096, u64::MAX, 8192)
    );
    assert_eq!((u.swap_usage, u.swap_limit, u.swap_max_usage), (5, 6, 7));
    assert_eq!((u.psi.some.total, u.psi.full.is_some()), (1, false));
    let e = &m.memory_events;
    assert_eq!(
        [e.low, e.high, e.max, e.oom, e.oom_kill, e.oom_group_kill],
        [1, 2, 3, 4, 5, 6]
    );

    let io: Vec<_> =
        m.io.usage
            .iter()
            .map(|e| [e.major, e.minor, e.rbytes, e.wbytes, e.rios, e.wios])
            .collect();
    assert_eq!(io, [[254, 0, 1, 2, 3, 4], [8, 16, 0, 0, 0, 0]]);
    assert!(m.io.psi.is_some() && m.io.psi.some.is_none());

    let rdma: Vec<_> = m
        .rdma
        .current
        .iter()
        .map(|e| (e.device.as_str(), e.hca_handles, e.hca_objects))
        .collect();
    assert_eq!(rdma, [("ocrdma1", 1, 20), ("mlx4_0", 2, 0)]);
    assert_eq!(m.rdma.limit, []);
    let pages: Vec<_> = m
        .hugetlb
        .iter()
        .map(|h| (h.pagesize.as_str(), h.current, h.max))
        .collect();
    assert_eq!(pages, [("2MB", 2_097_152, u64::MAX)]);
}

/// Every line of memory.stat has a number of its own and shows up in the field of its name.
#[test]
fn v2_memory_stat_line_by_line() {
    let keys = [
        "anon",
        "file",
        "kernel_stack",
        "slab",
        "sock",
        "shmem",
        "file_mapped",
        "file_dirty",
        "file_writeback",
        "anon_thp",
        "inactive_anon",
        "active_anon",
        "inactive_file",
        "active_file",
        "unevictable",
        "slab_reclaimable",
        "slab_unreclaimable",
        "pgfault",
        "pgmajfault",
        "workingset_refault",
        "workingset_activate",
        "workingset_nodereclaim",
        "pgrefill",
        "pgscan",
        "pgsteal",
        "pgactivate",
        "pgdeactivate",
        "pglazyfree",
        "pglazyfreed",
        "thp_fault_alloc",
        "thp_collapse_alloc",
    ];
    let stat: String = (1..)
        .zip(keys)
        .map(|(n, key)| format!("{key} {n}\n"))
        .collect();
    let m = v2::metrics(&Table::new(&[(
        "memory/memory.stat",
        &format!("percpu 99\n{stat}"),
    )]));
    let mut expected = Vec::new();
    for n in 1u64..=31 {
        let mut out = protobuf::CodedOutputStream::vec(&mut expected);
        out.write_uint64(u32::try_from(n).unwrap(), n).unwrap();
        out.flush().unwrap();
    }
    assert_eq!(m.memory.unwrap().write_to_bytes().unwrap(), expected);
}

#[test]
fn what_cannot_be_read_is_absent_and_takes_nothing_with_it() {
    assert_eq!(v1::metrics(&Table::default()), cgroups_v1::Metrics::new());
    assert_eq!(v2::metrics(&Table::default()), cgroups_v2::Metrics::new());
    // Without any one file the others say what they said.
    for (missing, _) in V1 {
        let mut rest = Table::new(V1);
        rest.0.remove(*missing);
        let m = v1::metrics(&rest);
        let part = missing.split('/').next().unwrap();
        assert!(part == "pids" || m.pids.current == 3, "{missing}");
        assert!(
            part == "cpuacct" || m.cpu.usage.total == 123_456_789,
            "{missing}"
        );
        assert!(part == "cpu" || m.cpu.throttling.periods == 5, "{missing}");
        assert!(
            part == "memory" || m.memory.usage.usage == 4096,
            "{missing}"
        );
        assert!(
            part == "memory" || m.memory_oom_control.oom_kill == 6,
            "{missing}"
        );
        assert!(
            part == "blkio" || m.blkio.io_serviced_recursive.len() == 3,
            "{missing}"
        );
        assert!(part == "hugetlb" || m.hugetlb.len() == 2, "{missing}");
        assert!(part == "rdma" || m.rdma.current.len() == 1, "{missing}");
        // A client that finds the part reads its messages without a look.
        assert_eq!(m.cpu.usage.is_some(), m.cpu.is_some(), "{missing}");
        assert_eq!(m.cpu.throttling.is_some(), m.cpu.is_some(), "{missing}");
    }
    for (missing, _) in V2 {
        let mut rest = Table::new(V2);
        rest.0.remove(*missing);
        let m = v2::metrics(&rest);
        let part = missing.split('/').next().unwrap();
        assert!(part == "pids" || m.pids.current == 3, "{missing}");
        assert!(part == "cpu" || m.cpu.usage_usec == 10, "{missing}");
        assert!(part == "memory" || m.memory.usage == 4096, "{missing}");
        assert!(
            part == "memory" || m.memory_events.oom_kill == 5,
            "{missing}"
        );
        assert!(part == "io" || m.io.usage.len() == 2, "{missing}");
        assert!(part == "rdma" || m.rdma.current.len() == 2, "{missing}");
    }
}

#[test]
fn numbers() {
    for (word, expected) in [
        ("0\n", Some(0)),
        (" 18446744073709551615 ", Some(u64::MAX)),
        ("max\n", Some(7)),
        ("-1", Some(0)),
        ("-99999999999999999999", Some(0)),
        ("18446744073709551616", None),
        ("0x10", None),
        ("1 2", None),
        ("", None),
    ] {
        assert_eq!(super::text::number(word, 7), expected, "{word:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a kernel writes, there is an answer, and it can be sent.
    #[test]
    fn any_text_is_survived(seed in proptest::collection::vec("[a-z0-9:= .\\n-]{0,40}|\\PC{0,20}", V1.len().max(V2.len()))) {
        let table = |files: &[(&str, &str)]| {
            let named = files.iter().zip(&seed);
            Table(named.map(|((name, _), text)| ((*name).to_owned(), text.clone())).collect())
        };
        prop_assert!(v1::metrics(&table(V1)).write_to_bytes().is_ok());
        prop_assert!(v2::metrics(&table(V2)).write_to_bytes().is_ok());
    }

    /// Lines in the right form with any numbers, which may be too large to be added or scaled.
    #[test]
    fn any_number_is_survived(numbers in proptest::collection::vec(any::<u64>(), 8)) {
        let n = &numbers;
        let files = [
            ("cpuacct/cpuacct.stat", format!("user {}\nsystem {}\n", n[0], n[1])),
            ("cpuacct/cpuacct.usage_percpu", format!("{} {}\n", n[2], n[3])),
            ("blkio/blkio.throttle.io_serviced", format!("{}:{} Read {}\n", n[4], n[5], n[6])),
            ("rdma/rdma.max", format!("d hca_handle={} hca_object=1\n", n[7])),
        ];
        let table = Table(files.map(|(name, text)| (name.to_owned(), text)).into());
        let m = v1::metrics(&table);
        prop_assert_eq!(m.cpu.usage.user, n[0].saturating_mul(10_000_000));
        prop_assert_eq!(&m.cpu.usage.per_cpu, &n[2..4]);
        let entry = &m.blkio.io_serviced_recursive[0];
        prop_assert_eq!((entry.major, entry.minor, entry.value), (n[4], n[5], n[6]));
        prop_assert_eq!(m.rdma.limit[0].hca_objects, 1);
    }
}
