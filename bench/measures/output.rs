//! Bytes from a container to a FIFO.

use std::process::{Command, Stdio};
use std::time::Instant;

use cotter::error::{Error, Result};
use cotter::manager::stdio::Fifos;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::{Scale, Seen};
use crate::contestant::{Contestant, Place, Runtime, Session};
use crate::proc;

/// What is written: name, bytes per write, and how many of them make `mib` MiB, or a part of that.
fn writes(mib: usize) -> [(&'static str, usize, usize); 2] {
    let bytes = mib << 20;
    [
        ("64 KiB writes", 64 << 10, bytes / (64 << 10)),
        ("100 byte writes", 100, bytes / 100 / 16),
    ]
}

fn dd(block: usize, count: usize) -> [String; 4] {
    let (block, count) = (format!("bs={block}"), format!("count={count}"));
    ["dd".into(), "if=/dev/zero".into(), block, count]
}

/// Reads `bytes`, and answers how long that took in seconds.
async fn read(from: &mut pipe::Receiver, bytes: usize) -> Result<f64> {
    let begun = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    let mut got = 0;
    while got < bytes {
        let read = from.read(&mut buffer).await;
        let read = read.map_err(|e| Error::io("read the FIFO", &e))?;
        got += read;
        if read == 0 {
            return Err(Error::unknown(format!("stdout ended after {got} bytes")));
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

fn receiver(fifos: &Fifos) -> Result<pipe::Receiver> {
    let opened = pipe::OpenOptions::new().open_receiver(&fifos.stdout);
    opened.map_err(|e| Error::io("open the FIFO", &e))
}

const MIB: f64 = (1 << 20) as f64;

/// Through the shim, in large and in small writes.
pub async fn stream(
    who: &Contestant,
    runtime: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let mut seen = Seen::new();
    for (name, block, count) in writes(scale.stream) {
        let session = Session::start(who, runtime, place, |spec| {
            spec.args = dd(block, count).into()
        })
        .await?;
        let fifos = Fifos::create(&session.dir, "io", false)?;
        let mut reader = receiver(&fifos)?;
        session.create_with("c", &fifos.stdout).await?;
        let shim = session.pid().await?;
        let before = proc::cpu(shim)?;
        session.start_process("c", "").await?;
        let bytes = block * count;
        let took = read(&mut reader, bytes).await?;
        let cpu = proc::cpu(shim)? - before;
        let mib = bytes as f64 / MIB;
        seen.push((format!("stdout, {name} (MiB/s)"), mib / took));
        let per_gib = cpu * 1024.0 / mib;
        seen.push((format!("shim CPU for stdout, {name} (s/GiB)"), per_gib));
        session.wait("c", "").await?;
        session.delete("c", "").await?;
        session.end().await?;
    }
    Ok(seen)
}

/// The same program with the FIFO itself as its output: what a pipe takes.
pub async fn bare_stream(
    _: &Contestant,
    _: &Runtime,
    place: &mut Place,
    scale: &Scale,
) -> Result<Seen> {
    let mut seen = Seen::new();
    for (name, block, count) in writes(scale.stream) {
        let fifos = Fifos::create(&place.dir, &format!("bare-{block}"), false)?;
        let mut reader = receiver(&fifos)?;
        let failed = |e: &std::io::Error| Error::io("run dd by hand", e);
        let fifo = std::fs::OpenOptions::new().write(true).open(&fifos.stdout);
        let mut child = Command::new(place.rootfs.join("bin/busybox"))
            .args(dd(block, count))
            .stdin(Stdio::null())
            .stdout(fifo.map_err(|e| failed(&e))?)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| failed(&e))?;
        let bytes = block * count;
        let took = read(&mut reader, bytes).await;
        child.wait().map_err(|e| failed(&e))?;
        for path in [&fifos.stdout, &fifos.stderr] {
            std::fs::remove_file(path).map_err(|e| Error::io(format!("remove {path}"), &e))?;
        }
        let mib = bytes as f64 / MIB;
        seen.push((format!("stdout, {name} (MiB/s)"), mib / took?));
    }
    Ok(seen)
}
