//! [`crate::fuzzing`]'s door to this room.

use super::options::Options;
use super::overlay;

/// See [`crate::fuzzing::mount_options`].
pub(crate) fn options(words: &[&str]) -> Option<Vec<String>> {
    let options = Options::parse(words).ok()?;
    let mut data = options.data;
    data.extend(overlay::shorten(&data).map(|(_, shorter)| shorter));
    let layers = overlay::layers(&data);
    data.extend(layers.iter().map(|l| l.to_string_lossy().into_owned()));
    Some(data)
}
