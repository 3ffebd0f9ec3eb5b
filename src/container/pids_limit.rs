//! The limit of a container whose spec has none, where one was asked for: by its annotation, else by the
//! runtime's options, else by the environment of the shim.
//!
//! Invariant: off unless asked for; what the spec says holds, also when it says "no limit"; never above
//! what the cgroups above allow. What was asked for holds before the container's program runs, or Create
//! fails.
//!
//! The bundle's config.json is the manager's and stays as it is. The limit is written to the cgroup between
//! create and start. With systemd it is the runtime that sets it, as `TasksMax`: systemd writes what
//! its unit says again with every daemon-reload.

use std::sync::OnceLock;

use super::Container;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::spec::Spec;

/// The annotation of a container.
pub const ANNOTATION: &str = "io.cotter.pids-limit";
/// The variable in the environment of the shim.
pub const VARIABLE: &str = "COTTER_PIDS_LIMIT";

/// Processes and threads for each CPU.
const PER_CPU: u64 = 1024;
/// CPUs that are counted at least.
const LEAST_CPUS: u64 = 6;
/// The kernel's PID_MAX_LIMIT: what is above is no limit.
const MOST: u64 = 4 * 1024 * 1024;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// That many.
    Number(u64),
    /// So many for each CPU that the container may use.
    Auto,
}

impl Asked {
    /// From text; none when it is empty.
    ///
    /// # Errors
    /// `InvalidArgument` naming `source`.
    pub fn parse(text: &str, source: &str) -> Result<Option<Self>> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = || {
            text.parse()
                .ok()
                .filter(|n| digits && (1..=MOST).contains(n))
        };
        let asked = match text {
            "" => return Ok(None),
            "auto" => Some(Self::Auto),
            _ => number().map(Self::Number),
        };
        let wrong = || {
            let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
            Error::invalid_argument(format!(
                "{source}: \"{shown}\" is neither \"auto\" nor a number from 1 to {MOST}"
            ))
        };
        asked.map(Some).ok_or_else(wrong)
    }

    /// What the environment asks for. What cannot be understood is logged, and asks for nothing.
    pub fn from_env() -> Option<Self> {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        Self::parse(&text, VARIABLE).unwrap_or_else(|why| {
            log::warn!("{why}");
            None
        })
    }

    fn number(self, cpus_milli: Option<u64>, host_cpus: u64) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Auto => {
                let cpus = cpus_milli.unwrap_or(host_cpus.saturating_mul(1000));
                let wanted = cpus.saturating_mul(PER_CPU) / 1000;
                wanted.clamp(LEAST_CPUS * PER_CPU, MOST)
            }
        }
    }
}

/// The limit that a container is to have of us.
///
/// # Errors
/// `InvalidArgument` for an annotation or option that says nothing sensible.
pub(super) fn wanted(spec: &Spec, option: &str, environment: Option<Asked>) -> Result<Option<u64>> {
    let annotation = spec.annotations.get(ANNOTATION).map_or("", String::as_str);
    let annotation = Asked::parse(annotation, &format!("annotation {ANNOTATION}"))?;
    let option = Asked::parse(option, "option pids_limit")?;
    // 0 is what a manager writes that does not think of it; to runtimes it is nothing, too.
    if spec.pids_limit.is_some_and(|limit| limit != 0) {
        return Ok(None);
    }
    let asked = annotation.or(option).or(environment);
    Ok(asked.map(|asked| asked.number(spec.cpus_milli, host_cpus())))
}

/// The CPUs of the host that are in use: a shim may be bound to some of them.
fn host_cpus() -> u64 {
    let conf = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
    conf.ok()
        .flatten()
        .and_then(|n| n.try_into().ok())
        .unwrap_or(1)
}

/// The limit that a container is to have, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Given {
    wanted: Option<u64>,
    set: OnceLock<u64>,
}

impl Given {
    /// Not given yet.
    pub(super) fn wanting(wanted: Option<u64>) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// The limit that it has of us.
    pub(super) fn set(&self) -> Option<u64> {
        self.set.get().copied()
    }
}

impl Container {
    /// Gives it the limit that it is to have, if any.
    ///
    /// # Errors
    /// What could not be done, with the path.
    pub(super) async fn limit_pids(&self, cgroup: Option<&Cgroup>) -> Result<()> {
        let Some(wanted) = self.pids_limit.wanted else {
            return Ok(());
        };
        let failed = |e: Error| e.context(format!("limit processes to {wanted}"));
        let own = || Error::failed_precondition("the container has no cgroup of its own");
        let pids = cgroup.ok_or_else(own).and_then(Cgroup::pids);
        let pids = pids.map_err(failed)?;
        let above = pids.levels().into_iter().skip(1);
        let limit = above.filter_map(|level| level.limit).fold(wanted, u64::min);
        if self.runtime.systemd_cgroup {
            let resources = format!("{{\"pids\":{{\"limit\":{limit}}}}}");
            let updated = self.runtime.update(&self.id, resources.as_bytes()).await;
            updated.map_err(|e| failed(e.into()))?;
        } else {
            pids.set_limit(limit).map_err(failed)?;
        }
        log::info!("container {}: limited to {limit} processes", self.id);
        let _ = self.pids_limit.set.set(limit);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn what_can_be_asked_for() {
        for (text, expected) in [
            ("", None),
            ("auto", Some(Asked::Auto)),
            ("1", Some(Asked::Number(1))),
            ("4194304", Some(Asked::Number(4_194_304))),
        ] {
            assert_eq!(Asked::parse(text, "x").unwrap(), expected, "{text}");
        }
        for text in [
            "0",
            "-1",
            "+5",
            "4194305",
            "Auto",
            "max",
            " 5",
            "5 ",
            "1e3",
            "0x10",
            "99999999999999999999",
            "\n",
        ] {
            let error = Asked::parse(text, "option x").unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{text}");
            let message = &error.message;
            assert!(
                message.starts_with("option x: ") && message.lines().count() == 1,
                "{message}"
            );
        }
    }

    #[test]
    fn auto_is_by_the_cpus() {
        for (cpus, host, expected) in [
            (None, 2, 6144),
            (None, 6, 6144),
            (None, 64, 65536),
            (Some(500), 64, 6144),
            (Some(7_500), 64, 7680),
            (Some(u64::MAX), 64, MOST),
            (None, u64::MAX, MOST),
        ] {
            assert_eq!(Asked::Auto.number(cpus, host), expected, "{cpus:?} {host}");
        }
    }

    #[test]
    fn who_is_heard() {
        let number = |n| Some(Asked::Number(n));
        let spec = |limit, annotation: &str| Spec {
            pids_limit: limit,
            annotations: [(ANNOTATION.to_owned(), annotation.to_owned())].into(),
            ..Spec::default()
        };
        for (limit, annotation, option, environment, expected) in [
            (None, "", "", None, None),
            (None, "", "", number(3), Some(3)),
            (None, "", "2", number(3), Some(2)),
            (None, "1", "2", number(3), Some(1)),
            (Some(0), "1", "", None, Some(1)),
            // The spec's word.
            (Some(-1), "1", "2", number(3), None),
            (Some(9), "1", "2", number(3), None),
        ] {
            let spec = spec(limit, annotation);
            assert_eq!(
                wanted(&spec, option, environment).unwrap(),
                expected,
                "{spec:?}"
            );
        }
        assert!(wanted(&spec(Some(9), "many"), "", None).is_err());
        assert!(wanted(&spec(None, ""), "-1", None).is_err());
    }
}
