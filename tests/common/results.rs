//! What was shown to work under which manager, written down by the tests themselves: the README's
//! table is made from it (`tests/setup/table`).

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::run;

/// Notes that `case` has passed under this manager, with this runtime. The last line of a test: what
/// fails is not noted. Does nothing unless `COTTER_RESULTS` names a file.
pub fn passed(manager: &str, version: &str, runtime: &str, case: &str) {
    let Some(path) = std::env::var_os("COTTER_RESULTS") else {
        return;
    };
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    // One write, so that lines of tests that run at the same time stay whole.
    let line = format!("{manager}|{version}|{runtime}|{case}\n");
    file.write_all(line.as_bytes()).unwrap();
}

/// The first thing that looks like a version in what `program FLAG` prints.
pub fn version(program: &Path, flag: &str) -> String {
    let told = run(std::process::Command::new(program).arg(flag)).ok();
    told.split(|c: char| c.is_whitespace() || c == ',')
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
        .map(|word| word.split(['+', '~']).next().unwrap_or(word).to_owned())
        .unwrap_or_else(|| panic!("{} tells no version: {told}", program.display()))
}
