//! A regular file for standard input: the container gets what is in it, and no way to change it.

use std::fs;

use cotter::manager::spec::Spec;
use cotter::manager::stdio::Fifos;

use crate::client::Reader;
use crate::common::shim::{RUNTIMES, Shim, a_moment, run};

/// Tries to write where it reads from, in every way that it could have, and then reads.
const WRITES: [&str; 3] = [
    "sh",
    "-c",
    "for to in /proc/self/fd/0 /dev/stdin; do \
        timeout 1 sh -c \": >$to\"; timeout 1 sh -c \"echo forged 1<>$to\"; \
        timeout 1 sh -c \"echo forged >>$to\"; \
    done 2>/dev/null; \
    eval 'echo forged >&0' 2>/dev/null; wc -c; exit 7",
];

/// Reads, beside a process that has a FIFO.
const READS: [&str; 2] = ["sha256sum", "-"];

fn from_file(path: &std::path::Path, out: &Fifos) -> Fifos {
    Fifos {
        stdin: path.to_str().unwrap().to_owned(),
        stdout: out.stdout.clone(),
        ..Fifos::default()
    }
}

#[test]
fn is_read_and_cannot_be_written() {
    for runtime in RUNTIMES {
        run(async {
            let mut shim = Shim::start(runtime, "c", &["sleep", "1000"]).await;
            shim.create("c").await.unwrap();
            shim.start_process("c", "").await.unwrap();
            // More than pipes hold, and with a mode that lets everybody write.
            let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
            let file = shim.dir().join("input");
            fs::write(&file, &bytes).unwrap();
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            fs::set_permissions(&file, everybody).unwrap();

            // Whole, for one that reads.
            let out = shim.fifos("reads", false);
            let reader = Reader::open(&out.stdout);
            let streams = from_file(&file, &out);
            shim.exec_with("c", "reads", &READS, &streams)
                .await
                .unwrap();
            let said = reader.text().await;
            assert_eq!(shim.wait("c", "reads").await.unwrap().exit_status, 0);
            let digest = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
            let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(said, format!("{hex}  -\n"));
            shim.delete("c", "reads").await.unwrap();

            // Untouched, by an exec and by an init. A short one: what it writes to itself finds room.
            let bytes = b"precious\n".repeat(3);
            fs::write(&file, &bytes).unwrap();
            shim.bundle("d", Spec::new("d", WRITES));
            for (id, exec) in [("c", "writes"), ("d", "")] {
                let out = shim.fifos(&format!("writes-{id}"), false);
                let reader = Reader::open(&out.stdout);
                let streams = from_file(&file, &out);
                if exec.is_empty() {
                    shim.create_with(id, &streams).await.unwrap();
                    shim.start_process(id, "").await.unwrap();
                } else {
                    shim.exec_with(id, exec, &WRITES, &streams).await.unwrap();
                }
                let said = reader.text().await;
                assert_eq!(shim.wait(id, exec).await.unwrap().exit_status, 7);
                // All of it, and perhaps what it wrote to itself.
                let read: usize = said.trim().parse().unwrap();
                assert!(read >= bytes.len(), "{said}");
                assert!(fs::read(&file).unwrap() == bytes, "{id}: changed");
                shim.delete(id, exec).await.unwrap();
            }

            // One that does not read is ended like any other, and nothing of it stays.
            let streams = from_file(&file, &Fifos::default());
            let sleep = ["sleep", "1000"];
            shim.exec_with("c", "idle", &sleep, &streams).await.unwrap();
            shim.kill("c", "idle", 9).await.unwrap();
            shim.wait("c", "idle").await.unwrap();
            shim.delete("c", "idle").await.unwrap();
            let pid = shim.pid();
            let holds = || {
                let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
                fds.filter_map(|fd| fs::read_link(fd.path()).ok())
                    .any(|to| to == file)
            };
            while holds() {
                a_moment().await;
            }
            shim.remove("c").await;
            shim.end().await;
        });
    }
}
