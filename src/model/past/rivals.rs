//! Which changes came lately, so that the same one again is told from a new one, a flood is bounded, and another program
//! that manages the same file is recognised.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::account::AccountName;

/// How long a change is remembered after it last came.
const QUIET: SignedDuration = SignedDuration::from_mins(1);

/// Changes of one account that are told apart: two programs may take turns, and more is a flood.
const TOLD_APART: usize = 4;

/// Incidents of one account in one minute that are kept each on its own. An account can change its file hundreds of
/// times a second, each time in another way, and must not push what is kept of an earlier hour out of the store.
const KEPT_A_MINUTE: u32 = 30;

/// Bytes of one account that are kept in one minute, incidents and contents together, for the same reason.
const BYTES_A_MINUTE: u64 = 1 << 20;

/// The same change so often within [`QUIET`] is no person.
const RIVAL_AFTER: usize = 10;

/// The back-off begins with this, doubles, and ends at [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(50);

/// A change that comes again within this time of its repair.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The longest that a repair waits for a rival's sake. Two programs that undo each other at once, each time, burn the
/// host. It must stay short all the same: an account can bring it about on purpose, to let a key of its own stand
/// longer, and gains one second a time by it.
const LONGEST: Duration = Duration::from_secs(1);

/// The changes of the last minute.
#[derive(Debug, Default)]
pub struct Rivals {
    accounts: BTreeMap<AccountName, Lately>,
}

#[derive(Debug, Default)]
struct Lately {
    /// The last of each.
    changes: Vec<Same>,
    /// What was kept in this minute.
    minute: Minute,
}

#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    began: Option<Timestamp>,
    kept: u32,
    bytes: u64,
}

/// One change, and how it came again.
#[derive(Debug)]
struct Same {
    /// What differed.
    what: String,
    /// Digest of what stood there.
    content: Option<String>,
    /// The incident it is counted in.
    incident: String,
    /// The last times it came.
    times: VecDeque<Timestamp>,
    rival: Option<Rival>,
}

/// A program that makes the same change again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Since when.
    pub since: Timestamp,
    /// How often.
    pub times: u64,
    /// How long the next repair waits; not at all where the change comes at a leisurely pace.
    pub wait: Duration,
    /// A person was told.
    pub said: bool,
}

/// What a change is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// One of its own.
    Fresh,
    /// The same as in this incident, less than a minute later.
    Again(String),
    /// One too many in this minute: counted in this incident, the last of this account.
    Flood(String),
}

impl Rivals {
    /// Takes a change of `what` to `content` and says what it is; `id` is its name, if it is fresh.
    pub fn take(
        &mut self,
        account: &AccountName,
        what: &str,
        content: Option<&str>,
        id: &str,
        now: Timestamp,
    ) -> News {
        let lately = self.accounts.entry(account.clone()).or_default();
        lately.changes.retain(|same| same.is_recent(now));
        if lately
            .minute
            .began
            .is_none_or(|began| elapsed(began, now) >= QUIET)
        {
            lately.minute = Minute {
                began: Some(now),
                ..Minute::default()
            };
        }
        let known = lately.changes.iter().position(|same| same.what == what);
        let news = match known.map(|at| &lately.changes[at]) {
            Some(same) if same.content.as_deref() == content => News::Again(same.incident.clone()),
            _ if lately.minute.kept >= KEPT_A_MINUTE => {
                let last = lately.changes.iter().map(|same| &same.incident).max();
                last.map_or(News::Fresh, |last| News::Flood(last.clone()))
            }
            _ => News::Fresh,
        };
        lately.minute.kept += u32::from(news == News::Fresh);
        let mut same = match known {
            Some(at) => lately.changes.remove(at),
            None => Same {
                what: what.to_owned(),
                content: None,
                incident: String::new(),
                times: VecDeque::with_capacity(RIVAL_AFTER),
                rival: None,
            },
        };
        same.content = content.map(ToOwned::to_owned);
        same.incident = match &news {
            News::Fresh => id.to_owned(),
            News::Again(incident) | News::Flood(incident) => incident.clone(),
        };
        same.came(now);
        lately.changes.push(same);
        if lately.changes.len() > TOLD_APART {
            lately.changes.remove(0);
        }
        news
    }

    /// Whether `bytes` of a fresh change are kept.
    pub fn may_keep(&mut self, account: &AccountName, bytes: u64) -> bool {
        let Some(lately) = self.accounts.get_mut(account) else {
            return true;
        };
        let sum = lately.minute.bytes.saturating_add(bytes);
        let may = sum <= BYTES_A_MINUTE;
        if may {
            lately.minute.bytes = sum;
        }
        may
    }

    /// The rival of an account, while there is one.
    pub fn rival(&self, account: &AccountName) -> Option<&Rival> {
        self.accounts
            .get(account)?
            .changes
            .iter()
            .rev()
            .find_map(|same| same.rival.as_ref())
    }

    /// The same, unless it has been quiet for a minute.
    pub fn recent_rival(&self, account: &AccountName, now: Timestamp) -> Option<&Rival> {
        let mut changes = self.accounts.get(account)?.changes.iter().rev();
        changes.find_map(|same| {
            if same.is_recent(now) {
                same.rival.as_ref()
            } else {
                None
            }
        })
    }

    /// True when a change of this account came within the last minute.
    pub fn knows(&self, account: &AccountName) -> bool {
        self.accounts.contains_key(account)
    }

    /// Every rival.
    pub fn rivals(&self) -> impl Iterator<Item = (&AccountName, &Rival)> {
        self.accounts
            .keys()
            .filter_map(|name| self.rival(name).map(|rival| (name, rival)))
    }

    /// A person was told of this account's rival.
    pub fn said(&mut self, account: &AccountName) {
        let changes = self
            .accounts
            .get_mut(account)
            .into_iter()
            .flat_map(|lately| &mut lately.changes);
        changes
            .filter_map(|same| same.rival.as_mut())
            .for_each(|rival| rival.said = true);
    }

    /// Forgets what came more than a minute ago.
    pub fn forget(&mut self, now: Timestamp) {
        self.accounts.retain(|_, lately| {
            lately.changes.retain(|same| same.is_recent(now));
            !lately.changes.is_empty()
        });
    }

    /// When the last rival will have been quiet for a minute, if there is one.
    pub fn quiet_at(&self) -> Option<Timestamp> {
        let open = |lately: &&Lately| lately.changes.iter().any(|s| s.rival.is_some());
        let changes = self
            .accounts
            .values()
            .filter(open)
            .flat_map(|lately| &lately.changes);
        let last = changes.filter_map(|same| same.times.back()).max()?;
        last.checked_add(QUIET).ok()
    }
}

impl Same {
    fn is_recent(&self, now: Timestamp) -> bool {
        self.times
            .back()
            .is_some_and(|last| elapsed(*last, now) < QUIET)
    }

    fn came(&mut self, now: Timestamp) {
        let last = self.times.back().copied();
        if self.times.len() == RIVAL_AFTER {
            self.times.pop_front();
        }
        self.times.push_back(now);
        let since = if self.times.len() == RIVAL_AFTER {
            self.times.front().copied()
        } else {
            None
        };
        match (&mut self.rival, since) {
            (Some(rival), _) => rival.times += 1,
            (None, Some(since)) if elapsed(since, now) < QUIET => {
                let times = u64::try_from(RIVAL_AFTER).unwrap_or(u64::MAX);
                self.rival = Some(Rival {
                    since,
                    times,
                    wait: Duration::ZERO,
                    said: false,
                });
            }
            (None, _) => return,
        }
        if let (Some(rival), Some(last)) = (&mut self.rival, last) {
            // One that takes its time burns nothing, so nothing is gained by waiting.
            let limit =
                SignedDuration::try_from(rival.wait + AT_ONCE).unwrap_or(SignedDuration::MAX);
            let at_once = elapsed(last, now) < limit;
            rival.wait = if at_once {
                (rival.wait * 2).clamp(SHORTEST, LONGEST)
            } else {
                Duration::ZERO
            };
        }
    }
}

/// A clock that was set back has not gone on.
fn elapsed(since: Timestamp, now: Timestamp) -> SignedDuration {
    now.duration_since(since).max(SignedDuration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).unwrap()
    }

    fn alice() -> AccountName {
        "alice".try_into().unwrap()
    }

    #[test]
    fn the_same_change_within_a_minute_is_the_same_incident() {
        let mut recent = Rivals::default();
        let mut take = |what: &str, content: Option<&str>, id: &str, now| {
            recent.take(&alice(), what, content, id, at(now))
        };
        let again = |id: &str| News::Again(id.to_owned());
        assert_eq!(take("added x", Some("1"), "a", 0), News::Fresh);
        assert_eq!(take("added x", Some("1"), "b", 59_000), again("a"));
        assert_eq!(take("mode 0666", Some("0"), "c", 59_500), News::Fresh);
        assert_eq!(
            take("added x", Some("1"), "d", 118_000),
            again("a"),
            "the minute begins anew each time"
        );
        assert_eq!(
            take("added x", Some("2"), "e", 118_001),
            News::Fresh,
            "another content is evidence of its own"
        );
        assert_eq!(
            take("added x", Some("2"), "f", 178_002),
            News::Fresh,
            "a minute later"
        );
        assert_eq!(
            recent.take(
                &"bob".try_into().unwrap(),
                "added x",
                Some("2"),
                "g",
                at(178_003)
            ),
            News::Fresh
        );
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let mut recent = Rivals::default();
        let mut fresh = 0;
        for number in 0..1000 {
            let (what, id) = (format!("added {number}"), format!("{number:04}"));
            match recent.take(&alice(), &what, None, &id, at(number)) {
                News::Fresh => fresh += 1,
                News::Flood(into) => assert_eq!(into, format!("{:04}", KEPT_A_MINUTE - 1)),
                News::Again(_) => panic!("{number} is another one"),
            }
        }
        assert_eq!(fresh, KEPT_A_MINUTE);
        assert!(recent.may_keep(&alice(), BYTES_A_MINUTE - 1));
        assert!(!recent.may_keep(&alice(), 2) && recent.may_keep(&alice(), 1));
        assert_eq!(
            recent.take(&alice(), "added y", None, "later", at(60_000)),
            News::Fresh
        );
        assert!(recent.may_keep(&alice(), BYTES_A_MINUTE));
        assert_eq!(recent.rivals().count(), 0);
    }

    #[test]
    fn a_rival_is_waited_for_longer_and_longer_and_forgotten_after_a_quiet_minute() {
        let mut recent = Rivals::default();
        let mut waits = Vec::new();
        for number in 0..16 {
            recent.take(
                &alice(),
                "removed x",
                Some(&number.to_string()),
                "id",
                at(number * 100),
            );
            recent.take(&alice(), "mode 0644", None, "id", at(number * 100 + 50));
            waits.push(recent.rival(&alice()).map(|rival| rival.wait.as_millis()));
        }
        assert_eq!(waits[..9], [None; 9]);
        let expected = [50, 100, 200, 400, 800, 1000, 1000].map(Some);
        assert_eq!(waits[9..], expected);
        let rival = recent.rival(&alice()).unwrap();
        assert_eq!((rival.times, rival.said), (16, false));
        recent.said(&alice());
        assert!(recent.rival(&alice()).unwrap().said);
        assert_eq!(recent.quiet_at(), Some(at(61_550)));
        recent.forget(at(61_549));
        assert_eq!(recent.rivals().count(), 1);
        recent.forget(at(61_550));
        assert_eq!((recent.rivals().count(), recent.quiet_at()), (0, None));
    }

    #[test]
    fn a_rival_that_takes_its_time_is_named_and_not_waited_for() {
        let mut recent = Rivals::default();
        for number in 0..12 {
            recent.take(&alice(), "removed x", None, "id", at(number * 5_000));
        }
        assert_eq!(
            recent
                .rival(&alice())
                .map(|rival| (rival.times, rival.wait)),
            Some((12, Duration::ZERO))
        );
        recent.take(&alice(), "removed x", None, "id", at(55_900));
        assert_eq!(
            recent.rival(&alice()).map(|rival| rival.wait),
            Some(SHORTEST)
        );
    }

    #[test]
    fn ten_times_in_more_than_a_minute_is_nobody() {
        let mut recent = Rivals::default();
        for number in 0..30 {
            recent.take(&alice(), "removed x", None, "id", at(number * 7_000));
        }
        assert_eq!(recent.rivals().count(), 0);
    }
}
