//! What a process sees of itself.

/// Tells it all. The shell is the exec's own process, and its files in /proc are as execve has left them.
pub const PROBE: &str = r#"
cd /proc/$$ || exit 9
for file in status limits stat cgroup oom_score_adj personality timerslack_ns loginuid setgroups cpuset comm \
    attr/current attr/exec coredump_filter; do
    echo "== $file"; cat $file 2>&1
done
for file in environ cmdline; do echo "== $file"; hexdump -v -e '64/1 "%_p" "\n"' $file; hexdump -v -C $file; done
echo "== auxv"; hexdump -v -e '1/8 "%d " 1/8 "%d" "\n"' auxv
echo "== umask"; umask
echo "== links"; readlink cwd exe root
for name in ns/*; do echo "$name $(readlink $name)"; done
echo "== descriptors"
for fd in fd/*; do
    echo "$fd $(readlink $fd)"; grep flags fdinfo/${fd#fd/}; stat -L -c '%F %t:%T of %u %g %a' $fd
done
echo "== mounts"; cat mounts
echo "== id"; id; echo ~
echo "== the end"
"#;

/// In pieces, without what is another's each time: numbers of processes and of pipes, sizes, addresses.
pub fn told(text: &str) -> Vec<String> {
    let mut part = "";
    let lines = text.lines().map(|line| {
        if let Some(name) = line.strip_prefix("== ") {
            part = name;
        }
        match part {
            "status" => status(line),
            "stat" => stat(line),
            "auxv" => auxv(line),
            "descriptors" => without_numbers(line),
            _ => line.to_owned(),
        }
    });
    let lines: Vec<String> = lines.collect();
    let pid = number(text, "\nPid:");
    // It leads its group and its session, or it does not.
    let leads = ["\nNSpgid:", "\nNSsid:"].map(|key| number(text, key) == pid);
    lines
        .into_iter()
        .chain([format!("leads {leads:?}")])
        .collect()
}

/// The last number of a line that begins so: it is as the innermost namespace counts.
fn number<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(key)?;
    rest.lines().next()?.split_whitespace().last()
}

fn status(line: &str) -> String {
    const OTHER: [&str; 10] = [
        "State", "Pid", "Tgid", "Ngid", "NStgid", "NSpid", "NSpgid", "NSsid", "SigQ", "PPid",
    ];
    let key = line.split(':').next().unwrap_or_default();
    let is_other = OTHER.contains(&key)
        || key.starts_with("Vm")
        || key.starts_with("Rss")
        || key.ends_with("ctxt_switches");
    match (is_other, key) {
        (true, "PPid") => format!(
            "PPid is {}",
            if line.ends_with("\t0") {
                "0"
            } else {
                "another"
            }
        ),
        // The limit is behind the slash.
        (true, "SigQ") => line.rsplit('/').next().unwrap_or_default().to_owned(),
        (true, _) => key.to_owned(),
        (false, _) => line.to_owned(),
    }
}

/// The flags' forks and such: its state, terminal, priority, nice value, the signal at its end, policy.
fn stat(line: &str) -> String {
    let Some((_, fields)) = line.rsplit_once(") ") else {
        return line.to_owned();
    };
    let fields: Vec<&str> = fields.split(' ').collect();
    // From the third on, as proc(5) counts.
    let of = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    [7, 8, 18, 19, 20, 38, 40, 41].map(of).join(" ")
}

/// A pair of type and value; the value where it is no address.
fn auxv(line: &str) -> String {
    const ADDRESSES: [&str; 7] = ["3", "7", "9", "15", "25", "31", "33"];
    match line.split_once(' ') {
        Some((kind, _)) if ADDRESSES.contains(&kind.trim()) => kind.to_owned(),
        _ => line.to_owned(),
    }
}

fn without_numbers(line: &str) -> String {
    match (line.find('['), line.ends_with(']')) {
        (Some(at), true) => line[..at].to_owned(),
        // Some versions of crun give the host's /dev/null to the user, for all to see; the shim does not.
        _ if line.starts_with("character special file 1:3 of ") => "/dev/null".to_owned(),
        // The shell's own look at the directory.
        _ if line.contains("/proc/") => line.chars().filter(|c| !c.is_ascii_digit()).collect(),
        _ => line.to_owned(),
    }
}
