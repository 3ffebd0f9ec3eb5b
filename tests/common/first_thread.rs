//! A test on the first thread of a process that has no other: the standard harness has its own there.

/// As the standard harness does it for one test: words choose by name, and `--list` lists.
#[allow(clippy::print_stdout)]
pub fn test(name: &str, test: impl FnOnce()) {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if asked.iter().any(|word| word == "--list") {
        return println!("{name}: test");
    }
    let mut words = asked.iter().filter(|word| !word.starts_with('-'));
    if asked.iter().all(|word| word.starts_with('-')) || words.any(|word| name.contains(word)) {
        test();
        println!("test {name} ... ok");
    }
}
