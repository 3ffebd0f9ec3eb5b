//! Looking inside a shim, by the request, by SIGUSR1 and with the tool: while runtimes hang, the
//! manager is dead, the log's pipe is full, and when the shim itself is stopped.
//!
//! Pinned: whatever hangs, the state is told, and the file in the bundle is whole; asking changes
//! nothing; nobody is ended by it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/disk.rs"]
mod disk;
#[path = "../faults/runtime.rs"]
#[allow(dead_code)] // It can do more than is needed here.
mod runtime;

mod inside;
mod managers;
mod others;
mod signal;
mod stuck;
mod tool;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};

use cotter::dump::{Dump, FILE};
use cotter::manager::dialect::Endpoint;
use cotter::proto::introspection::{DumpRequest, IntrospectionClient};
use serde_json::Value;
use ttrpc::r#async::Client;

use common::shim::Shim;

/// Makes the request, on a connection of its own.
async fn ask(endpoint: &Endpoint, quiet: bool) -> Dump {
    let client = Client::connect(&endpoint.address).await.unwrap();
    let client = IntrospectionClient::new(client);
    let request = DumpRequest {
        quiet,
        ..Default::default()
    };
    let limit = ttrpc::context::with_duration(common::LIMIT);
    let answer = client.dump(limit, &request).await.unwrap();
    Dump::from_json(&answer.json).unwrap()
}

/// The state now, without a trace in log and bundle.
async fn state(shim: &Shim) -> Dump {
    ask(&shim.endpoint, true).await
}

/// The rows of a table.
#[track_caller]
fn rows<'a>(dump: &'a Dump, section: &str) -> &'a [Value] {
    let section = dump.section(section);
    section.and_then(Value::as_array).unwrap()
}

/// The only row with these fields.
#[track_caller]
fn row<'a>(dump: &'a Dump, section: &str, fields: &[(&str, &str)]) -> &'a Value {
    let has = |row: &&Value| fields.iter().all(|(name, value)| row[*name] == *value);
    let found: Vec<&Value> = rows(dump, section).iter().filter(has).collect();
    match found[..] {
        [one] => one,
        _ => panic!("{section} with {fields:?}: {}", dump.to_json()),
    }
}

/// The file in a bundle, if there is a whole one.
fn file(bundle: &Path) -> Option<Dump> {
    let text = fs::read_to_string(bundle.join(FILE)).ok()?;
    Some(Dump::from_json(&text).unwrap())
}

/// When the dump in a bundle was taken.
fn taken(bundle: &Path) -> Option<String> {
    let dump = file(bundle)?;
    Some(dump.section("shim")?["taken"].as_str()?.to_owned())
}

/// Has the shim's bundle hold a last dump, and takes that away: the end of a test looks for what a shim
/// leaves. Dumps are written one after another, so none comes behind it.
async fn tidy(endpoint: &Endpoint, bundle: PathBuf) {
    // Requests of clients that have left, at a shim that was stopped, would be answered meanwhile.
    let alone = async || ask(endpoint, true).await.section("shim").unwrap()["connections"] == 2;
    while !alone().await {
        tokio::task::yield_now().await;
    }
    let last = ask(endpoint, false).await;
    common::shim::until("the last file", || file(&bundle).as_ref() == Some(&last)).await;
    remove(bundle);
}

/// Takes the file away.
fn remove(bundle: PathBuf) {
    fs::remove_file(bundle.join(FILE)).unwrap();
}
