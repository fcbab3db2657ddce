//! Reading no more than a limit, whatever the other side goes on writing.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, Read};

use rustix::io::{ReadWriteFlags, preadv2};

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded {
    /// No more bytes than the limit.
    pub bytes: Vec<u8>,
    /// There were no more than these.
    pub is_whole: bool,
}

impl Bounded {
    /// Reads until the end or until `limit`. A regular file that is as long as `expected` takes one call instead of two;
    /// with 0 nothing is expected.
    pub fn read(mut from: impl Read, limit: u64, expected: u64) -> io::Result<Self> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let expected = usize::try_from(expected).unwrap_or(usize::MAX).min(most);
        // Room for one byte more: a file that leaves it empty has ended.
        let mut bytes = vec![0; expected.saturating_add(1)];
        let length = loop {
            match from.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        bytes.truncate(length);
        if length != expected {
            let rest = limit.saturating_add(1) - u64::try_from(length).unwrap_or(0);
            from.take(rest).read_to_end(&mut bytes)?;
        }
        let is_whole = bytes.len() <= most;
        bytes.truncate(most);
        Ok(Self { bytes, is_whole })
    }

    /// The first bytes of a file, as many as are to be had without waiting for its disk or for whoever writes to it.
    pub fn read_at_once(from: &File, limit: u64) -> io::Result<Vec<u8>> {
        let size = from.metadata()?.len().min(limit);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let length = preadv2(from, &mut buffers, 0, ReadWriteFlags::NOWAIT)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_whatever_was_expected() {
        for (content, limit, expected, bytes, is_whole) in [
            ("", 4, 0, "", true),
            ("", 4, 3, "", true),
            ("abc", 4, 0, "abc", true),
            ("abc", 4, 3, "abc", true),
            ("abc", 4, 2, "abc", true),
            ("abc", 4, 9, "abc", true),
            ("abcd", 4, 4, "abcd", true),
            ("abcd", 4, 9, "abcd", true),
            ("abcde", 4, 4, "abcd", false),
            ("abcde", 4, 5, "abcd", false),
            ("abcdefgh", 4, 1, "abcd", false),
        ] {
            let read = Bounded::read(content.as_bytes(), limit, expected).unwrap();
            let wanted = Bounded {
                bytes: bytes.into(),
                is_whole,
            };
            assert_eq!(read, wanted, "{content} {limit} {expected}");
        }
    }
}
