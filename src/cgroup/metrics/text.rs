//! The forms in which the kernel writes numbers into cgroup files. Pure; what is not in form is
//! skipped.

/// A file of one number. `max` is what the kernel's word `max` stands for. A negative number, as
/// the kernel's counters can show for a moment, is 0.
pub(in crate::cgroup) fn number(text: &str, max: u64) -> Option<u64> {
    match text.trim() {
        "max" => Some(max),
        word => unsigned(word),
    }
}

/// A file of lines `key value`.
pub(in crate::cgroup) fn keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (key, value) = (words.next()?, unsigned(words.next()?)?);
        words.next().is_none().then_some((key, value))
    })
}

/// A line `<major>:<minor> …`: the device and what follows it.
pub(super) fn device(line: &str) -> Option<(u64, u64, &str)> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?, rest))
}

/// Words `key=value`.
pub(super) fn pairs(words: &str) -> impl Iterator<Item = (&str, &str)> {
    words
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
}

/// A line of `rdma.current` or `rdma.max`.
pub(super) struct Rdma<'a> {
    pub device: &'a str,
    pub handles: u32,
    pub objects: u32,
}

/// `rdma.current` and `rdma.max`, alike in both versions; `max` is 2^32-1.
pub(super) fn rdma(text: &str) -> impl Iterator<Item = Rdma<'_>> {
    text.lines().filter_map(|line| {
        let (device, rest) = line.trim().split_once(' ')?;
        let mut entry = Rdma {
            device,
            handles: 0,
            objects: 0,
        };
        for (key, value) in pairs(rest) {
            let value = match value {
                "max" => u32::MAX,
                value => value.parse().unwrap_or(0),
            };
            match key {
                "hca_handle" => entry.handles = value,
                "hca_object" => entry.objects = value,
                _ => {}
            }
        }
        Some(entry)
    })
}

fn unsigned(word: &str) -> Option<u64> {
    let negative = || word.parse::<i128>().ok().filter(|n| *n < 0).map(|_| 0);
    word.parse().ok().or_else(negative)
}
