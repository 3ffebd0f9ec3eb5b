//! What containers and clients are called does nothing to the terminal that it is shown on.

use std::fs;

use super::{Home, LIMIT};
use tokio::time::timeout;

/// A row that is none, a screen cleared, a line that runs backwards.
const EVIL: [&str; 5] = [
    "\u{1b}[2J\u{1b}]0;title\u{7}",
    "\nforged                  1  running        sleep",
    "\u{202e}drawkcab\u{2066}",
    "a\u{2028}b\u{2029}c\u{9b}31m\r",
    "\t\u{85}\u{7f}",
];

fn acts(c: char) -> bool {
    c != '\n' && c.is_control()
        || "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202d}\u{202e}\u{2066}".contains(c)
}

#[track_caller]
fn is_plain(shown: &str) {
    assert!(!shown.contains(acts), "{shown:?}");
}

#[tokio::test]
async fn hostile_arguments_do_nothing() {
    let home = Home::new("shown");
    let run = async |id: &str, args: &[&str]| {
        let line = format!("run -d --id {id} -- sleep 1000");
        assert_eq!(home.run(&line, args, b"").await.0, 0);
    };
    run("good", &[]).await;
    // Arguments of a shell that ignores them.
    let line = "run -d --id evil -- sh -c";
    let args: Vec<&str> = ["while :; do sleep 1; done"]
        .into_iter()
        .chain(EVIL)
        .collect();
    assert_eq!(home.run(line, &args, b"").await.0, 0);

    let rows = home.run("ps", &[], b"").await.1;
    is_plain(&rows);
    // A head and a row each; the healthy one as ever.
    assert_eq!(rows.lines().count(), 3, "{rows}");
    let good = rows.lines().find(|row| row.starts_with("good ")).unwrap();
    assert!(
        good.contains(" running ") && good.ends_with(" sleep 1000"),
        "{good}"
    );
    let evil = rows.lines().find(|row| row.starts_with("evil ")).unwrap();
    assert!(evil.contains("\\u{1b}[2J"), "{evil}");
    assert!(rows.lines().all(|row| row.chars().count() < 200), "{rows}");

    for verb in ["stats", "dump", "stats --json", "dump --json"] {
        for id in ["good", "evil"] {
            let said = timeout(LIMIT, home.run(&format!("{verb} {id}"), &[], b"")).await;
            let (status, shown, stderr) = said.unwrap();
            assert_eq!((status, stderr.as_str()), (0, ""), "{verb}");
            is_plain(&shown);
            assert!(shown.contains(id), "{verb}: {shown}");
        }
    }
    for id in ["good", "evil"] {
        assert_eq!(home.run(&format!("rm -f {id}"), &[], b"").await.0, 0);
    }
    home.is_left_clean();
}

#[tokio::test]
async fn nor_do_errors_and_events() {
    let home = Home::new("said");
    for evil in [EVIL.concat().as_str(), EVIL[1]] {
        for line in ["kill", "rm", "stats", "run --rootfs", "run --runtime"] {
            let args: &[&str] = match line {
                "run --runtime" | "run --rootfs" => &[evil, "--", "true"],
                _ => &[evil],
            };
            let (status, shown, stderr) = home.run(line, args, b"").await;
            assert_ne!(status, 0, "{line} {evil:?}");
            is_plain(&shown);
            is_plain(&stderr);
            assert!(
                stderr.starts_with("cotter: ") || stderr.starts_with("shim: "),
                "{stderr}"
            );
        }
        let args = ["--", evil];
        let (status, _, stderr) = home.run("run --events", &args, b"").await;
        assert_ne!(status, 0);
        is_plain(&stderr);
    }
    // Directories that somebody made by hand are rows too.
    fs::create_dir_all(home.path().join("c").join("by\nhand\u{1b}[2J")).unwrap();
    let rows = home.run("ps", &[], b"").await.1;
    is_plain(&rows);
    assert!(rows.lines().count() <= 2, "{rows}");
    fs::remove_dir(home.path().join("c").join("by\nhand\u{1b}[2J")).unwrap();
    assert_eq!(home.run("run --events -- true", &[], b"").await.0, 0);
    home.is_left_clean();
}
