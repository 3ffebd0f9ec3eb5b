use super::super::capabilities::Set;
use super::super::decide::Capabilities;
use super::super::kept::{Cgroups, Filter};
use super::*;

/// What is called, in its order, as words.
fn called(ways: Ways, change: impl Fn(&mut Wanted, &mut Kept)) -> String {
    let mut wanted = Wanted {
        args: vec!["true".into()],
        candidates: vec!["/bin/true".into()],
        cwd: "/".into(),
        uid: 7,
        gid: 8,
        capabilities: Capabilities {
            bounding: Set(0b111),
            ..Capabilities::default()
        },
        limits: vec![(Limit::Core, 0, 0)],
        umask: Some(0o22),
        ..Wanted::default()
    };
    let mut kept = Kept {
        namespaces: libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP,
        bounding: Set(0),
        apparmor: None,
        keyring: ways.is_runc().then(|| "_ses.c".into()),
        oom_score_adj: ways.is_runc().then_some(5),
        umask: None,
        filter: Filter::None,
        cgroups: Cgroups::Below("/c".into()),
    };
    change(&mut wanted, &mut kept);
    // All pass: one instruction that says so.
    let filter = Program::new([6, 0, 0, 0, 0, 0, 0xff, 0x7f].into(), 0).unwrap();
    let groups = Groups {
        v1: vec!["/cg/memory/c".into()],
        pids: Some("/cg/pids/c".into()),
        v2: Some("/cg/unified/c".into()),
    };
    let plan = Plan {
        wanted: &wanted,
        kept: &kept,
        ways,
        filter: matches!(kept.filter, Filter::File(_)).then_some(&filter),
        groups: &groups,
        apparmor: Path::new("/proc/self/attr/exec"),
        owned: [false, true, true],
        most_files: 4096,
        last_capability: 3,
        stub: [1, 2],
    };
    assert!(plan.orders().is_ok());
    let mut sheet = Sheet::new();
    let pids = plan.outside(&mut sheet);
    let fork = plan.enter(&mut sheet);
    sheet.then(fork, 0);
    let _ = plan.inside(&mut sheet, pids);
    let calls = sheet.calls(0).map(|(number, args)| name(number, args));
    let mut words: Vec<String> = Vec::new();
    for word in calls {
        match words.last_mut() {
            Some(last) if *last == word => *last = format!("{word}…"),
            Some(last) if *last == format!("{word}…") => {}
            _ => words.push(word),
        }
    }
    words.join(" ")
}

fn name(number: usize, args: [Option<usize>; 6]) -> String {
    let prctl = |option: usize| match i32::try_from(option).unwrap() {
        libc::PR_SET_DUMPABLE => "hide",
        libc::PR_SET_NAME => "name",
        libc::PR_SET_NO_NEW_PRIVS => "nnp",
        libc::PR_CAPBSET_DROP => "drop",
        libc::PR_SET_KEEPCAPS => "keep",
        libc::PR_CAP_AMBIENT => "ambient",
        other => panic!("{other}"),
    };
    match i64::try_from(number).unwrap() {
        libc::SYS_prctl => prctl(args[0].unwrap()),
        libc::SYS_close_range => "close",
        libc::SYS_openat => "open",
        libc::SYS_write => "write",
        libc::SYS_setns => "join",
        libc::SYS_clone3 => "fork",
        libc::SYS_sendto => "tell",
        libc::SYS_exit_group => "exit",
        libc::SYS_setsid => "session",
        libc::SYS_keyctl => "keyring",
        libc::SYS_prlimit64 => "limit",
        libc::SYS_umask => "umask",
        libc::SYS_seccomp => "filter",
        libc::SYS_chdir => "chdir",
        libc::SYS_getcwd => "getcwd",
        libc::SYS_newfstatat => "stat",
        libc::SYS_read => "read",
        libc::SYS_fchown => "own",
        libc::SYS_setgroups => "groups",
        libc::SYS_setresgid => "gid",
        libc::SYS_setresuid => "uid",
        libc::SYS_capset => "capset",
        libc::SYS_execve => "run",
        other => panic!("{other}"),
    }
    .into()
}

#[test]
fn the_order_is_each_runtimes() {
    let filtered = |nnp: bool| {
        move |wanted: &mut Wanted, kept: &mut Kept| {
            kept.filter = Filter::File(0);
            wanted.no_new_privileges = nnp;
        }
    };
    let user = "drop keep own… groups gid uid keep capset ambient";
    let runc = "hide name close open write open write open… join fork tell exit";
    let crun = "hide name close open write open… join fork tell exit";
    let born = "write join close tell session";
    for (ways, nnp, expected) in [
        (
            Ways::Runc13,
            false,
            format!("{runc} {born} keyring limit umask filter chdir {user} getcwd stat tell run"),
        ),
        (
            Ways::Runc13,
            true,
            format!(
                "{runc} {born} keyring limit nnp umask chdir {user} getcwd stat filter tell run"
            ),
        ),
        (
            Ways::Crun,
            false,
            format!("{crun} {born} limit chdir filter {user} chdir getcwd stat umask tell run"),
        ),
        (
            Ways::Crun,
            true,
            format!("{crun} {born} limit chdir {user} nnp chdir getcwd stat filter umask tell run"),
        ),
    ] {
        assert_eq!(called(ways, filtered(nnp)), expected, "{ways:?} {nnp}");
    }
}

#[test]
fn what_only_some_have() {
    let plain = called(Ways::Crun, |_, _| {});
    let other = called(Ways::Crun, |wanted, kept| {
        kept.namespaces = libc::CLONE_NEWNS;
        wanted.apparmor = Some("a".into());
        wanted.home = true;
        wanted.candidates.push("/usr/bin/true".into());
        wanted.capabilities.ambient = Set(0b101);
        wanted.limits.clear();
        wanted.umask = None;
    });
    let home = "chdir open stat open stat read close drop";
    let expected = plain
        .replace(
            "close open write open… join",
            "close open write open write open… join",
        )
        .replace(
            "write join close tell session limit",
            "write close tell session",
        )
        .replace("chdir drop", home)
        .replace("capset ambient", "capset ambient…")
        .replace("stat umask tell", "stat… tell");
    assert_eq!(other, expected);
}

/// A filter that might hide what becomes of the rest; before it is loaded it does not matter.
#[test]
fn a_filter_in_the_way() {
    let denies = |number: libc::c_long| {
        let [a, b, c, d] = u32::try_from(number).unwrap().to_ne_bytes();
        let code = [
            [0x20, 0, 0, 0, 0, 0, 0, 0],
            [0x15, 0, 0, 1, a, b, c, d],
            [0x06, 0, 0, 0, 0, 0, 5, 0],
            [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f],
        ];
        Program::new(code.concat(), 0).unwrap()
    };
    for (number, nnp, passes) in [
        (libc::SYS_sendto, false, false),
        (libc::SYS_sendto, true, false),
        (libc::SYS_execve, true, false),
        (libc::SYS_setgroups, false, false),
        (libc::SYS_setgroups, true, true),
        (libc::SYS_setns, false, true),
        (libc::SYS_seccomp, false, true),
    ] {
        let wanted = Wanted {
            candidates: vec!["/x".into()],
            no_new_privileges: nnp,
            ..Wanted::default()
        };
        let kept = Kept {
            namespaces: 0,
            bounding: Set(0),
            apparmor: None,
            keyring: None,
            oom_score_adj: None,
            umask: None,
            filter: Filter::None,
            cgroups: Cgroups::In(Vec::new()),
        };
        let plan = Plan {
            wanted: &wanted,
            kept: &kept,
            ways: Ways::Crun,
            filter: Some(&denies(number)),
            groups: &Groups::default(),
            apparmor: Path::new(""),
            owned: [false; 3],
            most_files: 0,
            last_capability: 0,
            stub: [1, 2],
        };
        assert_eq!(plan.orders().is_ok(), passes, "{number} {nnp}");
    }
}
