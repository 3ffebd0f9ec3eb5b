//! The image of all pods and containers: the tests' root file system, archived as `docker save` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::common::containerd::CRI_IMAGE;
use crate::common::{run, tool};

/// Makes the image in `dir` and returns the archive's path.
pub fn make(dir: &Path) -> PathBuf {
    let parts = dir.join("image");
    fs::create_dir(&parts).unwrap();
    let tar = |from: &Path, to: &Path| {
        let mut command = Command::new("tar");
        run(command.arg("-C").arg(from).arg("-cf").arg(to).arg(".")).ok();
    };
    let layer = parts.join("layer.tar");
    tar(&tool("ROOTFS"), &layer);
    let sum = Sha256::digest(fs::read(&layer).unwrap());
    let sum: String = sum.iter().map(|b| format!("{b:02x}")).collect();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        // What the pod's own process does; containers say what they want.
        "config": {"Env": ["PATH=/bin"], "Entrypoint": ["sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    fs::write(parts.join("config.json"), config.to_string()).unwrap();
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [CRI_IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(parts.join("manifest.json"), manifest.to_string()).unwrap();
    let image = dir.join("image.tar");
    tar(&parts, &image);
    image
}

/// This machine's, as images spell it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
