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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn home_of(users: &str, uid: usize) -> Option<String> {
        let mut room = [0xff; 32];
        home(users.as_bytes(), uid, &mut room).then(|| {
            let end = room.iter().position(|byte| *byte == 0).unwrap();
            std::str::from_utf8(&room[..end]).unwrap().to_owned()
        })
    }

    #[test]
    fn whose_home_is_where() {
        let users = "root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:\nalso:x:1000:5::/other:/bin/sh";
        for (uid, home) in [(0, "/root"), (1000, "/home/me"), (7, "/")] {
            assert_eq!(home_of(users, uid), Some(format!("HOME={home}")), "{uid}");
        }
        assert_eq!(home_of("", 0).as_deref(), Some("HOME=/"));
    }

    #[test]
    fn a_list_that_can_be_read_in_two_ways_has_no_answer() {
        for line in [
            "\n",
            "# a word\n",
            "+::::::\n",
            "root:x:0:0:root:/root\n",
            "root:x:0:0:root:/root:/bin/sh:more\n",
            ":x:0:0:root:/root:/bin/sh\n",
            " root:x:0:0:root:/root:/bin/sh\n",
            "root:x:0:0:root:/root:/bin/sh \n",
            "root:x:0:0:root:/root:/bin/sh\r\n",
            "root:x:00:0:root:/root:/bin/sh\n",
            "root:x:-1:0:root:/root:/bin/sh\n",
            "root:x:2147483648:0:root:/root:/bin/sh\n",
            "root:x:99999999999999999999:0:root:/root:/bin/sh\n",
            "root:x::0:root:/root:/bin/sh\n",
            "root:x:0:x:root:/root:/bin/sh\n",
            "root:x:0:0:root::/bin/sh\n",
            "root:x:0:0:root:root:/bin/sh\n",
            "r\u{f6}\u{f6}t:x:0:0:root:/root:/bin/sh\n",
            // Its home does not fit into the room.
            "root:x:0:0:root:/a/very/long/path/to/somewhere:/bin/sh\n",
        ] {
            assert_eq!(home_of(line, 0), None, "{line:?}");
        }
        // An odd line behind the right one, too.
        assert_eq!(home_of("root:x:0:0:root:/root:/bin/sh\n\n", 0), None);
    }
}
