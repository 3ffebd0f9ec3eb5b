//! Images of file systems: a loop device for the time of a mount (loop(4)).
//!
//! Invariant: the device frees itself when the last user is gone. Until the mount is made that is
//! the [`Device`] returned, afterwards the mount; so neither a failure nor the end of this process
//! leaves one in use.

use crate::errno::Words;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

/// How often another free device is asked for when somebody was faster.
const TRIES: u32 = 50;
/// The pause before the second try; each later one is longer by as much. Together 1.3 s.
const PAUSE: Duration = Duration::from_millis(1);

/// How an image is attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub read_only: bool,
    /// Past the page cache, so that contents are not cached twice.
    pub direct_io: bool,
}

/// A loop device with an image. Free again when dropped, unless it is mounted.
#[derive(Debug)]
pub(super) struct Device {
    pub path: PathBuf,
    _open: File,
}

impl Device {
    /// Attaches the image to a free device, which is made if all are in use.
    pub fn attach(image: &Path, how: How) -> Result<Self, String> {
        Self::attach_by(image, how, configure)
    }

    fn attach_by(
        image: &Path,
        how: How,
        configure: impl Fn(&File, &File, &Path, How) -> nix::Result<()>,
    ) -> Result<Self, String> {
        let fail = |why: &io::Error| {
            format!(
                "attach {} to a loop device: {why}",
                image.display(),
                why = why.words()
            )
        };
        // Not blocking: what is at the path may be a FIFO.
        let file = open(image, how, libc::O_NONBLOCK).map_err(|why| fail(&why))?;
        let kind = file.metadata().map_err(|why| fail(&why))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(format!(
                "attach {} to a loop device: neither a file nor a block device",
                image.display()
            ));
        }
        let control = open(
            Path::new("/dev/loop-control"),
            How {
                read_only: false,
                ..how
            },
            0,
        )
        .map_err(|why| format!("open /dev/loop-control: {why}", why = why.words()))?;
        let mut tries = 0;
        loop {
            // SAFETY: the call takes no argument; the descriptor is open.
            let number = unsafe { raw::get_free(control.as_raw_fd()) };
            let number = number
                .map_err(|why| format!("find a free loop device: {why}", why = why.words()))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let attached = open(&path, how, 0).and_then(|device| {
                configure(&device, &file, image, how)?;
                Ok(device)
            });
            match attached {
                Ok(device) => {
                    return Ok(Self {
                        path,
                        _open: device,
                    });
                }
                Err(why) if taken(&why) && tries < TRIES => {
                    tries += 1;
                    thread::sleep(PAUSE * tries);
                }
                Err(why) => {
                    let (path, image) = (path.display(), image.display());
                    return Err(format!(
                        "attach {image} to loop device {path}: {why}",
                        why = why.words()
                    ));
                }
            }
        }
    }
}

/// Whether somebody else got the device (EBUSY), is still letting go of it (EAGAIN) or removed it
/// (the others) meanwhile.
fn taken(why: &io::Error) -> bool {
    let gone = [libc::EBUSY, libc::EAGAIN, libc::ENXIO, libc::ENODEV];
    why.raw_os_error().is_some_and(|why| gone.contains(&why))
}

fn open(path: &Path, how: How, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(!how.read_only)
        .custom_flags(flags)
        .open(path)
}

/// Linux 5.8 does it in one call.
fn configure(device: &File, file: &File, image: &Path, how: How) -> nix::Result<()> {
    let config = raw::Config {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: info(image, how),
        reserved: [0; 8],
    };
    // SAFETY: a live struct of the layout that the call reads.
    match unsafe { raw::configure(device.as_raw_fd(), &raw const config) } {
        Ok(_) => Ok(()),
        // What older kernels say to a call they do not know.
        Err(Errno::EINVAL | Errno::ENOTTY) => configure_in_steps(device, file, image, how),
        Err(why) => Err(why),
    }
}

fn configure_in_steps(device: &File, file: &File, image: &Path, how: How) -> nix::Result<()> {
    let fd = device.as_raw_fd();
    let info = info(image, how);
    // SAFETY: open descriptors, and a live struct of the layout that the call reads.
    unsafe {
        raw::set_fd(fd, file.as_raw_fd())?;
        let set = raw::set_status(fd, &raw const info).and_then(|_| {
            if how.direct_io {
                raw::set_direct_io(fd, 1)?;
            }
            Ok(())
        });
        if set.is_err() {
            // It does not free itself yet, or had better do so now.
            let _ = raw::clear(fd);
        }
        set
    }
}

fn info(image: &Path, how: How) -> raw::Info {
    let mut info = raw::Info {
        flags: raw::AUTOCLEAR,
        ..raw::Info::NONE
    };
    for (asked, flag) in [
        (how.read_only, raw::READ_ONLY),
        (how.direct_io, raw::DIRECT_IO),
    ] {
        if asked {
            info.flags |= flag;
        }
    }
    // For people who list devices; the last byte stays a terminator.
    let name = image.as_os_str().as_encoded_bytes();
    for (to, from) in info.file_name[..63].iter_mut().zip(name) {
        *to = *from;
    }
    info
}

/// `linux/loop.h`, which neither libc nor nix has.
mod raw {
    #![allow(missing_docs)]

    pub const READ_ONLY: u32 = 1;
    pub const AUTOCLEAR: u32 = 4;
    pub const DIRECT_IO: u32 = 16;

    /// `struct loop_info64`
    #[repr(C)]
    pub struct Info {
        pub device: u64,
        pub inode: u64,
        pub rdevice: u64,
        pub offset: u64,
        pub size_limit: u64,
        pub number: u32,
        pub encrypt_type: u32,
        pub encrypt_key_size: u32,
        pub flags: u32,
        pub file_name: [u8; 64],
        pub crypt_name: [u8; 64],
        pub encrypt_key: [u8; 32],
        pub init: [u64; 2],
    }

    impl Info {
        pub const NONE: Self = Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        };
    }

    /// `struct loop_config`
    #[repr(C)]
    pub struct Config {
        pub fd: u32,
        pub block_size: u32,
        pub info: Info,
        pub reserved: [u64; 8],
    }

    nix::ioctl_none_bad!(get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, Config);
    nix::ioctl_write_int_bad!(set_fd, 0x4C00);
    nix::ioctl_none_bad!(clear, 0x4C01);
    nix::ioctl_write_ptr_bad!(set_status, 0x4C04, Info);
    nix::ioctl_write_int_bad!(set_direct_io, 0x4C08);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs;

    const PLAIN: How = How {
        read_only: false,
        direct_io: false,
    };

    struct Image(PathBuf);

    impl Image {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cotter-{name}-{}", std::process::id()));
            File::create(&path).unwrap().set_len(1 << 20).unwrap();
            Self(path)
        }
    }

    impl Drop for Image {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn value(device: &Device, name: &str) -> String {
        let sysfs = Path::new("/sys/block").join(device.path.file_name().unwrap());
        fs::read_to_string(sysfs.join(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// Whether an image is attached, by the table of all devices.
    fn attached(image: &Path) -> bool {
        fs::read_dir("/sys/block").unwrap().any(|device| {
            fs::read_to_string(device.unwrap().path().join("loop/backing_file"))
                .is_ok_and(|file| Path::new(file.trim_end()) == image)
        })
    }

    fn is_freed(image: &Path) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while attached(image) {
            assert!(std::time::Instant::now() < deadline, "still attached");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The calls that kernels before 5.8 have still work on newer ones.
    #[test]
    fn in_steps_as_in_one_call() {
        let image = Image::new("steps");
        for read_only in [false, true] {
            let how = How { read_only, ..PLAIN };
            let device = Device::attach_by(&image.0, how, configure_in_steps).unwrap();
            let file = value(&device, "loop/backing_file");
            assert_eq!(Path::new(&file), image.0);
            assert_eq!(value(&device, "loop/autoclear"), "1");
            assert_eq!(value(&device, "ro"), u8::from(read_only).to_string());
            drop(device);
            is_freed(&image.0);
        }
    }

    #[test]
    fn a_step_that_fails_frees_the_device() {
        let image = Image::new("clear");
        let not_a_loop_device = File::open("/dev/null").unwrap();
        let configure_badly = |device: &File, file: &File, image: &Path, how| {
            configure_in_steps(device, file, image, how)?;
            // The device is in use now.
            let busy = configure_in_steps(device, file, image, how);
            assert_eq!(busy, Err(Errno::EBUSY));
            configure_in_steps(&not_a_loop_device, file, image, how)
        };
        let why = Device::attach_by(&image.0, PLAIN, configure_badly).unwrap_err();
        assert!(why.contains("/dev/loop"), "{why}");
        is_freed(&image.0);
    }

    #[test]
    fn somebody_faster_is_no_error_but_for_ever_is() {
        let image = Image::new("race");
        let losses = Cell::new(0);
        let slow = |device: &File, file: &File, image: &Path, how| {
            losses.set(losses.get() + 1);
            let mut reasons = [Errno::EBUSY, Errno::ENXIO, Errno::EAGAIN].iter();
            match reasons.nth(losses.get() - 1) {
                Some(&why) => Err(why),
                None => configure(device, file, image, how),
            }
        };
        let device = Device::attach_by(&image.0, PLAIN, slow).unwrap();
        assert_eq!(losses.get(), 4);
        drop(device);
        is_freed(&image.0);

        let never = Device::attach_by(&image.0, PLAIN, |_, _, _, _| Err(Errno::EBUSY));
        assert!(never.unwrap_err().contains("busy"));
    }
}
