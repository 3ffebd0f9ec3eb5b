//! Every wait of the shim has an end; those that an operator may want to set are written down here.
//!
//! Each can be overridden through the shim's environment (containerd: `env` of the runtime's or the
//! shim plugin's configuration): `COTTER_LIMIT_EXEC_DRAIN=2s`, with `ms`, `s` or `m`. What cannot be
//! understood is logged, and the default holds.

use std::time::Duration;

/// The limits of container operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Limits {
    /// How long an init's exit is held back for execs of its container that are still running or
    /// being started. At its end the init's exit is published and the late ones follow it.
    pub exec_drain: Duration,
    /// How long Delete waits for the output's tail (the Go shim: 10 s since containerd 1.7.29).
    /// At its end the streams are closed and what was not read is lost, with a log line.
    pub io_drain: Duration,
    /// How long Delete of a created container waits for the exit of the init it had killed. At its
    /// end Delete fails and can be repeated. Longer than `exec_drain`, which may delay that exit.
    pub killed_exit: Duration,
    /// How long Delete waits for what is being written into the bundle that it is the end of. At its
    /// end Delete goes on.
    pub bundle: Duration,
    /// How long an exit is held back until it is on record: an init's in its bundle, and while no manager takes
    /// events any other's too. At its end it is told without.
    pub record: Duration,
    /// How long a runtime that has returned may take to send the terminal it was asked for. At its
    /// end the process is killed and Create or Start fails.
    pub console: Duration,
    /// How long answers under way may take at the shim's end; ttrpc itself would wait 5 s for a
    /// handler that waits for something which now never happens.
    pub answers: Duration,
    /// How long the last events may take at the shim's end. At its end they are counted in the log.
    pub last_events: Duration,
    /// How long a shim without containers stays after a Shutdown that came while it still had some: the
    /// manager may be about to ask again.
    pub leave: Duration,
    /// How long a shim stays whose one container, of no pod, has been deleted, without a Shutdown: its manager's
    /// client died during Delete. containerd gives that Shutdown 3 s, and asks at once.
    pub deleted: Duration,
    /// How long a shim stays that has neither containers nor connections: its manager may have died
    /// between starting it and asking for a container, and may be back.
    pub orphan: Duration,
    /// How long a file or directory that a client names (output, options, logger, checkpoint) may take to be looked at or opened. At its end the operation fails.
    pub disk: Duration,
    /// How many Waits for the processes of one container may be open (`COTTER_LIMIT_WAITS`, a plain
    /// number). One more fails with `ResourceExhausted`; the open ones are not touched. A manager has one
    /// or two for each process. But ttrpc has no word for a call that is given up: who does so and asks
    /// again, on the same connection and without a deadline, leaves one behind each time.
    pub waits: usize,
    /// How long mounting a rootfs may take, programs included. At its end Create fails, and what is
    /// mounted later is unmounted.
    pub mount: Duration,
    /// How long a program may take to mount a file system (`mount.fuse`). At its end it is killed
    /// and Create fails.
    pub mount_program: Duration,
    /// How long unmounting a rootfs may take. At its end Delete fails and can be repeated.
    pub unmount: Duration,
    /// How long an operation waits for another one on the same process, and the start of an exec for
    /// a checkpoint of its container. At its end it fails, having done nothing.
    pub turn: Duration,
    /// How long a logging program may take to say that it is ready. At its end it is killed and
    /// Create or Start fails.
    pub logger_ready: Duration,
    /// How long a logging program has between SIGTERM and SIGKILL (the Go shim: 12 s). Before that it
    /// has had `io_drain` to read what is left and end by itself.
    pub logger_exit: Duration,
    /// The longest pause before a logging program that died is started again; the first is a
    /// 64th of it. A run that lasts longer counts as healthy.
    pub logger_backoff: Duration,
    /// How long one call of the runtime may take; `None` is the table by operation
    /// ([`Operation::limit`](crate::runtime::Operation::limit)). At its end the runtime is killed
    /// and the operation fails.
    pub runtime_call: Option<Duration>,
    /// How old a manager that was away must be before events go to it again, unless its clients are known
    /// to be back ([`settling`](crate::events::Limits::settling)).
    pub manager_settling: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            exec_drain: Duration::from_secs(10),
            io_drain: Duration::from_secs(10),
            killed_exit: Duration::from_secs(15),
            bundle: Duration::from_secs(2),
            record: Duration::from_millis(50),
            console: Duration::from_secs(5),
            answers: Duration::from_secs(1),
            last_events: Duration::from_secs(5),
            leave: Duration::from_secs(2),
            deleted: Duration::from_secs(10),
            orphan: Duration::from_secs(60),
            disk: Duration::from_secs(10),
            waits: 65_536,
            mount: Duration::from_secs(60),
            mount_program: Duration::from_secs(30),
            unmount: Duration::from_secs(10),
            turn: Duration::from_secs(30),
            logger_ready: Duration::from_secs(10),
            logger_exit: Duration::from_secs(12),
            logger_backoff: Duration::from_secs(5),
            runtime_call: None,
            manager_settling: crate::events::Limits::default().settling,
        }
    }
}

impl Limits {
    /// The defaults with what the environment overrides.
    pub fn from_env() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(value: impl Fn(&str) -> Option<String>) -> Self {
        let limit = |name: &str| {
            let text = value(name)?;
            let parsed = parse(&text);
            if parsed.is_none() {
                log::warn!("{name}={text:?} is no time such as 500ms, 2s or 1m; using the default");
            }
            parsed
        };
        let number = |name: &str| {
            let text = value(name)?;
            let parsed = text.parse::<usize>().ok().filter(|number| *number > 0);
            if parsed.is_none() {
                log::warn!("{name}={text:?} is no number of at least 1; using the default");
            }
            parsed
        };
        let default = Self::default();
        Self {
            exec_drain: limit("COTTER_LIMIT_EXEC_DRAIN").unwrap_or(default.exec_drain),
            io_drain: limit("COTTER_LIMIT_IO_DRAIN").unwrap_or(default.io_drain),
            killed_exit: limit("COTTER_LIMIT_KILLED_EXIT").unwrap_or(default.killed_exit),
            bundle: limit("COTTER_LIMIT_BUNDLE").unwrap_or(default.bundle),
            record: limit("COTTER_LIMIT_RECORD").unwrap_or(default.record),
            console: limit("COTTER_LIMIT_CONSOLE").unwrap_or(default.console),
            answers: limit("COTTER_LIMIT_ANSWERS").unwrap_or(default.answers),
            last_events: limit("COTTER_LIMIT_LAST_EVENTS").unwrap_or(default.last_events),
            leave: limit("COTTER_LIMIT_LEAVE").unwrap_or(default.leave),
            deleted: limit("COTTER_LIMIT_DELETED").unwrap_or(default.deleted),
            orphan: limit("COTTER_LIMIT_ORPHAN").unwrap_or(default.orphan),
            disk: limit("COTTER_LIMIT_DISK").unwrap_or(default.disk),
            waits: number("COTTER_LIMIT_WAITS").unwrap_or(default.waits),
            mount: limit("COTTER_LIMIT_MOUNT").unwrap_or(default.mount),
            unmount: limit("COTTER_LIMIT_UNMOUNT").unwrap_or(default.unmount),
            turn: limit("COTTER_LIMIT_TURN").unwrap_or(default.turn),
            mount_program: limit("COTTER_LIMIT_MOUNT_PROGRAM").unwrap_or(default.mount_program),
            logger_ready: limit("COTTER_LIMIT_LOGGER_READY").unwrap_or(default.logger_ready),
            logger_exit: limit("COTTER_LIMIT_LOGGER_EXIT").unwrap_or(default.logger_exit),
            logger_backoff: limit("COTTER_LIMIT_LOGGER_BACKOFF").unwrap_or(default.logger_backoff),
            runtime_call: limit("COTTER_LIMIT_RUNTIME_CALL").or(default.runtime_call),
            manager_settling: limit("COTTER_LIMIT_MANAGER_SETTLING")
                .unwrap_or(default.manager_settling),
        }
    }
}

/// A whole number of `ms`, `s` or `m`, more than none and at most a day.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let time = Duration::from_millis(amount(text, |unit| match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    })?);
    (!time.is_zero() && time <= Duration::from_secs(86_400)).then_some(time)
}

/// A whole number, and a unit that stands for so many.
pub(crate) fn amount(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    number.parse::<u64>().ok()?.checked_mul(factor(unit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let ms = Duration::from_millis;
        for (text, time) in [
            ("500ms", Some(ms(500))),
            ("2s", Some(ms(2_000))),
            ("3m", Some(ms(180_000))),
            ("1440m", Some(ms(86_400_000))),
            ("", None),
            ("2", None),
            ("s", None),
            ("0s", None),
            ("-1s", None),
            ("1h", None),
            ("2 s", None),
            ("1441m", None),
            ("99999999999999999999s", None),
            ("18446744073709551615m", None),
        ] {
            assert_eq!(parse(text), time, "{text:?}");
        }
    }

    #[test]
    fn the_environment_overrides_what_it_says_well() {
        let limits = Limits::read(|name| match name {
            "COTTER_LIMIT_EXEC_DRAIN" => Some("1s".into()),
            "COTTER_LIMIT_RUNTIME_CALL" => Some("300ms".into()),
            "COTTER_LIMIT_LOGGER_READY" => Some("2s".into()),
            "COTTER_LIMIT_LOGGER_EXIT" => Some("3s".into()),
            "COTTER_LIMIT_LOGGER_BACKOFF" => Some("4ms".into()),
            "COTTER_LIMIT_IO_DRAIN" => Some("soon".into()),
            "COTTER_LIMIT_WAITS" => Some("7".into()),
            _ => None,
        });
        let expected = Limits {
            waits: 7,
            exec_drain: Duration::from_secs(1),
            logger_ready: Duration::from_secs(2),
            logger_exit: Duration::from_secs(3),
            logger_backoff: Duration::from_millis(4),
            runtime_call: Some(Duration::from_millis(300)),
            ..Limits::default()
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn a_number_that_is_none_is_the_default() {
        for bad in ["", "0", "-1", "1k", "99999999999999999999"] {
            let limits = Limits::read(|name| (name == "COTTER_LIMIT_WAITS").then(|| bad.into()));
            assert_eq!(limits, Limits::default(), "{bad:?}");
        }
    }
}
