//! config.json for a plain container.
//!
//! Invariant: what [`Spec::to_json`] gives is a spec that runc and crun both take, with the
//! isolation and the privileges that container managers give by default.

use std::collections::BTreeMap;

use serde_json::{Value, json};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The field's default set.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The parts of a spec that differ from one container to the next.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Further environment variables, `NAME=value`.
    pub env: Vec<String>,
    /// The root directory: absolute, or below the bundle.
    pub rootfs: String,
    /// Whether the container has a terminal.
    pub terminal: bool,
    /// Whether the container shares the host's pid namespace.
    pub host_pids: bool,
    /// Memory limit in bytes.
    pub memory_limit: Option<i64>,
    /// Limit of processes and threads.
    pub pids_limit: Option<i64>,
    /// Path of its cgroup below each hierarchy's root.
    pub cgroups_path: String,
    /// Host name in the container.
    pub hostname: String,
    /// E.g. the sandbox that the container belongs to.
    pub annotations: BTreeMap<String, String>,
}

impl Spec {
    /// A container `id` that runs `args` in the bundle's own rootfs.
    pub fn new(id: &str, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            rootfs: "rootfs".into(),
            terminal: false,
            host_pids: false,
            memory_limit: None,
            pids_limit: None,
            cgroups_path: format!("/cotter/{id}"),
            hostname: id.chars().take(64).collect(),
            annotations: BTreeMap::new(),
        }
    }

    /// The OCI `process`, as an exec needs it too.
    pub fn process(&self) -> Value {
        let mut env = vec![PATH.to_owned()];
        env.extend(self.env.iter().cloned());
        json!({
            "terminal": self.terminal,
            "user": {"uid": 0, "gid": 0},
            "args": self.args,
            "env": env,
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        })
    }

    /// The whole config.json.
    pub fn to_json(&self) -> Value {
        let mut namespaces = vec!["ipc", "uts", "mount", "network"];
        if !self.host_pids {
            namespaces.push("pid");
        }
        let namespaces: Vec<Value> = namespaces
            .into_iter()
            .map(|name| json!({"type": name}))
            .collect();
        let mut resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
        if let Some(limit) = self.memory_limit {
            resources["memory"] = json!({"limit": limit});
        }
        if let Some(limit) = self.pids_limit {
            resources["pids"] = json!({"limit": limit});
        }
        json!({
            "ociVersion": "1.0.2",
            "process": self.process(),
            "root": {"path": self.rootfs},
            "hostname": self.hostname,
            "annotations": self.annotations,
            "mounts": mounts(),
            "linux": {
                "cgroupsPath": self.cgroups_path,
                "namespaces": namespaces,
                "resources": resources,
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                    "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                ],
                "readonlyPaths": [
                    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
                ],
            },
        })
    }
}

fn mounts() -> Value {
    let mount = |destination, kind, options: &[&str]| {
        json!({
            "destination": destination,
            "type": kind,
            "source": kind,
            "options": options,
        })
    };
    json!([
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5"
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/run",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(spec: &Spec) -> Vec<String> {
        let config = spec.to_json();
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        namespaces
            .iter()
            .map(|namespace| namespace["type"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn pid_namespace_is_private_unless_said_otherwise() {
        let mut spec = Spec::new("c", ["true"]);
        assert!(namespaces(&spec).contains(&"pid".to_owned()));
        spec.host_pids = true;
        assert!(!namespaces(&spec).contains(&"pid".to_owned()));
    }

    #[test]
    fn what_is_asked_for_is_there() {
        let mut spec = Spec::new("c", ["echo", "hi"]);
        spec.env.push("A=b".into());
        spec.memory_limit = Some(1 << 20);
        let config = spec.to_json();
        assert_eq!(config["process"]["args"], json!(["echo", "hi"]));
        assert_eq!(config["process"]["env"][1], "A=b");
        assert_eq!(config["linux"]["resources"]["memory"]["limit"], 1 << 20);
        assert_eq!(config["linux"]["cgroupsPath"], "/cotter/c");
    }
}
