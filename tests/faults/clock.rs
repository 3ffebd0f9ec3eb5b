//! Steps of the machine's clock, forward and back, while containers run and exit: what exits is told
//! with the time that the clock had then, and no limit runs out early or never.
//!
//! The clock has no namespace, so this is for the machine of `make test-vm`.

use std::time::SystemTime;

use cotter::error::Code;
use cotter::manager::client::Tasks;
use cotter::manager::events::{Event, EventServer};
use cotter::proto::Timestamp;
use cotter::proto::task::{DeleteRequest, KillRequest, StartRequest};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::common::shim::{RUNTIMES, Shim, run};
use crate::world::{GOOD, answers, bundle, good_works, later, says, world};

const DAY: i64 = 24 * 60 * 60;

/// The clock of the machine, set right again when dropped; for one test at a time.
struct Clock(i64);

impl Clock {
    fn new() -> Self {
        assert!(
            std::env::var_os("COTTER_TEST_VM").is_some(),
            "this sets the clock of the machine: make test-vm has one for it"
        );
        Self(0)
    }

    fn step(&mut self, seconds: i64) {
        let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
        let then = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
        clock_settime(ClockId::CLOCK_REALTIME, then).unwrap();
        self.0 += seconds;
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.step(-self.0);
    }
}

fn time(at: &Timestamp) -> SystemTime {
    at.clone().into()
}

/// The exit of `id`, as it is told.
async fn exit(shim: &mut Shim, id: &str) -> (u32, Timestamp) {
    let of = |event: &Event| match event {
        Event::Exit(exit) if exit.id == id => {
            Some((exit.exit_status, exit.exited_at.clone().unwrap()))
        }
        _ => None,
    };
    let told = shim.events_until(|event| of(event).is_some()).await;
    let told = told.last().unwrap();
    let stamp = time(&told.timestamp);
    let (status, at) = of(&told.event).unwrap();
    assert!(time(&at) <= stamp, "{told:?}");
    (status, at)
}

/// Forward, and back to before anything was begun, each with processes that were there before it.
#[test]
#[ignore = "sets the clock: for the machine of make test-vm"]
fn exits_have_the_time_that_the_clock_had() {
    for runtime in RUNTIMES {
        run(async {
            let mut clock = Clock::new();
            let (mut shim, _) = world(runtime, &[]).await;
            for (n, step) in [DAY, -3 * DAY, 365 * 30 * DAY, -365 * 30 * DAY]
                .into_iter()
                .enumerate()
            {
                let (id, exec) = (format!("c{n}"), format!("x{n}"));
                shim.run(&id, &["sleep", "1000"]).await;
                shim.exec(&id, &exec, &["sleep", "1000"]).await.unwrap();
                clock.step(step);
                for (exec, of) in [(exec.as_str(), exec.as_str()), ("", id.as_str())] {
                    let before = SystemTime::now();
                    shim.kill(&id, exec, 9).await.unwrap();
                    let waited = shim.wait(&id, exec).await.unwrap();
                    let (status, at) = exit(&mut shim, of).await;
                    assert_eq!((status, waited.exit_status), (137, 137));
                    assert_eq!(waited.exited_at.as_ref(), Some(&at));
                    let deleted = shim.delete(&id, exec).await.unwrap();
                    assert_eq!(deleted.exited_at.as_ref(), Some(&at));
                    let at = time(&at);
                    assert!(before <= at && at <= SystemTime::now(), "{before:?} {at:?}");
                }
                good_works(&shim).await;
            }
            shim.remove(GOOD).await;
            shim.end().await;
        });
    }
}

/// A call that takes its time is not ended by a day that never was; one that hangs is ended although
/// its end is tomorrow by the clock.
#[test]
#[ignore = "sets the clock: for the machine of make test-vm"]
fn limits_are_of_time_and_not_of_the_clock() {
    run(async {
        let mut clock = Clock::new();
        let limits = [
            ("COTTER_LIMIT_RUNTIME_CALL", "40s"),
            ("COTTER_LIMIT_TURN", "40s"),
        ];
        let (mut shim, faulty) = world("RUNC", &limits).await;
        let request = bundle(&mut shim, &faulty, "c");
        shim.tasks.create(&request).await.unwrap();

        faulty.set("start", "slow-before");
        let held = later(&shim.tasks, |tasks: Tasks| async move {
            let request = StartRequest {
                id: "c".into(),
                ..Default::default()
            };
            tasks.start(&request).await.map(drop)
        });
        faulty.arrived("start").await;
        // Waits for its turn meanwhile.
        let delete = later(&shim.tasks, |tasks: Tasks| async move {
            let request = DeleteRequest {
                id: "c".into(),
                ..Default::default()
            };
            tasks.delete(&request).await.map(drop)
        });
        clock.step(DAY);
        answers(&shim, GOOD).await;
        good_works(&shim).await;
        assert!(!held.is_finished());
        faulty.release("slow-before");
        held.await.unwrap().unwrap();
        // It was its turn, and the process runs.
        let refused = delete.await.unwrap().unwrap_err();
        assert_eq!(refused.code, Code::Unknown, "{refused}");

        faulty.set("kill", "hang");
        let held = later(&shim.tasks.within(None), |tasks: Tasks| async move {
            let request = KillRequest {
                id: "c".into(),
                // A SIGKILL would be sent without the runtime.
                signal: 15,
                ..Default::default()
            };
            tasks.kill(&request).await.map(drop)
        });
        faulty.arrived("kill").await;
        clock.step(-2 * DAY);
        good_works(&shim).await;
        let ended = held.await.unwrap().unwrap_err();
        says(&ended, Code::DeadlineExceeded, &["did not end within 40s"]);
        faulty.clear("kill");
        shim.remove("c").await;
        shim.remove(GOOD).await;
        shim.end().await;
    });
}

/// What a manager was not told while it was away comes when it is back, whatever the clock says of
/// how old anything is.
#[test]
#[ignore = "sets the clock: for the machine of make test-vm"]
fn a_manager_that_was_away_is_told_all() {
    run(async {
        let mut clock = Clock::new();
        let (mut shim, _) = world("CRUN", &[]).await;
        for (n, step) in [DAY, -2 * DAY].into_iter().enumerate() {
            let path = std::path::PathBuf::from(shim.events.address());
            let nobody = EventServer::listen(&path.with_extension("away")).await;
            let away = std::mem::replace(&mut shim.events, nobody.unwrap());
            away.stop().await;
            let id = format!("x{n}");
            shim.exec(GOOD, &id, &["sh", "-c", "exit 3"]).await.unwrap();
            let before = shim.wait(GOOD, &id).await.unwrap();
            clock.step(step);
            let later = format!("y{n}");
            shim.exec(GOOD, &later, &["sh", "-c", "exit 4"])
                .await
                .unwrap();
            let after = shim.wait(GOOD, &later).await.unwrap();
            shim.events = EventServer::listen(&path).await.unwrap();
            assert_eq!(exit(&mut shim, &id).await, (3, before.exited_at.unwrap()));
            assert_eq!(exit(&mut shim, &later).await, (4, after.exited_at.unwrap()));
        }
        shim.remove(GOOD).await;
        shim.end().await;
    });
}
