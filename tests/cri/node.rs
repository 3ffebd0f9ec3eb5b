//! A node as a kubelet sees it: containerd with its CRI plugin, and what a kubelet asks of it.
//!
//! Pods use the machine's network, so that nothing but the shim and the runtime is under test.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use prost::Message;

use crate::api::*;
use crate::common::census::{Census, Process};
use crate::common::containerd::{CRI_IMAGE, Containerd, Version, is_under_test};
use crate::common::{eventually, eventually_some, results, tool, unique};
use crate::grpc::{self, Status};
use crate::image;

/// A containerd with an image, and nothing else on it at first.
pub struct Node {
    /// The daemon.
    pub daemon: Containerd,
    version: Version,
    runtime: PathBuf,
    before: Census,
}

/// A pod on a node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its id, which is also its shim's.
    pub id: String,
    config: PodSandboxConfig,
}

impl Node {
    /// Starts one of this version whose containers `runtime` runs.
    pub fn start(version: Version, runtime: &str) -> Self {
        Self::start_in(version, runtime, &[])
    }

    /// The same, with more in the environment of containerd, and so of its shims.
    pub fn start_in(
        version: Version,
        runtime: &str,
        environment: &[(&'static str, &'static str)],
    ) -> Self {
        let runtime = tool(runtime);
        let daemon = Containerd::start_with_cri(version, &runtime, environment);
        let before = daemon.census();
        let node = Self {
            daemon,
            version,
            runtime,
            before,
        };
        let image = image::make(&node.daemon.owner.dir);
        let image = image.to_str().unwrap();
        let import = ["--namespace", "k8s.io", "images", "import", image];
        node.daemon.ctr(&import).ok();
        // The plugin learns of it by an event.
        eventually("the CRI has the image", || {
            let request = ImageStatusRequest {
                image: Some(ImageSpec {
                    image: CRI_IMAGE.into(),
                }),
            };
            let answer = node.request::<ImageStatusResponse>(IMAGES, "ImageStatus", &request);
            answer.is_ok_and(|answer| answer.image.is_some())
        });
        node
    }

    fn request<A: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        let method = format!("{service}/{method}");
        grpc::call(&self.daemon.owner.address, &method, request)
    }

    /// Calls the runtime service.
    pub fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        self.request(RUNTIME, method, request)
    }

    /// As [`call`](Self::call), with the one id that most requests consist of.
    pub fn by_id<A: Message + Default>(&self, method: &str, id: &str) -> Result<A, Status> {
        self.call(method, &ById { id: id.into() })
    }

    /// Runs a pod under the default handler.
    pub fn pod(&self) -> Pod {
        self.pod_of("", namespace::CONTAINER)
    }

    /// Runs a pod under `handler`, with the given process id namespace.
    pub fn pod_of(&self, handler: &str, pid: i32) -> Pod {
        let name = unique("pod");
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.clone(),
                uid: name.clone(),
                namespace: "test".into(),
                attempt: 0,
            }),
            log_directory: self.daemon.owner.dir.join("logs").to_str().unwrap().into(),
            linux: Some(LinuxPodSandboxConfig {
                // The census finds what is in a cgroup of this name.
                cgroup_parent: format!("/{}", self.daemon.owner.namespace),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        network: namespace::NODE,
                        pid,
                        ..Default::default()
                    }),
                }),
            }),
        };
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.into(),
        };
        let answer: RunPodSandboxResponse = self.call("RunPodSandbox", &request).unwrap();
        self.daemon.adopt(&answer.pod_sandbox_id);
        is_under_test(self.daemon.version, &answer.pod_sandbox_id);
        Pod {
            id: answer.pod_sandbox_id,
            config,
        }
    }

    /// Makes a container of `pod` out of `config`, which need not say what all have in common.
    pub fn create(&self, pod: &Pod, name: &str, mut config: ContainerConfig) -> String {
        config.metadata = Some(ContainerMetadata {
            name: name.into(),
            attempt: 0,
        });
        config.image = Some(ImageSpec {
            image: CRI_IMAGE.into(),
        });
        config.log_path = format!("{name}.log");
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        let of_pod = pod.config.linux.as_ref().unwrap();
        let of_pod = of_pod.security_context.as_ref().unwrap();
        if security.namespace_options.is_none() {
            security.namespace_options = of_pod.namespace_options.clone();
        }
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer: CreateContainerResponse = self.call("CreateContainer", &request).unwrap();
        self.daemon.adopt(&answer.container_id);
        answer.container_id
    }

    /// Starts a container.
    pub fn begin(&self, id: &str) -> Result<Empty, Status> {
        self.by_id("StartContainer", id)
    }

    /// Makes and starts a container that runs a shell script.
    pub fn run(&self, pod: &Pod, name: &str, script: &str) -> String {
        self.run_config(pod, name, shell(script))
    }

    /// Makes and starts a container.
    pub fn run_config(&self, pod: &Pod, name: &str, config: ContainerConfig) -> String {
        let id = self.create(pod, name, config);
        self.begin(&id).unwrap();
        id
    }

    /// Ends a container: by force after `timeout` seconds.
    pub fn stop(&self, id: &str, timeout: i64) {
        let request = StopContainer {
            container_id: id.into(),
            timeout,
        };
        let _: Empty = self.call("StopContainer", &request).unwrap();
    }

    /// How a container is.
    pub fn status(&self, id: &str) -> ContainerStatus {
        let answer: ContainerStatusResponse = self.by_id("ContainerStatus", id).unwrap();
        answer.status.unwrap()
    }

    /// How a pod is: a value of [`sandbox`].
    pub fn pod_state(&self, pod: &Pod) -> i32 {
        let answer: PodSandboxStatusResponse = self.by_id("PodSandboxStatus", &pod.id).unwrap();
        answer.status.unwrap().state
    }

    /// Waits until a container has ended and tells how.
    #[track_caller]
    pub fn ended(&self, id: &str) -> ContainerStatus {
        eventually_some("the container has ended", || {
            Some(self.status(id)).filter(|status| status.state == state::EXITED)
        })
    }

    /// Runs a command in a container to its end.
    pub fn exec(&self, id: &str, cmd: &[&str]) -> Result<ExecSyncResponse, Status> {
        self.exec_within(id, cmd, 0)
    }

    /// The same, for so many seconds at most.
    pub fn exec_within(
        &self,
        id: &str,
        cmd: &[&str],
        timeout: i64,
    ) -> Result<ExecSyncResponse, Status> {
        let request = ExecSyncRequest {
            container_id: id.into(),
            cmd: words(cmd),
            timeout,
        };
        self.call("ExecSync", &request)
    }

    /// Runs a shell script that must succeed in a container and returns what it writes.
    #[track_caller]
    pub fn sh(&self, id: &str, script: &str) -> String {
        let done = self.exec(id, &["sh", "-c", script]).unwrap();
        assert_eq!(done.exit_code, 0, "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// The log file of the container of that name.
    pub fn log(&self, name: &str) -> PathBuf {
        self.daemon.owner.dir.join(format!("logs/{name}.log"))
    }

    /// All shims that serve on this node.
    pub fn shims(&self) -> Vec<Process> {
        let mut all = self.daemon.owner.processes();
        all.retain(|p| {
            p.argv
                .split(' ')
                .next()
                .unwrap()
                .contains("containerd-shim-")
        });
        all
    }

    /// Removes a pod as a kubelet does.
    pub fn remove(&self, pod: &Pod) {
        let _: Empty = self.by_id("StopPodSandbox", &pod.id).unwrap();
        let _: Empty = self.by_id("RemovePodSandbox", &pod.id).unwrap();
    }

    /// The end of a test: removes the pod, checks that nothing is left on the machine, and notes that
    /// `case` works.
    #[track_caller]
    pub fn done(&self, pod: &Pod, case: &str) {
        self.remove(pod);
        self.daemon.nothing_left_since(&self.before);
        let manager = results::version(&self.version.dir().join("containerd"), "--version");
        let name = self.runtime.file_name().unwrap().to_str().unwrap();
        let runtime = results::version(&self.runtime, "--version");
        results::passed(
            "containerd (CRI)",
            &manager,
            &format!("{name} {runtime}"),
            case,
        );
    }

    /// Follows what the CRI announces about containers, from now on.
    pub fn events(&self) -> Arc<Mutex<Vec<ContainerEvent>>> {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::downgrade(&events);
        let socket = self.daemon.owner.address.clone();
        std::thread::spawn(move || {
            let method = format!("{RUNTIME}/GetContainerEvents");
            grpc::follow(&socket, &method, &Empty {}, |event| {
                let sink = sink.upgrade();
                sink.map(|sink| sink.lock().unwrap().push(event)).is_some()
            });
        });
        events
    }
}

/// A container that runs a shell script.
pub fn shell(script: &str) -> ContainerConfig {
    ContainerConfig {
        command: words(&["sh", "-c", script]),
        ..Default::default()
    }
}

/// Owned words.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
