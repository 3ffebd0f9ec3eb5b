//! The publisher against managers that answer, die, hang, refuse, and were never there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "events/kept.rs"]
mod kept;
#[path = "events/manager.rs"]
mod manager;

use std::fs;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cotter::events::{Event, Keeper, Limits, MAX_PAYLOAD, Publisher, Queue, journal};
use cotter::proto::events::{TaskCreate, TaskExit, TaskOOM, TaskStart};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use protobuf::Message;
use tokio::sync::mpsc;
use ttrpc::Code;

use manager::{Answer, Dir, Manager, Seen};

/// Far beyond what anything here takes; reaching it is a failure.
const LONG: Duration = Duration::from_secs(60);

fn exit(pid: u32) -> Event {
    Event::Exit(TaskExit {
        container_id: "c".to_owned(),
        id: format!("exec-{pid}"),
        pid,
        exit_status: 137,
        ..TaskExit::default()
    })
}

fn start(pid: u32) -> Event {
    Event::Start(TaskStart {
        container_id: "c".to_owned(),
        pid,
        ..TaskStart::default()
    })
}

fn pid(event: &Event) -> u32 {
    match event {
        Event::Exit(exit) => exit.pid,
        Event::Start(start) => start.pid,
        other => panic!("unexpected {other:?}"),
    }
}

async fn pids(manager: &mut Manager, count: usize) -> Vec<u32> {
    let mut pids = Vec::new();
    for _ in 0..count {
        pids.push(pid(&manager.next().await.event()));
    }
    pids
}

/// Without time for managers that come back: here nobody but the manager listens.
fn publisher(queue: &Queue, dir: &Dir) -> Publisher {
    settling(queue, dir, Duration::ZERO)
}

fn settling(queue: &Queue, dir: &Dir, settling: Duration) -> Publisher {
    let limits = Limits {
        settling,
        ..Limits::default()
    };
    Publisher::with_limits(queue.clone(), dir.address(), "ns".to_owned(), limits)
}

/// Waits for something that is known to come but tells nobody.
async fn until(mut holds: impl FnMut() -> bool) {
    tokio::time::timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it never came");
}

#[tokio::test]
async fn an_event_arrives_as_managers_expect_it() {
    let dir = Dir::new();
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    let queue = Queue::new();
    let publisher = Publisher::start(
        queue.clone(),
        format!("unix://{}", dir.address()),
        "k8s.io".to_owned(),
    );
    let before = SystemTime::now();
    queue.push(exit(7));
    let after = SystemTime::now();
    let seen = manager.next().await;
    assert_eq!(seen.event(), exit(7));
    assert_eq!(seen.envelope.topic, "/tasks/exit");
    assert_eq!(seen.envelope.namespace, "k8s.io");
    assert_eq!(seen.envelope.event.type_url, "containerd.events.TaskExit");
    assert_eq!(seen.metadata["containerd-namespace-ttrpc"], ["k8s.io"]);
    let stamp = &seen.envelope.timestamp;
    let time = SystemTime::UNIX_EPOCH
        + Duration::new(
            stamp.seconds.try_into().unwrap(),
            stamp.nanos.try_into().unwrap(),
        );
    assert!(before <= time && time <= after);
    assert_eq!(publisher.drain(LONG).await, 0);
    let stats = publisher.stats();
    assert_eq!((stats.delivered, stats.refused), (1, 0));
    assert!(stats.connected);
}

#[tokio::test]
async fn two_thousand_events_arrive_once_each_in_order() {
    let dir = Dir::new();
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    for n in 0..1000 {
        queue.push(start(n));
        queue.push(exit(n));
    }
    assert_eq!(queue.len(), 2000);
    assert_eq!(publisher.drain(LONG).await, 0);
    let seen: Vec<Event> = manager.all().iter().map(Seen::event).collect();
    let pushed: Vec<Event> = (0..1000).flat_map(|n| [start(n), exit(n)]).collect();
    assert_eq!(seen, pushed);
    assert_eq!((queue.len(), queue.bytes()), (0, 0));
}

/// Each manager takes 100 events and dies with the last of them unanswered. In between the socket
/// is gone (ENOENT) or stale (ECONNREFUSED).
#[tokio::test]
async fn managers_that_die_in_the_middle_lose_nothing_and_disturb_no_order() {
    const EVENTS: u32 = 2000;
    let dir = Dir::new();
    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    for n in 0..EVENTS {
        queue.push(exit(n));
    }
    let mut seen: Vec<u32> = Vec::new();
    for life in 0..10 {
        let count = AtomicU32::new(0);
        let mut manager = Manager::start(&dir.socket(), move |_| {
            match count.fetch_add(1, Ordering::Relaxed) {
                99.. => Answer::Hang,
                _ => Answer::Take,
            }
        });
        seen.extend(pids(&mut manager, 100).await);
        drop(manager);
        if life % 2 == 0 {
            fs::remove_file(dir.socket()).unwrap();
        }
        until(|| publisher.stats().failures >= 3).await;
        assert!(!publisher.stats().connected);
    }
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    seen.extend(manager.all().iter().map(|seen| pid(&seen.event())));

    let twice = seen.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert_eq!(twice, 10, "the unanswered head, once per death");
    seen.dedup();
    assert_eq!(seen, (0..EVENTS).collect::<Vec<_>>());
    assert_eq!(publisher.stats().delivered, u64::from(EVENTS));
}

/// ttrpc's client tells a connection that died while idle only from an opaque error.
#[tokio::test]
async fn a_restart_while_idle_costs_no_event() {
    let dir = Dir::new();
    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    for n in 0..5 {
        let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
        queue.push(exit(n));
        assert_eq!(publisher.drain(LONG).await, 0);
        assert_eq!(pids(&mut manager, 1).await, [n]);
        drop(manager);
    }
    assert_eq!(publisher.stats().delivered, 5);
}

/// What a manager is told before its own listeners are back, nobody hears.
#[tokio::test]
async fn a_manager_just_back_is_told_nothing_yet_and_one_long_back_at_once() {
    let dir = Dir::new();
    let queue = Queue::new();
    let publisher = settling(&queue, &dir, Duration::from_secs(3600));
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    queue.push(exit(1));
    assert_eq!(pids(&mut manager, 1).await, [1], "it was never away");
    until(|| queue.is_empty()).await;
    drop(manager);

    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    queue.push(exit(2));
    assert_eq!(publisher.drain(Duration::from_millis(50)).await, 1);
    assert!(manager.all().is_empty());
    drop((manager, publisher));

    // Another shim, to which the same manager is no news: it has been back for long.
    let publisher = settling(&queue, &dir, Duration::from_secs(3600));
    fs::remove_file(dir.socket()).unwrap();
    until(|| publisher.stats().failures > 0).await;
    let elsewhere = dir.socket().with_extension("new");
    let mut manager = Manager::start(&elsewhere, |_| Answer::Take);
    let before = TimeSpec::new(0, 0);
    utimensat(
        AT_FDCWD,
        &elsewhere,
        &before,
        &before,
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
    fs::rename(&elsewhere, dir.socket()).unwrap();
    assert_eq!(pids(&mut manager, 1).await, [2]);
    assert_eq!(publisher.drain(LONG).await, 0);
}

/// A client that has something done through the manager that is back listens there, too.
#[tokio::test]
async fn a_client_that_acts_ends_the_wait_for_a_manager_that_is_back() {
    let dir = Dir::new();
    let queue = Queue::new();
    let publisher = settling(&queue, &dir, Duration::from_secs(3600));
    let clients = publisher.clients();
    let manager = Manager::start(&dir.socket(), |_| Answer::Take);
    clients.act();
    queue.push(exit(1));
    until(|| queue.is_empty()).await;
    drop(manager);

    // Through the one before, which proves nothing.
    tokio::time::sleep(Duration::from_millis(20)).await; // the file's time is as coarse as a tick
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    queue.push(exit(2));
    queue.push(exit(3));
    assert_eq!(publisher.drain(Duration::from_millis(50)).await, 2);
    assert!(manager.all().is_empty());
    clients.act();
    assert_eq!(pids(&mut manager, 2).await, [2, 3]);
    drop(manager);

    // Before there was anything to tell.
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    until(|| UnixStream::connect(dir.socket()).is_ok()).await;
    tokio::time::sleep(Duration::from_millis(20)).await; // the file's time is as coarse as a tick
    clients.act();
    queue.push(exit(4));
    assert_eq!(pids(&mut manager, 1).await, [4]);
}

#[tokio::test]
async fn a_manager_that_never_answers_is_asked_again_on_a_new_connection() {
    let dir = Dir::new();
    let queue = Queue::new();
    let limits = Limits {
        first_try: Duration::from_millis(20),
        settling: Duration::ZERO,
        ..Limits::default()
    };
    let silent = UnixListener::bind(dir.socket()).unwrap();
    let publisher = Publisher::with_limits(queue.clone(), dir.address(), "ns".to_owned(), limits);
    queue.push(exit(0));
    queue.push(exit(1));

    // Reading each connection to its end shows that the publisher let go of it.
    let (sender, mut tries) = mpsc::unbounded_channel();
    let thread = thread::spawn(move || {
        for _ in 0..4 {
            let (mut stream, _) = silent.accept().unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            sender.send(bytes).unwrap();
        }
    });
    let mut envelopes = Vec::new();
    let mut limits = Vec::new();
    for _ in 0..4 {
        let bytes = tries.recv().await.unwrap();
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), 10 + length, "one request and nothing after it");
        let request = ttrpc::Request::parse_from_bytes(&bytes[10..]).unwrap();
        assert_eq!(
            request.service,
            "containerd.services.events.ttrpc.v1.Events"
        );
        assert_eq!(request.method, "Forward");
        limits.push(request.timeout_nano / 1_000_000);
        envelopes.push(request.payload);
    }
    assert_eq!(limits, [1020, 1040, 1080, 1160], "doubled, and a second");
    assert!(envelopes.windows(2).all(|pair| pair[0] == pair[1]));
    thread.join().unwrap();
    assert_eq!(queue.len(), 2);

    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(pids(&mut manager, 2).await, [0, 1]);
}

/// A connection alone proves nothing: without a growing pause this would be a busy loop.
#[tokio::test]
async fn a_manager_that_hangs_up_at_once_is_asked_more_and_more_slowly() {
    let dir = Dir::new();
    let listener = tokio::net::UnixListener::bind(dir.socket()).unwrap();
    let hanging_up = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    let begun = Instant::now();
    queue.push(exit(0));
    until(|| publisher.stats().failures >= 6).await;
    // No pause is cut short, however busy the machine is.
    let limits = Limits::default();
    let pauses: Duration = (1..6).map(|failures| limits.backoff(failures)).sum();
    assert!(pauses >= Duration::from_millis(300));
    assert!(begun.elapsed() >= pauses, "{:?}", begun.elapsed());
    hanging_up.abort();
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(pids(&mut manager, 1).await, [0]);
    assert_eq!(publisher.stats().failures, 0);
}

/// A stopped manager's backlog fills up; a blocking connect would then stop the whole shim.
#[tokio::test]
async fn a_full_backlog_does_not_block_the_shim() {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
    };
    let dir = Dir::new();
    let listener = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&listener),
        &UnixAddr::new(&dir.socket()).unwrap(),
    )
    .unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let filler = UnixStream::connect(dir.socket()).unwrap();

    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    queue.push(exit(0));
    until(|| publisher.stats().failures >= 3).await;
    assert_eq!(queue.len(), 1);
    drop((filler, listener));

    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(pids(&mut manager, 1).await, [0]);
}

#[tokio::test]
async fn a_refused_event_is_skipped_and_an_exit_only_after_five_refusals() {
    let dir = Dir::new();
    let mut manager = Manager::start(&dir.socket(), |event| match event {
        Event::Oom(_) => Answer::Fail(Code::INVALID_ARGUMENT),
        Event::Exit(exit) if exit.pid == 2 => Answer::Fail(Code::INVALID_ARGUMENT),
        _ => Answer::Take,
    });
    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    queue.push(start(1));
    queue.push(Event::Oom(TaskOOM::default()));
    queue.push(exit(2));
    queue.push(exit(3));
    assert_eq!(publisher.drain(LONG).await, 0);
    let topics: Vec<(String, Answer)> = manager
        .all()
        .into_iter()
        .map(|seen| (seen.envelope.topic, seen.answer))
        .collect();
    let refused = Answer::Fail(Code::INVALID_ARGUMENT);
    let mut expected = vec![("/tasks/start", Answer::Take), ("/tasks/oom", refused)];
    expected.extend([("/tasks/exit", refused); 5]);
    expected.push(("/tasks/exit", Answer::Take));
    assert_eq!(
        topics,
        expected
            .into_iter()
            .map(|(topic, answer)| (topic.to_owned(), answer))
            .collect::<Vec<_>>()
    );
    let stats = publisher.stats();
    assert_eq!((stats.delivered, stats.refused), (2, 2));
    assert!(stats.last_error.unwrap().contains("as told"));
}

/// ttrpc carries at most 4 MiB; what cannot be sent must not become a head that never leaves.
#[tokio::test]
async fn an_event_too_large_for_the_wire_blocks_nothing() {
    let dir = Dir::new();
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    let create = |size: usize| {
        Event::Create(TaskCreate {
            container_id: "c".to_owned(),
            bundle: "b".repeat(size),
            ..TaskCreate::default()
        })
    };
    queue.push(create(4 << 20));
    assert_eq!((queue.len(), queue.dropped()), (0, 1));
    let largest = create(MAX_PAYLOAD - 8); // field 1: 3 bytes; field 2: 5 bytes and the text
    queue.push(largest.clone());
    queue.push(exit(1));
    assert_eq!((queue.len(), queue.dropped()), (2, 1));
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(manager.next().await.event(), largest);
    assert_eq!(pids(&mut manager, 1).await, [1]);
}

/// What the log has said.
struct Log(Mutex<Vec<String>>);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn what_a_full_queue_drops_is_counted_and_logged() {
    static LOG: Log = Log(Mutex::new(Vec::new()));
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Error);
    let queue = Queue::new();
    queue.push(exit(0));
    for _ in 0..24 {
        queue.push(Event::Create(TaskCreate {
            container_id: "greedy".to_owned(),
            bundle: "x".repeat(1 << 20),
            ..TaskCreate::default()
        }));
    }
    let dropped = queue.dropped();
    assert!(dropped >= 8, "{dropped}");
    assert_eq!(queue.len() as u64 + dropped, 25);
    let said = LOG.0.lock().unwrap();
    let of_it = |line: &&String| line.starts_with("event queue is full (");
    let said: Vec<&String> = said.iter().filter(of_it).collect();
    // The first, the second, the fourth and so on: a flood of events must not be one of lines.
    for (line, so_far) in said.iter().zip([1, 2, 4, 8]) {
        let what = format!("dropped /tasks/create of container greedy, {so_far} dropped so far");
        assert!(line.ends_with(&what), "{line}");
    }
    assert_eq!(said.len() as u32, dropped.ilog2() + 1, "{said:#?}");
}

#[tokio::test]
async fn a_busy_manager_is_asked_until_it_takes_the_event() {
    let dir = Dir::new();
    let count = AtomicU32::new(0);
    let mut manager = Manager::start(&dir.socket(), move |_| {
        match count.fetch_add(1, Ordering::Relaxed) {
            0..150 => Answer::Fail(Code::UNAVAILABLE),
            _ => Answer::Take,
        }
    });
    let queue = Queue::new();
    let limits = Limits {
        longest_pause: Duration::from_millis(1),
        settling: Duration::ZERO,
        ..Limits::default()
    };
    let publisher = Publisher::with_limits(queue.clone(), dir.address(), "ns".to_owned(), limits);
    queue.push(start(0));
    queue.push(start(1));
    assert_eq!(publisher.drain(LONG).await, 0);
    let pids = pids(&mut manager, 152).await;
    assert_eq!(pids[..151], [0; 151]);
    assert_eq!(pids[151], 1);
    assert_eq!(publisher.stats().refused, 0);
}

#[tokio::test]
async fn a_drain_ends_at_its_limit_and_tells_what_is_left() {
    let dir = Dir::new();
    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    for n in 0..3 {
        queue.push(exit(n));
    }
    assert_eq!(publisher.drain(Duration::from_millis(50)).await, 3);

    let mut hung = Manager::start(&dir.socket(), |_| Answer::Hang);
    hung.next().await;
    assert_eq!(publisher.drain(Duration::from_millis(50)).await, 3);
    drop(hung);

    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(pids(&mut manager, 3).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_drain_goes_on_while_events_are_taken() {
    let dir = Dir::new();
    let mut manager = Manager::start(&dir.socket(), |_| {
        thread::sleep(Duration::from_millis(100));
        Answer::Take
    });
    let queue = Queue::new();
    for n in 0..25 {
        queue.push(exit(n));
    }
    let publisher = publisher(&queue, &dir);
    assert_eq!(publisher.drain(Duration::from_secs(1)).await, 0);
    assert_eq!(pids(&mut manager, 25).await, (0..25).collect::<Vec<_>>());
}

/// The time a manager is given to settle is none in which it could have taken anything.
/// What the bundle in `dir` keeps, by pid.
fn kept(dir: &Dir) -> Vec<u32> {
    let kept = journal::read(&dir.bundle()).unwrap();
    kept.iter().map(|kept| pid(&kept.event)).collect()
}

#[tokio::test]
async fn what_no_manager_takes_is_kept_in_the_bundle_until_one_does() {
    let dir = Dir::new();
    let queue = Queue::new();
    let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
    keeper.add("c", &dir.bundle());
    let publisher = publisher(&queue, &dir);
    let at = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    queue.push_at(exit(0), at);
    queue.push(exit(1));
    until(|| kept(&dir) == [0, 1]).await;
    assert_eq!(journal::read(&dir.bundle()).unwrap()[0].at, at);
    // More while it lasts.
    for n in 2..10 {
        queue.push(exit(n));
    }
    until(|| kept(&dir) == (0..10).collect::<Vec<_>>()).await;

    // Back, and away again: what has been taken is not kept.
    let mut manager = Manager::start(&dir.socket(), |event| match pid(event) {
        0..5 => Answer::Take,
        _ => Answer::Hang,
    });
    assert_eq!(pids(&mut manager, 6).await, (0..6).collect::<Vec<_>>());
    until(|| kept(&dir) == (5..10).collect::<Vec<_>>()).await;
    drop(manager);
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(pids(&mut manager, 5).await, (5..10).collect::<Vec<_>>());
    until(|| dir.files() == 0).await;
}

#[tokio::test]
async fn a_manager_that_never_answers_is_an_outage_too() {
    let dir = Dir::new();
    let queue = Queue::new();
    let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
    keeper.add("c", &dir.bundle());
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Hang);
    // The try itself goes on: it is not its end that is waited for.
    let limits = Limits {
        first_try: 10 * LONG,
        longest_try: 10 * LONG,
        ..Limits::default()
    };
    let (address, namespace) = (dir.address(), "ns".to_owned());
    let _publisher = Publisher::with_limits(queue.clone(), address, namespace, limits);
    queue.push(exit(0));
    manager.next().await;
    until(|| kept(&dir) == [0]).await;
}

#[tokio::test]
async fn nothing_is_written_while_the_manager_answers() {
    let dir = Dir::new();
    let queue = Queue::new();
    let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
    keeper.add("c", &dir.bundle());
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    let publisher = publisher(&queue, &dir);
    let before = fs::metadata(dir.bundle()).unwrap().modified().unwrap();
    for n in 0..500 {
        queue.push(exit(n));
    }
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(pids(&mut manager, 500).await.len(), 500);
    let after = fs::metadata(dir.bundle()).unwrap().modified().unwrap();
    assert_eq!((dir.files(), before), (0, after));
}

#[tokio::test]
async fn a_removed_container_s_bundle_is_left_alone() {
    let dir = Dir::new();
    let queue = Queue::new();
    let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
    keeper.add("c", &dir.bundle());
    let publisher = publisher(&queue, &dir);
    queue.push(exit(0));
    until(|| kept(&dir) == [0]).await;
    keeper.remove("c", LONG).await;
    assert_eq!(dir.files(), 0);
    fs::remove_dir_all(dir.bundle()).unwrap();
    queue.push(exit(1));
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(pids(&mut manager, 2).await, [0, 1]);
    assert!(!dir.bundle().exists());
}

/// A disk that was full: what could not be written is, once there is room.
#[tokio::test]
async fn a_write_that_fails_is_tried_again() {
    let dir = Dir::new();
    let queue = Queue::new();
    let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
    keeper.add("c", &dir.bundle());
    let in_the_way = dir.bundle().join(journal::NAME);
    std::os::unix::fs::symlink("nowhere", &in_the_way).unwrap();
    let _publisher = publisher(&queue, &dir);
    queue.push(exit(0));
    queue.push(exit(1));
    until(|| kept(&dir) == [0, 1]).await;
    assert!(!in_the_way.is_symlink());
}

#[tokio::test]
async fn a_drain_gives_a_manager_just_back_its_limit_after_it_has_settled() {
    let dir = Dir::new();
    let queue = Queue::new();
    let limit = Duration::from_secs(1);
    let publisher = settling(&queue, &dir, limit - Duration::from_millis(100));
    queue.push(exit(0));
    until(|| publisher.stats().failures > 0).await;
    let mut manager = Manager::start(&dir.socket(), |_| {
        thread::sleep(Duration::from_millis(200));
        Answer::Take
    });
    assert_eq!(publisher.drain(limit).await, 0);
    assert_eq!(pids(&mut manager, 1).await, [0]);
}

#[tokio::test]
async fn a_drain_does_not_sit_out_a_pause() {
    let dir = Dir::new();
    let queue = Queue::new();
    let limits = Limits {
        first_pause: LONG * 60,
        longest_pause: LONG * 60,
        settling: Duration::ZERO,
        ..Limits::default()
    };
    let publisher = Publisher::with_limits(queue.clone(), dir.address(), "ns".to_owned(), limits);
    queue.push(exit(0));
    until(|| publisher.stats().failures == 2).await;
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    assert_eq!(pids(&mut manager, 1).await, [0]);
}

#[tokio::test]
async fn without_an_address_events_are_dropped() {
    for address in ["", "unix://"] {
        let queue = Queue::new();
        let publisher = Publisher::start(queue.clone(), address.to_owned(), "ns".to_owned());
        for n in 0..100 {
            queue.push(exit(n));
        }
        assert_eq!(publisher.drain(LONG).await, 0);
        assert_eq!(publisher.stats().delivered, 0);
    }
}

#[tokio::test]
async fn an_abstract_address_works() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("cotter-events-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let queue = Queue::new();
    let _publisher = Publisher::start(queue.clone(), format!("unix://@{name}"), "ns".to_owned());
    queue.push(exit(0));
    let accepted = tokio::task::spawn_blocking(move || listener.accept().is_ok());
    assert!(accepted.await.unwrap());
}

/// The order of pushes under a lock is the order of arrival, whoever pushes.
#[tokio::test]
async fn pushes_from_many_threads_keep_the_order_of_their_lock() {
    let dir = Dir::new();
    let mut manager = Manager::start(&dir.socket(), |_| Answer::Take);
    let queue = Queue::new();
    let publisher = publisher(&queue, &dir);
    let state = Arc::new(Mutex::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (queue, state) = (queue.clone(), state.clone());
            thread::spawn(move || {
                for _ in 0..250 {
                    let mut next = state.lock().unwrap();
                    queue.push(exit(*next));
                    *next += 1;
                }
            })
        })
        .collect();
    assert_eq!(
        pids(&mut manager, 1000).await,
        (0..1000).collect::<Vec<_>>()
    );
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(publisher.drain(LONG).await, 0);
}

#[tokio::test]
async fn a_dropped_publisher_leaves_the_queue_as_it_is_and_lets_go_of_the_manager() {
    let dir = Dir::new();
    let silent = UnixListener::bind(dir.socket()).unwrap();
    let queue = Queue::new();
    let limits = Limits {
        first_try: LONG * 60,
        longest_try: LONG * 60,
        settling: Duration::ZERO,
        ..Limits::default()
    };
    let publisher = Publisher::with_limits(queue.clone(), dir.address(), "ns".to_owned(), limits);
    queue.push(exit(0));
    let closed = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = silent.accept().unwrap();
        let mut first = [0; 10];
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.read_exact(&mut first).unwrap();
        stream
    });
    let mut stream = closed.await.unwrap();
    drop(publisher);
    let rest = tokio::task::spawn_blocking(move || stream.read_to_end(&mut Vec::new()));
    assert!(rest.await.unwrap().is_ok(), "the connection was closed");
    assert_eq!(queue.len(), 1);
}

/// At the end of a shim its files hold what nobody took and nothing else, without a moment's wait.
#[tokio::test]
async fn at_the_end_the_bundle_is_up_to_date() {
    let dir = Dir::new();
    let queue = Queue::new();
    let keeper = Keeper::start(queue.clone(), "ns".to_owned(), LONG);
    keeper.add("c", &dir.bundle());
    let publisher = publisher(&queue, &dir);
    for n in 0..10 {
        queue.push(exit(n));
    }
    keeper.finish(LONG).await;
    until(|| publisher.stats().failures > 0).await;
    keeper.finish(LONG).await;
    assert_eq!(kept(&dir), (0..10).collect::<Vec<_>>());
    let mut manager = Manager::start(&dir.socket(), |event| match pid(event) {
        0..7 => Answer::Take,
        _ => Answer::Hang,
    });
    assert_eq!(pids(&mut manager, 8).await, (0..8).collect::<Vec<_>>());
    until(|| queue.len() == 3).await;
    keeper.finish(LONG).await;
    assert_eq!(kept(&dir), [7, 8, 9]);
    drop(manager);
    let _manager = Manager::start(&dir.socket(), |_| Answer::Take);
    assert_eq!(publisher.drain(LONG).await, 0);
    keeper.finish(LONG).await;
    assert_eq!(dir.files(), 0);
}
