//! The shim: one binary in four forms, told apart by flags and action (`cotter::shim`).

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use cotter::error::{Error, Result};
use cotter::program::own;
use cotter::shim::bootstrap::Environment;
use cotter::shim::config::Config;
use cotter::shim::flags::{Flags, USAGE};
use cotter::shim::{RUNTIME_NAME, delete, fds, info, serve, start};
use cotter::shown;

fn main() -> ExitCode {
    own::own_children();
    own::hear_and_outlive();
    let code = told(run());
    // A thread that waits for a dead disk keeps what is left of the process, and with it every
    // descriptor that is not closed by hand: the log, that the manager reads to its end.
    // SAFETY: nothing is done with any after this, and a thread that is let go ends with the process.
    unsafe { fds::close_from(0) };
    code
}

/// Says what went wrong, to whoever listens.
fn told(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if log::max_level() > log::LevelFilter::Off => {
            log::error!("{e}");
            ExitCode::FAILURE
        }
        Err(e) => {
            // No log, no server. The manager puts these bytes into its own error message: no newline.
            let e = shown::line(&e.to_string());
            let _ = write!(io::stderr(), "{RUNTIME_NAME}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let args = args
        .map(OsString::into_string)
        .collect::<Result<Vec<_>, _>>();
    let args =
        args.map_err(|arg| Error::invalid_argument(format!("argument {arg:?} is no text")))?;
    let flags = Flags::parse(&args)?;

    let serves = flags.action.is_empty() && flags.socket.is_empty();
    // SAFETY: nothing has been opened yet; what is open was inherited, and is left to nobody but,
    // on its number, the server's socket.
    unsafe {
        fds::close_from(if serves {
            fds::LISTENER + 1
        } else {
            fds::LISTENER
        })
    };

    let (stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    if flags.help {
        return print(&mut stdout, USAGE.as_bytes());
    }
    if flags.version {
        return print(&mut stdout, info::version(&program).as_bytes());
    }
    if flags.info {
        return print(&mut stdout, &info::info(stdin)?);
    }
    flags.check()?;
    match flags.action.as_str() {
        "start" => start::start(&flags, stdin, &mut stdout),
        "delete" => delete::delete(&flags, &mut stdout, &mut io::stderr()),
        // SAFETY: this is the only call, and the number was inherited, not opened here.
        "" => unsafe { serve::serve(&Config::new(&flags, Environment::read())) },
        other => Err(Error::invalid_argument(format!("unknown action {other:?}"))),
    }
}

fn print(stdout: &mut impl Write, bytes: &[u8]) -> Result<()> {
    let printed = stdout.write_all(bytes).and_then(|()| stdout.flush());
    printed.map_err(|e| Error::io("write to standard output", &e))
}
