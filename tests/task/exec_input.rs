//! Bad input on every field of Exec: refused, nobody is told, and the container goes on, created or
//! running.

use cotter::error::Code::{self, InvalidArgument, NotFound, Unknown};
use cotter::manager::events::Event;
use cotter::proto::Any;
use cotter::proto::task::ExecProcessRequest;

use crate::client::{SLEEP, WORKS, contents, pids, refused, with_each_runtime, works};
use crate::common::shim::Shim;

with_each_runtime! { ids, specs, useless_specs, streams, }

/// Checks that Exec refuses `request` and that nothing has changed.
async fn refuses(shim: &Shim, request: &ExecProcessRequest, code: Code, words: &str) {
    let bundle = shim.bundle_path("c");
    let before = (contents(&bundle), pids(shim, "c").await.unwrap());
    refused(shim.tasks.exec(request).await, code, words);
    assert_eq!((contents(&bundle), pids(shim, "c").await.unwrap()), before);
    if !request.exec_id.is_empty() {
        refused(
            shim.state("c", &request.exec_id).await,
            NotFound,
            "process does not exist",
        );
    }
}

/// Puts each case to a created and to a running container, and checks that nobody was told.
async fn each(
    runtime: &str,
    cases: Vec<(ExecProcessRequest, Code, &str)>,
    prepare: impl AsyncFn(&Shim),
) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    prepare(&shim).await;
    shim.create("c").await.unwrap();
    for start in [false, true] {
        if start {
            shim.start_process("c", "").await.unwrap();
        }
        for (request, code, words) in &cases {
            refuses(&shim, request, *code, words).await;
        }
    }
    works(&shim, "c").await;
    shim.remove("c").await;
    let told = shim
        .events_until(|event| matches!(event, Event::Delete(_)))
        .await;
    let topics: Vec<&str> = told.iter().map(|told| &told.topic[..]).collect();
    let mut expected = vec!["/tasks/create", "/tasks/start"];
    expected.extend(WORKS);
    expected.extend(["/tasks/exit", "/tasks/delete"]);
    assert_eq!(topics, expected);
    assert_eq!(shim.end().await, []);
}

fn request(exec: &str) -> ExecProcessRequest {
    ExecProcessRequest {
        id: "c".into(),
        exec_id: exec.into(),
        spec: Some(crate::common::shim::process("c", &["true"])).into(),
        ..Default::default()
    }
}

async fn ids(runtime: &'static str) {
    let (long, longer) = ("x".repeat(300), "x".repeat(1 << 20));
    let ids = [
        "", ".", "..", "../x", "a/b", "/x", "-x", "--help", "a b", "a\0b", "\0", "a\n", "ä", "a:b",
        ".hidden", &long, &longer,
    ];
    let cases = ids.map(|id| (request(id), InvalidArgument, "exec id"));
    each(runtime, cases.into(), async |_| {}).await;
}

async fn specs(runtime: &'static str) {
    let spec = |value: &[u8]| ExecProcessRequest {
        spec: Some(Any {
            value: value.into(),
            ..Default::default()
        })
        .into(),
        ..request("x")
    };
    let deep = format!("{{\"args\":{}", "[".repeat(200_000));
    let cases = vec![
        (
            ExecProcessRequest {
                spec: None.into(),
                ..request("x")
            },
            InvalidArgument,
            "spec is absent",
        ),
        (spec(b""), Unknown, "unexpected end of JSON input"),
        (spec(b"{"), Unknown, "unexpected end of JSON input"),
        (
            spec(b"{\"args\":[\"a\""),
            Unknown,
            "unexpected end of JSON input",
        ),
        (spec(b"}"), Unknown, "JSON"),
        (spec(b"{} {}"), Unknown, "JSON"),
        (spec(b"{\"a\":\xff}"), Unknown, "JSON"),
        (spec(b"\xef\xbb\xbf{}"), Unknown, "JSON"),
        (spec(b"\0"), Unknown, "JSON"),
        (spec(b"null"), Unknown, "null"),
        (spec(b"[]"), Unknown, "array"),
        (spec(b"7"), Unknown, "number"),
        (spec(b"\"x\""), Unknown, "string"),
        (spec(b"true"), Unknown, "bool"),
        (spec(deep.as_bytes()), Unknown, "JSON"),
    ];
    each(runtime, cases, async |_| {}).await;
}

async fn streams(runtime: &'static str) {
    let cases: [(&str, Code, &str); 10] = [
        (
            "npipe://x",
            Unknown,
            "failed to create exec process I/O: unknown STDIO scheme npipe",
        ),
        ("file://host/x", InvalidArgument, "file:///path"),
        ("binary://", InvalidArgument, "binary://"),
        ("binary-v2:///bin/cat?=", InvalidArgument, "binary-v2://"),
        ("relative", InvalidArgument, "not an absolute path"),
        ("\n", InvalidArgument, "not an absolute path"),
        ("/a\0b", InvalidArgument, "NUL"),
        ("fifo://host/x", InvalidArgument, "fifo:///path"),
        ("fifo:///%00", InvalidArgument, "NUL"),
        ("fifo:x", InvalidArgument, "fifo:///path"),
    ];
    let mut all = Vec::new();
    for (uri, code, words) in cases {
        for stream in 0..3 {
            let mut request = request("x");
            let streams = [&mut request.stdin, &mut request.stdout, &mut request.stderr];
            *streams[stream] = uri.into();
            all.push((request, code, words));
        }
    }
    let terminal = ExecProcessRequest {
        terminal: true,
        stdout: "binary:cat".into(),
        ..request("x")
    };
    all.push((terminal, InvalidArgument, "binary:///path"));
    each(runtime, all, async |_| {}).await;
}

/// What only the runtime can judge, and FIFOs that are not there, are found at Start: it fails, can
/// be tried again, and the exec can be deleted.
async fn useless_specs(runtime: &'static str) {
    let mut shim = Shim::start(runtime, "c", &SLEEP).await;
    shim.run("c", &SLEEP).await;
    let before = contents(&shim.bundle_path("c"));
    let spec = |json: &str| Any {
        value: json.into(),
        ..Default::default()
    };
    let good = || request("x").spec.unwrap();
    let cases = [
        (spec("{}"), "", Unknown),
        (spec(r#"{"args":[],"cwd":"/"}"#), "", Unknown),
        (spec(r#"{"args":null,"cwd":"/"}"#), "", Unknown),
        (spec(r#"{"args":["true"],"cwd":"/no/such"}"#), "", Unknown),
        (spec(r#"{"args":7}"#), "", Unknown),
        (spec(r#"{"args":["/etc"],"cwd":"/"}"#), "", Unknown),
        (good(), "/nonexistent/fifo", NotFound),
        (good(), "/proc/self/mem/x", Unknown),
    ];
    for (spec, stdout, code) in cases {
        let (spec, stdout) = (Some(spec).into(), stdout.to_owned());
        let request = ExecProcessRequest {
            spec,
            stdout,
            ..request("x")
        };
        shim.tasks.exec(&request).await.unwrap();
        for _ in 0..2 {
            match shim.start_process("c", "x").await {
                Err(refusal) => assert_eq!(refusal.code, code, "{refusal:?} {request:?}"),
                Ok(_) => panic!("started {request:?}"),
            }
        }
        shim.delete("c", "x").await.unwrap();
        let names = |all: Vec<(String, u64, String)>| -> Vec<String> {
            all.into_iter()
                .map(|(name, ..)| name)
                .filter(|name| name != "log.json")
                .collect()
        };
        assert_eq!(
            names(contents(&shim.bundle_path("c"))),
            names(before.clone())
        );
    }
    works(&shim, "c").await;
    shim.remove("c").await;
    shim.end().await;
}
