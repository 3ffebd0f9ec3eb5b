//! Every schedule of small worlds: all interleavings of what the service asks, what the runtime
//! does, who dies when, and which timer fires.

use crate::world::{Kind, Step, World};

/// What may happen, and how often, in one small world.
struct Small {
    containers: usize,
    /// Per container.
    execs: usize,
    /// Init appears by restore: no create.
    restore: bool,
    /// Inits that were created are also started.
    start: bool,
    /// Runtime calls can fail.
    fail: bool,
    drain: bool,
    /// Containers can be forgotten at any time.
    forget: bool,
    /// The pids there are; empty: as many as needed, and a process appears as its start begins.
    pids: &'static [i32],
    strangers: usize,
}

const PLAIN: Small = Small {
    containers: 1,
    execs: 0,
    restore: false,
    start: true,
    fail: false,
    drain: false,
    forget: false,
    pids: &[],
    strangers: 0,
};

fn enabled(small: &Small, world: &World) -> Vec<Step> {
    let mut steps = Vec::new();
    for (c, container) in world.containers.iter().enumerate() {
        if container.forgotten {
            continue;
        }
        let known = container.init.is_some();
        if !small.restore && container.creates == 0 {
            steps.push(Step::BeginCreate(c));
        }
        if container.starts == 0 && (small.restore || small.start && known) {
            steps.push(Step::BeginStart(c));
        }
        if known && container.execs < small.execs {
            steps.push(Step::BeginExec(c));
        }
        if small.drain && world.waits(c) && !container.drained {
            steps.push(Step::Drain(c));
        }
        if small.forget && (known || container.starting) {
            steps.push(Step::Forget(c));
        }
    }
    let free = || small.pids.iter().filter(|&&pid| world.free(pid));
    for (s, start) in world.starts.iter().enumerate() {
        if start.over {
            continue;
        }
        match (start.kind, start.process) {
            (Kind::Start, _) | (_, Some(_)) => steps.push(Step::Succeed(s)),
            (_, None) => steps.extend(free().map(|&pid| Step::Spawn(s, pid))),
        }
        if small.fail {
            steps.push(Step::Fail(s));
        }
    }
    for (p, process) in world.processes.iter().enumerate() {
        if !process.reaped {
            steps.push(Step::Reap(p));
        }
    }
    let strangers =
        world.processes.len() - world.starts.iter().filter(|s| s.process.is_some()).count();
    if strangers < small.strangers {
        steps.extend(free().map(|&pid| Step::Stranger(pid)));
    }
    steps
}

/// Walks every schedule to its end; the number of schedules.
fn explore(small: &Small, world: &World) -> u64 {
    let steps = enabled(small, world);
    if steps.is_empty() {
        world.clone().finish();
        return 1;
    }
    let mut schedules = 0;
    for step in steps {
        let mut next = world.clone();
        next.step(step);
        if small.pids.is_empty()
            && next.starts.len() > world.starts.len()
            && next.starts.last().unwrap().kind != Kind::Start
        {
            let pid = next.fresh_pid();
            next.step(Step::Spawn(next.starts.len() - 1, pid));
        }
        schedules += explore(small, &next);
    }
    schedules
}

fn all_schedules(name: &str, small: &Small) -> u64 {
    let schedules = explore(small, &World::new(small.containers));
    println!("{name}: {schedules} schedules");
    schedules
}

#[test]
fn init_and_two_execs() {
    let small = Small {
        execs: 2,
        fail: true,
        drain: true,
        ..PLAIN
    };
    assert!(all_schedules("init and two execs", &small) > 100_000);
}

#[test]
fn restored_init_and_two_execs() {
    let small = Small {
        execs: 2,
        restore: true,
        fail: true,
        drain: true,
        ..PLAIN
    };
    assert!(all_schedules("restored init and two execs", &small) > 1_500);
}

#[test]
fn three_execs_of_a_created_init() {
    let small = Small {
        execs: 3,
        start: false,
        ..PLAIN
    };
    assert!(all_schedules("three execs of a created init", &small) > 10_000);
}

#[test]
fn init_and_exec_forgotten_at_any_time() {
    let small = Small {
        execs: 2,
        forget: true,
        ..PLAIN
    };
    assert!(all_schedules("forgotten at any time", &small) > 30_000);
}

#[test]
fn two_containers_on_two_pids_with_a_stranger() {
    let small = Small {
        containers: 2,
        start: false,
        fail: true,
        pids: &[10, 11],
        strangers: 1,
        ..PLAIN
    };
    assert!(all_schedules("two containers, two pids, a stranger", &small) > 50_000);
}

#[test]
fn init_and_exec_on_one_pid_with_strangers() {
    let small = Small {
        execs: 2,
        pids: &[10],
        strangers: 2,
        forget: true,
        ..PLAIN
    };
    assert!(all_schedules("one pid, two strangers", &small) > 100_000);
}
