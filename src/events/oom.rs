//! An OOM kill in words: for the shim's log and for `cotter run --events`. Pure.

use crate::proto::cotter_oom::oom_kill::{Level, Stall};
use crate::proto::cotter_oom::victim::Role;
use crate::proto::cotter_oom::{OomKill, Victim};

/// What an event says besides the container, on one line.
pub fn describe(event: &OomKill) -> String {
    match event.stall.enum_value_or_default() {
        Stall::STALL_NONE => {}
        Stall::STALL_BEGAN => {
            let limit = limit(event);
            return format!(
                "kills nobody although the container's memory{limit} is short: its processes wait"
            );
        }
        Stall::STALL_ENDED => {
            return "says that the container's memory is not short any more".into();
        }
    }
    let victims: Vec<String> = event.victims.iter().map(victim).collect();
    let more = event.kills.saturating_sub(victims.len() as u64);
    let who = match (victims.is_empty(), more) {
        (true, _) => format!("{} processes, which ones is not known,", event.kills),
        (false, 0) => victims.join(", "),
        (false, more) => format!("{} and {more} more", victims.join(", ")),
    };
    let by = match event.level.enum_value_or_default() {
        Level::LEVEL_CONTAINER => "by the container's limit",
        Level::LEVEL_ABOVE => "by a limit above the container",
        Level::LEVEL_INSIDE => "by a limit inside the container",
        Level::LEVEL_HOST => "because the machine is out of memory",
        Level::LEVEL_UNKNOWN => "by a limit that is not known",
    };
    let bytes = limit(event);
    let path = match event.level_path.as_str() {
        "" => String::new(),
        path => format!(" in {}", path.escape_debug()),
    };
    format!("killed {who} {by}{bytes}{path}")
}

fn limit(event: &OomKill) -> String {
    match event.limit_bytes {
        0 => String::new(),
        bytes => format!(" of {} KiB", bytes >> 10),
    }
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
        event.kills = 9;
        assert!(describe(&event).contains("a process (pid 8) and 7 more by a limit"));
        event.stall = Stall::STALL_BEGAN.into();
        let short =
            "kills nobody although the container's memory of 2 KiB is short: its processes wait";
        assert_eq!(describe(&event), short);
        event.stall = Stall::STALL_ENDED.into();
        let over = "says that the container's memory is not short any more";
        assert_eq!(describe(&event), over);
    }
}
