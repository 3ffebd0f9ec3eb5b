//! `cotter`: runs containers through a shim, for people and for trying things out.

#![allow(clippy::print_stderr)] // It is made to be read.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod args;
mod ask;
mod dump;
mod home;
mod list;
mod run;
mod stats;

use std::ffi::OsString;
use std::io::{ErrorKind, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use args::{HELP, Verb, parse};
use cotter::errno::Words;
use cotter::error::{Error, Result};
use cotter::program::own;
use cotter::shown;
use home::Home;

/// What the field returns when the container could not be run, the command not be started, the
/// command not be found.
const FAILED: u8 = 125;
const NOT_RUNNABLE: u8 = 126;
const NOT_THERE: u8 = 127;

fn main() -> ExitCode {
    own::own_children();
    let level = env_logger::Env::default().default_filter_or("error");
    env_logger::Builder::from_env(level)
        .format(|out, record| {
            let text = record.args().to_string();
            writeln!(out, "{}: {}", record.level(), shown::line(&text))
        })
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("cotter: {}", why.words());
            return ExitCode::from(FAILED);
        }
    };
    let result = arguments()
        .and_then(parse)
        .and_then(|verb| runtime.block_on(obey(verb)));
    // Not for ever: a write to a standard output that nobody reads may be under way.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match result {
        Ok(status) => ExitCode::from(status),
        Err(why) => {
            eprintln!("cotter: {}", shown::line(&why.to_string()));
            ExitCode::from(blame(&why))
        }
    }
}

/// The command line, which has to be text: ids, options and what goes into config.json are.
fn arguments() -> Result<Vec<String>> {
    let text = |(number, arg): (usize, OsString)| {
        arg.into_string().map_err(|arg| {
            let shown = arg.to_string_lossy();
            Error::invalid_argument(format!("argument {}, {shown:?}, is not UTF-8", number + 1))
        })
    };
    std::env::args_os().skip(1).enumerate().map(text).collect()
}

/// Writes to standard output. Whoever reads it may have enough of it, as with `head`.
///
/// # Errors
/// It cannot be written.
fn say(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("write to standard output", &why))
        }
        _ => Ok(()),
    }
}

async fn obey(verb: Verb) -> Result<u8> {
    let own = || std::env::var_os("COTTER_HOME").map_or(Home::DEFAULT.into(), PathBuf::from);
    let home = || Home::open(own());
    match verb {
        Verb::Run(mut options) => {
            if options.shim.as_os_str().is_empty() {
                options.shim = find_shim()?;
            }
            let status = run::run(&home()?, &options).await?;
            return Ok(u8::try_from(status).unwrap_or(u8::MAX));
        }
        Verb::Ps => {
            say(&list::text(&list::ps(&home()?).await?))?;
        }
        Verb::Kill { id, signal } => list::kill(&home()?, &id, signal).await?,
        Verb::Stats(ask) => {
            let report = stats::stats(&ask, &own()).await?;
            match ask.json {
                true => say(&format!("{}\n", shown::json(&report.json().to_string())))?,
                false => say(&report.text())?,
            }
        }
        Verb::Remove { ids, force } => {
            let home = home()?;
            for id in ids {
                list::remove(&home, &id, force).await?;
            }
        }
        Verb::Dump(ask) => {
            let shims = dump::dump(&ask, &own()).await?;
            match ask.json {
                true => say(&format!("{}\n", dump::json(&shims)))?,
                false => say(&dump::text(&shims))?,
            }
            return Ok(u8::from(shims.iter().any(|shim| shim.problem.is_some())));
        }
        Verb::Help => say(HELP)?,
        Verb::Version => say(&format!("cotter {}\n", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(0)
}

fn find_shim() -> Result<PathBuf> {
    const NAME: &str = "containerd-shim-cotter-v2";
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(NAME))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            Error::not_found(format_args!("{NAME} beside cotter or in PATH (see --shim)"))
        })
}

/// Whose fault it is, by the runtime's message.
fn blame(why: &Error) -> u8 {
    let says = |phrase| why.message.contains(phrase);
    if !says("OCI runtime create failed") && !says("OCI runtime start failed") {
        FAILED
    } else if says("executable file") && says("not found") || says("no such file or directory") {
        NOT_THERE
    } else if says("permission denied") {
        NOT_RUNNABLE
    } else {
        FAILED
    }
}
