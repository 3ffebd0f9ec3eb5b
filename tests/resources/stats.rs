//! Stats of our shim, from Create to Delete.

use cotter::cgroup::Metrics;
use cotter::error::Code;

use crate::common::eventually;
use crate::common::shim::{RUNTIMES, Shim, run};
use crate::{WORK, cgroup, pause, resume, stats};

/// What both versions have: processes, nanoseconds of CPU, memory in use and its limit.
fn gist(metrics: &Metrics) -> (u64, u64, u64, u64) {
    match metrics {
        Metrics::V1(m) => (
            m.pids.current,
            m.cpu.usage.total,
            m.memory.usage.usage,
            m.memory.usage.limit,
        ),
        Metrics::V2(m) => (
            m.pids.current,
            m.cpu.usage_usec * 1000,
            m.memory.usage,
            m.memory.usage_limit,
        ),
    }
}

#[test]
fn in_every_state_and_never_backwards() {
    for runtime in RUNTIMES {
        run(async {
            let limit = 64 << 20;
            let mut spec = cotter::manager::spec::Spec::new("c", ["sleep", "1000"]);
            spec.memory_limit = Some(limit);
            let dialect = cotter::manager::dialect::Dialect::Proto23;
            let shim = Shim::start_as(dialect, runtime, spec, "c").await;
            let error = stats(&shim.tasks, "c").await.unwrap_err();
            assert_eq!(error.message, "container not created: not found");
            let pid = shim.create("c").await.unwrap();
            let cgroup = cgroup(pid);
            let (processes, created, ..) = gist(&stats(&shim.tasks, "c").await.unwrap());
            assert!(processes >= 1 && created > 0, "{runtime}");

            shim.start_process("c", "").await.unwrap();
            let work = format!("{WORK}; head -c 4000000 /dev/zero >/run/some");
            shim.exec("c", "x", &["sh", "-c", &work]).await.unwrap();
            shim.wait("c", "x").await.unwrap();
            shim.delete("c", "x").await.unwrap();
            let running = gist(&stats(&shim.tasks, "c").await.unwrap());
            assert_eq!(running.0, 1);
            assert!(running.1 > created + 50_000_000, "{running:?}");
            assert!(running.2 > 4_000_000, "{running:?}");
            assert_eq!(running.3, limit.cast_unsigned());

            pause(&shim, "c").await.unwrap();
            let paused = gist(&stats(&shim.tasks, "c").await.unwrap());
            // Memory may still be given back.
            let (processes, cpu, ..) = gist(&cgroup.metrics().unwrap());
            assert_eq!((paused.0, paused.1), (processes, cpu), "frozen");
            assert_eq!(
                (processes, cpu >= running.1),
                (1, true),
                "{cpu} {running:?}"
            );
            resume(&shim, "c").await.unwrap();

            shim.kill("c", "", 9).await.unwrap();
            shim.wait("c", "").await.unwrap();
            let ended = gist(&stats(&shim.tasks, "c").await.unwrap());
            assert_eq!((ended.0, ended.3), (0, limit.cast_unsigned()));
            assert!(ended.1 >= running.1, "{ended:?}");

            // Somebody removes the cgroup; nothing else can be said then.
            for name in [
                "pids",
                "memory",
                "freezer",
                "devices",
                "cpu",
                "cpuacct",
                "blkio",
                "cpuset",
                "hugetlb",
                "name=systemd",
                "",
            ] {
                let Some(dir) = cgroup.dir(name) else {
                    continue;
                };
                // One directory of several controllers is removed by the first of them.
                eventually("the kernel lets the cgroup go", || {
                    std::fs::remove_dir(dir).is_ok() || !dir.exists()
                });
            }
            let error = stats(&shim.tasks, "c").await.unwrap_err();
            let expected = (Code::NotFound, "cgroup does not exist: not found");
            assert_eq!((error.code, error.message.as_str()), expected);
            shim.delete("c", "").await.unwrap();
            shim.end().await;
        });
    }
}
