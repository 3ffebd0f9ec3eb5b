//! A terminal for a command that insists on one: `script` makes it.

use std::ffi::OsStr;
use std::process::Command;

/// `command` on a terminal of its own, after `setup`, a shell command (`stty …`, or `:`) that runs there first.
/// What is written to the result's input is typed; its output is all that the terminal shows.
pub fn on_terminal(setup: &str, command: &Command) -> Command {
    let quoted = |word: &OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(quoted).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command"]);
    script.arg(format!("{setup}; exec {line}")).arg("/dev/null");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    script
}
