//! File systems that a program mounts, with the real `mount.fuse3` and fuse-overlayfs.

use std::fs;
use std::path::Path;

use cotter::error::Code;
use cotter::mount::{Mount, unmount_all};

use crate::common::{TempDir, run};
use crate::space::{Space, mount_all, refused, request};

fn layers(space: &Space) -> String {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| space.dir(name));
    fs::write(lower.join("file"), "lower").unwrap();
    let (lower, upper, work) = (lower.display(), upper.display(), work.display());
    format!("lowerdir={lower},upperdir={upper},workdir={work}")
}

#[test]
fn a_program_mounts() {
    for kind in ["fuse3.fuse-overlayfs", "fuse.fuse-overlayfs"] {
        let space = Space::new("fuse");
        let options = layers(&space);
        let sub = space.dir("rootfs/sub");
        // With a target, and in the place that a link leads to.
        std::os::unix::fs::symlink("/sub", space.rootfs().join("link")).unwrap();
        mount_all(
            &[request(kind, "overlay", "link", &[&options])],
            &space.rootfs(),
        )
        .unwrap();
        assert_eq!(space.mounts(), std::slice::from_ref(&sub));
        fs::write(sub.join("file"), "changed").unwrap();
        assert_eq!(fs::read(space.0.join("upper/file")).unwrap(), b"changed");
        unmount_all(&space.rootfs()).unwrap();
        assert_eq!(space.mounts().len(), 0);
    }
}

#[test]
fn its_mount_is_taken_back_when_a_later_one_fails() {
    let space = Space::new("fuse-back");
    let options = layers(&space);
    let first = request("fuse3.fuse-overlayfs", "overlay", "", &[&options]);
    refused(&space, &[first, request("nosuchfs", "x", "", &[])]);
}

#[test]
fn its_words_are_in_the_error() {
    let space = Space::new("fuse-words");
    for (name, words) in [
        // What mount.fuse3 starts says so itself, or the shell for it.
        ("fuse3.fuse-overlayfs", "cannot read lower dirs"),
        ("fuse3.no-such-program", "not found"),
        ("fuse.no-such-program", "not found"),
    ] {
        let error = refused(&space, &[request(name, "overlay", "", &[])]);
        assert_eq!(error.code, Code::Unknown);
        assert!(error.message.contains("exit status "), "{error}");
        assert!(error.message.contains(words), "{error}");
    }
}

/// A program of the test's own in the place of `mount.fuse3`.
fn with_program(space: &Space, script: &str) -> cotter::error::Error {
    let bin = TempDir::new("bin");
    let program = bin.path().join("mount.fuse3");
    crate::common::write_program(&program, format!("#!/bin/sh\n{script}\n"));
    let mount = request("fuse3.x", "x", "", &["a=b"]);
    let before = space.mounts();
    let error = mount_with(&mount, &space.rootfs(), &program).unwrap_err();
    assert_eq!(space.mounts(), before, "{error}");
    error
}

fn mount_with(mount: &Mount, rootfs: &Path, program: &Path) -> cotter::error::Result<()> {
    cotter::mount::mount_all(std::slice::from_ref(mount), rootfs, &|command| {
        let mut other = std::process::Command::new(program);
        other.args(command.arguments());
        // The streams are the command's own; a stand-in for PATH cannot hand them on.
        Ok(run(&mut other).code.cast_unsigned())
    })
}

#[test]
fn a_program_that_fails_after_the_mount_or_lies() {
    let space = Space::new("fuse-lies");
    for (script, words) in [
        (
            "mount -t tmpfs a \"$2\"; mount -t tmpfs b \"$2\"; exit 3",
            "exit status 3",
        ),
        ("exit 0", "it succeeded, but nothing is mounted"),
    ] {
        let error = with_program(&space, script);
        assert!(error.message.contains(words), "{error}");
    }
}

#[test]
fn no_such_program_and_no_end() {
    let space = Space::new("fuse-none");
    let mount = request("fuse3.x", "x", "", &[]);
    for (kind, words) in [
        (
            std::io::ErrorKind::NotFound,
            "there is no such program on the PATH",
        ),
        (
            std::io::ErrorKind::TimedOut,
            "it did not end in time and was killed",
        ),
    ] {
        let error =
            cotter::mount::mount_all(std::slice::from_ref(&mount), &space.rootfs(), &|_| {
                Err(kind.into())
            })
            .unwrap_err();
        assert_eq!(error.code, Code::Unknown);
        assert!(error.message.contains("mount.fuse3 for x: "), "{error}");
        assert!(error.message.contains(words), "{error}");
        assert_eq!(space.mounts().len(), 0);
    }
}
