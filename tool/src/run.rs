//! `cotter run`: a container from nothing to nothing.
//!
//! Invariant: when [`run`] returns, nothing of the container is left, unless it was detached and is
//! running.

use std::fs;
use std::io::{Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protobuf::MessageField;
use serde_json::Value;

use cotter::error::{Error, Result};
use cotter::proto::pack;
use cotter::proto::task::*;
use cotter::shown;
use cotter::spec::{LONGEST, read_bounded};

use crate::home::{Home, Note, random_id};
use cotter::manager::bundle::Bundle;
use cotter::manager::client::{Tasks, gone};
use cotter::manager::dialect::{Dialect, Endpoint};
use cotter::manager::events::{EventServer, Told};
use cotter::manager::launch::Launch;
use cotter::manager::process::Process;
use cotter::manager::signals::Signals;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::{Fifos, Relay, relay_in, relay_out};
use cotter::manager::{request, rootfs};

/// How long a shim and its last words may take when the container has ended.
const END: Duration = Duration::from_secs(15);
/// How many times a person has to ask before the container is killed instead.
const PATIENCE: usize = 3;

/// What to run and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The shim's binary.
    pub shim: PathBuf,
    /// The dialect to start it in.
    pub dialect: Option<Dialect>,
    /// A directory to be the container's root; none for one made of busybox.
    pub rootfs: Option<PathBuf>,
    /// A bundle to take config.json from.
    pub bundle: Option<PathBuf>,
    /// The runtime: a name in PATH or an absolute path; empty for the shim's default.
    pub runtime: String,
    /// The container's id; none for a random one.
    pub id: Option<String>,
    /// Show the events.
    pub events: bool,
    /// Show the shim's log.
    pub debug: bool,
    /// Leave it running.
    pub detach: bool,
    /// The command; empty for the one in the bundle's config.json.
    pub command: Vec<String>,
}

/// Runs a container. Returns its exit status, or 0 once it is detached.
///
/// # Errors
/// When it could not be run, or its shim was lost.
pub async fn run(home: &Home, options: &Options) -> Result<u32> {
    let begin = Instant::now();
    let mut signals = Signals::catch()?;
    let id = options.id.clone().map_or_else(random_id, Ok)?;
    let path = home.bundle(&id)?;
    let config = config(&id, options)?;
    let note = Note {
        shim: options.shim.clone(),
        dialect: options.dialect.unwrap_or(Dialect::Proto23),
        runtime: options.runtime.clone(),
        command: command_of(&config),
    };
    let bundle = Bundle::create(&path, &config)?;
    note.save(&path)?;
    if options.rootfs.is_none() && options.bundle.is_none() {
        rootfs::fill(&bundle.rootfs()).await?;
    }
    let events = EventServer::listen(&home.events(&path)).await?;
    let mut launch = home.launch(&id, &path, &note);
    launch.debug = options.debug;

    let mut session = Session {
        launch,
        endpoint: None,
        events,
        timeline: options.events.then_some(begin),
    };
    let result = session.run(options, &mut signals).await;
    if options.detach && result.is_ok() {
        bundle.keep();
        return crate::say(&format!("{id}\n"))
            .map(|()| 0)
            .map_err(|why| why.context(format_args!("container {id} runs")));
    }
    let ended = session.end().await;
    if options.debug || result.is_err() {
        for line in bundle.log() {
            let _ = writeln!(stderr(), "shim: {}", shown::line(&line));
        }
    }
    if let Err(why) = ended {
        // It may still have its container, and all that is in there.
        bundle.keep();
        let kept = format!(
            "container {id} is kept in {}, see cotter rm -f",
            path.display()
        );
        let first = result
            .err()
            .map(|first| format!("{first}; "))
            .unwrap_or_default();
        return Err(Error::new(why.code, format!("{first}{why}; {kept}")));
    }
    let status = result?;
    bundle.remove()?;
    Ok(status)
}

struct Session {
    launch: Launch,
    endpoint: Option<Endpoint>,
    events: EventServer,
    /// When the timeline begins, if it is to be shown.
    timeline: Option<Instant>,
}

impl Session {
    async fn run(&mut self, options: &Options, signals: &mut Signals) -> Result<u32> {
        let endpoint = self.launch.start().await?;
        self.endpoint = Some(endpoint.clone());
        let tasks = Tasks::connect(&endpoint).await?;
        let id = self.launch.id.clone();
        let (fifos, outputs) = if options.detach {
            (Fifos::default(), None)
        } else {
            let fifos = Fifos::create(&self.launch.bundle, "init", true)?;
            let out = relay_out(&fifos.stdout, stdout())?;
            let err = relay_out(&fifos.stderr, stderr())?;
            (fifos, Some((out, err)))
        };
        let runtime = self.launch.options.as_ref().map(pack).transpose();
        let runtime = runtime.map_err(|why| Error::unknown(format!("encode options: {why}")))?;
        tasks
            .create(&CreateTaskRequest {
                id: id.clone(),
                bundle: plain(&self.launch.bundle)?.to_owned(),
                stdin: fifos.stdin.clone(),
                stdout: fifos.stdout.clone(),
                stderr: fifos.stderr.clone(),
                options: MessageField(runtime.map(Box::new)),
                ..Default::default()
            })
            .await?;
        tasks.start(&request::start(&id, "")).await?;
        let Some((mut out, mut err)) = outputs else {
            return Ok(0);
        };
        let input = relay_in(stdin(), &fifos.stdin)?;
        let status = self
            .attend(&tasks, input, (&mut out, &mut err), signals)
            .await?;
        tasks.delete(&request::delete(&id, "")).await?;
        for (output, name) in [(out, "output"), (err, "error output")] {
            match output.finish(END).await {
                // Whoever read it has enough, as with `head`.
                Err(why) if why.message.ends_with("broken pipe") => {}
                passed => {
                    passed.map_err(|why| why.context(format_args!("its {name}")))?;
                }
            }
        }
        Ok(status)
    }

    /// Passes signals and the end of input on and shows events, until the container has ended.
    async fn attend(
        &mut self,
        tasks: &Tasks,
        input: Relay,
        (out, err): (&mut Relay, &mut Relay),
        signals: &mut Signals,
    ) -> Result<u32> {
        let wait = request::wait(&self.launch.id, "");
        let mut exit = Box::pin(tasks.wait(&wait));
        let mut input = Box::pin(async {
            // Fails when our own standard input does, which ends it as well.
            let _ = input.finish(Duration::MAX).await;
            let _ = tasks.close_io(&request::close_stdin(&wait.id, "")).await;
        });
        let (mut input_open, mut output_open, mut asked) = (true, true, 0);
        loop {
            tokio::select! {
                exited = &mut exit => return Ok(exited?.exit_status),
                () = &mut input, if input_open => input_open = false,
                Some(told) = self.events.next() => show(self.timeline, &told),
                // Nobody reads its output any more. Outside a container SIGPIPE would end it; a
                // container's init process can only be killed.
                () = async { tokio::select!(() = out.broken() => {}, () = err.broken() => {}) },
                    if output_open =>
                {
                    output_open = false;
                    let _ = tasks.kill(&kill_request(&wait.id, Signal::SIGKILL)).await;
                }
                Some(signal) = signals.next() => {
                    if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
                        asked += 1;
                    }
                    let signal = if asked >= PATIENCE { Signal::SIGKILL } else { signal };
                    // Fails when the container has just ended.
                    let _ = tasks.kill(&kill_request(&wait.id, signal)).await;
                }
            }
        }
    }

    /// Ends the shim, whatever state it and the container are in, and what it left behind.
    async fn end(mut self) -> Result<()> {
        if let Some(endpoint) = &self.endpoint {
            end_shim(endpoint, &self.launch.id).await?;
        }
        // Containerd does this after every shim, also one that ended in order.
        self.launch.delete().await?;
        while let Some(told) = self.events.take() {
            show(self.timeline, &told);
        }
        Ok(())
    }
}

fn show(timeline: Option<Instant>, told: &Told) {
    if let Some(begin) = timeline {
        let after = told.received.saturating_duration_since(begin);
        let _ = writeln!(
            stderr(),
            "{:>9.1} ms  {:<20} {}",
            after.as_secs_f64() * 1000.0,
            shown::line(&told.topic),
            told.event.details()
        );
    }
}

fn kill_request(id: &str, signal: Signal) -> KillRequest {
    request::kill(id, "", (signal as i32).cast_unsigned())
}

/// Kills and deletes a container if it is still there, has its shim end, and waits for that: the
/// shim may have events to send after it has hung up.
///
/// # Errors
/// When the shim is still there after [`END`].
pub async fn end_shim(endpoint: &Endpoint, id: &str) -> Result<()> {
    let Ok(tasks) = Tasks::connect(endpoint).await else {
        return Ok(());
    };
    let tasks = tasks.within(END);
    let Ok(shim) = tasks.connect_task(&request::connect(id)).await else {
        return gone(endpoint, END).await;
    };
    let shim = Process::open(shim.shim_pid)?;
    if let Ok(state) = tasks.state(&request::state(id, "")).await {
        if state.status != Status::STOPPED.into() {
            let mut kill = kill_request(id, Signal::SIGKILL);
            kill.all = true;
            let _ = tasks.kill(&kill).await;
            let _ = tasks.wait_within(&request::wait(id, "")).await;
        }
        let _ = tasks.delete(&request::delete(id, "")).await;
    }
    // The answer may be lost: the shim is going.
    let _ = tasks.shutdown(&request::shutdown(id)).await;
    shim.ended(END).await
}

fn config(id: &str, options: &Options) -> Result<Value> {
    let absolute = |path: &Path| {
        fs::canonicalize(path)
            .map_err(|why| Error::io(format_args!("find {}", path.display()), &why))
    };
    let Some(bundle) = &options.bundle else {
        let mut spec = Spec::new(id, &options.command);
        if let Some(rootfs) = &options.rootfs {
            spec.rootfs = plain(&absolute(rootfs)?)?.to_owned();
        }
        return Ok(spec.to_json());
    };
    // The bundle itself is left as it is: the shim works in a copy that shares its rootfs.
    let path = absolute(bundle)?;
    let file = path.join("config.json");
    let text = read_bounded(&file, LONGEST)?;
    let mut config: Value = serde_json::from_slice(&text)
        .map_err(|why| Error::invalid_argument(format_args!("{}: {why}", file.display())))?;
    if !config.is_object() || !config["process"].is_object() {
        let what = format_args!("{}: no process", file.display()).to_string();
        return Err(Error::invalid_argument(what));
    }
    let root = path.join(config["root"]["path"].as_str().unwrap_or("rootfs"));
    config["root"]["path"] = plain(&root)?.into();
    config["process"]["terminal"] = false.into();
    if !options.command.is_empty() {
        config["process"]["args"] = options.command.clone().into();
    }
    Ok(config)
}

/// A path that goes into config.json or over the wire.
fn plain(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let shown = path.to_string_lossy();
        Error::invalid_argument(format!(
            "{shown:?} is not UTF-8, which a container's paths are"
        ))
    })
}

fn command_of(config: &Value) -> Vec<String> {
    let args = config["process"]["args"].as_array();
    args.into_iter()
        .flatten()
        .filter_map(|arg| Some(arg.as_str()?.to_owned()))
        .collect()
}
