//! Random walks: several containers, few pids, everything that can go wrong does.

use std::cell::RefCell;

use proptest::collection::vec;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

use crate::world::{Kind, Seen, Step, World};

const PIDS: std::ops::Range<i32> = 10..15;
const CONTAINERS: usize = 3;
const LENGTH: usize = 150;

/// What can happen now, grouped by kind so that the rare is as likely as the frequent.
fn enabled(world: &World) -> Vec<Vec<Step>> {
    let all = 0..world.containers.len();
    let living = all.filter(|&c| !world.containers[c].forgotten);
    // One of the dead goes along, to be refused.
    let dead = (0..world.containers.len()).rfind(|&c| world.containers[c].forgotten);
    let some: Vec<usize> = living.clone().chain(dead).collect();
    let pids: Vec<i32> = PIDS.filter(|&pid| world.free(pid)).collect();
    let each = |step: fn(usize) -> Step| some.iter().map(|&c| step(c)).collect::<Vec<_>>();

    let mut spawn = Vec::new();
    let (mut succeed, mut fail, mut lie, mut replay) = (vec![], vec![], vec![], vec![]);
    let (mut name, mut look) = (vec![], vec![]);
    for (s, start) in world.starts.iter().enumerate() {
        if start.over {
            replay.push(Step::Replay(s));
            continue;
        }
        fail.push(Step::Fail(s));
        match (start.kind, start.process) {
            (Kind::Start, _) => succeed.push(Step::Succeed(s)),
            (_, Some(_)) => {
                succeed.push(Step::Succeed(s));
                match (start.named, start.looked) {
                    (None, _) => name.push(Step::Name(s)),
                    (Some(_), false) => look.push(Step::Look(s)),
                    (Some(_), true) => {}
                }
            }
            (_, None) => {
                spawn.extend(pids.iter().map(|&pid| Step::Spawn(s, pid)));
                lie.push(Step::Lie(s));
            }
        }
    }
    let unreaped = (0..world.processes.len()).filter(|&p| !world.processes[p].reaped);
    let reap: Vec<Step> = unreaped.map(Step::Reap).collect();
    let add = match living.clone().count() < CONTAINERS {
        true => vec![Step::Add],
        false => vec![],
    };
    // Deletes are rare, or no container would grow old.
    let mut odd = [lie, replay].concat();
    odd.extend(living.clone().map(Step::Forget));
    let mut groups = vec![
        add,
        each(Step::BeginCreate),
        each(Step::BeginStart),
        each(Step::BeginExec),
        each(Step::BeginExec),
        spawn.clone(),
        spawn,
        name.clone(),
        name,
        look,
        succeed.clone(),
        succeed,
        fail,
        odd,
        pids.iter().map(|&pid| Step::Stranger(pid)).collect(),
        reap.clone(),
        reap,
        living.map(Step::Drain).collect(),
    ];
    groups.retain(|group| !group.is_empty());
    groups
}

fn walk(choices: &[(u16, u16)]) -> Seen {
    let mut world = World::new(1);
    for &(group, member) in choices {
        let groups = enabled(&world);
        let group = &groups[group as usize % groups.len()];
        world.step(group[member as usize % group.len()]);
    }
    world.finish();
    world.seen
}

#[test]
fn every_announced_process_gets_its_own_exit_once_and_init_last() {
    let mut runner = TestRunner::new(Config {
        cases: 2_000,
        rng_seed: RngSeed::Fixed(20_240_229),
        failure_persistence: None,
        ..Config::default()
    });
    let total = RefCell::new(Seen::default());
    let choices = vec((0..u16::MAX, 0..u16::MAX), 1..LENGTH);
    let outcome = runner.run(&choices, |choices| {
        let seen = walk(&choices);
        let mut total = total.borrow_mut();
        total.early += seen.early;
        total.recycled += seen.recycled;
        total.recycled_after += seen.recycled_after;
        total.held += seen.held;
        total.drained += seen.drained;
        total.died_starting += seen.died_starting;
        total.forgotten_alive += seen.forgotten_alive;
        total.gone += seen.gone;
        total.refused += seen.refused;
        Ok(())
    });
    if let Err(TestError::Fail(_, smallest)) = &outcome {
        walk(smallest);
    }
    outcome.unwrap();
    let total = total.into_inner();
    println!("{total:?}");
    let rare = [
        total.early,
        total.recycled,
        total.recycled_after,
        total.held,
        total.drained,
        total.died_starting,
        total.forgotten_alive,
        total.gone,
        total.refused,
    ];
    assert!(rare.iter().all(|&times| times >= 100), "{total:?}");
}
