//! `cotter ps`, `cotter kill` and `cotter rm`: containers that were detached.
//!
//! Invariant: a verb on one container touches no other; `ps` shows a container even if its shim is
//! gone, and `rm` removes even that.

use std::time::Duration;

use cotter::error::{Code, Error, Result};
use cotter::proto::task::Status;
use cotter::shown;

use crate::home::{Home, Note};
use crate::run::end_shim;
use cotter::manager::bundle::Bundle;
use cotter::manager::client::Tasks;
use cotter::manager::dialect::Endpoint;
use cotter::manager::events::EventServer;
use cotter::manager::request;

/// How long a shim may take to say in which state a container is.
const ANSWER: Duration = Duration::from_secs(5);

/// One line of `cotter ps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The container's id.
    pub id: String,
    /// The pid of its init process; 0 if there is none.
    pub pid: u32,
    /// E.g. `running`; `lost` when the shim is gone, `no answer` when it is there and says nothing.
    pub status: String,
    /// The command.
    pub command: Vec<String>,
}

/// Rows for people, under their columns.
pub fn text(rows: &[Row]) -> String {
    let head = ["ID", "PID", "STATUS", "COMMAND"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        let command = row.command.join(" ");
        let pid = row.pid.to_string();
        [
            shown::short(&row.id),
            pid,
            shown::short(&row.status),
            shown::short(&command),
        ]
    });
    let line = |[id, pid, status, command]: [String; 4]| {
        format!("{id:<16} {pid:>8}  {status:<14} {command}\n")
    };
    [head].into_iter().chain(cells).map(line).collect()
}

/// All containers.
///
/// # Errors
/// When the home cannot be read.
pub async fn ps(home: &Home) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for id in home.ids()? {
        let note = Note::load(&home.bundle(&id)?, &id);
        let (pid, status) = match state_in(home, &id).await {
            Ok((pid, Status::STOPPED, code)) => (pid, format!("stopped ({code})")),
            Ok((pid, status, _)) => (pid, name(status).to_owned()),
            Err(why) => (0, unknown(&why).to_owned()),
        };
        rows.push(Row {
            id,
            pid,
            status,
            command: note.map(|note| note.command).unwrap_or_default(),
        });
    }
    Ok(rows)
}

/// What can be said of a container whose shim does not tell.
fn unknown(why: &Error) -> &'static str {
    match why.code {
        Code::NotFound | Code::Unavailable => "lost",
        Code::DeadlineExceeded => "no answer",
        _ => "unknown",
    }
}

pub(super) fn name(status: Status) -> &'static str {
    match status {
        Status::UNKNOWN => "unknown",
        Status::CREATED => "created",
        Status::RUNNING => "running",
        Status::STOPPED => "stopped",
        Status::PAUSED => "paused",
        Status::PAUSING => "pausing",
    }
}

pub(super) async fn state(tasks: &Tasks, id: &str) -> Result<(u32, Status, u32)> {
    let state = tasks.state(&request::state(id, "")).await?;
    let status = state.status.enum_value_or_default();
    Ok((state.pid, status, state.exit_status))
}

async fn state_in(home: &Home, id: &str) -> Result<(u32, Status, u32)> {
    state(&connect(home, id).await?.within(ANSWER), id).await
}

async fn connect(home: &Home, id: &str) -> Result<Tasks> {
    let bundle = home.bundle(id)?;
    Note::load(&bundle, id)?;
    Tasks::connect(&Endpoint::load(&bundle)?).await
}

/// Sends a signal to a container's init process.
///
/// # Errors
/// When there is no such container or it has ended.
pub async fn kill(home: &Home, id: &str, signal: u32) -> Result<()> {
    let request = request::kill(id, "", signal);
    connect(home, id).await?.kill(&request).await?;
    Ok(())
}

/// Removes a container and its shim.
///
/// # Errors
/// When there is no such container, or it is running and not to be killed (`force`).
pub async fn remove(home: &Home, id: &str, force: bool) -> Result<()> {
    let path = home.bundle(id)?;
    let note = Note::load(&path, id)?;
    if !force {
        match state_in(home, id).await {
            Ok((_, Status::STOPPED, _)) => {}
            Ok((_, status, _)) => {
                let what = format!("container {id} is {}; kill it or use -f", name(status));
                return Err(Error::failed_precondition(what));
            }
            // A shim that is gone has nothing running that it could protect.
            Err(why) if matches!(why.code, Code::NotFound | Code::Unavailable) => {}
            Err(why) => return Err(why),
        }
    }
    let bundle = Bundle::adopt(&path)?;
    // The shim may have much to tell since its manager left, and does not like to end before.
    let events = EventServer::listen(&home.events(&path)).await?;
    let result = async {
        if let Ok(endpoint) = Endpoint::load(&path) {
            end_shim(&endpoint, id).await?;
        }
        home.launch(id, &path, &note).delete().await
    }
    .await;
    drop(events);
    match result {
        Ok(_) => bundle.remove(),
        Err(why) => {
            bundle.keep();
            Err(why)
        }
    }
}
