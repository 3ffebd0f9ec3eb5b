//! Output of which a part was dropped.

/// Bytes that arrived, bytes told to be missing, and how often: of what was written, in order and with
/// nothing else missing. A mark has a line of its own, for which it may have ended one.
pub fn with_gaps(text: &str, written: &str) -> (u64, u64, u64) {
    let Some((before, after)) = text.split_once("[cotter: ") else {
        assert!(text == written, "{text:.100?} is not {written:.100?}");
        return (text.len() as u64, 0, 0);
    };
    assert!(before.ends_with('\n'));
    let (gap, after) = after.split_once(' ').unwrap();
    let after = after.strip_prefix("bytes of output dropped here]").unwrap();
    // A terminal's line ends are two bytes.
    let end = if written.contains('\r') { "\r\n" } else { "\n" };
    let after = after.strip_prefix(end).unwrap();
    let gap: usize = gap.parse().unwrap();
    let cut = before.strip_suffix(end);
    for own in [Some(before), cut].into_iter().flatten() {
        let begins = after.get(..100).unwrap_or_default();
        let Some(rest) = written.strip_prefix(own).and_then(|rest| rest.get(gap..)) else {
            continue;
        };
        if rest.starts_with(begins) {
            let (arrived, missing, gaps) = with_gaps(after, rest);
            return (arrived + own.len() as u64, missing + gap as u64, gaps + 1);
        }
    }
    panic!("{} bytes before a gap of {gap} do not fit", before.len());
}
