//! Who puts execs into a container: its runtime, or the shim itself where it can ([`crate::direct`]).
//!
//! Invariant: what the operator allows, by the runtime's options or the environment of the shim, a container's
//! annotation can take back and never give. Off unless asked for.

use crate::error::{Error, Result};
use crate::proto::runc_options::Options;
use crate::spec::Annotations;

/// The annotation of a container.
pub const ANNOTATION: &str = "io.cotter.exec-by";
/// The variable in the environment of the shim.
pub const VARIABLE: &str = "COTTER_EXEC_BY";

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecBy {
    /// The runtime, always.
    Runtime,
    /// The shim, if the outcome is the runtime's.
    Direct,
}

impl ExecBy {
    /// From text; none when it is empty.
    ///
    /// # Errors
    /// `InvalidArgument` naming `source`.
    fn parse(text: &str, source: &str) -> Result<Option<Self>> {
        match text {
            "" => Ok(None),
            "runtime" => Ok(Some(Self::Runtime)),
            "direct" => Ok(Some(Self::Direct)),
            other => {
                let shown: String = other
                    .chars()
                    .take(40)
                    .flat_map(char::escape_debug)
                    .collect();
                Err(Error::invalid_argument(format!(
                    "{source}: \"{shown}\" is neither \"runtime\" nor \"direct\""
                )))
            }
        }
    }

    /// What the environment asks for. What cannot be understood is logged, and asks for nothing.
    pub fn from_env() -> Option<Self> {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        Self::parse(&text, VARIABLE).unwrap_or_else(|why| {
            log::warn!("{why}");
            None
        })
    }
}

/// Who puts the execs of a container into it.
///
/// # Errors
/// `InvalidArgument` for an annotation or option that names nobody.
pub(super) fn wanted(
    options: &Options,
    annotations: &Annotations,
    environment: Option<ExecBy>,
) -> Result<ExecBy> {
    let option = ExecBy::parse(&options.exec_by, "option exec_by")?;
    let annotation = annotations.get(ANNOTATION).map_or("", String::as_str);
    let annotation = ExecBy::parse(annotation, &format!("annotation {ANNOTATION}"))?;
    let allowed = option.or(environment).unwrap_or(ExecBy::Runtime);
    Ok(match annotation {
        Some(ExecBy::Runtime) => ExecBy::Runtime,
        Some(ExecBy::Direct) | None => allowed,
    })
}

#[cfg(test)]
mod tests {
    use super::ExecBy::{Direct, Runtime};
    use super::*;
    use crate::error::Code;

    #[test]
    fn an_annotation_narrows_and_never_widens() {
        for (option, environment, annotation, expected) in [
            ("", None, None, Some(Runtime)),
            ("", Some(Direct), None, Some(Direct)),
            ("direct", None, None, Some(Direct)),
            ("runtime", Some(Direct), None, Some(Runtime)),
            ("direct", Some(Runtime), None, Some(Direct)),
            ("direct", None, Some("runtime"), Some(Runtime)),
            ("direct", None, Some("direct"), Some(Direct)),
            ("", None, Some("direct"), Some(Runtime)),
            ("runtime", None, Some("direct"), Some(Runtime)),
            ("direct", None, Some(""), Some(Direct)),
            ("Direct", None, None, None),
            ("direct", None, Some("no\n"), None),
        ] {
            let options = Options {
                exec_by: option.into(),
                ..Options::default()
            };
            let own = annotation.map(|a| (ANNOTATION.to_owned(), a.to_owned()));
            let wanted = wanted(&options, &own.into_iter().collect(), environment);
            if let Err(e) = &wanted {
                assert_eq!(
                    (e.code, e.message.lines().count()),
                    (Code::InvalidArgument, 1)
                );
            }
            assert_eq!(
                wanted.ok(),
                expected,
                "{option} {environment:?} {annotation:?}"
            );
        }
    }
}
