// The whole of each binary: the target of its own name.
#[path = "targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut all = targets::TARGETS.iter();
    let own = all.find(|(name, _)| *name == env!("CARGO_BIN_NAME"));
    own.expect("a target of that name").1(bytes);
});
