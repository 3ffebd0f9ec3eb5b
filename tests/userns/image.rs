//! An image of two layers, made here: managers give containers of an image a rootfs of layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{TempDir, run, tool};

/// Its name in the manager's store.
pub const NAME: &str = "local/userns:1";

/// Makes it as an archive to be imported: the tests' root file system, and over it one file, `/five`,
/// that belongs to 5:6.
pub fn archive(dir: &TempDir) -> PathBuf {
    let over = dir.path().join("over");
    fs::create_dir(&over).unwrap();
    fs::write(over.join("five"), "").unwrap();
    std::os::unix::fs::chown(over.join("five"), Some(5), Some(6)).unwrap();

    let layout = dir.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let layers = [tool("ROOTFS"), over].map(|content| {
        let tar = dir.path().join("layer.tar");
        pack(&content, &tar);
        blob(&layout, "layer.v1.tar", &fs::read(&tar).unwrap())
    });
    let diffs = layers.each_ref().map(|layer| &layer["digest"]);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let config = blob(&layout, "config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = manifest.to_string();
    let mut manifest = blob(&layout, "manifest.v1+json", manifest.as_bytes());
    manifest["annotations"] = json!({"io.containerd.image.name": NAME});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let version = json!({"imageLayoutVersion": "1.0.0"});
    fs::write(layout.join("oci-layout"), version.to_string()).unwrap();
    let archive = dir.path().join("image.tar");
    pack(&layout, &archive);
    archive
}

fn pack(content: &Path, tar: &Path) {
    let mut command = Command::new("tar");
    command.args(["--numeric-owner", "-C"]).arg(content);
    run(command.arg("-cf").arg(tar).arg(".")).ok();
}

/// Stores a blob and describes it.
fn blob(layout: &Path, kind: &str, bytes: &[u8]) -> Value {
    let digest = Sha256::digest(bytes);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{digest}"),
        "size": bytes.len(),
    })
}
