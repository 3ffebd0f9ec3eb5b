//! The root directory of a container: programs of the tests', users, and things that are odd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::common::{TempDir, run as run_command, tool};

/// A program of the tests, by its source in this directory: static, for containers.
fn built(name: &str) -> PathBuf {
    static BUILT: Mutex<()> = Mutex::new(());
    let _one = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/enter/{name}.rs"));
    let of = Sha256::digest(fs::read(&source).unwrap());
    let of = u64::from_be_bytes(of[..8].try_into().unwrap());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("direct-{name}-{of:x}"));
    if !path.exists() {
        let new = path.with_extension(std::process::id().to_string());
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        rustc.args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
        ]);
        rustc.args(["-C", "panic=abort", "-C", "strip=symbols", "-o"]);
        run_command(rustc.arg(&new).arg(&source)).ok();
        fs::rename(&new, &path).unwrap();
    }
    path
}

/// The container's users.
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n\
    again:x:1000:1000::/home/again:/bin/sh\ndeep:x:1001:1001::/home/a b/c:/bin/sh\n";

/// Things that are odd to run, and directories that are odd to be in.
const FILES: &str = r#"
    mkdir -p home/user private first second third odd/directory
    cp bin/probe private/probe; chmod 700 private
    echo 'echo no program' >bin/plain-text; chmod 755 bin/plain-text
    printf '#!/nowhere\n' >bin/no-interpreter; printf '#!/bin/sh\nexec /bin/probe "$@"\n' >bin/a-script
    printf '#!/bin/sh -e\nid -u\n' >bin/a-words; chmod 755 bin/no-interpreter bin/a-script bin/a-words
    cp bin/probe bin/not-executable; chmod 644 bin/not-executable
    cp bin/probe bin/only-roots; chmod 700 bin/only-roots
    cp bin/probe bin/set-user; chown 2000:2001 bin/set-user; chmod 6755 bin/set-user
    ln -s probe bin/a-link; ln -s nowhere bin/a-dangling; ln -s a-loop bin/a-loop; : >bin/an-empty; chmod 755 bin/an-empty
    cp bin/not-executable first/tool; cp -p bin/probe second/tool; mkdir third/tool
    ln -s ../private odd/link; ln -s nowhere odd/dangling; ln -s /proc/self odd/self; mkdir odd/only-users
    chown 1000:1000 odd/only-users; chmod 700 odd/only-users; mkfifo odd/fifo; chmod 777 odd/fifo
"#;

/// A root directory with the probe in it, a user, and files that are odd to run.
pub fn root() -> TempDir {
    let root = TempDir::new("root");
    let shell = "cp -a \"$0\"/. \"$1\"; rm -rf \"$1\"/run/*; mkdir -p \"$1\"/out; cp \"$2\" \"$1\"/bin/probe; \
        cp \"$3\" \"$1\"/bin/attacker";
    let mut copy = Command::new("/bin/sh");
    copy.args(["-ec", shell]).arg(tool("ROOTFS"));
    let copy = copy.arg(root.path()).arg(built("probe"));
    run_command(copy.arg(built("attacker"))).ok();
    fs::write(root.path().join("etc/passwd"), USERS).unwrap();
    run_command(
        Command::new("/bin/sh")
            .args(["-ec", FILES])
            .current_dir(root.path()),
    )
    .ok();
    root
}
