//! Invariant: every (state, operation) pair is decided here, visibly, and nowhere else.
//!
//! Refusals carry the Go shim's texts and codes (contract sections 3 and A.1), since clients match
//! on them: state violations are `Unknown`, not `FailedPrecondition`.

use crate::error::{Error, Result};

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Init: the runtime made it, its program has not begun. Exec: registered, nothing runs.
    Created,
    /// Init: it is to come from a checkpoint, and does not exist yet: the runtime knows nothing of it.
    CreatedCheckpoint,
    /// Its program runs.
    Running,
    /// A pause is under way; the program may still run.
    Pausing,
    /// Frozen by a Pause of ours.
    Paused,
    /// It has exited, and its exit has been published.
    Stopped,
    /// Forgotten; only those who held on to it still see it.
    Deleted,
}

/// What can be asked of a container's init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitOp {
    /// Run the program.
    Start,
    /// Remove the container.
    Delete,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Resume,
    /// Change its resources.
    Update,
    /// Dump it to disk.
    Checkpoint,
    /// Register a further process.
    Exec,
    /// Send a signal.
    Kill,
}

/// What can be asked of an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecOp {
    /// Run the program.
    Start,
    /// Forget the process.
    Delete,
    /// Send a signal.
    Kill,
    /// Change the size of its terminal.
    Resize,
}

fn refuse(verb: &str, thing: &str) -> Result<()> {
    Err(Error::unknown(format!("cannot {verb} {thing}")))
}

/// Whether `op` may be done to an init in `state`.
///
/// # Errors
/// The refusal a client of the Go shim would get.
pub fn init_allows(state: State, op: InitOp) -> Result<()> {
    use InitOp::{Checkpoint, Delete, Exec, Kill, Pause, Resume, Start, Update};
    use State::{Created, CreatedCheckpoint, Deleted, Paused, Pausing, Running, Stopped};
    match (state, op) {
        (Created, Start | Delete | Update | Exec | Kill)
        | (CreatedCheckpoint, Start | Delete)
        | (Running | Pausing, Update | Checkpoint | Exec | Kill)
        | (Running, Pause)
        | (Paused, Resume | Update | Checkpoint | Kill)
        | (Stopped, Delete | Kill) => Ok(()),

        (Created | CreatedCheckpoint, Pause) => refuse("pause", "task in created state"),
        (Created | CreatedCheckpoint, Resume) => refuse("resume", "task in created state"),
        (Created | CreatedCheckpoint, Checkpoint) => {
            refuse("checkpoint", "a task in created state")
        }

        (CreatedCheckpoint, Exec) => refuse("exec", "in a created state"),
        // The Go shim asks the runtime, which answers that the container does not exist.
        (CreatedCheckpoint, Update) => refuse(
            "update",
            "a task that is not restored yet: container does not exist",
        ),
        // As of an exec that was not started. From the runtime it would be NotFound, by which
        // containerd's WithProcessKill waits for an exit that never comes.
        (CreatedCheckpoint, Kill) => Err(Error::failed_precondition("process not created")),

        (Running | Pausing, Start) => refuse("start", "a running process"),
        (Running | Pausing, Delete) => refuse("delete", "a running process"),
        (Running | Pausing, Resume) => refuse("resume", "a running process"),
        (Pausing, Pause) | (Paused, Pause) => refuse("pause", "a paused container"),

        (Paused, Start) => refuse("start", "a paused process"),
        (Paused, Delete) => refuse("delete", "a paused process"),
        (Paused, Exec) => refuse("exec", "in a paused state"),

        (Stopped, Start) => refuse("start", "a stopped process"),
        (Stopped, Pause) => refuse("pause", "a stopped container"),
        (Stopped, Resume) => refuse("resume", "a stopped container"),
        (Stopped, Update) => refuse("update", "a stopped container"),
        (Stopped, Checkpoint) => refuse("checkpoint", "a stopped container"),
        (Stopped, Exec) => refuse("exec", "in a stopped state"),

        (Deleted, Start) => refuse("start", "a deleted process"),
        (Deleted, Delete) => Err(Error::not_found("cannot delete a deleted process")),
        (Deleted, Kill) => Err(Error::not_found("cannot kill a deleted process")),
        (Deleted, Pause) => refuse("pause", "a deleted process"),
        (Deleted, Resume) => refuse("resume", "a deleted process"),
        (Deleted, Update) => refuse("update", "a deleted process"),
        (Deleted, Checkpoint) => refuse("checkpoint", "a deleted process"),
        (Deleted, Exec) => refuse("exec", "in a deleted state"),
    }
}

/// Whether `op` may be done to an exec in `state`.
///
/// # Errors
/// The refusal a client of the Go shim would get.
pub fn exec_allows(state: State, op: ExecOp) -> Result<()> {
    use ExecOp::{Delete, Kill, Resize, Start};
    use State::{Created, CreatedCheckpoint, Deleted, Paused, Pausing, Running, Stopped};
    match (state, op) {
        // No exec comes from a checkpoint.
        (Created | CreatedCheckpoint, Start | Delete | Resize)
        | (Running | Pausing | Paused, Kill | Resize)
        | (Stopped, Delete) => Ok(()),

        (Created | CreatedCheckpoint, Kill) => {
            Err(Error::failed_precondition("process not created"))
        }
        (Running | Pausing | Paused, Start) => refuse("start", "a running process"),
        (Running | Pausing | Paused, Delete) => refuse("delete", "a running process"),
        (Stopped, Start) => refuse("start", "a stopped process"),
        (Stopped, Resize) => refuse("resize", "a stopped container"),
        (Stopped, Kill) | (Deleted, Kill) => Err(Error::not_found("process already finished")),
        (Deleted, Start) => refuse("start", "a deleted process"),
        (Deleted, Delete) => Err(Error::not_found("cannot delete a deleted process")),
        (Deleted, Resize) => refuse("resize", "a deleted process"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const STATES: [State; 7] = {
        use State::{Created, CreatedCheckpoint, Deleted, Paused, Pausing, Running, Stopped};
        [
            Created,
            CreatedCheckpoint,
            Running,
            Pausing,
            Paused,
            Stopped,
            Deleted,
        ]
    };

    /// The grid of contract 3.1, a row per operation, a column per state:
    /// `.` allowed, `-` refused (Unknown), `n` NotFound, `p` FailedPrecondition.
    fn mark(result: Result<()>) -> char {
        match result {
            Ok(()) => '.',
            Err(e) => match e.code {
                Code::Unknown => '-',
                Code::NotFound => 'n',
                Code::FailedPrecondition => 'p',
                other => panic!("unexpected code {other:?}"),
            },
        }
    }

    #[test]
    fn the_whole_init_grid() {
        use InitOp::{Checkpoint, Delete, Exec, Kill, Pause, Resume, Start, Update};
        // created createdCheckpoint running pausing paused stopped deleted
        for (op, row) in [
            (Start, "..-----"),
            (Delete, "..---.n"),
            (Pause, "--.----"),
            (Resume, "----.--"),
            (Update, ".-...--"),
            (Checkpoint, "--...--"),
            (Exec, ".-..---"),
            (Kill, ".p....n"),
        ] {
            let got: String = STATES.iter().map(|&s| mark(init_allows(s, op))).collect();
            assert_eq!(got, row, "{op:?}");
        }
    }

    #[test]
    fn the_whole_exec_grid() {
        use ExecOp::{Delete, Kill, Resize, Start};
        for (op, row) in [
            (Start, "..-----"),
            (Delete, "..---.n"),
            (Kill, "pp...nn"),
            (Resize, ".....--"),
        ] {
            let got: String = STATES.iter().map(|&s| mark(exec_allows(s, op))).collect();
            assert_eq!(got, row, "{op:?}");
        }
    }

    #[test]
    fn refusals_have_the_words_clients_know() {
        let text = |r: Result<()>| r.unwrap_err().message;
        assert_eq!(
            text(init_allows(State::Created, InitOp::Pause)),
            "cannot pause task in created state"
        );
        assert_eq!(
            text(init_allows(State::CreatedCheckpoint, InitOp::Exec)),
            "cannot exec in a created state"
        );
        assert_eq!(
            text(init_allows(State::CreatedCheckpoint, InitOp::Checkpoint)),
            "cannot checkpoint a task in created state"
        );
        assert_eq!(
            text(init_allows(State::Running, InitOp::Start)),
            "cannot start a running process"
        );
        assert_eq!(
            text(init_allows(State::Running, InitOp::Delete)),
            "cannot delete a running process"
        );
        assert_eq!(
            text(init_allows(State::Paused, InitOp::Pause)),
            "cannot pause a paused container"
        );
        assert_eq!(
            text(init_allows(State::Stopped, InitOp::Exec)),
            "cannot exec in a stopped state"
        );
        assert_eq!(
            text(init_allows(State::Deleted, InitOp::Delete)),
            "cannot delete a deleted process: not found"
        );
        assert_eq!(
            text(exec_allows(State::Created, ExecOp::Kill)),
            "process not created: failed precondition"
        );
        assert_eq!(
            text(exec_allows(State::Stopped, ExecOp::Kill)),
            "process already finished: not found"
        );
        assert_eq!(
            text(exec_allows(State::Stopped, ExecOp::Resize)),
            "cannot resize a stopped container"
        );
    }
}
