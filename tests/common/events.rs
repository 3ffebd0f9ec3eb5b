//! What a containerd announces, recorded through `ctr events`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::containerd::Containerd;
use super::{eventually, unique};

/// One event of the manager's stream.
#[derive(Clone, Debug)]
pub struct Event {
    /// Such as `/tasks/exit`.
    pub topic: String,
    /// The event's fields as ctr prints them.
    pub body: Value,
}

impl Event {
    /// The container it is about.
    pub fn container(&self) -> &str {
        self.body["container_id"].as_str().unwrap_or_default()
    }

    /// The process it is about: the container's own id for its init, else the exec's.
    pub fn process(&self) -> &str {
        self.body["id"].as_str().unwrap_or_else(|| self.container())
    }

    /// `exit_status`; ctr leaves a zero out.
    pub fn exit_status(&self) -> u64 {
        self.body["exit_status"].as_u64().unwrap_or(0)
    }
}

/// A recording in progress. Ends when dropped or when its daemon ends.
pub struct Events {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Events {
    /// Subscribes; every event published after this returns is in the record.
    pub fn record(daemon: &Containerd) -> Self {
        let mut child = daemon
            .ctr_command(&["events"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(child.stdout.take().unwrap());
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let this = Self { child, lines };
        // ctr does not say when its subscription stands, so events are made until one shows up.
        eventually("ctr events has subscribed", || {
            let probe = unique("probe");
            daemon.ctr(&["namespaces", "create", &probe]).ok();
            daemon.ctr(&["namespaces", "remove", &probe]).ok();
            !this.lines.lock().unwrap().is_empty()
        });
        this
    }

    /// The task events of container `id` so far, in order of arrival.
    pub fn of(&self, id: &str) -> Vec<Event> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter_map(|line| {
                let body = line.find('{')?;
                let topic = line[..body].split_whitespace().last()?;
                Some(Event {
                    topic: topic.to_owned(),
                    body: serde_json::from_str(&line[body..]).ok()?,
                })
            })
            .filter(|e| e.topic.starts_with("/tasks/") && e.container() == id)
            .collect()
    }

    /// Waits for the first event on `topic` about the init of container `id`.
    #[track_caller]
    pub fn wait(&self, topic: &str, id: &str) -> Event {
        super::eventually_some(&format!("{topic} of {id} is published"), || {
            let of_init = |e: &Event| e.topic == topic && e.process() == id;
            self.of(id).into_iter().find(of_init)
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
