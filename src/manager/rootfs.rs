//! A root directory made on the fly, of nothing but busybox.
//!
//! Invariant: the busybox in it runs there, because a dynamically linked one is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

use super::command;

/// Directories that a container's mounts and programs expect.
const DIRECTORIES: [&str; 9] = [
    "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var",
];

/// Where there is a busybox that needs no libraries.
///
/// # Errors
/// When PATH has none; says what to install.
pub fn find_busybox() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join("busybox"))
        .find(|candidate| fs::read(candidate).is_ok_and(|program| is_static(&program)))
        .ok_or_else(|| {
            Error::not_found(
                "a statically linked busybox in PATH (install busybox-static, or name a root \
                 directory with --rootfs)",
            )
        })
}

/// Fills `root`, an empty directory.
///
/// # Errors
/// When there is no busybox or `root` cannot be written.
pub async fn fill(root: &Path) -> Result<()> {
    let busybox = find_busybox()?;
    let failed =
        |what: &Path, why: &std::io::Error| Error::io(format_args!("make {}", what.display()), why);
    for name in DIRECTORIES {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(|why| failed(&path, &why))?;
    }
    let tmp = root.join("tmp");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777))
        .map_err(|why| failed(&tmp, &why))?;
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
    ] {
        let path = root.join(name);
        fs::write(&path, text).map_err(|why| failed(&path, &why))?;
    }
    let program = root.join("bin/busybox");
    fs::copy(&busybox, &program).map_err(|why| failed(&program, &why))?;

    let mut list = std::process::Command::new(&busybox);
    list.arg("--list");
    let applets = command::output(list, b"", Duration::from_secs(10)).await?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        if applet != "busybox" {
            let path = root.join("bin").join(applet);
            symlink("busybox", &path).map_err(|why| failed(&path, &why))?;
        }
    }
    Ok(())
}

/// Whether an ELF program asks for no interpreter, which is the dynamic linker.
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = program.get(at..at.checked_add(size)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        )
    };
    // e_phoff, e_phentsize and e_phnum of a 64-bit little-endian file.
    let headers = || -> Option<Vec<u64>> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| {
                let at = table.checked_add(index.checked_mul(size)?)?;
                number(usize::try_from(at).ok()?, 4)
            })
            .collect()
    };
    program.starts_with(b"\x7fELF\x02\x01")
        && headers().is_some_and(|kinds| !kinds.contains(&u64::from(PT_INTERP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_static_from_dynamic() {
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&this), "tests are linked dynamically");
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(b"\x7fELF\x02\x01 cut short"));
        let mut bare = vec![0; 64];
        bare[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(is_static(&bare));
    }
}
