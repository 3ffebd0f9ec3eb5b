//! A bug of ours must be in the log that the manager keeps, and in one line.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;

/// Set, to the log's path, in the process that is to panic: this test's own program, once more.
const LOG: &str = "COTTER_TEST_PANIC_LOG";

#[test]
fn a_panic_is_in_the_log() {
    if let Some(log) = std::env::var_os(LOG) {
        cotter::shim::log::init(Path::new(&log), false).unwrap();
        panic!("a bug\nof ours");
    }
    let log = std::env::temp_dir().join(format!("cotter-panic-{}", std::process::id()));
    nix::unistd::mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&log)
        .unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "panics::a_panic_is_in_the_log", "--nocapture"])
        .env(LOG, &log)
        .stdout(Stdio::null())
        .status();
    std::fs::remove_file(&log).unwrap();
    let status = status.unwrap();
    assert!(!status.success());

    let mut text = vec![0; 64 * 1024];
    let length = fifo.read(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..length]);
    let lines: Vec<&str> = text.lines().filter(|l| l.contains("a bug")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    for part in [
        "level=error",
        r"a bug\nof ours",
        "tests/bootstrap/panics.rs",
        "runtime=io.containerd.cotter.v2",
    ] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
}
