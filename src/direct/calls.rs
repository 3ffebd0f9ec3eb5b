//! What the stub is given and says, and the calls that several steps have in common.
//!
//! Invariant: the numbers here are the stub's only ones; whoever starts it and whoever hears it go by them.

use std::path::Path;

use super::sheet::{Place, Sheet};

/// The descriptor on which the shim is told.
pub const TOLD: i32 = 3;
/// The stub's orders.
pub const ORDERS: i32 = 4;
/// The container's init.
pub const INIT: i32 = 5;

/// Messages of one byte: who is there, with its pid by the kernel's word.
pub const BORN: u8 = b'b';
/// All is done, and the program is next.
pub const READY: u8 = b'r';
/// The stub has made a process: a word with this, and one with its pid.
pub const MADE: usize = 0x6d;

pub fn prctl(sheet: &mut Sheet, what: i32, value: usize) {
    sheet.call(libc::SYS_prctl, &[what.into(), value.into()]);
}

/// Opens a file; answers the order.
pub fn open(sheet: &mut Sheet, path: &Path, flags: i32) -> usize {
    let path = sheet.path(path);
    let flags = flags | libc::O_CLOEXEC;
    sheet.call(
        libc::SYS_openat,
        &[libc::AT_FDCWD.into(), path.into(), flags.into()],
    )
}

/// Writes to what an order has opened. It stays open until all is closed.
pub fn write(sheet: &mut Sheet, open: usize, text: &str) {
    let bytes = sheet.bytes(text.as_bytes());
    let write = sheet.call(
        libc::SYS_write,
        &[0.into(), bytes.into(), text.len().into()],
    );
    sheet.pass(open, write, 0);
}

/// What is open there is a file.
pub fn is_file(sheet: &mut Sheet, fd: i32) {
    let stat = sheet.room(size_of::<libc::stat>());
    let nothing = sheet.text("");
    let flags = libc::AT_EMPTY_PATH;
    let args = [fd.into(), nothing.into(), stat.into(), flags.into()];
    sheet.call(libc::SYS_newfstatat, &args);
    mode_is_file(sheet, stat);
}

/// Closes this descriptor and all above.
pub fn close_from(sheet: &mut Sheet, fd: i32) {
    sheet.call(
        libc::SYS_close_range,
        &[fd.into(), u32::MAX.into(), 0.into()],
    );
}

pub fn mode_is_file(sheet: &mut Sheet, stat: Place) {
    let mode = Sheet::behind(stat, std::mem::offset_of!(libc::stat, st_mode));
    sheet.check(mode, libc::S_IFMT, libc::S_IFREG);
}

pub fn tell(sheet: &mut Sheet, message: Place, length: usize) {
    let flags = libc::MSG_NOSIGNAL;
    let args = [
        TOLD.into(),
        message.into(),
        length.into(),
        flags.into(),
        0.into(),
        0.into(),
    ];
    sheet.call(libc::SYS_sendto, &args);
}
