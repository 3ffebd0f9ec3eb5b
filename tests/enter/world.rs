//! A container whose execs may be done by the shim, and both ways to do one.
//!
//! Invariant: which way it was done is the shim's own word, from the table in its dump.

use std::fs;
use std::path::Path;
use std::process::Command;

use cotter::error::Result;
use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::collect;
use cotter::proto::Any;
use cotter::proto::runc_options::Options;
use cotter::proto::task::ExecProcessRequest;
use serde_json::{Value, json};

use crate::common::containerd::{Version, shim_under_test};
use crate::common::shim::Shim;
use crate::common::{LIMIT, TempDir, run as run_command, write_program};
use crate::dump;
use crate::ran::{By, Ran, facts};
use crate::root::root;

/// The runtimes of the tools' list, by name.
pub const RUNTIMES: [&str; 5] = ["RUNC", "RUNC_1_3", "CRUN", "CRUN_1_21", "CRUN_1_28"];

/// A field of a process spec that runtimes take no notice of, and the shim does not understand.
pub const UNKNOWN: &str = "ofNobody";

/// Why an exec with that field is the runtime's.
pub const NOT_UNDERSTOOD: &str = "its process spec is not understood";

/// Why all are in a container of a runtime that is none of [`Kind`].
pub const NOT_KNOWN: &str = "this version of the runtime is not known";

/// Runtimes whose ways the shim knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Runc11,
    Runc13,
    Crun,
}

impl Kind {
    /// By its version.
    pub fn of(runtime: &Path) -> Option<Self> {
        let text = run_command(Command::new(runtime).arg("--version")).ok();
        let line = text.lines().next().unwrap();
        let known = [
            ("runc version 1.1.5", Self::Runc11),
            ("runc version 1.3.6", Self::Runc13),
            ("crun version 1.21", Self::Crun),
            ("crun version 1.28", Self::Crun),
        ];
        let is = |name: &str| line == name || line.starts_with(&format!("{name}+"));
        known
            .into_iter()
            .find_map(|(name, kind)| is(name).then_some(kind))
    }

    /// Whether it is runc.
    pub fn is_runc(self) -> bool {
        self != Self::Crun
    }
}

/// Its standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// Both outputs.
    Outputs,
    /// Those and the input.
    All,
    /// Not one: they are null.
    None,
    /// Standard error alone.
    Errors,
    /// A terminal, and its output.
    Terminal,
}

/// A shim with one container `c`.
pub struct World {
    pub shim: Shim,
    /// If the shim knows it.
    pub kind: Option<Kind>,
    /// Why all its execs are the runtime's, if they are.
    pub why: Option<&'static str>,
    /// Its root directory, of the test's own.
    pub root: TempDir,
    /// What `/out` is in it: for everybody to write.
    pub out: TempDir,
}

/// How a world is made.
#[derive(Clone, Copy)]
pub struct Making {
    /// Has the last word on the container's config.
    pub config: fn(&mut Value),
    /// The same on the options of Create.
    pub options: fn(&mut Options),
    /// Lines of sh(1) that the shim's caller runs before, and words before the shim, as those of nice(1).
    pub caller: (&'static str, &'static str),
}

impl Making {
    /// Nothing is odd.
    pub const PLAIN: Self = Self {
        config: |_| {},
        options: |_| {},
        caller: ("", ""),
    };
}

impl World {
    /// Whose init sleeps.
    pub async fn new(runtime: &str, making: Making) -> Self {
        let world = Self::created(runtime, making).await.unwrap();
        world.shim.start_process("c", "").await.unwrap();
        world
    }

    /// As [`new`](Self::new), not started; the runtime's answer if it does not want to.
    pub async fn created(runtime: &str, making: Making) -> Result<Self> {
        Self::on(root(), runtime, making).await
    }

    /// As [`created`](Self::created), with a root directory that the test has changed.
    pub async fn on(root: TempDir, runtime: &str, making: Making) -> Result<Self> {
        let out = TempDir::new("out");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(out.path(), mode).unwrap();
        let spec = Spec {
            rootfs: root.path().to_string_lossy().into_owned(),
            ..Spec::new("c", ["sleep", "100000"])
        };
        let direct = [("COTTER_EXEC_BY", "direct")];
        let program = shim_under_test(Version::V2_1);
        let (lines, words) = making.caller;
        let caller = out.path().join("caller");
        let text = format!(
            "#!/bin/sh\n{lines}\nexec {words} {} \"$@\"\n",
            program.display()
        );
        write_program(&caller, text);
        let mut shim = Shim::start_by(
            caller.clone(),
            Dialect::Proto23,
            runtime,
            spec,
            "c",
            &direct,
        )
        .await;
        let config = shim.bundle_path("c").join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        let mount = json!({
            "destination": "/out", "type": "bind", "source": out.path(), "options": ["rbind", "rw"],
        });
        spec["mounts"].as_array_mut().unwrap().push(mount);
        (making.config)(&mut spec);
        fs::write(config, spec.to_string()).unwrap();
        (making.options)(&mut shim.options);
        let kind = Kind::of(Path::new(&shim.options.binary_name));
        let created = shim.create("c").await;
        let world = Self {
            shim,
            kind,
            why: (kind.is_none()).then_some(NOT_KNOWN),
            root,
            out,
        };
        match created {
            Ok(_) => Ok(world),
            Err(why) => {
                world.shim.end().await;
                Err(why)
            }
        }
    }

    /// Runs one to its end; answers who did it, too.
    pub async fn exec(&self, process: &Value, streams: Streams) -> (Ran, By) {
        let before = self.table().await;
        let ran = self.run(process, streams).await;
        let by = match &self.since(&before).await[..] {
            [] => By::Nobody,
            [(by, 1)] => by.clone(),
            new => panic!("one exec, and new in the table: {new:?}"),
        };
        (ran, by)
    }

    async fn run(&self, process: &Value, streams: Streams) -> Ran {
        let shim = &self.shim;
        let (input, outputs) = match streams {
            Streams::Outputs | Streams::Terminal => (false, true),
            Streams::All => (true, true),
            Streams::None | Streams::Errors => (false, false),
        };
        let fifos = shim.fifos("x", input);
        let mut request = self.request("x", process);
        let mut collected = Vec::new();
        if outputs {
            request.stdout.clone_from(&fifos.stdout);
            collected.push(collect(&fifos.stdout).unwrap());
        }
        request.terminal = streams == Streams::Terminal;
        if (outputs && !request.terminal) || streams == Streams::Errors {
            request.stderr.clone_from(&fifos.stderr);
            collected.push(collect(&fifos.stderr).unwrap());
        }
        request.stdin.clone_from(&fifos.stdin);
        let _input = input.then(|| {
            let mut open = fs::File::options();
            open.read(true).write(true).open(&fifos.stdin).unwrap()
        });
        let registered = shim.tasks.exec(&request).await;
        let started = match &registered {
            Ok(_) => shim.start_process("c", "x").await.map(drop),
            Err(why) => Err(why.clone()),
        };
        let status = match &started {
            Ok(()) => shim.wait("c", "x").await.unwrap().exit_status,
            Err(_) => 0,
        };
        if registered.is_ok() {
            shim.delete("c", "x").await.unwrap();
        }
        let mut text = String::new();
        for output in collected {
            text += &String::from_utf8_lossy(&output.finish(LIMIT).await.unwrap());
        }
        for path in [&fifos.stdin, &fifos.stdout, &fifos.stderr] {
            let _ = fs::remove_file(path);
        }
        let file = self.out.path().join("told");
        if let Ok(told) = fs::read_to_string(&file) {
            text += &told;
            fs::remove_file(file).unwrap();
        }
        match started {
            Ok(()) => Ran::Done {
                facts: facts(&text),
                text,
                status,
            },
            Err(why) => Ran::Refused {
                code: format!("{:?}", why.code),
                message: why.message,
            },
        }
    }

    /// Whether it was done so; a runtime that is not known has reasons enough.
    pub fn is_by(&self, by: &By, reason: Option<&str>) -> bool {
        match self.kind {
            Some(_) => *by == By::of(reason),
            None => matches!(by, By::Runtime(_)),
        }
    }

    /// An Exec in it of a process spec.
    pub fn request(&self, exec: &str, process: &Value) -> ExecProcessRequest {
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        };
        ExecProcessRequest {
            spec: Some(spec).into(),
            ..self.shim.exec_request("c", exec, &[])
        }
    }

    /// Who did how many so far: for each reason, none: the shim.
    pub async fn table(&self) -> Vec<(Option<String>, u64)> {
        let rows = dump::rows(&self.shim.endpoint).await;
        let row = |row: &Value| {
            let reason = row["reason"].as_str().map(str::to_owned);
            assert_eq!(row["by"] == "shim", reason.is_none(), "{row}");
            (reason, row["execs"].as_u64().unwrap())
        };
        let known = rows.iter().map(row).collect::<Vec<_>>();
        assert!(!known.is_empty(), "it may do none");
        known
    }

    /// Starts one that does not end at once.
    pub async fn start(&self, exec: &str, process: &Value) -> Result<u32> {
        self.shim.tasks.exec(&self.request(exec, process)).await?;
        self.shim.start_process("c", exec).await
    }

    /// Waits for one, and takes it away; answers how it has ended.
    pub async fn finish(&self, exec: &str) -> u32 {
        let status = self.shim.wait("c", exec).await.unwrap().exit_status;
        self.shim.delete("c", exec).await.unwrap();
        status
    }

    /// Who did all since.
    pub async fn since(&self, before: &[(Option<String>, u64)]) -> Vec<(By, u64)> {
        let mut new = self.table().await;
        for (reason, count) in before {
            let (_, now) = new.iter_mut().find(|(other, _)| other == reason).unwrap();
            *now -= count;
        }
        new.retain(|(_, count)| *count > 0);
        let by = |reason: Option<String>| By::of(reason.as_deref());
        new.into_iter()
            .map(|(reason, count)| (by(reason), count))
            .collect()
    }

    /// Ends all, and sees that nothing is left.
    pub async fn end(self) {
        self.shim.remove("c").await;
        // crun's, since 1.28: filters that it has compiled.
        let _ = fs::remove_dir_all(self.shim.state_dir().join(".cache"));
        self.shim.end().await;
    }
}

/// A process spec that runs the probe.
pub fn process(args: &[&str]) -> Value {
    Spec::new("c", args.iter().copied()).process()
}
