//! The command lines, each a pure function: `argv after globals` in section 6.2 of the contract.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What [`super::Runtime::create`] may be told.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Where the runtime writes the init's pid.
    pub pid_file: PathBuf,
    /// The socket that gets the terminal's master end.
    pub console_socket: Option<PathBuf>,
    /// Move the root instead of pivoting; for a rootfs on a ramdisk.
    pub no_pivot: bool,
    /// Stay in the session keyring.
    pub no_new_keyring: bool,
}

/// What [`super::Runtime::exec`] may be told.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// Where the runtime writes the process's pid.
    pub pid_file: PathBuf,
    /// The socket that gets the terminal's master end.
    pub console_socket: Option<PathBuf>,
}

/// What [`super::Runtime::checkpoint`] may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Where the images go.
    pub image_path: PathBuf,
    /// Where CRIU works and logs.
    pub work_path: PathBuf,
    /// The images of a pre-dump to build upon, relative to `image_path`.
    pub parent_path: Option<PathBuf>,
    /// Allow open TCP connections.
    pub tcp_established: bool,
    /// Allow external Unix sockets.
    pub ext_unix_sockets: bool,
    /// Allow shell jobs (a terminal from outside).
    pub shell_job: bool,
    /// Allow file locks.
    pub file_locks: bool,
    /// How cgroups are dumped: `soft`, `full`, `strict` or `ignore`; empty for the runtime's default.
    pub cgroups_mode: String,
    /// Namespaces to be made empty by the restore.
    pub empty_namespaces: Vec<String>,
    /// Let the container run on.
    pub leave_running: bool,
}

/// What [`super::Runtime::restore`] may be told.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Where the images are.
    pub image_path: PathBuf,
    /// Where CRIU works and logs.
    pub work_path: PathBuf,
    /// Where the runtime writes the init's pid.
    pub pid_file: PathBuf,
    /// The socket that gets the terminal's master end.
    pub console_socket: Option<PathBuf>,
    /// Move the root instead of pivoting.
    pub no_pivot: bool,
}

/// A command line in the making, without the program's name.
#[derive(Debug)]
pub(super) struct Argv(pub(super) Vec<OsString>);

impl Argv {
    fn new(command: &str) -> Self {
        Self(vec![command.into()])
    }

    fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.push(arg.as_ref().into());
        self
    }

    fn flag(self, flag: &str, set: bool) -> Self {
        if set { self.arg(flag) } else { self }
    }

    fn value(self, flag: &str, value: &Path) -> Self {
        self.arg(flag).arg(value)
    }

    fn maybe(self, flag: &str, value: Option<&PathBuf>) -> Self {
        match value {
            Some(value) => self.value(flag, value),
            None => self,
        }
    }
}

/// What every command but `features` and `--version` has in front. Without a log the runtime complains on its
/// standard error.
pub(super) fn globals(root: &Path, log: Option<&Path>, systemd_cgroup: bool) -> Argv {
    let mut argv = Argv(Vec::new()).value("--root", root);
    if let Some(log) = log {
        argv = argv.value("--log", log).arg("--log-format").arg("json");
    }
    argv.flag("--systemd-cgroup", systemd_cgroup)
}

pub(super) fn create(id: &str, bundle: &Path, o: &CreateOptions) -> Argv {
    Argv::new("create")
        .value("--bundle", bundle)
        .value("--pid-file", &o.pid_file)
        .maybe("--console-socket", o.console_socket.as_ref())
        .flag("--no-pivot", o.no_pivot)
        .flag("--no-new-keyring", o.no_new_keyring)
        .arg(id)
}

pub(super) fn start(id: &str) -> Argv {
    Argv::new("start").arg(id)
}

pub(super) fn exec(id: &str, process: &Path, o: &ExecOptions) -> Argv {
    Argv::new("exec")
        .value("--process", process)
        .maybe("--console-socket", o.console_socket.as_ref())
        .arg("--detach")
        .value("--pid-file", &o.pid_file)
        .arg(id)
}

pub(super) fn kill(id: &str, signal: u32, all: bool) -> Argv {
    Argv::new("kill")
        .flag("--all", all)
        .arg(id)
        .arg(signal.to_string())
}

pub(super) fn delete(id: &str, force: bool) -> Argv {
    Argv::new("delete").flag("--force", force).arg(id)
}

pub(super) fn pause(id: &str) -> Argv {
    Argv::new("pause").arg(id)
}

pub(super) fn resume(id: &str) -> Argv {
    Argv::new("resume").arg(id)
}

pub(super) fn ps(id: &str) -> Argv {
    Argv::new("ps").arg("--format").arg("json").arg(id)
}

pub(super) fn update(id: &str) -> Argv {
    Argv::new("update").arg("--resources=-").arg(id)
}

pub(super) fn checkpoint(id: &str, o: &CheckpointOptions) -> Argv {
    let argv = Argv::new("checkpoint")
        .value("--image-path", &o.image_path)
        .value("--work-path", &o.work_path)
        .maybe("--parent-path", o.parent_path.as_ref())
        .flag("--tcp-established", o.tcp_established)
        .flag("--ext-unix-sk", o.ext_unix_sockets)
        .flag("--shell-job", o.shell_job)
        .flag("--file-locks", o.file_locks);
    let argv = match o.cgroups_mode.as_str() {
        "" => argv,
        mode => argv.arg("--manage-cgroups-mode").arg(mode),
    };
    o.empty_namespaces
        .iter()
        .fold(argv, |argv, name| argv.arg("--empty-ns").arg(name))
        .flag("--leave-running", o.leave_running)
        .arg(id)
}

/// Without two flags of the Go shim's. `--parent-path`: no runtime's restore knows it, CRIU finds
/// what the images build upon by their link `parent`. `-no-subreaper`: crun refuses it, and for runc
/// it makes no difference, since a detached restore ends and leaves its orphans to the shim.
pub(super) fn restore(id: &str, bundle: &Path, o: &RestoreOptions) -> Argv {
    Argv::new("restore")
        .value("--image-path", &o.image_path)
        .value("--work-path", &o.work_path)
        .arg("--detach")
        .value("--pid-file", &o.pid_file)
        .maybe("--console-socket", o.console_socket.as_ref())
        .flag("--no-pivot", o.no_pivot)
        .value("--bundle", bundle)
        .arg(id)
}

pub(super) fn features() -> Argv {
    Argv::new("features")
}

pub(super) fn version() -> Argv {
    Argv::new("--version")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract, section 6.2.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn command_lines() {
        let b = Path::new("/b");
        let create_all = CreateOptions {
            pid_file: "/b/init.pid".into(),
            console_socket: Some("/s".into()),
            no_pivot: true,
            no_new_keyring: true,
        };
        let create_plain = CreateOptions {
            pid_file: "/b/init.pid".into(),
            ..Default::default()
        };
        let exec_plain = ExecOptions {
            pid_file: "/b/e.pid".into(),
            console_socket: None,
        };
        let exec_console = ExecOptions {
            console_socket: Some("/s".into()),
            ..exec_plain.clone()
        };
        let checkpoint_plain = CheckpointOptions {
            image_path: "/i".into(),
            work_path: "/w".into(),
            ..Default::default()
        };
        let checkpoint_all = CheckpointOptions {
            tcp_established: true,
            ext_unix_sockets: true,
            shell_job: true,
            file_locks: true,
            empty_namespaces: vec!["network".into(), "ipc".into()],
            leave_running: true,
            parent_path: Some("../p".into()),
            cgroups_mode: "full".into(),
            ..checkpoint_plain.clone()
        };
        let restore_plain = RestoreOptions {
            image_path: "/i".into(),
            work_path: "/w".into(),
            pid_file: "/b/init.pid".into(),
            ..Default::default()
        };
        let restore_all = RestoreOptions {
            console_socket: Some("/s".into()),
            no_pivot: true,
            ..restore_plain.clone()
        };
        let log = Some(Path::new("/b/l"));
        for (argv, expected) in [
            (
                globals(Path::new("/r/ns"), log, true),
                "--root /r/ns --log /b/l --log-format json --systemd-cgroup",
            ),
            (globals(Path::new("/r/ns"), None, false), "--root /r/ns"),
            (
                create("id", b, &create_plain),
                "create --bundle /b --pid-file /b/init.pid id",
            ),
            (
                create("id", b, &create_all),
                "create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot \
                 --no-new-keyring id",
            ),
            (start("id"), "start id"),
            (
                exec("id", Path::new("/p"), &exec_plain),
                "exec --process /p --detach --pid-file /b/e.pid id",
            ),
            (
                exec("id", Path::new("/p"), &exec_console),
                "exec --process /p --console-socket /s --detach --pid-file /b/e.pid id",
            ),
            (kill("id", 15, false), "kill id 15"),
            (kill("id", 9, true), "kill --all id 9"),
            (delete("id", false), "delete id"),
            (delete("id", true), "delete --force id"),
            (pause("id"), "pause id"),
            (resume("id"), "resume id"),
            (ps("id"), "ps --format json id"),
            (update("id"), "update --resources=- id"),
            (
                checkpoint("id", &checkpoint_plain),
                "checkpoint --image-path /i --work-path /w id",
            ),
            (
                checkpoint("id", &checkpoint_all),
                "checkpoint --image-path /i --work-path /w --parent-path ../p --tcp-established \
                 --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode full --empty-ns \
                 network --empty-ns ipc --leave-running id",
            ),
            (
                restore("id", b, &restore_plain),
                "restore --image-path /i --work-path /w --detach --pid-file /b/init.pid \
                 --bundle /b id",
            ),
            (
                restore("id", b, &restore_all),
                "restore --image-path /i --work-path /w --detach --pid-file /b/init.pid \
                 --console-socket /s --no-pivot --bundle /b id",
            ),
            (features(), "features"),
            (version(), "--version"),
        ] {
            assert_eq!(argv.0.join(OsStr::new(" ")), OsStr::new(expected));
        }
    }
}
