//! Signals for the tool's process, to be passed on to a container.
//!
//! Invariant: from [`Signals::catch`] on, no signal of [`FORWARDED`] ends this process.

use std::os::unix::net::UnixStream as StdUnixStream;

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// What a person, a terminal or a service manager sends, and a container should hear of.
pub const FORWARDED: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
];

/// The signals that arrived.
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// Begins to catch.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn catch() -> Result<Self> {
        let (caught, signals) = mpsc::unbounded_channel();
        for signal in FORWARDED {
            let failed = |why: std::io::Error| Error::io(format_args!("catch {signal}"), &why);
            let (read, write) = StdUnixStream::pair().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal as i32, write).map_err(failed)?;
            read.set_nonblocking(true).map_err(failed)?;
            let mut read = UnixStream::from_std(read).map_err(failed)?;
            let caught = caught.clone();
            tokio::spawn(async move {
                while let Ok(1) = read.read(&mut [0; 1]).await {
                    if caught.send(signal).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(signals))
    }

    /// The next signal.
    pub async fn next(&mut self) -> Option<Signal> {
        self.0.recv().await
    }
}

/// Reads `TERM`, `SIGTERM`, `term` or `15`.
///
/// # Errors
/// When there is no such signal.
pub fn parse(text: &str) -> Result<u32> {
    let unknown = || Error::invalid_argument(format_args!("signal {text:?}"));
    if let Ok(number) = text.parse::<u32>() {
        // Up to SIGRTMAX.
        return (1..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(unknown);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let signal: Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
    Ok((signal as i32).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(parse(text).unwrap(), 15);
        }
        assert_eq!(parse("64").unwrap(), 64);
        for text in ["", "0", "65", "-9", "NOPE", "SIGSIGTERM"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
