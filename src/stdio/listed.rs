//! Files that output may be written to where there is a list ([`allow`]).
//!
//! Invariant: all of a plan is asked for before anything of it is opened, made or run; and what is opened
//! then is exactly the path that was allowed ([`exact`](super::exact)). tests/streams/allow.rs tries to get around it.

use std::path::Path;
use std::time::Duration;

use nix::sys::stat::{SFlag, stat};

use super::Stream;
use super::exact::is_everybodys;
use super::logger::allow;
use super::plan::{Output, Plan};
use crate::blocking::{Job, within};
use crate::error::Result;

/// A plan whose outputs have been asked for: each file is the one that was allowed. Without a list it is the
/// plan as it was.
///
/// # Errors
/// `PermissionDenied` naming the file or program that is on no list; what kept it from being looked at.
pub async fn ask(plan: Plan, option: Option<&str>, limit: Duration) -> Result<Plan> {
    let lists = allow::Lists::of(option);
    if lists.is_none() || plan == Plan::Null {
        return Ok(plan);
    }
    let job = Job {
        name: "ask-streams",
        what: format!("look at {}", plan.paths()),
        limit,
    };
    within(job, move || asked(plan, &lists)).await?
}

fn asked(plan: Plan, lists: &allow::Lists) -> Result<Plan> {
    let of = |stream: Stream, output: Option<Output>| {
        output
            .map(|output| asked_of(stream, output, lists))
            .transpose()
    };
    Ok(match plan {
        Plan::Null => Plan::Null,
        Plan::Pipes {
            stdin,
            stdout,
            stderr,
        } => Plan::Pipes {
            stdin,
            stdout: of(Stream::Stdout, stdout)?,
            stderr: of(Stream::Stderr, stderr)?,
        },
        Plan::Terminal { stdin, stdout } => Plan::Terminal {
            stdin,
            stdout: of(Stream::Stdout, stdout)?,
        },
    })
}

fn asked_of(stream: Stream, output: Output, lists: &allow::Lists) -> Result<Output> {
    Ok(match output {
        Output::File(path) => Output::Listed(lists.file(stream, &path)?),
        // A FIFO is the manager's; and what is not there is not made.
        Output::Path(path) if is_file(&path) => Output::Listed(lists.file(stream, &path)?),
        Output::Logger(command) => {
            lists.program(&command.path)?;
            Output::Logger(command)
        }
        other @ (Output::Path(_) | Output::Listed(_)) => other,
    })
}

/// Whether what is there would be written to: a file, or a device that is not everybody's.
fn is_file(path: &Path) -> bool {
    stat(path).is_ok_and(|stat| {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        kind == SFlag::S_IFREG || kind == SFlag::S_IFCHR && !is_everybodys(&stat)
    })
}
