use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

/// A directory of its own for one test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("cotter-socket-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ours(path: &Path) -> (OwnedFd, Socket) {
    match claim(path).unwrap() {
        Claim::Ours(fd, socket) => (fd, socket),
        Claim::Taken => panic!("{} is taken", path.display()),
    }
}

#[test]
fn joins_and_cleans_like_go() {
    for (parts, expected) in [
        (&["/run/c.sock", "ns", "id"][..], "/run/c.sock/ns/id"),
        (&["", "ns", "id"], "ns/id"),
        (&["/run//c/", "./ns", "id/"], "/run/c/ns/id"),
        (&["/run/../c", "ns"], "/c/ns"),
        (&["/..", "..", "a"], "/a"),
        (&["a", "..", "..", "b"], "../b"),
        (&["..", "..", "b"], "../../b"),
        (&["a", ".."], "."),
        (&["/", ""], "/"),
        (&["", ""], ""),
        (&[], ""),
    ] {
        assert_eq!(join(parts), expected, "{parts:?}");
    }
}

#[test]
fn a_name_is_the_hash_of_the_joined_path() {
    // printf /run/containerd/containerd.sock/default/c1 | sha256sum
    let expected = "d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888";
    assert_eq!(
        name("/run/containerd/containerd.sock", "default", "c1"),
        expected
    );
    assert_eq!(
        name("/run/containerd//containerd.sock/", "default", "./c1"),
        expected
    );
}

#[test]
fn a_claimed_socket_is_private_and_known_as_taken() {
    let dir = Dir::new("claim");
    let path = dir.0.join("deep/er/s");
    let (fd, socket) = ours(&path);
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert!(matches!(claim(&path).unwrap(), Claim::Taken));
    remove_dead(&path).unwrap();
    assert!(path.exists());

    socket.remove().unwrap();
    assert!(!path.exists());
    socket.remove().unwrap();
    drop(fd);
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        0
    );
}

#[test]
fn a_full_backlog_is_alive() {
    let dir = Dir::new("backlog");
    let path = dir.0.join("s");
    let (fd, _socket) = ours(&path);
    listen(&fd, Backlog::new(0).unwrap()).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    assert_eq!(listens(&path).unwrap(), Some(true));
    assert!(matches!(claim(&path).unwrap(), Claim::Taken));
}

#[test]
fn a_dead_socket_is_replaced() {
    let dir = Dir::new("dead");
    let path = dir.0.join("s");
    drop(ours(&path));
    assert_eq!(listens(&path).unwrap(), Some(false));
    let (fd, _socket) = ours(&path);
    assert_eq!(listens(&path).unwrap(), Some(true));
    drop(fd);
    remove_dead(&path).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_claim_waits_for_the_directory() {
    let dir = Dir::new("lock");
    let path = dir.0.join("s");
    let held = lock(&dir.0, BIND_PATIENCE).unwrap();
    let other = std::thread::spawn({
        let path = path.clone();
        move || matches!(claim(&path).unwrap(), Claim::Taken)
    });
    sleep(Duration::from_millis(50));
    // The other has bound nothing, so this can; and then it finds this.
    let _listener = UnixListener::bind(&path).unwrap();
    drop(held);
    assert!(other.join().unwrap());
}

#[test]
fn of_several_claims_on_a_dead_socket_one_wins() {
    let dir = Dir::new("race");
    let path = dir.0.join("s");
    for _ in 0..200 {
        drop(UnixListener::bind(&path).unwrap());
        let barrier = std::sync::Barrier::new(4);
        let claims: Vec<Claim> = std::thread::scope(|scope| {
            let claim = || {
                barrier.wait();
                claim(&path).unwrap()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let won = claims.iter().filter(|c| matches!(c, Claim::Ours(..)));
        assert_eq!(won.count(), 1);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_shim_that_ends_leaves_the_socket_that_took_its_place() {
    let dir = Dir::new("replaced");
    let path = dir.0.join("s");
    let (_old_fd, old) = ours(&path);
    unlink(&path).unwrap();
    let (_new_fd, new) = ours(&path);
    old.remove().unwrap();
    assert!(path.exists());
    new.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn only_sockets_are_removed_as_dead() {
    let dir = Dir::new("file");
    let path = dir.0.join("s");
    std::fs::write(&path, "precious").unwrap();
    remove_dead(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    remove_dead(&dir.0.join("absent")).unwrap();
    remove_dead(Path::new("/")).unwrap();
}

#[test]
fn a_path_too_long_is_refused_with_its_length() {
    let dir = Dir::new("long");
    let fits = dir
        .0
        .join("x".repeat(MAX_PATH - dir.0.as_os_str().len() - 1));
    drop(ours(&fits));
    let long = PathBuf::from(format!("{}x", fits.display()));
    let message = claim(&long).unwrap_err().message;
    assert!(
        message.contains("has 107 bytes, the limit is 106"),
        "{message}"
    );
}

#[test]
fn the_file_behind_an_inherited_socket() {
    let dir = Dir::new("inherited");
    let path = dir.0.join("s");
    let (fd, socket) = ours(&path);
    let seen = Socket::of(&UnixListener::from(fd)).unwrap();
    assert_eq!((seen.path, seen.identity), (socket.path, socket.identity));
}

#[test]
fn a_process_that_listens_itself_surely_lives() {
    let dir = Dir::new("lives");
    let path = dir.0.join("s");
    assert!(!surely_lives(&path));
    let (fd, _socket) = ours(&path);
    // The first thread of this process may be at work.
    while !surely_lives(&path) {}
    drop(fd);
    assert!(!surely_lives(&path));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(!surely_lives(&path));
}

/// Fields 9 and 31 of a stat, as the kernel writes them.
#[test]
fn what_goes_on() {
    let stat = |state: &str, flags: u64, signals: u64| {
        let between = "0 ".repeat(21);
        format!("7 (a) b) {state} 1 7 7 0 -1 {flags} {between}{signals} 0 0 0 0 0 0 17 0\n")
    };
    for (stat, expected) in [
        (stat("S", 0x0040_0100, 0), true),
        (stat("T", 0x0040_0100, 1 << 14), true),
        (stat("R", 0x0040_0100, 0), false),
        (stat("S", 0x0040_0104, 0), false),
        (stat("S", 0x0040_0500, 0), false),
        (stat("S", 0x0040_0100, 1 << 8), false),
        (stat("Z", 0, 0), false),
        ("7 (a) S 1 7".to_owned(), false),
        (String::new(), false),
    ] {
        assert_eq!(goes_on(&stat), expected, "{stat}");
    }
    let own = || std::fs::read_to_string("/proc/self/stat").unwrap();
    while !goes_on(&own()) {}
}
