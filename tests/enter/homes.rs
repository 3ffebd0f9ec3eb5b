//! HOME of whom no environment gives one: by the container's list of users, or by its runtime.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::common::run as run_command;
use crate::common::shim::run;
use crate::matrix::{Case, Why, case, compare_all};
use crate::world::{Making, RUNTIMES, World};

/// What looks the home of user 1000 up, and of one that nobody knows.
fn cases(by: Why) -> [Case; 2] {
    [
        case(
            "user",
            |spec| spec["user"] = json!({"uid": 1000, "gid": 7}),
            by,
        ),
        case(
            "nobody",
            |spec| spec["user"] = json!({"uid": 4711, "gid": 7}),
            by,
        ),
    ]
}

const DIRECT: Why = |_| None;
const ODD: Why = |_| Some("its home could not be looked up");

/// Lists of users, and who looks in them.
const LISTS: [(&str, &str, Why); 24] = [
    (
        "first of two",
        "a:x:1000:1::/first:/bin/sh\nb:x:1000:1::/second:/bin/sh\n",
        DIRECT,
    ),
    ("no end of line", "a:x:1000:1::/home:/bin/sh", DIRECT),
    ("empty", "", DIRECT),
    ("no shell", "a:x:1000:1::/home:\n", DIRECT),
    ("root of all", "a:x:1000:1::/:/bin/sh\n", DIRECT),
    ("odd words", "a b:!*:1000:1:x, y:/home/ü/ö:/bin/sh\n", ODD),
    ("no home", "a:x:1000:1:::/bin/sh\n", ODD),
    ("relative home", "a:x:1000:1::home:/bin/sh\n", ODD),
    ("fewer fields", "a:x:1000:1::/home\n", ODD),
    ("more fields", "a:x:1000:1::/home:/bin/sh:more\n", ODD),
    ("no name", ":x:1000:1::/home:/bin/sh\n", ODD),
    ("no number", "a:x:1000x:1::/home:/bin/sh\n", ODD),
    ("empty number", "a:x::1::/home:/bin/sh\n", ODD),
    ("number with a zero", "a:x:01000:1::/home:/bin/sh\n", ODD),
    ("number with a sign", "a:x:+1000:1::/home:/bin/sh\n", ODD),
    (
        "large number",
        "a:x:99999999999:1::/home:/bin/sh\nb:x:1000:1::/b:/bin/sh\n",
        ODD,
    ),
    ("wrapped number", "a:x:4294968296:1::/home:/bin/sh\n", ODD),
    ("blank line", "\na:x:1000:1::/home:/bin/sh\n", ODD),
    ("blank at the end", "a:x:1000:1::/home:/bin/sh \n", ODD),
    ("remark", "# users\na:x:1000:1::/home:/bin/sh\n", ODD),
    ("directory's", "+::::::\na:x:1000:1::/home:/bin/sh\n", ODD),
    ("other line ends", "a:x:1000:1::/home:/bin/sh\r\n", ODD),
    ("zero byte", "a:x:1000:1::/ho\0me:/bin/sh\n", ODD),
    ("odd one behind", "a:x:1000:1::/home:/bin/sh\nrest\n", ODD),
];

/// Everything stays the same but the list.
async fn judge(world: &World, name: &str, by: Why) -> Vec<String> {
    let all = compare_all(world, &cases(by)).await;
    all.into_iter()
        .map(|line| format!("{name}: {line}"))
        .collect()
}

#[test]
fn lists_of_users() {
    let mut all = Vec::new();
    for runtime in RUNTIMES {
        run(async {
            let world = World::new(runtime, Making::PLAIN).await;
            let list = world.root.path().join("etc/passwd");
            for (name, text, by) in LISTS {
                fs::write(&list, text).unwrap();
                all.extend(judge(&world, name, by).await);
            }
            let many: String = (2000..3000)
                .map(|n| format!("u{n}:x:{n}:1::/home/{n}:/bin/sh\n"))
                .collect();
            let known = "a:x:1000:1::/home:/bin/sh\n";
            fs::write(&list, many.clone() + known).unwrap();
            all.extend(judge(&world, "many users", DIRECT).await);
            fs::write(&list, many.repeat(3) + known).unwrap();
            all.extend(judge(&world, "too many users", ODD).await);
            let long = format!("a:x:1000:1::/{}:/bin/sh\n", "x".repeat(4000));
            fs::write(&list, long).unwrap();
            all.extend(judge(&world, "long home", DIRECT).await);
            let long = format!("a:x:1000:1::/{}:/bin/sh\n", "x".repeat(5000));
            fs::write(&list, long).unwrap();
            all.extend(compare_all(&world, &cases(ODD)[..1]).await);
            world.end().await;
        });
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// What is no file: whoever opens it may wait for ever, or set something off.
#[test]
fn no_list_at_all() {
    let mut all = Vec::new();
    for runtime in RUNTIMES {
        run(async {
            let world = World::new(runtime, Making::PLAIN).await;
            let list = world.root.path().join("etc/passwd");
            let shell = |text: &str| {
                fs::remove_file(&list)
                    .or_else(|_| fs::remove_dir(&list))
                    .unwrap();
                let mut shell = Command::new("/bin/sh");
                run_command(
                    shell
                        .args(["-ec", text])
                        .current_dir(list.parent().unwrap()),
                )
                .ok();
            };
            for (name, text, by) in [
                (
                    "none",
                    "true >gone; mv gone passwd; rm passwd; ln -s gone passwd",
                    DIRECT,
                ),
                (
                    "link",
                    "echo 'a:x:1000:1::/linked:/bin/sh' >users; ln -s users passwd",
                    DIRECT,
                ),
                ("loop", "ln -s passwd passwd", ODD),
                ("directory", "mkdir passwd", ODD),
                ("null", "ln -s /dev/null passwd", ODD),
                (
                    "not for users",
                    "echo 'a:x:1000:1::/a:/bin/sh' >passwd; chmod 0 passwd",
                    DIRECT,
                ),
            ] {
                shell(text);
                all.extend(judge(&world, name, by).await);
            }
            shell("true");
            all.extend(judge(&world, "absent", DIRECT).await);
            world.end().await;
        });
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// The runtime waits at a FIFO for a writer, as it always did; the shim's way does not, and has nobody wait.
#[test]
fn fifo_as_the_list() {
    for runtime in RUNTIMES {
        run(async {
            let world = World::new(runtime, Making::PLAIN).await;
            let list = world.root.path().join("etc/passwd");
            fs::remove_file(&list).unwrap();
            fifo(&list);
            let spec = crate::world::process(&["true"]);
            world
                .shim
                .tasks
                .exec(&world.request("f", &spec))
                .await
                .unwrap();
            let start = world.shim.start_process("c", "f");
            let feed = async {
                // Who opens it for writing meets a reader: that is the runtime's. The shim's would not have waited.
                let pipe = loop {
                    use std::os::unix::fs::OpenOptionsExt;
                    let mut open = fs::File::options();
                    match open.write(true).custom_flags(libc::O_NONBLOCK).open(&list) {
                        Ok(pipe) => break pipe,
                        Err(_) => crate::common::shim::a_moment().await,
                    }
                };
                let table = world.table().await;
                drop(pipe);
                table
            };
            let (started, table) = tokio::join!(start, feed);
            started.unwrap();
            let (by, _) = table
                .iter()
                .find(|(why, count)| why.is_some() && *count == 1)
                .unwrap();
            println!("{runtime}: {by:?}");
            if world.kind.is_some() {
                assert_eq!(by.as_deref(), Some("its home could not be looked up"));
            }
            world.shim.wait("c", "f").await.unwrap();
            world.shim.delete("c", "f").await.unwrap();
            world.end().await;
        });
    }
}

fn fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a name that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o666) }, 0);
}
