//! Killing the container as a whole: `memory.oom.group`, on request.
//!
//! Invariant: where it was asked for it holds before a program of the container runs, or there is no
//! container.

use super::Container;
use crate::cgroup::{Cgroup, Version};
use crate::error::{Error, Result};
use crate::proto::runc_options::Options;
use crate::spec::Annotations;

/// The annotation that asks for it, or, over the option, asks for it not to be.
pub const ANNOTATION: &str = "io.cotter.oom-group";

/// Whether it is asked for.
///
/// # Errors
/// `InvalidArgument` for an annotation that says neither yes nor no, and for a yes on cgroup v1.
pub(super) async fn asked(options: &Options, annotations: &Annotations) -> Result<bool> {
    let asked = read(options, annotations)?;
    if asked {
        let own = Cgroup::locate(nix::unistd::getpid()).await?;
        if own.version_of("memory") == Version::V1 {
            return Err(Error::invalid_argument(format!(
                "{ANNOTATION}: this machine has cgroup v1, where the kernel has no memory.oom.group"
            )));
        }
    }
    Ok(asked)
}

fn read(options: &Options, annotations: &Annotations) -> Result<bool> {
    match annotations.get(ANNOTATION).map(String::as_str) {
        None => Ok(options.oom_group),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => {
            let shown: String = other.escape_debug().take(50).collect();
            Err(Error::invalid_argument(format!(
                "annotation {ANNOTATION} is \"{shown}\", not true or false"
            )))
        }
    }
}

impl Container {
    /// Has the kernel kill all or nobody, if that was asked for.
    ///
    /// # Errors
    /// It was, and cannot be.
    pub(super) fn set_oom_group(&self, cgroup: Option<&Cgroup>) -> Result<()> {
        if !self.oom_group {
            return Ok(());
        }
        let set = match cgroup {
            Some(cgroup) => cgroup.set_oom_group(),
            None => Err(Error::failed_precondition(
                "the container has no cgroup of its own",
            )),
        };
        set.map_err(|e| e.context(ANNOTATION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn the_annotation_wins_over_the_option() {
        for (option, annotation, expected) in [
            (false, None, Some(false)),
            (true, None, Some(true)),
            (true, Some("false"), Some(false)),
            (false, Some("true"), Some(true)),
            (false, Some("yes"), None),
            (true, Some(""), None),
            (true, Some("TRUE\n"), None),
        ] {
            let options = Options {
                oom_group: option,
                ..Options::default()
            };
            let own = annotation.map(|a| (ANNOTATION.to_owned(), a.to_owned()));
            let read = read(&options, &own.into_iter().collect());
            if let Err(e) = &read {
                assert_eq!(
                    (e.code, e.message.lines().count()),
                    (Code::InvalidArgument, 1)
                );
            }
            assert_eq!(read.ok(), expected, "{option} {annotation:?}");
        }
    }
}
