//! A container whose execs may be the shim's, and each exec done both ways.

use std::cell::Cell;
use std::fs;

use cotter::dump::Dump;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::collect;
use cotter::proto::introspection::{DumpRequest, IntrospectionClient};
use cotter::proto::task::ExecProcessRequest;
use serde_json::{Value, json};
use ttrpc::r#async::Client;

use super::common::LIMIT;
use super::common::shim::{RUNTIMES, Shim};
use super::seen::PROBE;

/// The runtimes whose execs the shim can do; [`RUNTIMES`] are the machine's own, of which it knows runc.
pub const KNOWN: [&str; 4] = ["RUNC", "RUNC_1_3", "CRUN_1_21", "CRUN_1_28"];

/// What became of an exec: its exit status and all that it wrote, or the code and words of the refusal.
pub type Came = Result<(u32, String), String>;

/// A running container.
pub struct World {
    pub shim: Shim,
    execs: Cell<u32>,
}

/// How many execs of the container went which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ways {
    pub direct: u64,
    /// With the reasons.
    pub runtime: Vec<(String, u64)>,
}

impl World {
    /// A usual container of a runtime.
    pub async fn new(runtime: &str) -> Self {
        Self::with(runtime, |_| {}).await
    }

    /// One whose config.json has been changed.
    pub async fn with(runtime: &str, change: impl FnOnce(&mut Value)) -> Self {
        Self::with_all(
            runtime,
            &[("COTTER_EXEC_BY", "direct")],
            "sleep 1000",
            change,
        )
        .await
    }

    /// One of a shim with this in its environment, that runs this script.
    pub async fn with_all(
        runtime: &str,
        environment: &[(&str, &str)],
        script: &str,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let spec = Spec::new("c", ["sh", "-c", script]);
        let shim = Shim::start_with(Dialect::Proto23, runtime, spec, "c", environment).await;
        let path = shim.bundle_path("c").join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
        shim.create("c").await.unwrap();
        shim.start_process("c", "").await.unwrap();
        Self::around(shim)
    }

    /// Of a shim whose container runs.
    pub fn around(shim: Shim) -> Self {
        Self {
            shim,
            execs: Cell::new(0),
        }
    }

    /// An OCI process that runs this, with these fields set otherwise.
    pub fn process(args: &[&str], changes: &[(&str, Value)]) -> Value {
        let mut process = Spec::new("c", args.iter().copied()).process();
        for (field, value) in changes {
            let pointer = format!("/{field}");
            match process.pointer_mut(&pointer) {
                Some(there) => *there = value.clone(),
                None => process[*field] = value.clone(),
            }
        }
        process
    }

    /// The exec as it is.
    pub async fn exec(&self, process: &Value) -> Came {
        let number = self.execs.replace(self.execs.get() + 1);
        let id = format!("x{number}");
        let fifos = self.shim.fifos(&id, false);
        let outs = [
            collect(&fifos.stdout).unwrap(),
            collect(&fifos.stderr).unwrap(),
        ];
        let request = ExecProcessRequest {
            stdout: fifos.stdout.clone(),
            stderr: fifos.stderr.clone(),
            spec: Some(packed(process)).into(),
            ..self.shim.exec_request("c", &id, &["-"])
        };
        self.shim.tasks.exec(&request).await.unwrap();
        let came = match self.shim.start_process("c", &id).await {
            Ok(_) => {
                let status = self.shim.wait("c", &id).await.unwrap().exit_status;
                let mut text = String::new();
                for out in outs {
                    text += &String::from_utf8_lossy(&out.finish(LIMIT).await.unwrap());
                }
                Ok((status, text))
            }
            Err(why) => Err(format!("{:?}: {}", why.code, why.message)),
        };
        self.shim.delete("c", &id).await.unwrap();
        came
    }

    /// An exec that goes on, without streams; answers its id and pid.
    pub async fn begin(&self, process: &Value) -> (String, u32) {
        let number = self.execs.replace(self.execs.get() + 1);
        let id = format!("x{number}");
        let request = ExecProcessRequest {
            spec: Some(packed(process)).into(),
            ..self.shim.exec_request("c", &id, &["-"])
        };
        self.shim.tasks.exec(&request).await.unwrap();
        let pid = self.shim.start_process("c", &id).await.unwrap();
        (id, pid)
    }

    /// An exec whose start is answered by nobody.
    pub async fn begun_in_vain(&self, process: &Value) {
        let request = ExecProcessRequest {
            spec: Some(packed(process)).into(),
            ..self.shim.exec_request("c", "vain", &["-"])
        };
        self.shim.tasks.exec(&request).await.unwrap();
        self.shim.start_process("c", "vain").await.unwrap_err();
    }

    /// What `delete` leaves of a shim that was killed is nothing.
    pub async fn gone(self) {
        self.shim.launch.delete().await.unwrap();
        // The bundle is the manager's to remove.
        for left in self.shim.left_in_bundles() {
            fs::remove_file(&left)
                .or_else(|_| fs::remove_dir_all(left))
                .unwrap();
        }
        self.shim.end_of_the_gone().await;
    }

    /// Ends one that goes on.
    pub async fn kill(&self, id: &str) {
        self.shim.kill("c", id, 9).await.unwrap();
        assert_eq!(self.shim.wait("c", id).await.unwrap().exit_status, 137);
        self.shim.delete("c", id).await.unwrap();
    }

    /// The exec by the runtime, which is a way that it always is.
    pub async fn by_runtime(&self, process: &Value) -> Came {
        let mut process = process.clone();
        process["aFieldOfNoSpec"] = json!(true);
        let before = self.ways().await;
        let came = self.exec(&process).await;
        assert_eq!(self.ways().await.direct, before.direct, "{process}");
        came
    }

    /// The exec without the runtime; panics if that was not so.
    #[track_caller]
    pub fn directly(&self, process: &Value) -> impl Future<Output = Came> {
        let at = std::panic::Location::caller();
        async move {
            let before = self.ways().await;
            let came = self.exec(process).await;
            let after = self.ways().await;
            assert_eq!(
                after.direct,
                before.direct + 1,
                "{at}: {process}: {came:?} {after:?}"
            );
            came
        }
    }

    /// All that a process sees of itself, both ways, has to be the same.
    pub async fn is_same(&self, changes: &[(&str, Value)]) {
        let process = Self::process(&["sh", "-c", PROBE], changes);
        self.is_same_process(&process).await;
    }

    /// The same of a whole process.
    pub async fn is_same_process(&self, process: &Value) {
        let direct = self.directly(process).await;
        let runtime = self.by_runtime(process).await;
        let [direct, runtime] = [direct, runtime].map(|came| {
            let (status, text) = came.unwrap_or_else(|why| panic!("{process}: {why}"));
            assert!(text.contains("== the end"), "{process}: {status}: {text}");
            super::seen::told(&text)
        });
        for (direct, runtime) in direct.iter().zip(&runtime) {
            assert_eq!(
                direct, runtime,
                "directly, and by {}: {process}",
                self.shim.options.binary_name
            );
        }
        assert_eq!(direct.len(), runtime.len(), "{direct:#?} {runtime:#?}");
    }

    /// An exec that the shim leaves to the runtime for this reason, and that comes out as it does there.
    pub async fn is_the_runtimes(&self, process: &Value, reason: &str) -> Came {
        let count = |ways: Ways| {
            let of = ways.runtime.iter().filter(|(why, _)| why.contains(reason));
            of.map(|(_, count)| count).sum::<u64>()
        };
        let before = self.ways().await;
        let left = self.exec(process).await;
        let after = self.ways().await;
        assert_eq!(after.direct, before.direct, "{process}");
        assert_eq!(
            count(after.clone()),
            count(before) + 1,
            "{process}: {reason}: {after:?}"
        );
        let runtime = self.by_runtime(process).await;
        assert_eq!(left, runtime, "{process}");
        left
    }

    /// What the shim has counted.
    pub async fn ways(&self) -> Ways {
        let dump = self.dump().await;
        let rows = dump.section("execs by").unwrap().as_array().unwrap();
        let of = |by: &'static str| {
            let rows = rows
                .iter()
                .filter(move |row| row["container"] == "c" && row["by"] == by);
            rows.map(|row| {
                let reason = row["reason"].as_str().unwrap_or_default().to_owned();
                (reason, row["execs"].as_u64().unwrap())
            })
        };
        Ways {
            direct: of("shim").map(|(_, count)| count).sum(),
            runtime: of("runtime").collect(),
        }
    }

    /// The state of the shim.
    pub async fn dump(&self) -> Dump {
        let client = Client::connect(&self.shim.endpoint.address).await.unwrap();
        let client = IntrospectionClient::new(client);
        let request = DumpRequest {
            quiet: true,
            ..Default::default()
        };
        let limit = ttrpc::context::with_duration(LIMIT);
        let answer = client.dump(limit, &request).await.unwrap();
        Dump::from_json(&answer.json).unwrap()
    }

    /// Has the runtime do something to the container that the shim is not asked for.
    pub fn by_hand(&self, what: &str) {
        let mut command = std::process::Command::new(&self.shim.options.binary_name);
        let status = command
            .arg("--root")
            .arg(self.shim.state_dir())
            .args([what, "c"])
            .status();
        assert!(status.unwrap().success(), "{what}");
    }

    /// Ends it all, and sees that nothing is left.
    pub async fn end(self) {
        self.shim.remove("c").await;
        // crun keeps compiled filters for all containers to come.
        let _ = fs::remove_dir_all(self.shim.state_dir().join(".cache"));
        self.shim.end().await;
    }
}

fn packed(process: &Value) -> protobuf::well_known_types::any::Any {
    protobuf::well_known_types::any::Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
        value: process.to_string().into_bytes(),
        ..Default::default()
    }
}

/// Each of the machine's own runtimes of which the shim knows nothing.
pub fn unknown() -> impl Iterator<Item = &'static str> {
    RUNTIMES.into_iter().filter(|name| *name == "CRUN")
}
