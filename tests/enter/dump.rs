//! What a shim tells of the execs that it has done.

use cotter::dump::Dump;
use cotter::manager::dialect::Endpoint;
use cotter::proto::introspection::{DumpRequest, IntrospectionClient};
use serde_json::Value;
use ttrpc::r#async::Client;

use crate::common::LIMIT;

/// The rows of its table: by whom, why, how many.
pub async fn rows(endpoint: &Endpoint) -> Vec<Value> {
    let client = Client::connect(&endpoint.address).await.unwrap();
    let client = IntrospectionClient::new(client);
    let request = DumpRequest {
        quiet: true,
        ..Default::default()
    };
    let limit = ttrpc::context::with_duration(LIMIT);
    let answer = client.dump(limit, &request).await.unwrap();
    let dump = Dump::from_json(&answer.json).unwrap();
    let rows = dump.section("execs by").and_then(Value::as_array);
    rows.cloned().unwrap_or_default()
}
