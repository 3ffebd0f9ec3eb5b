//! Ours against the Go shims of Debian's containerds: what they tell of a container of theirs and
//! what we read of the same cgroup. The container is paused, so nothing in it moves.

use std::os::unix::fs::MetadataExt;

use cotter::cgroup::{Cgroup, Metrics};
use cotter::manager::bundle::Bundle;
use cotter::manager::client::{Tasks, gone};
use cotter::manager::dialect::Dialect;
use cotter::manager::events::EventServer;
use cotter::manager::launch::Launch;
use cotter::manager::spec::Spec;
use cotter::proto::pack;
use cotter::proto::runc_options::Options;
use cotter::proto::task::{
    CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, PauseRequest, ResumeRequest,
    ShutdownRequest, StartRequest, UpdateTaskRequest, WaitRequest,
};

use crate::common::census::{MARK, Owner};
use crate::common::shim::{process, run};
use crate::common::{LIMIT, TempDir, tool, unique};
use crate::{WORK, cgroup, resources, stats};

/// A Go shim with one running container.
struct Go {
    tasks: Tasks,
    launch: Launch,
    endpoint: cotter::manager::dialect::Endpoint,
    cgroup: Cgroup,
    events: EventServer,
    _bundle: Bundle,
    owner: Owner,
    _dir: TempDir,
}

impl Drop for Go {
    fn drop(&mut self) {
        self.owner.clear(&["c"]);
    }
}

impl Go {
    async fn start(containerd: &str, dialect: Dialect) -> Self {
        let dir = TempDir::new("cotter-go");
        let namespace = unique("go");
        let events = EventServer::listen(&dir.path().join("events.sock"))
            .await
            .unwrap();
        let mut spec = Spec::new("c", ["sleep", "1000"]);
        spec.cgroups_path = format!("/{namespace}/c");
        spec.rootfs = tool("ROOTFS").to_string_lossy().into_owned();
        spec.memory_limit = Some(256 << 20);
        let bundle = Bundle::create(&dir.path().join("c"), &spec.to_json()).unwrap();
        let shim = tool(containerd).join("containerd-shim-runc-v2");
        let mut launch = Launch::new(shim, dialect, "c", bundle.path());
        launch.namespace.clone_from(&namespace);
        let address = dir.path().join("grpc.sock");
        launch.grpc_address = address.to_string_lossy().into_owned();
        launch.ttrpc_address = events.address();
        launch.environment.push((MARK.into(), namespace.clone()));
        let owner = Owner {
            namespace,
            dir: dir.path().to_owned(),
            address,
        };
        let options = Options {
            binary_name: tool("RUNC").to_string_lossy().into_owned(),
            root: dir.path().join("runtime").to_string_lossy().into_owned(),
            ..Options::default()
        };
        let endpoint = launch.start().await.unwrap();
        let tasks = Tasks::connect(&endpoint).await.unwrap();
        let create = CreateTaskRequest {
            id: "c".into(),
            bundle: bundle.path().to_string_lossy().into_owned(),
            options: Some(pack(&options).unwrap()).into(),
            ..Default::default()
        };
        let pid = tasks.create(&create).await.unwrap().pid;
        let start = StartRequest {
            id: "c".into(),
            ..Default::default()
        };
        tasks.start(&start).await.unwrap();
        let cgroup = cgroup(pid);
        Self {
            tasks,
            launch,
            endpoint,
            cgroup,
            events,
            _bundle: bundle,
            owner,
            _dir: dir,
        }
    }

    /// Runs a command in the container to its end.
    async fn exec(&self, command: &str) {
        let exec = ExecProcessRequest {
            id: "c".into(),
            exec_id: "x".into(),
            spec: Some(process("c", &["sh", "-c", command])).into(),
            ..Default::default()
        };
        self.tasks.exec(&exec).await.unwrap();
        let start = StartRequest {
            id: "c".into(),
            exec_id: "x".into(),
            ..Default::default()
        };
        self.tasks.start(&start).await.unwrap();
        let wait = WaitRequest {
            id: "c".into(),
            exec_id: "x".into(),
            ..Default::default()
        };
        assert_eq!(
            self.tasks.wait(&wait).await.unwrap().exit_status,
            0,
            "{command}"
        );
        let delete = DeleteRequest {
            id: "c".into(),
            exec_id: "x".into(),
            ..Default::default()
        };
        self.tasks.delete(&delete).await.unwrap();
    }

    async fn end(self) {
        let kill = KillRequest {
            id: "c".into(),
            signal: 9,
            ..Default::default()
        };
        self.tasks.kill(&kill).await.unwrap();
        let wait = WaitRequest {
            id: "c".into(),
            ..Default::default()
        };
        self.tasks.wait(&wait).await.unwrap();
        let delete = DeleteRequest {
            id: "c".into(),
            ..Default::default()
        };
        self.tasks.delete(&delete).await.unwrap();
        let shutdown = ShutdownRequest {
            id: "c".into(),
            ..Default::default()
        };
        // The answer may be lost with the connection.
        let _ = self.tasks.shutdown(&shutdown).await;
        gone(&self.endpoint, LIMIT).await.unwrap();
        self.launch.delete().await.unwrap();
        drop(self.events.address());
    }
}

fn compare(containerd: &str, dialect: Dialect) {
    run(async {
        let go = Go::start(containerd, dialect).await;
        // Something in every part: throttling, page cache, block I/O, an event at the limit of pids.
        let update = UpdateTaskRequest {
            id: "c".into(),
            resources: Some(resources(
                r#"{"cpu":{"quota":20000,"period":100000},"pids":{"limit":99}}"#,
            ))
            .into(),
            ..Default::default()
        };
        go.tasks.update(&update).await.unwrap();
        go.exec(WORK).await;
        go.exec("head -c 3000000 /dev/zero >/run/some").await;
        have_block_io_counted(&go.cgroup);
        // Not every file system reads past the cache.
        go.exec("dd if=/bin/busybox of=/dev/null bs=64k count=4 iflag=direct || :")
            .await;
        let pause = PauseRequest {
            id: "c".into(),
            ..Default::default()
        };
        go.tasks.pause(&pause).await.unwrap();

        // Freezing is counted itself: what is read before and after must be the same.
        let mut theirs = None;
        for _ in 0..1000 {
            let before = go.cgroup.metrics().unwrap();
            let told = stats(&go.tasks, "c").await.unwrap();
            let after = go.cgroup.metrics().unwrap();
            if before == after {
                theirs = Some((told, after));
                break;
            }
        }
        let (mut theirs, mut ours) = theirs.expect("a frozen container comes to rest");
        match &ours {
            Metrics::V1(m) => {
                assert!(m.cpu.throttling.periods > 0, "{m:?}");
                assert!(m.cpu.usage.user + m.cpu.usage.kernel > 0, "{m:?}");
                assert!(m.memory.total_cache >= 3_000_000, "{m:?}");
                assert_eq!((m.pids.limit, m.memory.usage.limit), (99, 256 << 20));
                assert!(!m.hugetlb.is_empty() && !m.cpu.usage.per_cpu.is_empty());
            }
            Metrics::V2(m) => {
                assert!(m.cpu.nr_periods > 0 && m.cpu.throttled_usec > 0, "{m:?}");
                assert!(m.cpu.user_usec + m.cpu.system_usec > 0, "{m:?}");
                assert!(m.cpu.psi.some.total > 0, "{m:?}");
                assert!(m.memory.shmem >= 3_000_000, "{m:?}");
                assert!(m.memory.max_usage >= m.memory.usage, "{m:?}");
                assert_eq!((m.pids.limit, m.memory.usage_limit), (99, 256 << 20));
                assert!(!m.io.usage.is_empty() && !m.hugetlb.is_empty(), "{m:?}");
                assert!(m.memory_events.is_some(), "{m:?}");
            }
        }
        for metrics in [&mut theirs, &mut ours] {
            sort(metrics);
        }
        if containerd == "CONTAINERD_1_6" {
            as_in_1_6(&mut ours);
        }
        assert_eq!(
            field_by_field(&ours),
            field_by_field(&theirs),
            "ours left, {containerd}'s right"
        );
        assert_eq!(ours, theirs);
        let resume = ResumeRequest {
            id: "c".into(),
            ..Default::default()
        };
        go.tasks.resume(&resume).await.unwrap();
        go.end().await;
    });
}

/// The kernel counts block I/O of cgroups that have a limit for it, here a generous one. Not every
/// rootfs is on a device that can have one.
fn have_block_io_counted(cgroup: &Cgroup) {
    let device = std::fs::metadata(tool("ROOTFS")).unwrap().dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    if let Some(dir) = cgroup.dir("blkio") {
        let _ = std::fs::write(
            dir.join("blkio.throttle.read_bps_device"),
            format!("{major}:{minor} 1073741824"),
        );
    }
}

/// Page sizes have no order: the Go shim takes them as the directory yields them.
fn sort(metrics: &mut Metrics) {
    match metrics {
        Metrics::V1(m) => m.hugetlb.sort_by(|a, b| a.pagesize.cmp(&b.pagesize)),
        Metrics::V2(m) => m.hugetlb.sort_by(|a, b| a.pagesize.cmp(&b.pagesize)),
    }
}

/// The Go shim of containerd 1.6 knows neither pressure nor the peak of cgroup v2's memory.
fn as_in_1_6(metrics: &mut Metrics) {
    if let Metrics::V2(m) = metrics {
        m.cpu.mut_or_insert_default().psi.take();
        m.io.mut_or_insert_default().psi.take();
        let memory = m.memory.mut_or_insert_default();
        memory.psi.take();
        memory.max_usage = 0;
    }
}

/// One field a line, for a readable difference.
fn field_by_field(metrics: &Metrics) -> Vec<String> {
    let text = format!("{metrics:#?}");
    let told = |line: &&str| !line.contains("special_fields") && !line.contains("cached_size");
    text.lines()
        .filter(told)
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn as_the_go_shim_of_containerd_1_6() {
    compare("CONTAINERD_1_6", Dialect::Plain16);
}

#[test]
fn as_the_go_shim_of_containerd_1_7() {
    compare("CONTAINERD_1_7", Dialect::Json17);
}

#[test]
fn as_the_go_shim_of_containerd_2_1() {
    compare("CONTAINERD_2_1", Dialect::Json17);
}
