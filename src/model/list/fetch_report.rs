//! How the last fetches went: what the fetcher tells everybody else.

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
    /// When the last attempt began.
    pub began: Option<Timestamp>,
    /// When the last attempt began that believed no index; `None` of a fetcher that knew of none.
    #[serde(default)]
    pub began_in_full: Option<Timestamp>,
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

    /// This report after an attempt that gave a list with `digest`.
    #[must_use]
    pub fn succeeded(&self, source: &str, digest: String, at: Timestamp) -> Self {
        Self {
            digest: Some(digest),
            last_success: Some(at),
            ..self.attempted(source, at)
        }
    }

    /// When the fetch began that found `digest`, if that was the last one.
    pub fn found(&self, digest: &str) -> Option<Timestamp> {
        let found = self.error.is_none() && self.digest.as_deref() == Some(digest);
        self.began.filter(|_| found)
    }

    /// Whether it answers a `sync` that asked at `asked`: a fetch that began before may have read the old list, and one
    /// that believed an index has not read it.
    pub fn answers(&self, asked: Timestamp) -> bool {
        let began = self.began_in_full.or(self.began);
        began >= Some(asked) && self.last_attempt > began
    }

    /// This report after an attempt that gave nothing.
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
    fn a_list_is_found_by_the_last_attempt_alone() {
        let at = |minute: i64| Timestamp::from_second(60 * minute).unwrap();
        let good = FetchReport::default().begun(at(0));
        let good = good.succeeded("s", "d1".into(), at(1));
        assert_eq!((good.found("d1"), good.found("d2")), (Some(at(0)), None));
        let failed = good.begun(at(2)).failed("s", "down".into(), None, at(3));
        assert_eq!(
            (failed.found("d1"), failed.digest.as_deref()),
            (None, Some("d1"))
        );
        let again = failed.begun(at(4)).succeeded("s", "d1".into(), at(5));
        assert_eq!(
            (again.found("d1"), again.error, again.attempts),
            (Some(at(4)), None, 3)
        );
    }
    #[test]
    fn a_sync_is_answered_by_a_fetch_that_read_everything_since() {
        let at = |minute: i64| Timestamp::from_second(60 * minute).unwrap();
        let check = |report: &FetchReport, asked: i64, expected: bool| {
            assert_eq!(report.answers(at(asked)), expected, "{asked}: {report:?}");
        };
        check(&FetchReport::default(), 0, false);
        let mut report = FetchReport::default().begun(at(1));
        report = report.succeeded("s", "d".into(), at(2));
        // A fetcher that knows of no index.
        check(&report, 1, true);
        check(&report, 2, false);
        report.began_in_full = Some(at(1));
        check(&report, 1, true);
        // One that believed the index, and began after the question.
        report = report.begun(at(4)).succeeded("s", "d".into(), at(5));
        check(&report, 1, true);
        check(&report, 3, false);
        report = report.begun(at(6)).failed("s", "down".into(), None, at(7));
        report.began_in_full = Some(at(6));
        check(&report, 3, true);
    }
}
