//! In an outage: what is said of an event waits for its record, and what is taken is struck out before the next
//! is sent. On a disk and in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cotter::events::{Keeper, Queue, journal};

use super::manager::{Answer, Dir, Manager};
use super::{LONG, exit, pid, pids, publisher, until};

/// A bundle, removed in the end.
struct Bundle(PathBuf);

impl Bundle {
    fn both(name: &str) -> [Self; 2] {
        [std::env::temp_dir(), "/dev/shm".into()].map(|dir| {
            let dir = dir.join(format!("cotter-kept-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            Self(dir)
        })
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn kept(bundle: &Path) -> Vec<u32> {
    let kept = journal::read(bundle).unwrap();
    kept.iter().map(|kept| pid(&kept.event)).collect()
}

/// Pushes an exit, and notes when it is said whether it is in the bundle.
fn push(queue: &Queue, bundle: &Path, n: u32, said: &Arc<Mutex<Vec<(u32, bool)>>>) {
    let (bundle, said) = (bundle.to_owned(), Arc::clone(said));
    queue.push_then(exit(n), move || {
        said.lock().unwrap().push((n, kept(&bundle).contains(&n)));
    });
}

#[tokio::test]
async fn what_is_said_is_kept_while_no_manager_takes_it() {
    for bundle in Bundle::both("said") {
        let dir = Dir::new();
        let queue = Queue::new();
        let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
        keeper.add("c", &bundle.0);
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
        let publisher = publisher(&queue, &dir);
        push(&queue, &bundle.0, 0, &said);
        assert_eq!(*said.lock().unwrap(), [(0, false)], "it answers: at once");
        assert_eq!(pids(&mut manager, 1).await, [0]);
        until(|| queue.is_empty()).await;

        // That it is gone is known before there is anything to tell it.
        drop(manager);
        until(|| publisher.stats().failures > 0).await;
        for n in 1..=200 {
            push(&queue, &bundle.0, n, &said);
            if n % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(said.lock().unwrap().len() < 201, "nobody has waited");
        until(|| said.lock().unwrap().len() == 201).await;
        let said = said.lock().unwrap().clone();
        assert!(said[1..].iter().all(|(_, kept)| *kept), "{said:?}");
        assert!(said.is_sorted());
    }
}

#[tokio::test]
async fn what_is_taken_is_struck_out_before_the_next_is_sent() {
    for bundle in Bundle::both("taken") {
        let dir = Dir::new();
        let queue = Queue::new();
        let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
        keeper.add("c", &bundle.0);
        let publisher = publisher(&queue, &dir);
        for n in 0..100 {
            queue.push(exit(n));
        }
        until(|| kept(&bundle.0).len() == 100).await;
        let (seen, at) = (Arc::new(Mutex::new(Vec::new())), bundle.0.clone());
        let mut manager = {
            let seen = Arc::clone(&seen);
            Manager::start(&dir.socket(), move |event| {
                // What would be told once more if the shim died now.
                let again = kept(&at);
                let taken = pid(event);
                seen.lock()
                    .unwrap()
                    .push((taken, again.first() == Some(&taken)));
                Answer::Take
            })
        };
        assert_eq!(publisher.drain(LONG).await, 0);
        assert_eq!(pids(&mut manager, 100).await, (0..100).collect::<Vec<_>>());
        let seen = seen.lock().unwrap().clone();
        assert!(seen.iter().all(|(_, first)| *first), "{seen:?}");
        until(|| !bundle.0.join(journal::NAME).exists()).await;
    }
}

/// A disk that takes nothing holds nobody up.
#[tokio::test]
async fn what_cannot_be_kept_is_said_all_the_same() {
    for bundle in Bundle::both("failing") {
        let dir = Dir::new();
        let queue = Queue::new();
        let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
        keeper.add("c", &bundle.0);
        // Neither can be written in its place.
        fs::create_dir_all(bundle.0.join(journal::NAME).join("x")).unwrap();
        let publisher = publisher(&queue, &dir);
        let said = Arc::new(Mutex::new(Vec::new()));
        queue.push(exit(0));
        until(|| publisher.stats().failures > 0).await;
        for n in 1..=10 {
            push(&queue, &bundle.0, n, &said);
        }
        until(|| said.lock().unwrap().len() == 10).await;
        assert_eq!(said.lock().unwrap()[0], (1, false));
        let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
        assert_eq!(publisher.drain(LONG).await, 0);
        assert_eq!(pids(&mut manager, 11).await, (0..=10).collect::<Vec<_>>());
    }
}
