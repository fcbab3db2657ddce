//! Reading no more than a limit, whatever the other side goes on writing.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::os::unix::fs::FileExt;

use rustix::io::{ReadWriteFlags, preadv2};

use crate::model::file::boiled::Boiled;
use crate::model::file::wanted::Content;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded {
    /// No more bytes than the limit.
    pub bytes: Vec<u8>,
    /// There were no more than these.
    pub is_whole: bool,
    /// Only the lines that may be keys were taken of them.
    pub is_boiled: bool,
}

/// Bytes of a file that are read in order to find keys in it.
const MOST_BOILED: u64 = 16 << 20;

impl From<Bounded> for Content {
    fn from(read: Bounded) -> Self {
        Self {
            is_whole: read.is_whole && !read.is_boiled,
            bytes: read.bytes,
        }
    }
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
        Ok(Self {
            bytes,
            is_whole,
            is_boiled: false,
        })
    }

    /// Reads a file of keys: of one that is longer than `limit` the lines that may be keys.
    pub fn read_keys(from: &File, limit: u64, expected: u64) -> io::Result<Self> {
        let read = Self::read(from, limit, expected)?;
        if read.is_whole {
            return Ok(read);
        }
        Ok(Self::boil(&|chunk, at| from.read_at(chunk, at)))
    }

    /// The same, as far as it is to be had without waiting for its disk or for whoever writes to it.
    pub fn read_keys_at_once(from: &File, limit: u64) -> io::Result<Self> {
        let read_at = |bytes: &mut [u8], at| {
            let mut buffers = [IoSliceMut::new(bytes)];
            match preadv2(from, &mut buffers, at, ReadWriteFlags::NOWAIT) {
                // overlayfs knows no other way than to wait; what waits for ever is mended one level up.
                Err(rustix::io::Errno::OPNOTSUPP) => from.read_at(buffers[0].as_mut(), at),
                read => Ok(read?),
            }
        };
        let size = from.metadata()?.len();
        if size > limit {
            return Ok(Self::boil(&read_at));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let length = read_at(&mut bytes, 0)?;
        let is_whole = length == bytes.len();
        bytes.truncate(length);
        Ok(Self {
            bytes,
            is_whole,
            is_boiled: false,
        })
    }

    /// What is to be had before an error counts: the key may stand there.
    fn boil(read_at: &dyn Fn(&mut [u8], u64) -> io::Result<usize>) -> Self {
        let (mut boiled, mut chunk) = (Boiled::default(), vec![0; 64 << 10]);
        let mut at = 0;
        let is_whole = loop {
            let Ok(length) = read_at(&mut chunk, at) else {
                break false;
            };
            at += u64::try_from(length).unwrap_or(u64::MAX);
            boiled.add(&chunk[..length]);
            if length == 0 || at >= MOST_BOILED {
                break length == 0;
            }
        };
        Self {
            bytes: boiled.finish(),
            is_whole,
            is_boiled: true,
        }
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
                is_boiled: false,
            };
            assert_eq!(read, wanted, "{content} {limit} {expected}");
        }
    }
}
