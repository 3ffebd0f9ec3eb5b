//! An OOM kill in words: for the shim's log and for `cotter run --events`. Pure.

use crate::proto::cotter_oom::oom_kill::Level;
use crate::proto::cotter_oom::victim::Role;
use crate::proto::cotter_oom::{OomKill, Victim};

/// What an event says besides the container, on one line.
pub fn describe(event: &OomKill) -> String {
    let victims: Vec<String> = event.victims.iter().map(victim).collect();
    let who = match victims.is_empty() {
        true => format!("{} processes, which ones is not known,", event.kills),
        false => victims.join(", "),
    };
    let by = match event.level.enum_value_or_default() {
        Level::LEVEL_CONTAINER => "by the container's limit",
        Level::LEVEL_ABOVE => "by a limit above the container",
        Level::LEVEL_INSIDE => "by a limit inside the container",
        Level::LEVEL_HOST => "because the machine is out of memory",
        Level::LEVEL_UNKNOWN => "by a limit that is not known",
    };
    let bytes = match event.limit_bytes {
        0 => String::new(),
        bytes => format!(" of {} KiB", bytes >> 10),
    };
    let path = match event.level_path.as_str() {
        "" => String::new(),
        path => format!(" in {}", path.escape_debug()),
    };
    format!("killed {who} {by}{bytes}{path}")
}

fn victim(victim: &Victim) -> String {
    let command = match victim.command.as_str() {
        "" => "a process".to_owned(),
        command => command.escape_debug().to_string(),
    };
    let role = match victim.role.enum_value_or_default() {
        Role::ROLE_INIT => ", init".to_owned(),
        Role::ROLE_EXEC => format!(", exec {}", victim.exec_id),
        Role::ROLE_CHILD => ", child".to_owned(),
        Role::ROLE_UNKNOWN => String::new(),
    };
    let memory = match victim.anon_bytes + victim.file_bytes + victim.shmem_bytes {
        0 => String::new(),
        bytes => format!(", {} KiB", bytes >> 10),
    };
    format!("{command} (pid {}{role}{memory})", victim.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_as_is_known() {
        let mut event = OomKill {
            kills: 2,
            ..OomKill::default()
        };
        let nothing = "killed 2 processes, which ones is not known, by a limit that is not known";
        assert_eq!(describe(&event), nothing);
        event.level = Level::LEVEL_ABOVE.into();
        event.level_path = "/pod\n".into();
        event.limit_bytes = 2048;
        event.victims = vec![
            Victim {
                pid: 7,
                command: "a\u{1b}".into(),
                role: Role::ROLE_EXEC.into(),
                exec_id: "x".into(),
                anon_bytes: 1024,
                ..Victim::default()
            },
            Victim {
                pid: 8,
                ..Victim::default()
            },
        ];
        let all = "killed a\\u{1b} (pid 7, exec x, 1 KiB), a process (pid 8) \
                   by a limit above the container of 2 KiB in /pod\\n";
        assert_eq!(describe(&event), all);
    }
}
