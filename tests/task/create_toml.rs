//! TOML that a Create names or brings along for its options, and that cannot hold.

use std::fs;

use cotter::error::Code::InvalidArgument;
use cotter::proto::task::CreateTaskRequest;
use cotter::proto::{Any, pack, runtime_options};

use crate::client::with_each_runtime;
use crate::create_input::{end, refuses, running};

with_each_runtime! { refused_as_a_whole, }

/// What src/options/tests.rs refuses as text is refused here as a file, and what is no such file.
#[expect(clippy::too_many_lines, reason = "a table")]
async fn refused_as_a_whole(runtime: &'static str) {
    let shim = running(runtime).await;
    let file = |name: &str, content: &[u8]| {
        let path = shim.dir().join(name);
        fs::write(&path, content).unwrap();
        path.to_string_lossy().into_owned()
    };
    let fifo = shim.dir().join("fifo.toml").to_string_lossy().into_owned();
    nix::unistd::mkfifo(&fifo[..], nix::sys::stat::Mode::S_IRWXU).unwrap();
    let looped = shim.dir().join("loop.toml").to_string_lossy().into_owned();
    std::os::unix::fs::symlink(&looped, &looped).unwrap();
    let dir = shim.dir().to_string_lossy().into_owned();
    let typo = file("typo.toml", b"Root = '/r'\nSystemdCgoup = true\n");
    let kind = file("kind.toml", b"SystemdCgroup = 'yes'");
    let broken = file("broken.toml", b"Root =\n");
    let binary = file("binary.toml", b"\x7fELF\0\xff\xfe");
    let huge = file("huge.toml", &vec![b'\n'; (1 << 20) + 1]);
    let by_path: [(&str, &str); 15] = [
        ("x.toml", "\"x.toml\" is not an absolute path"),
        ("../x.toml", "is not an absolute path"),
        (
            "/nonexistent/x.toml",
            "read /nonexistent/x.toml: no such file",
        ),
        ("/etc/passwd/x", "read /etc/passwd/x: not a directory"),
        ("/a\0b", "options: read /a"),
        ("/a\nb", "options: read /a\\nb: no such file"),
        (&dir, "not a regular file"),
        (&fifo, "fifo.toml: not a regular file"),
        ("/dev/zero", "read /dev/zero: not a regular file"),
        (&looped, "loop.toml: too many levels"),
        (&typo, "typo.toml: there is no option \"SystemdCgoup\""),
        (
            &kind,
            "kind.toml: SystemdCgroup is a TOML string, not true or false",
        ),
        (&broken, "broken.toml: line 1: "),
        (&binary, "binary.toml: invalid utf-8"),
        (&huge, "huge.toml: longer than 1048576 bytes"),
    ];
    let by_body: [(&[u8], &str); 3] = [
        (
            b"SystemdCgoup = true",
            "there is no option \"SystemdCgoup\"",
        ),
        (b"Root", "options in config_body: line 1: "),
        (b"\xff", "options in config_body: invalid utf-8"),
    ];
    let by_path = by_path.map(|(path, words)| {
        let options = runtime_options::Options {
            config_path: path.into(),
            // Would do, were it not for the path.
            config_body: b"SystemdCgroup = false".into(),
            ..Default::default()
        };
        (options, words)
    });
    let by_body = by_body.map(|(body, words)| {
        let options = runtime_options::Options {
            config_body: body.into(),
            ..Default::default()
        };
        (options, words)
    });
    for (options, words) in by_path.into_iter().chain(by_body) {
        let request = CreateTaskRequest {
            options: Some(pack(&options).unwrap()).into(),
            ..shim.create_request("b")
        };
        refuses(&shim, &request, InvalidArgument, words).await;
    }
    let garbage = Any {
        type_url: "runtimeoptions.v1.Options".into(),
        value: b"\x12\x7fx".into(),
        ..Default::default()
    };
    let request = CreateTaskRequest {
        options: Some(garbage).into(),
        ..shim.create_request("b")
    };
    refuses(
        &shim,
        &request,
        InvalidArgument,
        "runtimeoptions.v1.Options",
    )
    .await;
    end(shim).await;
}
