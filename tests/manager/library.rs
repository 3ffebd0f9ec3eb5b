//! The library, as other tests use it.

use std::fs;
use std::time::Duration;

use cotter::error::Code;
use cotter::manager::bundle::Bundle;
use cotter::manager::client::{Tasks, gone};
use cotter::manager::dialect::{Dialect, Endpoint};
use cotter::manager::events::{Event, EventServer, Told};
use cotter::manager::launch::Launch;
use cotter::manager::rootfs;
use cotter::manager::spec::Spec;
use cotter::manager::stdio::{Fifos, collect, relay_in};
use cotter::proto::runc_options::Options;
use cotter::proto::task::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Home, LIMIT, dialects, shim};

struct World {
    bundle: Bundle,
    events: EventServer,
    launch: Launch,
}

async fn world(home: &Home, id: &str, dialect: Dialect, args: &[&str]) -> World {
    let path = home.path().join(id);
    let spec = Spec::new(id, args.iter().copied());
    let bundle = Bundle::create(&path, &spec.to_json()).unwrap();
    rootfs::fill(&bundle.rootfs()).await.unwrap();
    let events = EventServer::listen(&path.join("events.sock"))
        .await
        .unwrap();
    let mut launch = Launch::new(shim(), dialect, id, &path);
    launch.namespace = "test".into();
    launch.grpc_address = home.path().join("manager.sock").to_str().unwrap().into();
    launch.ttrpc_address = events.address();
    launch.options = Some(Options {
        root: home.path().join("runtime").to_str().unwrap().into(),
        ..Options::default()
    });
    World {
        bundle,
        events,
        launch,
    }
}

fn create(world: &World, fifos: &Fifos) -> CreateTaskRequest {
    CreateTaskRequest {
        id: world.launch.id.clone(),
        bundle: world.bundle.path().to_str().unwrap().into(),
        stdin: fifos.stdin.clone(),
        stdout: fifos.stdout.clone(),
        stderr: fifos.stderr.clone(),
        options: protobuf::MessageField::some(
            cotter::proto::pack(world.launch.options.as_ref().unwrap()).unwrap(),
        ),
        ..Default::default()
    }
}

macro_rules! request {
    ($kind:ident, $world:expr $(, $field:ident: $value:expr)*) => {
        $kind { id: $world.launch.id.clone(), $($field: $value,)* ..Default::default() }
    };
}

#[tokio::test]
async fn a_life_in_every_dialect() {
    let home = Home::new("life");
    for (name, dialect) in dialects() {
        let mut world = world(
            &home,
            name,
            dialect,
            &["sh", "-c", "cat; echo end >&2; exit 5"],
        )
        .await;
        let endpoint = world.launch.start().await.unwrap();
        assert_eq!(Endpoint::load(world.bundle.path()).unwrap(), endpoint);
        let tasks = Tasks::connect(&endpoint).await.unwrap();
        assert_eq!(tasks.version(), endpoint.version, "{name}");

        let fifos = Fifos::create(world.bundle.path(), "init", true).unwrap();
        let (out, err) = (
            collect(&fifos.stdout).unwrap(),
            collect(&fifos.stderr).unwrap(),
        );
        let pid = tasks.create(&create(&world, &fifos)).await.unwrap().pid;
        let wait = tokio::spawn({
            let (tasks, request) = (tasks.clone(), request!(WaitRequest, world));
            async move { tasks.wait(&request).await.unwrap() }
        });
        assert_eq!(
            tasks
                .start(&request!(StartRequest, world))
                .await
                .unwrap()
                .pid,
            pid
        );
        let input = relay_in(&b"some input"[..], &fifos.stdin).unwrap();
        assert_eq!(input.finish(LIMIT).await.unwrap(), 10);
        let close = request!(CloseIORequest, world, stdin: true);
        tasks.close_io(&close).await.unwrap();

        let exit = wait.await.unwrap();
        assert_eq!(exit.exit_status, 5);
        let deleted = tasks.delete(&request!(DeleteRequest, world)).await.unwrap();
        assert_eq!((deleted.pid, deleted.exit_status), (pid, 5));
        assert_eq!(deleted.exited_at, exit.exited_at);
        assert_eq!(out.finish(LIMIT).await.unwrap(), b"some input");
        assert_eq!(err.finish(LIMIT).await.unwrap(), b"end\n");
        assert_eq!(lives(&mut world.events, 4).await, life(&deleted, name, pid));

        let _ = tasks.shutdown(&request!(ShutdownRequest, world)).await;
        gone(&endpoint, LIMIT).await.unwrap();
        world.launch.delete().await.unwrap();
        world.bundle.remove().unwrap();
    }
    home.is_left_clean();
}

/// What the next events say, without what differs from run to run.
async fn lives(events: &mut EventServer, count: usize) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for _ in 0..count {
        let Told {
            namespace,
            topic,
            event,
            ..
        } = events.next_within(LIMIT).await.unwrap();
        assert_eq!(namespace, "test");
        assert!(!matches!(event, Event::Other(_)), "{event:?}");
        told.push((topic, format!("{} {}", event.container(), event.details())));
    }
    told
}

fn life(deleted: &DeleteResponse, id: &str, pid: u32) -> Vec<(String, String)> {
    let status = deleted.exit_status;
    [
        ("/tasks/create", format!("{id} pid {pid}")),
        ("/tasks/start", format!("{id} pid {pid}")),
        ("/tasks/exit", format!("{id} pid {pid} status {status}")),
        ("/tasks/delete", format!("{id} pid {pid} status {status}")),
    ]
    .map(|(topic, says)| (topic.to_owned(), says))
    .into()
}

/// A killed shim is noticed at once by those who wait, and the `delete` action ends the container.
#[tokio::test]
async fn a_shim_that_is_killed() {
    let home = Home::new("killed");
    let (_, dialect) = dialects().pop().unwrap();
    let world = world(&home, "victim", dialect, &["sleep", "1000"]).await;
    let endpoint = world.launch.start().await.unwrap();
    let tasks = Tasks::connect(&endpoint).await.unwrap();
    let container = tasks
        .create(&create(&world, &Fifos::default()))
        .await
        .unwrap()
        .pid;
    tasks.start(&request!(StartRequest, world)).await.unwrap();
    let shim = tasks
        .connect_task(&request!(ConnectRequest, world))
        .await
        .unwrap();
    assert_eq!(shim.task_pid, container);

    let pid = |pid: u32| Pid::from_raw(pid.cast_signed());
    kill(pid(shim.shim_pid), Signal::SIGKILL).unwrap();
    let why = tasks.wait(&request!(WaitRequest, world)).await.unwrap_err();
    assert_eq!(why.code, Code::Unavailable, "{why}");
    gone(&endpoint, LIMIT).await.unwrap();

    let deleted = world.launch.delete().await.unwrap().response;
    assert_eq!((deleted.pid, deleted.exit_status), (container, 137));
    // The container is a child of nobody we know: only its absence can be seen.
    while fs::exists(format!("/proc/{container}/exe")).unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.bundle.remove().unwrap();
    // A shim that is killed leaves its socket, which the next one of its name takes over.
    let _ = fs::remove_file(endpoint.socket());
    home.is_left_clean();
}

/// A manager that comes back finds the shim by its bundle.
#[tokio::test]
async fn a_manager_that_is_restarted() {
    let home = Home::new("restart");
    let (_, dialect) = dialects().pop().unwrap();
    let mut world = world(&home, "stays", dialect, &["sleep", "1000"]).await;
    {
        let endpoint = world.launch.start().await.unwrap();
        let tasks = Tasks::connect(&endpoint).await.unwrap();
        tasks
            .create(&create(&world, &Fifos::default()))
            .await
            .unwrap();
        tasks.start(&request!(StartRequest, world)).await.unwrap();
        lives(&mut world.events, 2).await;
    }
    let path = world.events.address();
    assert_eq!(world.events.stop().await, []);
    world.events = EventServer::listen(path.as_ref()).await.unwrap();

    let endpoint = Endpoint::load(world.bundle.path()).unwrap();
    let tasks = Tasks::connect(&endpoint).await.unwrap();
    let state = tasks.state(&request!(StateRequest, world)).await.unwrap();
    assert_eq!(state.status, Status::RUNNING.into());
    tasks
        .kill(&request!(KillRequest, world, signal: 9))
        .await
        .unwrap();
    assert_eq!(
        tasks
            .wait(&request!(WaitRequest, world))
            .await
            .unwrap()
            .exit_status,
        137
    );
    tasks.delete(&request!(DeleteRequest, world)).await.unwrap();
    let topics: Vec<String> = lives(&mut world.events, 2)
        .await
        .into_iter()
        .map(|(topic, _)| topic)
        .collect();
    assert_eq!(topics, ["/tasks/exit", "/tasks/delete"]);
    let _ = tasks.shutdown(&request!(ShutdownRequest, world)).await;
    gone(&endpoint, LIMIT).await.unwrap();
    world.launch.delete().await.unwrap();
    world.bundle.remove().unwrap();
    home.is_left_clean();
}
