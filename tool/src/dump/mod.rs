//! `cotter dump`: looks inside shims, whichever manager started them.
//!
//! Invariant: it always ends, and always shows something: what the shim says, or, of one that does not
//! answer or is not ours, what the kernel tells of it and the last dump it left. It changes nothing but
//! by having a shim write its dump, and sends SIGUSR1 to nobody whom it could end.

mod outside;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};
use ttrpc::r#async::Client;
use ttrpc::context::Context;

use cotter::dump::{Dump, FILE, ms, text as dump_text};
use cotter::error::{Code, Error, Result};
use cotter::proto::introspection::{DumpRequest, IntrospectionClient};
use cotter::shown;

use crate::ask::Ask;
use cotter::manager::client::error;
use cotter::manager::dialect::Endpoint;
use cotter::manager::places::{Bundle, address};
use cotter::manager::process::Process;

/// How long a shim may take to answer before it is looked at from outside.
const ANSWER: Duration = Duration::from_secs(2);

/// How long its file may take to appear after the signal.
const FRESH: Duration = Duration::from_secs(1);

/// How long looking from outside may take.
const LOOK: Duration = Duration::from_secs(2);

/// What was found out about one shim.
#[derive(Debug, Default, Serialize)]
pub struct Shim {
    /// Its manager's namespace.
    pub namespace: String,
    /// The containers whose bundles name it.
    pub ids: Vec<String>,
    /// Where it listens.
    pub address: String,
    /// Its process, if somebody listens there.
    pub pid: Option<u32>,
    /// Why there is no dump of now.
    pub problem: Option<String>,
    /// What it says.
    #[serde(serialize_with = "as_value")]
    pub dump: Option<Dump>,
    /// What the kernel says, if it says nothing.
    #[serde(serialize_with = "as_value")]
    pub outside: Option<Dump>,
    /// The last dump it left, if it says nothing.
    pub last: Option<Last>,
}

/// A dump in a file.
#[derive(Debug, Serialize)]
pub struct Last {
    /// The file.
    pub path: PathBuf,
    /// How old it is.
    pub age_ms: u64,
    /// What it holds.
    #[serde(serialize_with = "as_value_of")]
    pub dump: Dump,
}

fn as_value<S: serde::Serializer>(dump: &Option<Dump>, to: S) -> Result<S::Ok, S::Error> {
    dump.as_ref().map(Dump::to_value).serialize(to)
}

fn as_value_of<S: serde::Serializer>(dump: &Dump, to: S) -> Result<S::Ok, S::Error> {
    dump.to_value().serialize(to)
}

/// Looks inside all shims that are asked for; `home` is where the tool keeps its own containers.
///
/// # Errors
/// When there is no such container, there are several, or the directories cannot be read.
pub async fn dump(ask: &Ask, home: &Path) -> Result<Vec<Shim>> {
    let (chosen, all) = ask.bundles(home)?;
    // One shim serves the containers of a pod.
    let mut shims: BTreeMap<String, Vec<Bundle>> = BTreeMap::new();
    for bundle in chosen {
        let key = address(&bundle).unwrap_or_else(|| bundle.path.display().to_string());
        let bundles = shims.entry(key.clone()).or_default();
        let siblings = all
            .iter()
            .filter(|other| address(other) == Some(key.clone()));
        for other in std::iter::once(&bundle).chain(siblings) {
            if !bundles.iter().any(|known| known.path == other.path) {
                bundles.push(other.clone());
            }
        }
    }
    let mut found = Vec::new();
    for bundles in shims.into_values() {
        found.push(look(&bundles, ask.quiet).await);
    }
    Ok(found)
}

async fn look(bundles: &[Bundle], quiet: bool) -> Shim {
    let mut shim = Shim {
        namespace: bundles
            .first()
            .map(|b| b.namespace.clone())
            .unwrap_or_default(),
        ids: bundles.iter().map(|b| b.id.clone()).collect(),
        ..Shim::default()
    };
    let endpoint = match bundles.first().map(|bundle| Endpoint::load(&bundle.path)) {
        Some(Ok(endpoint)) => endpoint,
        Some(Err(why)) => {
            shim.problem = Some(why.message);
            shim.last = last(bundles);
            return shim;
        }
        None => return shim,
    };
    shim.address.clone_from(&endpoint.address);
    let listener = outside::listener(endpoint.socket());
    shim.pid = listener.map(|listener| listener.pid);
    let why = match ask(&endpoint, quiet).await {
        Ok(dump) => {
            shim.dump = Some(dump);
            return shim;
        }
        Err(why) => why,
    };
    let unknown = matches!(why.code, Code::Unimplemented | Code::InvalidArgument);
    shim.problem = Some(match unknown {
        true => "this shim knows no dumps: it is another one, or an older cotter".into(),
        false => why.message,
    });
    if let Some(listener) = listener {
        if !unknown && !quiet {
            wake(listener, bundles).await;
        }
        shim.outside = Some(view(listener.pid).await);
    }
    shim.last = last(bundles);
    shim
}

/// What a shim says of itself; `quiet`: without a trace in log and bundle.
///
/// # Errors
/// It does not answer in time, or knows no such question.
pub async fn ask(endpoint: &Endpoint, quiet: bool) -> Result<Dump> {
    let asked = async {
        let client = Client::connect(&endpoint.address).await.map_err(|why| {
            let what = format!("connect to {}: {why}", endpoint.address);
            Error::new(Code::Unavailable, what)
        })?;
        let request = DumpRequest {
            quiet,
            ..DumpRequest::default()
        };
        let client = IntrospectionClient::new(client);
        let answer = client.dump(Context::default(), &request).await;
        Dump::from_json(&answer.map_err(|why| error(why, None))?.json)
    };
    let silent = || Error::deadline_exceeded(format_args!("no answer within {ANSWER:?}"));
    timeout(ANSWER, asked)
        .await
        .unwrap_or_else(|_| Err(silent()))
}

/// Has a shim that does not answer write its file, if it can, and waits a moment for it.
async fn wake(listener: outside::Listener, bundles: &[Bundle]) {
    let pid = listener.pid.to_string();
    let Ok(process) = Process::open(listener.pid) else {
        return;
    };
    // Whoever has no handler would end by it. Looked at after the process is pinned.
    let catches = cotter::dump::kernel::catches(&pid, Signal::SIGUSR1 as i32);
    if !catches || !listener.is_held() {
        return;
    }
    let before = newest(bundles);
    if process.signal(Signal::SIGUSR1).is_err() {
        return;
    }
    let begun = Instant::now();
    while newest(bundles) == before && begun.elapsed() < FRESH {
        sleep(Duration::from_millis(20)).await;
    }
}

/// What the kernel tells, with the stacks if it tells them in time.
async fn view(pid: u32) -> Dump {
    let whole = cotter::blocking::blocking("look", move || outside::view(pid, true));
    match timeout(LOOK, whole).await {
        Ok(Ok(view)) => view,
        Ok(Err(_)) | Err(_) => outside::view(pid, false),
    }
}

fn newest(bundles: &[Bundle]) -> Option<(SystemTime, PathBuf)> {
    let dated = |bundle: &Bundle| {
        let path = bundle.path.join(FILE);
        Some((fs::metadata(&path).ok()?.modified().ok()?, path))
    };
    bundles.iter().filter_map(dated).max()
}

fn last(bundles: &[Bundle]) -> Option<Last> {
    let (at, path) = newest(bundles)?;
    let dump = Dump::from_json(&fs::read_to_string(&path).ok()?).ok()?;
    Some(Last {
        path,
        age_ms: ms(SystemTime::now().duration_since(at).unwrap_or_default()),
        dump,
    })
}

/// For programs.
pub fn json(shims: &[Shim]) -> String {
    // Text keys and plain values cannot fail.
    shown::json(&serde_json::to_string_pretty(shims).unwrap_or_default())
}

/// For people.
pub fn text(shims: &[Shim]) -> String {
    let mut out = String::new();
    for shim in shims {
        let pid = shim
            .pid
            .map_or("no process".into(), |pid| format!("pid {pid}"));
        let ids = shim.ids.join(", ");
        let head = format!("shim of {}: {ids} ({pid})", shim.namespace);
        let mut part = |head: &str, dump: Option<&Dump>| {
            let gap = if out.is_empty() { "" } else { "\n" };
            let body = dump.map(dump_text::text).unwrap_or_default();
            let head = shown::line(head);
            out.push_str(&format!("{gap}=== {head}\n\n{body}"));
        };
        match &shim.problem {
            None => part(&head, shim.dump.as_ref()),
            Some(problem) => {
                part(&format!("{head}: {problem}"), None);
                if shim.outside.is_some() {
                    part("what the kernel tells of it", shim.outside.as_ref());
                }
                if let Some(last) = &shim.last {
                    let age = dump_text::time(last.age_ms);
                    let head = format!("its last dump, {age} old: {}", last.path.display());
                    part(&head, Some(&last.dump));
                }
            }
        }
    }
    if shims.is_empty() {
        out.push_str("no shims\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dump_of(n: u32) -> Dump {
        let mut dump = Dump::default();
        dump.add("n", json!(n));
        dump
    }

    #[test]
    fn one_that_answers_and_one_that_does_not() {
        let good = Shim {
            namespace: "moby".into(),
            ids: vec!["a".into(), "b".into()],
            pid: Some(7),
            dump: Some(dump_of(1)),
            ..Shim::default()
        };
        let stuck = Shim {
            namespace: "k8s.io".into(),
            ids: vec!["c\u{1b}".into()],
            problem: Some("no answer within 2s".into()),
            outside: Some(dump_of(2)),
            last: Some(Last {
                path: "/b/dump".into(),
                age_ms: 61_000,
                dump: dump_of(3),
            }),
            ..Shim::default()
        };
        let expected = "\
=== shim of moby: a, b (pid 7)

n: 1

=== shim of k8s.io: c\\u{1b} (no process): no answer within 2s


=== what the kernel tells of it

n: 2

=== its last dump, 1m01s old: /b/dump

n: 3
";
        assert_eq!(text(&[good, stuck]), expected);
        assert_eq!(text(&[]), "no shims\n");
    }

    #[test]
    fn programs_get_every_field() {
        let shim = Shim {
            dump: Some(dump_of(1)),
            ..Shim::default()
        };
        let read: serde_json::Value = serde_json::from_str(&json(&[shim])).unwrap();
        assert_eq!(read[0]["dump"], json!({"n": 1}));
        assert_eq!(read[0]["outside"], json!(null));
        assert_eq!(read[0]["pid"], json!(null));
    }
}
