//! What a new signature says, and whether one that was made before may be put.
//!
//! What is published was put by whoever can write there: it chooses no serial and no audience before enough signatures of it
//! count.

use jiff::Timestamp;

use crate::model::escape::escaped;
use crate::model::list::bounds::ADVANCED;
use crate::model::list::statement::{Malformed, Statement};
use crate::model::signature::signers::Signers;
use crate::model::signature::sshsig::{self, SignedBy};

/// A signature that is there: below a path, or in a directory.
#[derive(Clone, Debug)]
pub struct Signature {
    /// All of it, without white space at its end.
    pub text: String,
    pub statement: Statement,
    /// Whose signature counts.
    pub good: Vec<SignedBy>,
    /// Why others do not.
    pub faults: Vec<String>,
}

impl Signature {
    /// Reads it, or says why it is none of `scope`.
    pub fn read(
        stored: &str,
        scope: &str,
        signers: &Signers,
        now: Timestamp,
    ) -> Result<Self, String> {
        if stored.len() > ADVANCED {
            return Err(Malformed::TooLong.reason().to_owned());
        }
        let (text, blocks) = sshsig::blocks(stored);
        let statement = Statement::read(text).map_err(|error| error.reason().to_owned())?;
        if statement.scope != scope {
            return Err(format!("it is for `{}`", escaped(&statement.scope)));
        }
        let (good, faults) = sshsig::verify_all(text, &blocks, signers, now);
        Ok(Self {
            text: stored.trim_end().to_owned(),
            statement,
            good,
            faults,
        })
    }

    /// How many, whether they count or not.
    pub fn signatures(&self) -> usize {
        self.good.len() + self.faults.len()
    }

    /// The same, if so many signatures count.
    pub fn signed(self, needed: usize) -> Result<Self, String> {
        let good = self.good.len();
        if good >= needed {
            return Ok(self);
        }
        Err(sshsig::too_few(good, &needed, &self.faults))
    }
}

/// What was said on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    pub serial: Option<u64>,
    /// Empty for none.
    pub audience: Option<&'a str>,
}

/// Why nothing is signed, or what was signed is not put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// What is there does not count, and more was not said.
    #[error("{0}, so it chooses neither the next serial number nor the audience")]
    Unverified(String),
    #[error("the serial number {serial} is not above {known}, which is published")]
    NotAbove { serial: u64, known: u64 },
    #[error(
        "the serial number that is published, {}, is the highest there is",
        u64::MAX
    )]
    Highest,
    #[error("the serial number that was signed, {serial}, is not known to be the next: {why}")]
    NotNext { serial: u64, why: String },
    #[error("what was signed expired at {0}")]
    Expired(Timestamp),
    #[error("what was signed is of {0}, which is still to come: one of two clocks is wrong")]
    FromFuture(Timestamp),
}

impl Unfit {
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unverified(_) => {
                "name the file of those who may sign with --signers, or say both: --serial with a number above the one that \
                 `agent status` shows on a host, or 1 where there is none, and --audience, \"\" for none"
            }
            Self::NotAbove { .. } => "hosts take no number twice: leave --serial out for the next",
            Self::Highest => "no host takes another list of this scope: publish below another path",
            Self::NotNext { serial, .. } => {
                return Some(format!(
                    "once hosts have it they take no lower one; if that is meant, agree with --serial {serial}"
                ));
            }
            Self::Expired(_) => "sign it anew",
            Self::FromFuture(_) => return None,
        };
        Some(text.to_owned())
    }
}

/// What is published, as far as it can be believed: nothing, what counts, or why it does not.
pub type Known = Option<Result<Signature, String>>;

/// The serial number and the audience of a new signature. `own` is the audience of the config.
pub fn next(
    known: &Known,
    wish: Wish<'_>,
    own: Option<&str>,
) -> Result<(u64, Option<String>), Unfit> {
    let said = wish.audience.map(|audience| match audience {
        "" => None,
        audience => Some(audience.to_owned()),
    });
    let own = own.map(str::to_owned);
    match (known, wish.serial) {
        (None, serial) => Ok((serial.unwrap_or(1), said.unwrap_or(own))),
        (Some(Ok(one)), serial) => {
            let known = one.statement.serial;
            let next = known.checked_add(1).ok_or(Unfit::Highest)?;
            let serial = serial.unwrap_or(next);
            if serial < next {
                return Err(Unfit::NotAbove { serial, known });
            }
            Ok((serial, said.unwrap_or(one.statement.audience.clone())))
        }
        (Some(Err(why)), serial) => match (serial, said, own) {
            (Some(serial), Some(audience), _) => Ok((serial, audience)),
            (Some(serial), None, Some(own)) => Ok((serial, Some(own))),
            _ => Err(Unfit::Unverified(why.clone())),
        },
    }
}

impl Statement {
    /// Whether hosts take it at this time of the day.
    pub fn check_time(&self, now: Timestamp) -> Result<(), Unfit> {
        if self.expires <= now {
            return Err(Unfit::Expired(self.expires));
        }
        if self.issued > now {
            return Err(Unfit::FromFuture(self.issued));
        }
        Ok(())
    }

    /// Whether it may follow what is published. Where `agreed` is a number, or a person signs too, it must be the next one,
    /// or the number that the person said.
    pub fn check_follows(
        &self,
        known: &Known,
        signs_too: bool,
        agreed: Option<u64>,
    ) -> Result<(), Unfit> {
        let serial = self.serial;
        match known {
            Some(Ok(one)) if one.statement == *self => Ok(()),
            Some(Ok(one)) if serial <= one.statement.serial => {
                let known = one.statement.serial;
                Err(Unfit::NotAbove { serial, known })
            }
            _ if !signs_too || agreed == Some(serial) => Ok(()),
            Some(Ok(one)) if serial == one.statement.serial + 1 => Ok(()),
            None if serial == 1 => Ok(()),
            Some(Ok(one)) => Err(Unfit::NotNext {
                serial,
                why: format!("{} is published", one.statement.serial),
            }),
            Some(Err(why)) => Err(Unfit::NotNext {
                serial,
                why: why.clone(),
            }),
            None => Err(Unfit::NotNext {
                serial,
                why: "none is published".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::model::list::contents::Contents;
    use crate::model::signature::signing;

    const SCOPE: &str = "/k/web";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn statement(serial: u64) -> Statement {
        Statement {
            scope: SCOPE.to_owned(),
            audience: Some("prod".to_owned()),
            serial,
            issued: at(0),
            expires: at(60),
            contents: Contents::default(),
        }
    }

    /// What is published, by whom it is signed, and how many of ann and ben must have.
    fn known(statement: &Statement, seeds: &[u8], needed: usize) -> Result<Signature, String> {
        let lines = [signing::line("ann", 1), signing::line("ben", 2)].concat();
        let (signers, _) = Signers::read(&lines, &TimeZone::UTC);
        let text = signing::signed(&statement.text(), seeds);
        let read = Signature::read(&text, SCOPE, &signers, at(1));
        read.and_then(|one| one.signed(needed))
    }

    #[test]
    fn only_what_counts_chooses_the_next_serial_and_the_audience() {
        let check = |known: &Known, wish: (Option<u64>, Option<&str>), own, expected: &str| {
            let (serial, audience) = wish;
            let next = match next(known, Wish { serial, audience }, own) {
                Ok((serial, audience)) => format!("{serial} {}", audience.unwrap_or("-".into())),
                Err(unfit) => unfit.to_string(),
            };
            assert!(next.starts_with(expected), "{next} is not {expected}");
        };
        let good = Some(known(&statement(41), &[1], 1));
        let none = (None, None);
        check(&None, none, None, "1 -");
        check(&None, none, Some("own"), "1 own");
        check(&None, (Some(7), Some("x")), Some("own"), "7 x");
        check(&good, none, None, "42 prod");
        check(&good, none, Some("own"), "42 prod");
        check(&good, (None, Some("")), None, "42 -");
        check(&good, (Some(50), Some("x")), None, "50 x");
        for low in [0, 40, 41] {
            let text = format!("the serial number {low} is not above 41, which is published");
            check(&good, (Some(low), None), None, &text);
        }
        // An attacker's, one signature of two, another scope, and no statement at all.
        let elsewhere = Statement {
            scope: "/k/db".to_owned(),
            ..statement(9)
        };
        let broken = Signature::read("mine", SCOPE, &Signers::default(), at(1));
        for (bad, why) in [
            (
                known(&statement(u64::MAX - 1), &[3], 1),
                "it has 0 good signatures, and needs 1: ",
            ),
            (
                known(&statement(41), &[1], 2),
                "it has 1 signature, and needs 2, so",
            ),
            (
                known(&statement(41), &[1, 1], 2),
                "it has 1 good signature, and needs 2: ",
            ),
            (known(&elsewhere, &[1], 1), "it is for `/k/db`, so"),
            (broken, "it does not begin with"),
        ] {
            let bad = Some(bad);
            check(&bad, none, None, why);
            check(&bad, (Some(42), None), None, why);
            check(&bad, (None, Some("prod")), None, why);
            check(&bad, (Some(42), Some("prod")), None, "42 prod");
            check(&bad, (Some(42), None), Some("own"), "42 own");
        }
        let highest = Some(known(&statement(u64::MAX), &[1], 1));
        check(
            &highest,
            (Some(5), None),
            None,
            "the serial number that is published, 1844",
        );
    }

    #[test]
    fn what_was_signed_before_follows_what_is_published() {
        let check = |known: &Known, serial, signs_too, agreed, expected: &str| {
            let follows = statement(serial).check_follows(known, signs_too, agreed);
            let said = follows.err().map(|unfit| unfit.to_string());
            let said = said.unwrap_or_default();
            assert!(
                said.contains(expected) && said.is_empty() == expected.is_empty(),
                "{said}"
            );
        };
        let good = Some(known(&statement(41), &[1], 1));
        let bad = Some(known(&statement(41), &[], 1));
        // A job without a key puts what goes up.
        check(&good, 42, false, None, "");
        check(&good, 99, false, None, "");
        check(&good, 41, false, None, "");
        check(&good, 40, false, None, "40 is not above 41");
        check(&bad, 1, false, None, "");
        check(&None, 9, false, None, "");
        // A person who signs agrees to what is not the next.
        check(&good, 42, true, None, "");
        check(&good, 41, true, None, "");
        check(
            &good,
            43,
            true,
            None,
            "43, is not known to be the next: 41 is published",
        );
        check(&good, 43, true, Some(44), "is not known");
        check(&good, 43, true, Some(43), "");
        check(&good, 40, true, Some(40), "40 is not above 41");
        check(&bad, 42, true, None, "it has 0 signatures, and needs 1");
        check(&bad, 42, true, Some(42), "");
        check(&None, 1, true, None, "");
        check(&None, 2, true, None, "none is published");
        // The same number with another text.
        let other = Statement {
            audience: None,
            ..statement(41)
        };
        assert!(other.check_follows(&good, true, Some(41)).is_err());
    }

    #[test]
    fn what_has_expired_or_is_to_come_is_not_put() {
        assert_eq!(statement(1).check_time(at(59)), Ok(()));
        assert_eq!(statement(1).check_time(at(60)), Err(Unfit::Expired(at(60))));
        let early = statement(1).check_time(at(-1));
        assert_eq!(early, Err(Unfit::FromFuture(at(0))));
    }
}
