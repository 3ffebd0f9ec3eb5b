//! Blocking work for an async caller: every call gets a thread of its own that ends with it.
//!
//! Invariant: a stuck call holds one small thread and its own caller, nothing else. There is no
//! pool, so a thread may change what it shares with the process (its working directory, say)
//! without leaving that behind for the next job, and an idle shim is back to one thread.
//!
//! Nothing may start a child with `PR_SET_PDEATHSIG` from here: that signal is tied to the
//! starting thread, and this thread ends at once.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tokio::sync::oneshot;

use crate::error::{Code, Error, Result};

/// Stack of a blocking thread, in bytes. Only touched pages cost memory.
const STACK: usize = 256 * 1024;

/// Runs `f` on its own thread, called `name` (the kernel shows the first 15 bytes of it), and
/// waits for the answer.
///
/// Dropping the future does not stop `f`: it runs to its end and its answer is dropped. A panic
/// in `f` is an [`Code::Internal`] error.
pub async fn blocking<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (tx, rx) = oneshot::channel();
    thread::Builder::new()
        // A NUL in a thread name is a panic in std.
        .name(name.replace('\0', "?"))
        .stack_size(STACK)
        .spawn(move || {
            let answer = catch_unwind(AssertUnwindSafe(f));
            // The caller may be gone; then nobody wants the answer.
            let _ = tx.send(answer);
        })
        .map_err(|why| Error::io(format!("start thread {name}"), &why))?;
    match rx.await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(panic)) => Err(Error::new(
            Code::Internal,
            format!("thread {name} panicked: {}", panic_text(panic.as_ref())),
        )),
        Err(_) => Err(Error::new(
            Code::Internal,
            format!("thread {name} ended without an answer"),
        )),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn the_answer_comes_from_another_named_thread() {
        let here = thread::current().id();
        let (name, there) = run(blocking("a\0job", || {
            let me = thread::current();
            (me.name().map(str::to_owned), me.id())
        }))
        .unwrap();
        assert_eq!(name.as_deref(), Some("a?job"));
        assert_ne!(here, there);
    }

    #[test]
    fn a_panic_is_an_internal_error_with_its_text() {
        let err = run(blocking("bad", || -> () { panic!("no {}", "luck") })).unwrap_err();
        assert_eq!(err.code, Code::Internal);
        assert_eq!(err.message, "thread bad panicked: no luck");
    }

    #[test]
    fn a_stuck_call_stops_no_other() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        run(async {
            let stuck = blocking("stuck", move || held.recv());
            let mut stuck = std::pin::pin!(stuck);
            tokio::select! {
                biased;
                _ = &mut stuck => panic!("ended before it was released"),
                other = blocking("other", || 7) => assert_eq!(other.unwrap(), 7),
            }
            release.send(()).unwrap();
            assert_eq!(stuck.await.unwrap(), Ok(()));
        });
    }

    #[test]
    fn work_goes_on_when_nobody_waits() {
        let (done, seen) = std::sync::mpsc::channel();
        run(async {
            let future = blocking("left", move || done.send(()));
            // A timeout of zero polls once, which starts the thread, and then drops the future.
            tokio::select! {
                biased;
                _ = future => {}
                () = async {} => {}
            }
        });
        seen.recv().unwrap();
    }
}
