//! A value that tasks wait for.
//!
//! Invariant: whoever waits listens before it looks, so that no change falls between its look and its sleep;
//! every change wakes all who wait. A wait that is dropped leaves nothing behind. It costs a few dozen bytes,
//! of which a shim has several for each container; a channel costs several hundred.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A value that can be read, changed and waited for.
#[derive(Debug, Default)]
pub(crate) struct Awaited<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State<T> {
    value: T,
    waiters: usize,
}

impl<T: Copy> Awaited<T> {
    /// With its first value.
    pub fn new(value: T) -> Self {
        let state = Mutex::new(State { value, waiters: 0 });
        let changed = Notify::new();
        Self { state, changed }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is now.
    pub fn get(&self) -> T {
        self.state().value
    }

    /// Gives it a value.
    pub fn set(&self, value: T) {
        self.change(|now| {
            *now = value;
            true
        });
    }

    /// Changes it, if `change` says that it did. It must not use this value in another way.
    pub fn change(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let changed = change(&mut self.state().value);
        if changed {
            self.changed.notify_waiters();
        }
        changed
    }

    /// Waits until `holds` is true of it; answers the value of which it was. What comes and goes before the
    /// waiter has its turn is not seen.
    pub async fn wait_for(&self, holds: impl Fn(T) -> bool) -> T {
        let _waiter = Waiter::of(self);
        loop {
            // Is woken by whatever comes from here on, polled or not.
            let changed = self.changed.notified();
            let value = self.get();
            if holds(value) {
                return value;
            }
            changed.await;
        }
    }

    /// How many wait.
    pub fn waiters(&self) -> usize {
        self.state().waiters
    }
}

impl Awaited<u64> {
    /// One more.
    pub fn count(&self) {
        self.change(|now| {
            *now = now.wrapping_add(1);
            true
        });
    }
}

/// One who waits, until it is dropped.
struct Waiter<'a, T: Copy>(&'a Awaited<T>);

impl<'a, T: Copy> Waiter<'a, T> {
    fn of(what: &'a Awaited<T>) -> Self {
        what.state().waiters += 1;
        Self(what)
    }
}

impl<T: Copy> Drop for Waiter<'_, T> {
    fn drop(&mut self) {
        self.0.state().waiters -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};
    use std::thread;

    use super::*;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_change_between_look_and_sleep_is_not_missed() {
        let value = Awaited::new(0);
        let looks = Cell::new(0);
        // It comes when the waiter has looked, and has not slept yet.
        let mut wait = pin!(value.wait_for(|now| {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                value.set(1);
            }
            now == 1
        }));
        assert_eq!(poll(wait.as_mut()), Poll::Ready(1));
        assert_eq!(looks.get(), 2);
    }

    #[test]
    fn all_are_woken_and_who_is_dropped_is_not_counted() {
        let value = Awaited::new(0);
        let mut waits: Vec<_> = (0..5)
            .map(|_| Box::pin(value.wait_for(|now| now == 2)))
            .collect();
        assert_eq!(value.waiters(), 0);
        for wait in &mut waits {
            assert!(poll(wait.as_mut()).is_pending());
        }
        assert_eq!(value.waiters(), 5);
        drop(waits.pop());
        assert_eq!(value.waiters(), 4);
        // Of one who is dropped when it has been woken, the others' wake-ups are not lost.
        value.set(2);
        drop(waits.pop());
        for wait in &mut waits {
            assert_eq!(poll(wait.as_mut()), Poll::Ready(2));
        }
        assert_eq!(value.waiters(), 0);
    }

    #[test]
    fn what_is_not_meant_or_no_change_wakes_nobody_for_good() {
        let value = Awaited::new(0);
        let mut wait = pin!(value.wait_for(|now| now == 2));
        assert!(poll(wait.as_mut()).is_pending());
        value.set(1);
        assert!(poll(wait.as_mut()).is_pending());
        assert!(!value.change(|_| false));
        assert!(poll(wait.as_mut()).is_pending());
        assert!(value.change(|now| {
            *now += 1;
            true
        }));
        assert_eq!(poll(wait.as_mut()), Poll::Ready(2));
        assert_eq!(poll(pin!(value.wait_for(|now| now == 2))), Poll::Ready(2));
    }

    /// Ends at all: a change that is missed is one that nobody repeats.
    #[test]
    fn threads_that_wait_for_each_other_come_to_the_end() {
        const TURNS: u32 = 2000;
        let value = Arc::new(Awaited::new(0));
        let player = |odd: u32| {
            let value = Arc::clone(&value);
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                runtime.unwrap().block_on(async {
                    for turn in 0..TURNS / 2 {
                        value.wait_for(|now| now == 2 * turn + odd).await;
                        value.change(|now| {
                            *now += 1;
                            true
                        });
                    }
                });
            })
        };
        for player in [player(0), player(1)] {
            player.join().unwrap();
        }
        assert_eq!(value.get(), TURNS);
    }
}
