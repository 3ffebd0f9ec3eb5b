//! Where an output goes, opened: a FIFO, a file or a device.
//!
//! Invariant: what is to be a file is none of the others.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::stdio::Stream;
use crate::stdio::plan::Output;
use crate::stdio::sys::{self, Kind};

/// Where an output goes, opened.
#[derive(Debug)]
pub(super) enum Opened {
    Fifo(OwnedFd),
    /// A file or device, and which of them.
    File(Arc<OwnedFd>, Kind),
}

/// Opens what a relay writes to; a logger's pipe is made elsewhere.
pub(super) fn open_target(stream: Stream, output: &Output) -> Result<Opened> {
    let file = |fd: OwnedFd, kind| Opened::File(Arc::new(fd), kind);
    match output {
        Output::Path(path) => Ok(match sys::kind(stream, path)? {
            Kind::Fifo => Opened::Fifo(sys::open_fifo(stream, path)?),
            kind @ (Kind::File | Kind::Device) => file(sys::open_append(stream, path)?, kind),
        }),
        Output::File(path) => {
            let fd = sys::create_append(stream, path)?;
            match sys::kind(stream, path)? {
                Kind::Fifo => Err(not_a_file(stream, path)),
                kind @ (Kind::File | Kind::Device) => Ok(file(fd, kind)),
            }
        }
        Output::Listed(path) => {
            let (fd, kind) = sys::create_listed(stream, path)?;
            Ok(file(fd, kind))
        }
        Output::Logger(command) => Err(not_a_file(stream, &command.path)),
    }
}

fn not_a_file(stream: Stream, path: &Path) -> Error {
    Error::invalid_argument(format!("{stream} {} is not a file", path.display()))
}
