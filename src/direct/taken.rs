//! A running container's filter of system calls, from the kernel. Of a container that is created and waits
//! to be started.
//!
//! Invariant: the process that is asked about is stopped for less than a millisecond, while all that it does is to
//! wait; nobody's program is disturbed.

use std::time::Duration;

use super::calls::TOLD;
use super::filter::{MOST, Program, SIZE};
use super::sheet::{Orders, Sheet};
use super::{Reason, run};
use crate::monitor::{Monitor, Pid};

/// That of a process that waits and has exactly one, from the kernel. It is stopped for that, and goes on.
///
/// The kernel lets a tracer have it. That is the stub: what stops a child of the shim's is then not told to
/// the shim, which would take it for an end.
pub async fn filter(
    monitor: &Monitor,
    pid: Pid,
    flags: u64,
    limit: Duration,
) -> Result<Program, Reason> {
    const NONE: Reason = "its filter of system calls cannot be had from the kernel";
    let orders = asking(pid).ok_or(NONE)?;
    let what = format!("filter of system calls of process {pid}");
    let answer = run::ask(monitor, what, orders, limit).await?;
    let (count, instructions) = answer.split_at_checked(size_of::<usize>()).ok_or(NONE)?;
    let count = usize::from_ne_bytes(count.try_into().map_err(|_| NONE)?);
    let length = count.checked_mul(SIZE).ok_or(NONE)?;
    let instructions = instructions.get(..length).ok_or(NONE)?;
    Program::new(instructions.to_vec(), flags)
}

/// Of linux/ptrace.h; libc does not have it.
const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;

/// Orders that answer with a count of instructions, and as many as there can be.
fn asking(pid: Pid) -> Option<Orders> {
    let mut sheet = Sheet::new();
    let trace = |sheet: &mut Sheet, what: u32, number: usize, to: Option<super::sheet::Place>| {
        let to = to.map_or(0_usize.into(), super::sheet::Arg::from);
        sheet.call(
            libc::SYS_ptrace,
            &[what.into(), pid.into(), number.into(), to],
        )
    };
    sheet.step("trace");
    trace(&mut sheet, libc::PTRACE_SEIZE, 0, None);
    trace(&mut sheet, libc::PTRACE_INTERRUPT, 0, None);
    let status = sheet.room(size_of::<usize>());
    let all = libc::__WALL;
    sheet.call(
        libc::SYS_wait4,
        &[pid.into(), status.into(), all.into(), 0.into()],
    );
    // Stopped, not ended.
    sheet.check(status, 0xff, 0x7f);
    // A second one is none that the runtime has given it alone.
    let second = trace(&mut sheet, PTRACE_SECCOMP_GET_FILTER, 1, None);
    sheet.check(status, 0, 1);
    let alone = sheet.here();
    sheet.may_fail(second, libc::ENOENT, alone);
    let answer = sheet.bytes(&vec![0; size_of::<usize>() + MOST * SIZE]);
    let instructions = Sheet::behind(answer, size_of::<usize>());
    let first = trace(&mut sheet, PTRACE_SECCOMP_GET_FILTER, 0, Some(instructions));
    sheet.store(first, answer);
    trace(&mut sheet, libc::PTRACE_DETACH, 0, None);
    let length = size_of::<usize>() + MOST * SIZE;
    let flags = libc::MSG_NOSIGNAL;
    let message = [
        TOLD.into(),
        answer.into(),
        length.into(),
        flags.into(),
        0.into(),
        0.into(),
    ];
    sheet.call(libc::SYS_sendto, &message);
    sheet.finish(TOLD.unsigned_abs() as usize)
}
