//! The index of a path: one parameter that says what the others below the path hold. A host that holds just that asks for
//! nothing else.
//!
//! An index that is missing, malformed or wrong costs calls and nothing more: the host reads everything, as without one.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::list::bounds::ADVANCED;
use crate::model::list::contents::{Contents, HEADER};
use crate::model::list::statement;

/// What an index says while the path is being published, or where that was interrupted: nothing.
pub const BEING_PUBLISHED: &str = "# being published";

/// The name of the index of `path`. No account begins with a dot, so it is in no account's place.
pub fn name(path: &str) -> String {
    format!("{}/.index", path.trim_end_matches('/'))
}

impl Contents {
    /// The value of the index of `path`.
    pub fn text(&self, path: &str) -> String {
        let Self { parameters, sha256 } = self;
        format!("{HEADER}\nscope: {path}\nparameters: {parameters}\nsha256: {sha256}")
    }

    /// Whether `text`, the index of `path`, says the same. More that it says, such as when it was made, does not matter
    /// here; nor does a signature that follows.
    pub fn are_said_by(&self, text: &str, path: &str) -> bool {
        let mut lines = text.lines();
        if text.len() > ADVANCED || lines.next() != Some(HEADER) {
            return false;
        }
        let count = self.parameters.to_string();
        let said = [
            ("scope", path),
            ("parameters", count.as_str()),
            ("sha256", self.sha256.as_str()),
        ];
        let mut is_said = [0; 3];
        for line in lines.take_while(|line| !line.starts_with("-----BEGIN ")) {
            let Some((name, value)) = line.split_once(": ") else {
                return false;
            };
            for (at, (field, expected)) in said.iter().enumerate() {
                if name == *field {
                    is_said[at] += 1;
                    if value != *expected {
                        return false;
                    }
                }
            }
        }
        is_said == [1; 3]
    }
}

/// A path that a host holds just as its index said, or its signature, when all of it was read.
#[derive(Clone, Debug)]
pub struct Known {
    pub path: String,
    said_by: SaidBy,
    read_at: Timestamp,
    /// When its index was last asked for.
    asked_at: Timestamp,
    /// How long the index may be believed after that.
    lasts: Duration,
}

impl Known {
    /// `read_at`: when the reading began. `random` is uniform over all of `u64`: hosts that read at the same time, after a
    /// push or a boot of all, do not do so again, as each believes for another time between a half and all of `full_every`.
    pub fn new(
        path: &str,
        said_by: SaidBy,
        read_at: Timestamp,
        full_every: Duration,
        random: u64,
    ) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a fraction of a wait needs no 64 bits"
        )]
        let fraction = random as f64 / u64::MAX as f64;
        Self {
            path: path.to_owned(),
            said_by,
            read_at,
            asked_at: read_at,
            lasts: full_every.mul_f64(0.5 + 0.5 * fraction),
        }
    }

    /// Whether the index may be believed once more: until the next poll, which may come as late as a tenth after `every`.
    /// Where the clock was set back since the last time, it is not known how old the reading is.
    pub fn may_be_believed(&self, now: Timestamp, every: Duration) -> bool {
        now >= self.asked_at
            && age(self.read_at, now).is_some_and(|age| age + every.mul_f64(1.1) <= self.lasts)
    }

    /// The same once the index was asked for again.
    #[must_use]
    pub fn again(self, asked_at: Timestamp) -> Self {
        Self { asked_at, ..self }
    }

    /// The parameter that is asked for in place of all others.
    pub fn asks_for(&self) -> String {
        match self.said_by {
            SaidBy::Index(_) => name(&self.path),
            SaidBy::Signature(_) => statement::name(&self.path),
        }
    }

    /// Whether that parameter, of this value, says that the path holds what it held.
    pub fn is_unchanged(&self, text: &str) -> bool {
        match &self.said_by {
            SaidBy::Index(contents) => contents.are_said_by(text, &self.path),
            SaidBy::Signature(known) => known == text,
        }
    }
}

/// What says what a path holds.
#[derive(Clone, Debug)]
pub enum SaidBy {
    Index(Contents),
    /// The text of the signature. A host that takes only what is signed takes nothing new before it is another one.
    Signature(String),
}

/// How long ago that was; `None` where the clock was set back meanwhile.
pub fn age(then: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(now.duration_since(then)).ok()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn of(path: &str, parameters: &[(&str, &str)]) -> Contents {
        let owned: Vec<(String, String)> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Contents::of(path, &mut owned.iter().map(|(name, value)| (name, value)))
    }

    const WEB: &str = "/k/web";

    #[test]
    fn the_same_contents_are_the_same_and_others_are_not() {
        let list = [("/k/web/a/x", "1"), ("/k/web/b", "2")];
        let contents = of(WEB, &list);
        for (what, other) in [
            ("a value", &[("/k/web/a/x", "1"), ("/k/web/b", "3")][..]),
            ("a name", &[("/k/web/a/y", "1"), ("/k/web/b", "2")]),
            ("one less", &[("/k/web/a/x", "1")]),
            ("moved", &[("/k/web/a/x", "2"), ("/k/web/b", "1")]),
            ("joined", &[("/k/web/a/x", "1\0\0\0\x01b\0\0\0\x012")]),
            ("a blank", &[("/k/web/a/x", "1 "), ("/k/web/b", "2")]),
            ("none", &[]),
        ] {
            assert_ne!(contents, of(WEB, other), "{what}");
        }
        // What is about the list is not of it, and what is elsewhere neither.
        let more = [
            ("/k/web/.index", "x"),
            ("/k/web/.signed", "y"),
            ("/k/web/a/x", "1"),
            ("/k/web/b", "2"),
            ("/k/website/c", "3"),
        ];
        assert_eq!(contents, of(WEB, &more));
        // A label may begin with a dot, and is of the list.
        assert_ne!(of(WEB, &[("/k/web/a/.x", "1")]), of(WEB, &[]));
        // The names are those below the path.
        let elsewhere = [("/other/a/x", "1"), ("/other/b", "2")];
        assert_eq!(contents, of("/other", &elsewhere));
        assert_eq!(of("/", &[("/a", "1")]), of(WEB, &[("/k/web/a", "1")]));
        assert_eq!(
            (name("/"), name(WEB)),
            ("/.index".into(), "/k/web/.index".into())
        );
    }

    /// The digest is that of the documentation, made by hand.
    #[test]
    fn the_digest_is_of_lengths_names_and_values() {
        let bytes = b"\0\0\0\x03a/x\0\0\0\x011\0\0\0\x01b\0\0\0\x012";
        let expected = format!("{:x}", Sha256::digest(bytes));
        let contents = of(WEB, &[("/k/web/a/x", "1"), ("/k/web/b", "2")]);
        assert!(
            contents
                .text(WEB)
                .ends_with(&format!("\nsha256: {expected}"))
        );
    }

    #[test]
    fn an_index_that_says_anything_else_says_nothing() {
        let contents = of(WEB, &[("/k/web/a", "1")]);
        let good = contents.text(WEB);
        let says = |text: &str| contents.are_said_by(text, WEB);
        assert!(says(&good));
        for text in [
            format!("{good}\n"),
            good.replace('\n', "\r\n"),
            format!("{good}\nissued: 2026-11-27T22:00:00Z\naudience: prod\n"),
            format!(
                "{good}\n-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n"
            ),
        ] {
            assert!(says(&text), "{text}");
        }
        let huge = format!("{good}\nx: {}", "y".repeat(ADVANCED));
        for text in [
            "",
            BEING_PUBLISHED,
            "<html>",
            &good[1..],
            &good[..good.len() - 1],
            &good.replace("list 1", "list 2"),
            &good.replace("parameters: 1", "parameters: 2"),
            &good.replace("parameters: 1\n", ""),
            &good.replace("scope: /k/web\n", ""),
            &good.replace("scope: /k/web", "scope: /k/web\nscope: /k/web"),
            &good.replace("/k/web", "/k/db"),
            &good.to_uppercase(),
            &format!("{good}\nnot a field"),
            &format!("\n{good}"),
            &huge,
        ] {
            assert!(!says(text), "{text}");
        }
        // That of another path, copied here, with the same keys.
        assert!(!contents.are_said_by(&contents.text("/k/db"), WEB));
    }

    #[test]
    fn nothing_is_believed_for_longer_than_full_every() {
        let (minute, start) = (
            Duration::from_mins(1),
            Timestamp::from_second(1_000_000).unwrap(),
        );
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        for random in [0, u64::MAX / 3, u64::MAX] {
            let known = Known::new(WEB, SaidBy::Index(of(WEB, &[])), start, 15 * minute, random);
            // The last poll that believes, and the latest time of the one after it.
            let last = (0..3600).rfind(|at_second| known.may_be_believed(at(*at_second), minute));
            let last = last.unwrap();
            assert!(last + 66 <= 15 * 60, "{random}: {last}");
            assert!(last > 6 * 60, "{random}: {last}");
            // The clock was set back, before the reading or only a little.
            assert!(!known.may_be_believed(at(-1), minute));
            let again = known.clone().again(at(240));
            assert!(again.may_be_believed(at(300), minute));
            assert!(!again.may_be_believed(at(239), minute));
            // A poll that comes as seldom as the full reading reads in full.
            assert!(!known.may_be_believed(at(0), 15 * minute));
        }
    }
}
