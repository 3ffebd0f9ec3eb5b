//! What cotter hands down, and what the Go shim does, in the same circumstances.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use cotter::manager::dialect::Dialect;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;

use crate::common::containerd::{Version, shim_under_test};
use crate::common::logger::Logger;
use crate::common::shim::{RUNTIMES, Shim, until};
use crate::common::{TempDir, tool, write_program};
use crate::facts::{self, Facts};
use crate::limits::without_limits;
use crate::{Odd, run};

/// Nothing is as it mostly is.
const LINES: &str =
    "umask 027; ulimit -S -n 500; ulimit -H -n 5000; ulimit -S -c 0; ulimit -S -s 9000
    echo 0x31 >/proc/self/coredump_filter; echo 77 >/proc/self/oom_score_adj";
const WORDS: &str = "env --ignore-signal=CHLD,XFSZ,PIPE,TERM,INT,USR1,USR2,ALRM,WINCH \
    nice -n 5 ionice -c 2 -n 7 taskset 1 chrt --batch 0 setarch -R";

/// As nohup(1) and a shell's job control may leave them, and a program that waits for signals.
const SHELL: &str = "env --ignore-signal=HUP,TSTP,TTIN,TTOU --block-signal=USR2,TERM";

/// What differs, with ours before the Go shim's: of whom, and the line.
type Expected = (&'static str, &'static str);

/// The Go shim hands down what its caller ignores, as far as Go's runtime has no use for it: here 32, which
/// glibc's posix_spawn leaves ignored in what this test starts. To us a container is none of the caller's.
const IGNORED: Expected = ("", "SigIgn: 0000000000000000 | 0000000080000000");
const ALWAYS: [Expected; 5] = [
    // Variables of the shim's own are for the shim; whoever runs the tests may have set more of them.
    ("runtime", "variable COTTER_*: none | set"),
    // Set for its own tracing.
    ("runtime", "variable OTEL_SERVICE_NAME: none | set"),
    // Open for both ways, where the Go shim's is for one.
    (
        "logger",
        "descriptor 1: /dev/null 0100002 | /dev/null 0100001",
    ),
    // What a logging program complains is in the shim's log.
    ("logger", "descriptor 2: pipe 01 | /dev/null 0100001"),
    // It is ended with what it has started.
    ("logger", "leads its group: true | false"),
];

/// Who is compared.
const PROCESSES: [&str; 4] = ["init", "exec", "runtime", "logger"];

type Seen = BTreeMap<&'static str, Facts>;

pub fn go() -> std::path::PathBuf {
    Version::V2_1.dir().join("containerd-shim-runc-v2")
}

/// What all of them inherit below one shim.
async fn seen(shim: &Path, runtime: &str, lines: &str, words: &str) -> Seen {
    let of_go = shim == go();
    let odd = Odd::new(lines, words, shim);
    let notes = TempDir::new("notes");
    let wrapper = notes.path().join(runtime.to_lowercase());
    let note = notes.path().join("note").display().to_string();
    let script = format!(
        "#!/bin/sh\nfor word; do test $word = create && {{ cat /proc/self/status >{note}.status; \
         cat /proc/self/limits >{note}.limits; env | sort >{note}.env; }}; done\nexec {} \"$@\"\n",
        tool(runtime).display()
    );
    write_program(&wrapper, script);
    let spec = Spec::new("c", ["/bin/sleep", "1000"]);
    let wrapper = wrapper.display().to_string();
    let mut shim =
        Shim::start_by(odd.path.clone(), Dialect::Proto23, &wrapper, spec, "c", &[]).await;
    let own = shim.pid();
    let fifos = shim.fifos("c", true);
    let _held = hold(&fifos);
    let mut seen = Seen::new();

    without_limits(&shim.bundle_path("c").join("config.json"));
    let init = shim.create_with("c", &fifos).await.unwrap();
    shim.start_process("c", "").await.unwrap();
    runs(init).await;
    seen.insert("init", facts::of(init, own));
    let fifos = shim.fifos("x", true);
    let _held = hold(&fifos);
    let args = ["/bin/sleep", "1000"];
    let exec = shim.exec_with("c", "x", &args, &fifos).await.unwrap();
    runs(exec).await;
    seen.insert("exec", facts::of(exec, own));

    let read = |name: &str| fs::read_to_string(format!("{note}.{name}")).unwrap();
    let mut of_runtime = facts::status(&read("status"));
    of_runtime.extend(facts::limits(&read("limits")));
    let env = read("env");
    let variables = env.lines().filter_map(|line| line.split_once('='));
    of_runtime.extend(variables.map(|(name, _)| {
        let name = if name.starts_with("COTTER_") {
            "COTTER_*"
        } else {
            name
        };
        (format!("variable {name}"), "set".into())
    }));
    seen.insert("runtime", of_runtime);

    // The Go shim gives the arguments in any order.
    let script = "until [ $1 = out ]; do shift 2; done; echo $$ >$2; echo >&5; exec 5>&- cat <&3";
    let logger = Logger::new(&shim, "logger", script);
    shim.bundle("l", Spec::new("l", ["/bin/sleep", "1000"]));
    let mut request = shim.create_request("l");
    request.stdout = logger.uri("binary");
    request.stderr.clone_from(&request.stdout);
    shim.tasks.create(&request).await.unwrap();
    shim.start_process("l", "").await.unwrap();
    until("the logger runs", || logger.out().ends_with('\n')).await;
    let pid = logger.out().trim().parse().unwrap();
    until("as cat", || name(pid) == "cat").await;
    let mut of_logger = facts::of(pid, own);
    // Its id and its namespace are those of the test.
    of_logger.remove("environment");
    seen.insert("logger", of_logger);

    shim.kill("c", "x", 9).await.unwrap();
    shim.wait("c", "x").await.unwrap();
    shim.remove("l").await;
    shim.remove("c").await;
    if !of_go {
        shim.end().await;
    }
    // What the other says and leaves is not asked about here; the sweep takes it.
    seen
}

/// Opens their other ends, for which the Go shim waits.
fn hold(fifos: &Fifos) -> Vec<File> {
    let paths = [&fifos.stdin, &fifos.stdout, &fifos.stderr];
    let open = |path| File::options().read(true).write(true).open(path).unwrap();
    paths.map(open).into()
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

async fn runs(pid: u32) {
    // The name comes before the rest of the program.
    let complete = || fs::read(format!("/proc/{pid}/environ")).is_ok_and(|read| !read.is_empty());
    until("it runs its program", || name(pid) == "sleep" && complete()).await;
}

fn compare(lines: &str, words: &str, expected: &[Expected]) {
    let mut unseen = expected.to_vec();
    // SAFETY: numbers only. What it changes is this thread's, or marks descriptors that nobody here uses.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 77_000);
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed());
    }
    for runtime in RUNTIMES {
        run(async {
            let ours = seen(&shim_under_test(Version::V2_1), runtime, lines, words).await;
            for process in ["init", "exec"] {
                for signals in ["SigBlk", "SigIgn", "SigCgt"] {
                    let none = "0000000000000000";
                    assert_eq!(
                        ours[process][signals], none,
                        "{runtime} {process} {signals}"
                    );
                }
            }
            let theirs = seen(&go(), runtime, lines, words).await;
            for process in PROCESSES {
                let mut all = facts::differences(&ours[process], &theirs[process]);
                all.retain(|line| {
                    let is = |(whose, what): &Expected| process.contains(whose) && line == what;
                    unseen.retain(|expected| !is(expected));
                    !expected.iter().any(is)
                });
                assert!(all.is_empty(), "{runtime} {process}: {all:#?}");
            }
        });
    }
    assert!(unseen.is_empty(), "no longer so: {unseen:?}");
}

#[test]
fn what_is_inherited_is_what_the_go_shim_hands_down() {
    let expected = [&[IGNORED][..], &ALWAYS].concat();
    compare(LINES, WORDS, &expected);
}

#[test]
fn signals_as_shells_leave_them() {
    let theirs = [
        IGNORED,
        // SIGHUP, SIGTSTP, SIGTTIN and SIGTTOU, as above.
        ("runtime", "SigIgn: 0000000000000000 | 0000000080380001"),
        ("logger", "SigIgn: 0000000000000000 | 0000000080380001"),
        // SIGUSR2, which the caller has blocked.
        ("logger", "SigBlk: 0000000000000000 | 0000000000000800"),
        ("exec", "SigBlk: 0000000000000000 | 0000000000000800"),
    ];
    compare("", SHELL, &[&theirs[..], &ALWAYS].concat());
}
