//! A runtime that does what a test says before or after one of its commands.

use std::ops::Deref;

use crate::common::script::Script;
use crate::common::tool;

/// A script in front of a real runtime.
pub struct Gated(Script);

impl Gated {
    /// For calls of `command` the shell text `what` is run instead. In it `real` calls the
    /// runtime, and `gate` says that it was reached and waits to be opened.
    pub fn new(runtime: &str, command: &str, what: &str) -> Self {
        let real = tool(runtime);
        let real = real.display();
        Self(Script::new(|dir| {
            let here = dir.display();
            // The FIFOs block until both sides are there.
            format!(
                "#!/bin/sh\n\
                 real() {{ {real} \"$@\"; }}\n\
                 gate() {{ : >{here}/reached; read _ <{here}/open; }}\n\
                 dir={here}\n\
                 case \" $* \" in\n\
                 *' {command} '*)\n{what}\n;;\n\
                 *) exec {real} \"$@\";;\n\
                 esac\n"
            )
        }))
    }
}

impl Deref for Gated {
    type Target = Script;

    fn deref(&self) -> &Script {
        &self.0
    }
}
