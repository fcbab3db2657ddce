//! How the last fetches went: what the fetcher tells everybody else.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of this format.
pub const SCHEMA: u32 = 1;

/// The most that is read of `fetch.json`: a hundred times what it says of a hundred named parameters.
pub const MOST_BYTES: u64 = 1 << 20;

/// What `fetch.json` holds: the outcome of the last attempt, and what came before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchReport {
    /// Version of this format.
    pub schema: u32,
    /// Where the list comes from.
    pub source: String,
    /// Attempts so far.
    pub attempts: u64,
    /// When the last attempt began; a `sync` waits for one that began after it asked.
    pub began: Option<Timestamp>,
    /// When it ended.
    pub last_attempt: Option<Timestamp>,
    /// When the last good attempt ended.
    pub last_success: Option<Timestamp>,
    /// Why the last attempt failed, `None` when it did not.
    pub error: Option<String>,
    /// What a person can do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Digest of the last good list.
    pub digest: Option<String>,
    /// How many good attempts in a row gave that list, those that came early not counted.
    pub confirmations: u32,
    /// When the last of them was counted.
    #[serde(default)]
    pub counted_at: Option<Timestamp>,
    /// When the next attempt is due.
    pub next_attempt: Option<Timestamp>,
}

impl FetchReport {
    /// This report once an attempt begins.
    #[must_use]
    pub fn begun(&self, at: Timestamp) -> Self {
        Self {
            began: Some(at),
            ..self.clone()
        }
    }

    /// This report after an attempt that gave a list with `digest`. An attempt that was asked for comes before `every`
    /// is over and confirms nothing: a source that answers wrongly for a moment does so however often it is asked.
    #[must_use]
    pub fn succeeded(&self, source: &str, digest: String, every: Duration, at: Timestamp) -> Self {
        let same = self.digest.as_ref() == Some(&digest);
        // Polls are up to a tenth early; a clock that was set back is no reason to wait.
        let since = self
            .counted_at
            .and_then(|counted| Duration::try_from(at.duration_since(counted)).ok());
        let early = since.is_some_and(|since| since < every / 2);
        let (confirmations, counted_at) = match (same, early) {
            (true, true) => (self.confirmations, self.counted_at),
            (true, false) => (self.confirmations.saturating_add(1), Some(at)),
            (false, _) => (1, Some(at)),
        };
        Self {
            confirmations,
            counted_at,
            digest: Some(digest),
            last_success: Some(at),
            ..self.attempted(source, at)
        }
    }

    /// This report after an attempt that gave nothing. The count of confirmations stays: a failure is no list.
    #[must_use]
    pub fn failed(&self, source: &str, error: String, hint: Option<String>, at: Timestamp) -> Self {
        Self {
            error: Some(error),
            hint,
            ..self.attempted(source, at)
        }
    }

    fn attempted(&self, source: &str, at: Timestamp) -> Self {
        Self {
            schema: SCHEMA,
            source: source.to_owned(),
            attempts: self.attempts + 1,
            last_attempt: Some(at),
            error: None,
            hint: None,
            next_attempt: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_count_equal_lists_in_a_row() {
        let at = |minute: i64| Timestamp::from_second(60 * minute).unwrap();
        let ok = |report: &FetchReport, digest: &str, minute| {
            report.succeeded("s", digest.into(), Duration::from_mins(1), at(minute))
        };
        let report = ok(&ok(&FetchReport::default(), "d1", 0), "d1", 1);
        let report = report.failed("s", "down".into(), None, at(2));
        assert_eq!((report.confirmations, report.error.is_some()), (2, true));
        let report = ok(&report, "d1", 3);
        assert_eq!(
            (report.confirmations, report.error.clone(), report.attempts),
            (3, None, 4)
        );
        assert_eq!(ok(&ok(&report, "d2", 4), "d1", 5).confirmations, 1);
        assert_eq!(
            ok(&ok(&report, "d1", 3), "d1", 3).confirmations,
            3,
            "asked again at once"
        );
        assert_eq!(
            ok(&report, "d1", 1).confirmations,
            4,
            "the clock was set back"
        );
    }
}
