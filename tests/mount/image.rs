//! Images through loop devices, which must all be free again in the end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use cotter::mount::unmount_all;
use nix::sys::stat::Mode;

use crate::common::{TempDir, eventually, run};
use crate::space::{Space, mount_all, refused, request};

/// An empty ext2 file system in a file.
fn image(dir: &TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    run(Command::new("mkfs.ext2").args(["-q", "-F"]).arg(&path)).ok();
    path
}

/// The devices that an image is attached to, as sysfs directories.
fn devices(image: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir("/sys/block").unwrap();
    all.map(|entry| entry.unwrap().path())
        .filter(|dir| {
            fs::read_to_string(dir.join("loop/backing_file"))
                .is_ok_and(|file| Path::new(file.trim_end()) == image)
        })
        .collect()
}

fn value(device: &Path, name: &str) -> String {
    fs::read_to_string(device.join(name)).unwrap().trim().into()
}

/// A program that looks at new devices may hold one for a moment longer than its mount.
#[track_caller]
fn freed(image: &Path) {
    eventually("the loop device is free", || devices(image).is_empty());
}

#[test]
fn an_image_is_mounted_and_written_to() {
    let (space, dir) = (Space::new("image"), TempDir::new("image"));
    let image = image(&dir, "image");
    let mount = request("ext2", &image, "", &["loop"]);
    mount_all(std::slice::from_ref(&mount), &space.rootfs()).unwrap();
    let [device] = &devices(&image)[..] else {
        panic!("{:?}", devices(&image));
    };
    assert_eq!(value(device, "loop/autoclear"), "1");
    assert_eq!(value(device, "ro"), "0");
    assert_eq!(value(device, "loop/dio"), "0");
    fs::write(space.rootfs().join("file"), "kept").unwrap();
    unmount_all(&space.rootfs()).unwrap();
    freed(&image);

    mount_all(&[mount], &space.rootfs()).unwrap();
    assert_eq!(fs::read(space.rootfs().join("file")).unwrap(), b"kept");
    unmount_all(&space.rootfs()).unwrap();
    freed(&image);
}

#[test]
fn a_read_only_image_is_not_touched() {
    let (space, dir) = (Space::new("image-ro"), TempDir::new("image-ro"));
    let image = image(&dir, "image");
    let before = fs::read(&image).unwrap();
    let mount = request("ext2", &image, "", &["ro", "loop"]);
    mount_all(&[mount], &space.rootfs()).unwrap();
    assert_eq!(value(&devices(&image)[0], "ro"), "1");
    let write = fs::write(space.rootfs().join("file"), "").unwrap_err();
    assert_eq!(write.kind(), io::ErrorKind::ReadOnlyFilesystem);
    unmount_all(&space.rootfs()).unwrap();
    freed(&image);
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn past_the_page_cache_where_that_is_possible() {
    let (space, dir) = (Space::new("image-dio"), TempDir::new("image-dio"));
    let image = image(&dir, "image");
    let mut options = fs::OpenOptions::new();
    let possible = options
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&image)
        .is_ok();
    // Some machines have directories for temporary files where it is not, none of the usual ones.
    let mount = request("ext2", &image, "", &["loop", "direct-io"]);
    mount_all(&[mount], &space.rootfs()).unwrap();
    let dio = value(&devices(&image)[0], "loop/dio");
    assert_eq!(dio, u8::from(possible).to_string());
    unmount_all(&space.rootfs()).unwrap();
    freed(&image);
}

#[test]
fn what_cannot_be_mounted_leaves_no_device() {
    let (space, dir) = (Space::new("image-bad"), TempDir::new("image-bad"));
    let garbage = dir.path().join("garbage");
    fs::write(&garbage, [7; 1 << 16]).unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    let good = image(&dir, "good");
    let (missing, directory) = (dir.path().join("missing"), dir.path().to_owned());
    for (kind, source, options, why) in [
        ("ext2", &garbage, &["loop"][..], "invalid argument"),
        ("nosuchfs", &good, &["loop"], "no such device"),
        (
            "ext2",
            &good,
            &["loop", "no-such-option"],
            "invalid argument",
        ),
        ("ext2", &missing, &["loop"], "no such file or directory"),
        ("ext2", &directory, &["loop"], "is a directory"),
        (
            "ext2",
            &directory,
            &["loop", "ro"],
            "neither a file nor a block device",
        ),
        (
            "ext2",
            &fifo,
            &["loop"],
            "neither a file nor a block device",
        ),
    ] {
        let error = refused(&space, &[request(kind, source, "", options)]);
        assert!(error.message.contains(why), "{error}");
        freed(source);
    }
}

/// Whoever asks for a free device at the same time is told the same one.
#[test]
fn many_at_once_each_get_a_device() {
    const COUNT: usize = 24;
    let dir = TempDir::new("image-many");
    let first = image(&dir, "0");
    let images: Vec<PathBuf> = (0..COUNT)
        .map(|n| {
            let path = dir.path().join(format!("copy{n}"));
            fs::copy(&first, &path).unwrap();
            path
        })
        .collect();
    let space = Space::new("image-many");
    let places: Vec<PathBuf> = (0..COUNT).map(|n| space.dir(&format!("at{n}"))).collect();
    let start = &Barrier::new(COUNT);
    thread::scope(|scope| {
        for (image, place) in images.iter().zip(&places) {
            scope.spawn(move || {
                start.wait();
                mount_all(&[request("ext2", image, "", &["loop"])], place).unwrap();
            });
        }
    });
    assert_eq!(space.mounts().len(), COUNT);
    for (image, place) in images.iter().zip(&places) {
        assert_eq!(devices(image).len(), 1);
        unmount_all(place).unwrap();
        freed(image);
    }
}
