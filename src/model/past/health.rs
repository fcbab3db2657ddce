//! When the journal is told how the host as a whole is: what is wrong once it lasts, again each hour, and that it is over.
//!
//! Whatever alarms on it is then right for as long as that lasts, and not a word is said of what a boot, or a repair, is
//! like for a moment.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Time between two tellings of the same.
const AGAIN: Duration = Duration::from_hours(1);

/// What was found wrong, and told.
#[derive(Debug, Default)]
pub struct Health {
    since: Option<(Instant, Timestamp)>,
    told: Option<(Vec<&'static str>, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// For so long.
    Degraded(Timestamp),
    Healthy,
}

impl Health {
    /// Takes the codes of what is wrong, which counts once it was so for `lasting`; returns what there is to tell.
    pub fn after(
        &mut self,
        codes: &[&'static str],
        lasting: Duration,
        (now, instant): (Timestamp, Instant),
    ) -> Option<News> {
        if codes.is_empty() {
            self.since = None;
            return self.told.take().map(|_| News::Healthy);
        }
        let (began, since) = *self.since.get_or_insert((instant, now));
        let pause = match &self.told {
            Some((told, _)) if told == codes => AGAIN,
            _ => lasting,
        };
        let before = self.told.as_ref().map_or(began, |(_, at)| *at);
        if instant.duration_since(before) < pause {
            return None;
        }
        self.told = Some((codes.to_vec(), instant));
        Some(News::Degraded(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_again_each_hour_and_at_its_end() {
        const STALE: &[&str] = &["list-stale"];
        const BOTH: &[&str] = &["file-refused", "list-stale"];
        let start = Instant::now();
        let at = |second: u64| {
            let time = Timestamp::from_second(i64::try_from(second).unwrap()).unwrap();
            (time, start + Duration::from_secs(second))
        };
        let since = |second: u64| Some(News::Degraded(at(second).0));
        let mut health = Health::default();
        // Second, what is wrong, what is told.
        let story: &[(u64, &[&'static str], Option<News>)] = &[
            (0, &[], None),
            // A boot without a list, for a moment.
            (10, STALE, None),
            (20, &[], None),
            (300, STALE, None),
            (301, STALE, None),
            (600, STALE, since(300)),
            (650, STALE, None),
            // Something else, but not at once.
            (651, BOTH, None),
            (750, BOTH, since(300)),
            (751, STALE, None),
            (4_349, BOTH, None),
            (4_350, BOTH, since(300)),
            (4_351, &[], Some(News::Healthy)),
            (4_352, &[], None),
            (4_353, STALE, None),
            (4_503, STALE, since(4_353)),
        ];
        for (second, codes, told) in story {
            let lasting = Duration::from_secs(150);
            assert_eq!(
                health.after(codes, lasting, at(*second)),
                *told,
                "at {second}"
            );
        }
    }
}
