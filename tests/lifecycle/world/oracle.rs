//! The rules, said a second time and without memory of how it came about: which effects are legal
//! where, and who must have had an exit after each step.

use cotter::lifecycle::{Census, Effect, FORGOTTEN_STATUS};
use cotter::monitor::Exit;

use super::{Kind, NOW, Process, Start, World, exit_of};

impl World {
    /// Takes effects one by one; each must be legal at its place.
    pub(super) fn apply(&mut self, effects: Vec<Effect<usize>>) {
        for effect in effects {
            match effect {
                Effect::Started(p) => {
                    assert_eq!(self.to_start.take(), Some(p), "unexpected start");
                    assert!(!self.processes[p].exited, "exit before start");
                }
                Effect::InitReaped {
                    container,
                    process,
                    exit,
                } => {
                    let c = self.containers.iter().position(|c| c.key == container);
                    let c = c.unwrap();
                    assert_eq!(self.containers[c].init, Some(process));
                    assert_eq!(self.containers[c].noted, None, "reaped twice");
                    self.check_exit(process, exit);
                    self.containers[c].noted = Some(exit);
                }
                Effect::Hold { container } => {
                    let c = self.containers.iter().position(|c| c.key == container);
                    let c = c.unwrap();
                    assert!(self.containers[c].noted.is_some(), "hold before the reap");
                    assert!(!self.containers[c].held, "held twice");
                    assert!(self.pending(c) > 0, "held for nothing");
                    self.containers[c].held = true;
                    self.seen.held += 1;
                }
                Effect::Exited { process, exit } => self.apply_exited(process, exit),
            }
        }
        assert_eq!(self.to_start, None, "start not announced");
    }

    fn apply_exited(&mut self, p: usize, exit: Exit) {
        let process = &self.processes[p];
        let c = process.container.expect("exit of an unannounced process");
        let container = &self.containers[c];
        assert!(!process.exited, "second exit");
        assert_eq!(self.to_start, None, "exit before start");
        let forgetting = self.forgetting == Some(c);
        assert!(forgetting || !container.forgotten, "exit after forget");
        if !process.exec {
            let late = forgetting || container.drained;
            assert!(container.drained || self.pending(c) == 0, "init not last");
            assert!(late || container.held || self.pending(c) == 0);
        }
        if let (false, Some(noted)) = (process.exec, container.noted) {
            assert_eq!(exit, noted, "published another exit than was noted");
        } else if forgetting {
            assert!(!process.reaped, "a real exit was lost");
            assert_eq!((exit.status, exit.at), (FORGOTTEN_STATUS, NOW));
            assert_eq!(exit.pid, process.pid);
        } else {
            self.check_exit(p, exit);
        }
        self.processes[p].exited = true;
    }

    /// The right status to the right process, at the first mention of its exit.
    fn check_exit(&self, p: usize, exit: Exit) {
        let process = &self.processes[p];
        assert!(process.reaped, "exit of a living process");
        assert_eq!(exit, exit_of(p, process.pid), "somebody else's exit");
    }

    /// After every step: who must have had an exit has, nobody else, and nothing else is kept.
    pub(super) fn check(&self) {
        for p in self.processes.iter() {
            let Some(c) = p.container else { continue };
            let container = &self.containers[c];
            let due = match (container.forgotten, p.exec) {
                (true, _) => true,
                (false, true) => p.reaped,
                (false, false) => {
                    p.reaped && !container.starting && (container.drained || self.pending(c) == 0)
                }
            };
            assert_eq!(p.exited, due, "exit due or not");
            let tracked = !container.forgotten && !p.reaped;
            assert!(!tracked || self.life.tracked(p.pid));
        }
        for (c, container) in self.containers.iter().enumerate() {
            let Some(init) = container.init else { continue };
            let init = &self.processes[init];
            if !container.forgotten {
                assert_eq!(init.reaped, container.noted.is_some(), "reap not told");
                assert_eq!(self.life.init_exit(container.key), container.noted);
                let waits = init.reaped && !init.exited && self.pending(c) > 0;
                assert!(!waits || container.held, "held without a timer");
            }
        }
        let known = |c: Option<usize>| c.is_some_and(|c| !self.containers[c].forgotten);
        let open = |s: &&Start| !s.over && known(Some(s.container));
        let running = |p: &&Process| !p.reaped && known(p.container);
        let nameless = |s: &&Start| open(s) && s.kind != Kind::Start && !s.looked;
        let oldest = self.starts.iter().find(nameless);
        let oldest = oldest.map_or(u64::MAX, |s| s.begun);
        let expected = Census {
            running: self.processes.iter().filter(running).count(),
            starts: self.starts.iter().filter(open).count(),
            containers: self.containers.iter().filter(|c| !c.forgotten).count(),
            recorded: self.happened.iter().filter(|h| h.at > oldest).count(),
        };
        assert_eq!(self.life.census(), expected);
    }
}
