//! The words in which the kernel logs OOM kills, since Linux 4.19. Pure.
//!
//! All OOM kills of a machine go one after another (`oom_lock`), so what belongs to one kill is
//! together but for other news in between:
//!
//! ```text
//! tail invoked oom-killer: gfp_mask=…                                            ┐
//! memory: usage 24576kB, limit 24576kB, failcnt 133                              │ at most 10 kills
//! oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/pod,task_memcg=/pod/c,       │ in 5 s
//!     task=tail,pid=20300,uid=0                                                  ┘
//! Memory cgroup out of memory: Killed process 20300 (tail) total-vm:27212kB, anon-rss:24320kB, …
//! Tasks in /pod/c are going to be killed due to memory.oom.group set             ┐ group
//! Memory cgroup out of memory: Killed process …                                  ┘ kills
//! ```
//!
//! In `/dev/kmsg` a byte that is no printable ASCII, and each backslash, stands as `\xHH`. Names of cgroups
//! and of commands are what their makers gave: systemd's have backslashes, and others need be no text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A group is killed at once: what is killed so many microseconds after the last of it is none of it.
const GROUP_GAP: u64 = 1_000_000;

/// Whose limit was hit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// That of this cgroup.
    Cgroup(PathBuf),
    /// The machine has no memory left.
    Host,
    /// The kernel did not say.
    #[default]
    Unknown,
}

/// One process that the kernel killed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kill {
    /// The number of the first record about it.
    pub seq: u64,
    /// When, in microseconds of the kernel's clock, which is not exactly anybody else's.
    pub at: u64,
    /// Its pid, as the machine counts.
    pub pid: i32,
    /// The first 15 bytes of its command's name; they need be no text.
    pub command: OsString,
    /// Its memory cgroup, or one above it; none if the kernel did not say.
    pub cgroup: Option<PathBuf>,
    /// Whose limit was hit.
    pub limit: Limit,
    /// That limit in bytes.
    pub limit_bytes: Option<u64>,
    /// It died because another one of its group did; so it seems from the order of the records, where the
    /// kernel keeps the cgroups to itself.
    pub group: bool,
    /// Its memory in bytes: anonymous, of files, shared.
    pub rss: Option<[u64; 3]>,
}

/// Puts records together.
#[derive(Debug, Default)]
pub struct Reader {
    limit_bytes: Option<u64>,
    /// Announced, and not said to be killed yet.
    half: Option<Kill>,
    /// The kill before this record, for the group that goes with it.
    last: Option<Kill>,
    /// The cgroup that is being killed as a whole, and when the last of it was.
    group: Option<(PathBuf, u64)>,
}

impl Reader {
    /// What has been announced so far.
    pub fn half(&self) -> Option<&Kill> {
        self.half.as_ref()
    }

    /// Takes one record as `/dev/kmsg` gives it: `<prefix>,<number>,<time>,<flags>;<text>`.
    pub fn record(&mut self, record: &[u8]) -> Option<Kill> {
        let end = record.iter().position(|&byte| byte == b'\n');
        let record = std::str::from_utf8(&record[..end.unwrap_or(record.len())]).ok()?;
        let (head, text) = record.split_once(';')?;
        let mut head = head.split(',');
        let prefix: u32 = head.next()?.parse().ok()?;
        // The level is in the low three bits. What users write has another facility than 0.
        if prefix >> 3 != 0 {
            return None;
        }
        let (seq, at) = (head.next()?.parse().ok()?, head.next()?.parse().ok()?);
        self.text(seq, at, &as_logged(text))
    }

    fn text(&mut self, seq: u64, at: u64, text: &str) -> Option<Kill> {
        if text.contains(" invoked oom-killer: ") {
            *self = Self::default();
        } else if let Some(rest) = text.strip_prefix("memory: usage ") {
            let limit = rest.split_once(", limit ").and_then(|(_, r)| kilobytes(r));
            self.limit_bytes = limit;
        } else if let Some(rest) = text.strip_prefix("oom-kill:") {
            self.group = None;
            self.half = announced(rest).map(|kill| Kill {
                seq,
                at,
                limit_bytes: self.limit_bytes.take(),
                ..kill
            });
        } else if let Some(path) = text
            .strip_prefix("Tasks in ")
            .and_then(|r| r.strip_suffix(" are going to be killed due to memory.oom.group set"))
        {
            self.group = Some((name(path).into(), at));
        } else if let Some(killed) = killed(text) {
            let kill = self.completed(seq, at, killed);
            self.last = Some(kill.clone());
            return Some(kill);
        }
        None
    }

    fn completed(&mut self, seq: u64, at: u64, killed: Kill) -> Kill {
        if let Some(half) = self.half.take_if(|half| half.pid == killed.pid) {
            return Kill {
                rss: killed.rss,
                ..half
            };
        }
        // Of more than ten kills in five seconds nothing else says that this is another one.
        self.group = (self.group.take()).filter(|(_, last)| at.saturating_sub(*last) < GROUP_GAP);
        let Some((group, last)) = &mut self.group else {
            return Kill { seq, at, ..killed };
        };
        *last = at;
        // The first of the group was killed alone, as far as the kernel says.
        let first = self.last.clone().unwrap_or_default();
        Kill {
            seq,
            at,
            cgroup: Some(group.clone()),
            limit: first.limit,
            limit_bytes: first.limit_bytes,
            group: true,
            ..killed
        }
    }
}

/// What the kernel logged, a letter for each of its bytes (Latin-1), so that what is no text is found in it
/// and cut as text is.
fn as_logged(text: &str) -> String {
    let escaped = |rest: &str| {
        let digits = rest.strip_prefix("\\x")?.get(..2)?;
        let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(digits, 16).ok())?
    };
    let mut logged = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (plain, from) = rest.split_at(at);
        logged.push_str(plain);
        // The kernel leaves no backslash as it is.
        let (letter, length) = escaped(from).map_or(('\\', 1), |byte| (char::from(byte), 4));
        logged.push(letter);
        rest = &from[length..];
    }
    logged.push_str(rest);
    logged
}

/// The bytes that a part of [`as_logged`] stands for.
fn name(logged: &str) -> OsString {
    let byte = |letter| u8::try_from(letter).unwrap_or(b'?');
    OsString::from_vec(logged.chars().map(byte).collect())
}

/// What follows `oom-kill:`. A cgroup's name may hold anything but a slash and a line's end, and so
/// may a command's, of 15 bytes: hence the keys are looked for from where they are certain.
fn announced(text: &str) -> Option<Kill> {
    let (text, _uid) = text.rsplit_once(",uid=")?;
    let (text, pid) = text.rsplit_once(",pid=")?;
    let (limit, text) = match text.split_once(",oom_memcg=") {
        Some((_, rest)) => {
            let (path, rest) = rest.split_once(",task_memcg=")?;
            (Limit::Cgroup(name(path).into()), rest)
        }
        None => (Limit::Host, text.split_once(",global_oom,task_memcg=")?.1),
    };
    let (cgroup, command) = text.split_once(",task=")?;
    Some(Kill {
        pid: pid.parse().ok()?,
        command: name(command),
        cgroup: Some(name(cgroup).into()),
        limit,
        ..Kill::default()
    })
}

/// A line `… out of memory…: Killed process <pid> (<command>) total-vm:…kB, anon-rss:…kB, …`.
fn killed(text: &str) -> Option<Kill> {
    let (message, rest) = text.split_once(": Killed process ")?;
    let host = message.starts_with("Out of memory");
    if !host && message != "Memory cgroup out of memory" {
        return None;
    }
    let (pid, rest) = rest.split_once(" (")?;
    let (command, sizes) = rest.rsplit_once(") total-vm:")?;
    let size = |key: &str| sizes.split_once(key).and_then(|(_, rest)| kilobytes(rest));
    let rss = size("anon-rss:").map(|anon| {
        let of = |key| size(key).unwrap_or(0);
        [anon, of("file-rss:"), of("shmem-rss:")]
    });
    Some(Kill {
        pid: pid.parse().ok()?,
        command: name(command),
        limit: if host { Limit::Host } else { Limit::Unknown },
        rss,
        ..Kill::default()
    })
}

/// A number of kilobytes at the beginning of the text, in bytes.
fn kilobytes(text: &str) -> Option<u64> {
    let (number, _) = text.split_once("kB")?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    const USAGE: &str = "6,1,90,-;memory: usage 24576kB, limit 24576kB, failcnt 133\n";
    const OOM: &str = "6,2,100,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,mems_allowed=0,oom_memcg=/pod,task_memcg=/pod/c,task=tail,pid=20300,uid=0\n";
    const KILLED: &str = "3,3,200,-;Memory cgroup out of memory: Killed process 20300 (tail) total-vm:27212kB, anon-rss:24320kB, file-rss:1596kB, shmem-rss:4kB, UID:0 pgtables:96kB oom_score_adj:0\n";
    const NEXT: &str = "3,5,300,-;Memory cgroup out of memory: Killed process 20301 (a) b) total-vm:1kB, anon-rss:2kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:96kB oom_score_adj:0\n";
    const GROUP: &str =
        "6,4,250,-;Tasks in /pod/c are going to be killed due to memory.oom.group set\n";
    const HOST: &str = "6,2,100,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=c,mems_allowed=0,global_oom,task_memcg=/pod/c,task=x,pid=7,uid=0\n";

    fn read(records: &[&str]) -> Vec<Kill> {
        let mut reader = Reader::default();
        let read = records.iter();
        read.filter_map(|r| reader.record(r.as_bytes())).collect()
    }

    fn tail() -> Kill {
        Kill {
            seq: 2,
            at: 100,
            pid: 20300,
            command: "tail".into(),
            cgroup: Some("/pod/c".into()),
            limit: Limit::Cgroup("/pod".into()),
            limit_bytes: Some(24576 << 10),
            group: false,
            rss: Some([24320 << 10, 1596 << 10, 4 << 10]),
        }
    }

    #[test]
    fn a_kill_is_put_together() {
        let stray = "4,9,9,-;something else\n";
        assert_eq!(read(&[USAGE, OOM, stray, KILLED]), [tail()]);
    }

    #[test]
    fn the_half_of_it_is_there_already() {
        let mut reader = Reader::default();
        assert_eq!(reader.record(OOM.as_bytes()), None);
        let half = reader.half().unwrap();
        assert_eq!((half.pid, half.rss, half.seq), (20300, None, 2));
        assert!(reader.record(KILLED.as_bytes()).is_some());
        assert_eq!(reader.half(), None);
    }

    #[test]
    fn of_a_group_all_are_known() {
        let all = read(&[USAGE, OOM, KILLED, GROUP, NEXT]);
        assert_eq!(all[0], tail());
        let next = &all[1];
        assert_eq!((next.pid, next.command.to_str()), (20301, Some("a) b")));
        assert!(next.group);
        assert_eq!(next.cgroup.as_deref(), Some(Path::new("/pod/c")));
        assert_eq!(next.limit, Limit::Cgroup("/pod".into()));
        assert_eq!(next.limit_bytes, Some(24576 << 10));
        // The next one is none of that group.
        let invoked = "4,6,301,-;x invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0\n";
        let after = read(&[OOM, KILLED, GROUP, invoked, NEXT]);
        assert_eq!((after[1].group, after[1].cgroup.as_deref()), (false, None));
    }

    #[test]
    fn a_group_is_killed_at_once() {
        for (at, group) in [(250 + GROUP_GAP - 1, true), (250 + GROUP_GAP, false)] {
            let later = NEXT.replace(",300,", &format!(",{at},"));
            let last = read(&[OOM, KILLED, GROUP, &later]).remove(1);
            assert_eq!((last.group, last.cgroup.is_some()), (group, group), "{at}");
        }
    }

    /// Above ten in five seconds the kernel keeps the first half to itself.
    #[test]
    fn without_its_first_half_the_cgroup_is_not_known() {
        let all = read(&[NEXT]);
        let kill = &all[0];
        assert_eq!((kill.pid, kill.seq), (20301, 5));
        assert_eq!((&kill.cgroup, &kill.limit), (&None, &Limit::Unknown));
    }

    #[test]
    fn the_machine_itself_is_out_of_memory() {
        let killed = KILLED
            .replace("Memory cgroup out", "Out")
            .replace("20300", "7");
        let kill = read(&[HOST, &killed]).remove(0);
        assert_eq!(kill.limit, Limit::Host);
        assert_eq!(kill.cgroup.as_deref(), Some(Path::new("/pod/c")));
        assert_eq!(read(&[&killed])[0].limit, Limit::Host);
    }

    #[test]
    fn names_that_look_like_keys() {
        let text = OOM.replace("task=tail", "task=,pid=1,uid=2");
        let mut reader = Reader::default();
        reader.record(text.as_bytes());
        let half = reader.half().unwrap();
        assert_eq!(
            (half.pid, half.command.to_str()),
            (20300, Some(",pid=1,uid=2"))
        );
    }

    /// As 6.18 logs them: a slice of systemd's, and a name that is cut in the middle of a letter.
    #[test]
    fn names_are_as_they_were_given() {
        let slice = r"/system-a\x5cx2db.slice/\xc3\xa4";
        let oom = OOM
            .replace("/pod/c", slice)
            .replace("/pod,", r"/system-a\x5cx2db.slice,");
        let killed = KILLED.replace("(tail)", r"(\x0a\xc3\x5c)");
        let group = GROUP.replace("/pod/c", slice);
        let all = read(&[&oom, &killed, &group, NEXT]);
        for kill in &all {
            assert_eq!(
                kill.cgroup.as_deref(),
                Some(Path::new(r"/system-a\x2db.slice/ä"))
            );
            let limit = Limit::Cgroup(r"/system-a\x2db.slice".into());
            assert_eq!(kill.limit, limit);
        }
        let alone = read(&[&killed]).remove(0);
        assert_eq!(alone.command, OsStr::from_bytes(b"\n\xc3\\"));
    }

    #[test]
    fn what_is_escaped() {
        for (text, logged) in [
            ("", &b""[..]),
            ("plain", b"plain"),
            (r"\x5cx2d", br"\x2d"),
            (r"a\x0ab\xff", b"a\nb\xff"),
            (r"\x5c\x5c", br"\\"),
            (r"\", br"\"),
            (r"\x5", br"\x5"),
            (r"\x+1", br"\x+1"),
            (r"\n\xzz", br"\n\xzz"),
        ] {
            assert_eq!(name(&as_logged(text)), OsStr::from_bytes(logged), "{text}");
        }
    }

    #[test]
    fn what_is_not_the_kernels_word_is_not_heard() {
        for forged in [
            // As a user's write to the log comes out: facility 1.
            KILLED.replacen("3,", "11,", 1),
            KILLED.replace("Memory cgroup out of memory", "hello"),
            KILLED.replace("20300", "x"),
            KILLED.replace(") total-vm", ""),
            "3,1".into(),
            "3;Memory".into(),
            "3,99999999999999999999,1,-;x".into(),
            String::new(),
        ] {
            assert_eq!(read(&[&forged]), [], "{forged}");
        }
        assert_eq!(Reader::default().record(&[0xff, b';']), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(texts in proptest::collection::vec("(oom-kill:|Tasks in |memory: usage |Memory cgroup out of memory: Killed process )?[,=a-zä\\\\()0-9: -]{0,60}", 0..8)) {
            let mut reader = Reader::default();
            for text in texts {
                reader.record(format!("3,1,2,-;{text}").as_bytes());
            }
        }
    }
}
