//! All that execs of a container depend on and that stays, found out once; and what is asked of the system anew
//! for each.
//!
//! Invariant: what cannot be told is a reason for the runtime, never a guess.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid as Number, SysconfVar, sysconf};

use super::filter::Program;
use super::kept::{Cgroups, Filter, Kept};
use super::plan::Groups;
use super::version::Ways;
use super::{Exec, LIMIT, Reason};
use crate::blocking::{Job, within};
use crate::cgroup::{Cgroup, Joined, Level};
use crate::kernel_file;
use crate::monitor::Pid;
use crate::runtime::Fds;
use crate::spec::{LONGEST, read_own};

/// What has to hold and is asked of the system.
pub const GONE: Reason = "the container's init is gone";
pub const MOVED: Reason = "the container is not in the cgroups in which its runtime put it";
const BINARY: Reason = "the runtime's program cannot be told";

/// What an exec depends on beside its spec.
#[derive(Debug)]
pub struct Known {
    pub kept: Kept,
    pub ways: Ways,
    pub binary: Identity,
    pub filter: Option<Program>,
    pub groups: Groups,
    /// Where init was then: `/proc/<pid>/cgroup`.
    pub membership: Vec<u8>,
    pub last_capability: usize,
}

/// A runtime's program, by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Known {
    /// Finds it out.
    pub async fn find(
        exec: &Exec<'_>,
        filter: Option<&Result<Program, Reason>>,
    ) -> Result<Self, Reason> {
        let membership = membership(exec.init)?;
        let cgroup = exec.cgroup.ok_or(MOVED)?;
        let own = kernel_file::bytes("/proc/self/cgroup").map_err(|_| MOVED)?;
        let joined = cgroup.joined(&own).ok_or(MOVED)?;
        if !has_all_processors() {
            return Err("the shim may not use all processors, and runtimes let execs do so");
        }
        let binary = exec.runtime.binary.clone();
        let look = move || {
            let identity = Identity::of(&binary).ok_or(BINARY)?;
            identity.is_no_script().map(|()| identity)
        };
        let identity = elsewhere("look at", &exec.runtime.binary, look).await??;
        let text = exec.runtime.version().await.map_err(|_| BINARY)?;
        let ways = Ways::of(&String::from_utf8_lossy(&text));
        let ways = ways.ok_or("this version of the runtime is not known")?;
        let (directory, taken) = (exec.runtime.root.join(exec.id), filter.cloned());
        let place = directory.clone();
        let read = move || read(&place, ways, taken);
        let (kept, filter) = elsewhere("read", &directory, read).await??;
        Ok(Self {
            groups: groups(&joined, &kept.cgroups)?,
            kept,
            ways,
            binary: identity,
            filter,
            membership,
            last_capability: last_capability()?,
        })
    }
}

impl Identity {
    /// Of the file that would be run.
    fn of(binary: &Path) -> Option<Self> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let mut paths = crate::program::candidates(binary, &paths).into_iter();
        paths.find_map(|path| {
            let file = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            Some(Self {
                path,
                device: file.dev(),
                inode: file.ino(),
                changed: (file.ctime(), file.ctime_nsec()),
            })
        })
    }

    /// A script may do more than the runtime that it calls, and answers with that one's version.
    fn is_no_script(&self) -> Result<(), Reason> {
        let mut begins = [0; 4];
        let read = fs::File::open(&self.path).and_then(|mut file| file.read_exact(&mut begins));
        match (read, &begins) {
            (Ok(()), b"\x7fELF") => Ok(()),
            _ => Err("its runtime is a script, which may do more than the runtime"),
        }
    }

    /// Whether it is still that file. Asks its disk.
    pub fn is_there(&self) -> Result<(), Reason> {
        match Self::of(&self.path).as_ref() == Some(self) {
            true => Ok(()),
            false => Err("the runtime's program is another than at the first exec"),
        }
    }
}

/// Runs what asks a disk.
pub async fn elsewhere<T: Send + 'static>(
    what: &str,
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reason> {
    let job = Job {
        name: "direct-exec",
        what: format!("{what} {}", path.display()),
        limit: LIMIT,
    };
    within(job, work).await.map_err(|why| {
        log::debug!("direct exec: {why}");
        "what the runtime keeps of the container cannot be read"
    })
}

/// What the runtime keeps, and the filter.
fn read(
    directory: &Path,
    ways: Ways,
    taken: Option<Result<Program, Reason>>,
) -> Result<(Kept, Option<Program>), Reason> {
    let file = |name: &str| {
        let read = read_own(&directory.join(name), LONGEST);
        read.map_err(|_| "what the runtime keeps of the container cannot be read")
    };
    let filter = directory.join("seccomp.bpf");
    let kept = match ways.is_runc() {
        true => Kept::of_runc(&file("state.json")?)?,
        false => Kept::of_crun(&file("status")?, &file("config.json")?, filter.exists())?,
    };
    let program = match kept.filter {
        Filter::None => None,
        Filter::File(flags) => Some(Program::read(&filter, flags)?),
        Filter::Kernel(_) => {
            Some(taken.ok_or("its filter of system calls is in the kernel only")??)
        }
    };
    Ok((kept, program))
}

/// Whether the kernel would refuse a new process in it, and count that as the container's. One that comes from
/// outside is never refused, so that runtimes do not meet the limit.
pub fn is_full(cgroup: &Cgroup) -> bool {
    let levels = cgroup.pids_unread().map(|pids| pids.levels());
    let is_full = |level: &Level| level.limit.is_some_and(|limit| level.current >= limit);
    levels.is_ok_and(|levels| levels.iter().any(is_full))
}

pub fn membership(pid: Pid) -> Result<Vec<u8>, Reason> {
    kernel_file::bytes(format!("/proc/{pid}/cgroup")).map_err(|_| GONE)
}

/// The cgroups that are to be joined: those in which init is, which are those that its runtime has made.
fn groups(joined: &[Joined<'_>], kept: &Cgroups) -> Result<Groups, Reason> {
    let is_kept = |joined: &Joined<'_>| match kept {
        Cgroups::In(all) => all.iter().any(|path| path == joined.dir),
        Cgroups::Below(path) => {
            let below = path.strip_prefix('/').unwrap_or(path);
            !below.is_empty() && joined.mount_point.join(below) == joined.dir
        }
    };
    let is_joined = |path: &PathBuf| joined.iter().any(|joined| joined.dir == path);
    let all = match kept {
        Cgroups::In(all) => all.iter().all(is_joined),
        Cgroups::Below(_) => true,
    };
    if !all || joined.is_empty() || !joined.iter().all(is_kept) {
        return Err(MOVED);
    }
    let mut groups = Groups::default();
    for one in joined {
        let dir = one.dir.to_owned();
        match one.controllers {
            [] => groups.v2 = Some(dir),
            names if names.iter().any(|name| name == "pids") => groups.pids = Some(dir),
            _ => groups.v1.push(dir),
        }
    }
    Ok(groups)
}

/// Which of the streams become the user's: pipes do.
pub fn owned(fds: &Fds) -> Result<[bool; 3], Reason> {
    let mut owned = [false; 3];
    for (owned, fd) in owned.iter_mut().zip([&fds.stdin, &fds.stdout, &fds.stderr]) {
        let Some(fd) = fd else { continue };
        let kind =
            fstat(fd.as_fd()).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        *owned = kind == Ok(SFlag::S_IFIFO);
        if !*owned {
            return Err("its streams are no pipes");
        }
    }
    Ok(owned)
}

/// Where a process of this machine's says which AppArmor profile its next program is to have, if the shim itself has
/// none: runtimes then do no more than that.
pub fn apparmor() -> Result<&'static Path, Reason> {
    static PATH: OnceLock<Result<&Path, Reason>> = OnceLock::new();
    let find = || {
        let enabled = kernel_file::text("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.trim_end() == "Y") {
            return Err("it has an AppArmor profile, and the machine has no AppArmor");
        }
        let places = [
            (
                "/proc/self/attr/apparmor/current",
                "/proc/self/attr/apparmor/exec",
            ),
            ("/proc/self/attr/current", "/proc/self/attr/exec"),
        ];
        let own = |(current, exec)| Some((kernel_file::text(current).ok()?, Path::new(exec)));
        match places.into_iter().find_map(own) {
            Some((own, exec)) if own.trim_end() == "unconfined" => Ok(exec),
            _ => Err("it has an AppArmor profile, and the shim has one itself"),
        }
    };
    *PATH.get_or_init(find)
}

/// The shim's own, and so that of whoever it starts.
pub fn most_files() -> Result<u64, Reason> {
    let limits = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    limits
        .map(|(_, hard)| hard)
        .map_err(|_| "the shim's own limits are not known")
}

fn has_all_processors() -> bool {
    let all = sysconf(SysconfVar::_NPROCESSORS_CONF).ok().flatten();
    let own = sched_getaffinity(Number::from_raw(0)).map(|set| {
        (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or_default())
            .count()
    });
    all.is_some_and(|all| own.is_ok_and(|own| usize::try_from(all) == Ok(own)))
}

fn last_capability() -> Result<usize, Reason> {
    static LAST: OnceLock<Option<usize>> = OnceLock::new();
    let read = || {
        kernel_file::text("/proc/sys/kernel/cap_last_cap")
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    LAST.get_or_init(read)
        .ok_or("the kernel does not tell its capabilities")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroups_are_the_runtimes_and_all_of_them() {
        let names =
            |names: &str| -> Vec<String> { names.split_whitespace().map(str::to_owned).collect() };
        let (memory, pids, unified) = (names("memory"), names("cpu pids"), Vec::new());
        let all = [
            (&memory, "/cg/memory", "/cg/memory/c"),
            (&pids, "/cg/pids", "/cg/pids/c"),
            (&unified, "/cg/unified", "/cg/unified/c"),
        ];
        let joined = all.map(|(controllers, mount_point, dir)| Joined {
            controllers,
            mount_point: Path::new(mount_point),
            dir: Path::new(dir),
        });
        let expected = Groups {
            v1: vec!["/cg/memory/c".into()],
            pids: Some("/cg/pids/c".into()),
            v2: Some("/cg/unified/c".into()),
        };
        let of = |paths: &[&str]| Cgroups::In(paths.iter().map(Into::into).collect());
        let whole = ["/cg/memory/c", "/cg/pids/c", "/cg/unified/c"];
        for (kept, is_known) in [
            (of(&whole), true),
            (Cgroups::Below("/c".into()), true),
            (of(&whole[..2]), false),
            (
                of(&["/cg/memory/c", "/cg/pids/c", "/cg/unified/c", "/cg/cpu/c"]),
                false,
            ),
            (of(&["/cg/memory/c", "/cg/pids/c", "/cg/unified/d"]), false),
            (of(&[]), false),
            (Cgroups::Below("/d".into()), false),
            (Cgroups::Below("/".into()), false),
            (Cgroups::Below(String::new()), false),
        ] {
            let groups = groups(&joined, &kept);
            assert_eq!(
                groups,
                if is_known {
                    Ok(expected.clone())
                } else {
                    Err(MOVED)
                },
                "{kept:?}"
            );
        }
        // In none of its own.
        assert_eq!(groups(&[], &of(&[])), Err(MOVED));
    }

    #[test]
    fn pipes_become_the_users_and_others_are_the_runtimes() {
        let pipe = || nix::unistd::pipe().map(|(_, write)| write).ok();
        let file = || fs::File::open("/dev/null").ok().map(Into::into);
        let given = |stdin, stdout| Fds {
            stdin,
            stdout,
            ..Fds::default()
        };
        assert_eq!(owned(&given(None, None)), Ok([false; 3]));
        assert_eq!(owned(&given(pipe(), None)), Ok([true, false, false]));
        assert_eq!(owned(&given(pipe(), pipe())), Ok([true, true, false]));
        assert!(owned(&given(pipe(), file())).is_err());
    }

    #[test]
    fn a_program_is_known_by_its_file() {
        let [sh, ls] = ["sh", "ls"].map(|name| Identity::of(Path::new(name)).unwrap());
        assert_eq!(sh.is_there(), Ok(()));
        assert_eq!(sh.is_no_script(), Ok(()));
        let replaced = Identity {
            inode: ls.inode + 1,
            ..sh.clone()
        };
        assert!(replaced.is_there().is_err());
        let gone = Identity {
            path: "/no/such".into(),
            ..sh
        };
        assert!(gone.is_there().is_err());
        assert_eq!(Identity::of(Path::new("/etc")), None);
    }
}
