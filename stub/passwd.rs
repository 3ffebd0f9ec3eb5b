//! Whose home is where: `/etc/passwd` of a container. Pure.
//!
//! Invariant: a list that runtimes could read in different ways has no answer here.

/// What is written before the home.
const NAME: &[u8] = b"HOME=";

/// The home of a user that the list does not have.
const NOWHERE: &[u8] = b"/";

/// Writes `HOME=`, the home of the first user with this number, and a zero byte; false if the list is not
/// plain, or there is no room.
pub fn home(users: &[u8], uid: usize, to: &mut [u8]) -> bool {
    let mut found: &[u8] = NOWHERE;
    let mut is_found = false;
    let mut rest = users;
    while !rest.is_empty() {
        let mut end = 0;
        while end < rest.len() && rest[end] != b'\n' {
            end += 1;
        }
        let line = &rest[..end];
        rest = if end < rest.len() {
            &rest[end + 1..]
        } else {
            &rest[end..]
        };
        match user(line) {
            Some((number, home)) if number == uid && !is_found => {
                found = home;
                is_found = true;
            }
            Some(_) => {}
            None => return false,
        }
    }
    let length = NAME.len() + found.len();
    if length >= to.len() {
        return false;
    }
    let mut at = 0;
    while at < length {
        to[at] = if at < NAME.len() {
            NAME[at]
        } else {
            found[at - NAME.len()]
        };
        at += 1;
    }
    to[length] = 0;
    true
}

/// The number and the home of a line with seven fields, a name, two plain numbers and an absolute path.
fn user(line: &[u8]) -> Option<(usize, &[u8])> {
    let mut fields: [&[u8]; 7] = [&[]; 7];
    let (mut count, mut begin, mut at) = (0, 0, 0);
    while at <= line.len() {
        if at == line.len() || line[at] == b':' {
            *fields.get_mut(count)? = &line[begin..at];
            count += 1;
            begin = at + 1;
        } else if line[at] < b' ' || line[at] >= 0x7f {
            return None;
        }
        at += 1;
    }
    let [name, _, uid, gid, _, home, _] = fields;
    let is_named = name
        .first()
        .is_some_and(|&first| first > b' ' && first != b'#' && first != b'+' && first != b'-');
    let ends_plainly = line.last().is_some_and(|&last| last != b' ');
    number(gid)?;
    let is_home = home.first() == Some(&b'/');
    (count == 7 && is_named && is_home && ends_plainly).then_some((number(uid)?, home))
}

/// Digits without a zero before them, below 2^31.
fn number(text: &[u8]) -> Option<usize> {
    if text.is_empty() || text.len() > 10 || (text[0] == b'0' && text.len() > 1) {
        return None;
    }
    let mut number = 0_usize;
    for &digit in text {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + (digit - b'0') as usize;
    }
    (number < 1 << 31).then_some(number)
}
