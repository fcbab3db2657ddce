//! A time as the options of a key have it: `YYYYMMDD[HHMM[SS]][Z]` (`misc.c: parse_absolute_time`).

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};

/// The digits, and whether they are UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsoluteTime {
    at: DateTime,
    pub utc: bool,
}

impl AbsoluteTime {
    /// `None` for what is no time, and for one before 1971: OpenSSH takes 0 for none.
    pub fn read(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        let (digits, utc) = match upper
            .strip_suffix("UTC")
            .or_else(|| upper.strip_suffix('Z'))
        {
            Some(digits) => (digits, true),
            None => (upper.as_str(), false),
        };
        if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let field =
            |from: usize, to: usize| digits.get(from..to).map_or(Some(0), |d| d.parse().ok());
        let date = Date::new(digits[..4].parse().ok()?, field(4, 6)?, field(6, 8)?).ok()?;
        let time = Time::new(field(8, 10)?, field(10, 12)?, field(12, 14)?, 0).ok()?;
        let at = DateTime::from_parts(date, time);
        (at.year() >= 1971).then_some(Self { at, utc })
    }

    /// The time by the clock on the wall in `zone`, summer time and all: what an end of something means. OpenSSH
    /// counts from standard time even in summer (it leaves `tm_isdst` at 0), an hour later.
    pub fn by_the_wall(self, zone: &TimeZone) -> Timestamp {
        let zone = if self.utc { &TimeZone::UTC } else { zone };
        let zoned = zone.to_ambiguous_zoned_datetime(self.at).compatible();
        // Only the last day of 9999, which means for ever, is out of reach.
        zoned.map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    }

    /// The time as OpenSSH takes it: what a beginning of something means, so that nothing begins before it does there.
    pub fn by_openssh(self, zone: &TimeZone) -> Timestamp {
        let wall = self.by_the_wall(zone);
        if self.utc {
            return wall;
        }
        let standard = standard_offset(zone, wall).and_then(|at| at.to_timestamp(self.at).ok());
        standard.unwrap_or(Timestamp::MAX)
    }

    /// A time in UTC as an OpenSSH that only reads local time takes it; `None` for one that is local already.
    pub fn in_standard_time(self, zone: &TimeZone) -> Option<String> {
        let at = self
            .utc
            .then(|| TimeZone::UTC.to_timestamp(self.at).ok())??;
        let local = standard_offset(zone, at)?.to_datetime(at);
        Some(local.strftime("%Y%m%d%H%M%S").to_string())
    }
}

/// OpenSSH hands the digits to mktime(3) with `tm_isdst` 0, and mktime takes the offset of the nearest time of the zone
/// that is not summer time.
fn standard_offset(zone: &TimeZone, at: Timestamp) -> Option<Offset> {
    let now = zone.to_offset_info(at);
    if !now.dst().is_dst() {
        return Some(now.offset());
    }
    let standard = |info: Option<jiff::tz::TimeZoneTransition<'_>>| {
        info.map(|change| (change.offset(), change.timestamp().duration_since(at).abs()))
    };
    let after = standard(zone.following(at).find(|change| !change.dst().is_dst()));
    // The one before summer began ended when that did.
    let mut began = zone
        .preceding(at)
        .skip_while(|change| change.dst().is_dst());
    let start = zone
        .preceding(at)
        .take_while(|change| change.dst().is_dst())
        .last();
    let before = began.next().zip(start);
    let before =
        before.map(|(change, start)| (change.offset(), start.timestamp().duration_since(at).abs()));
    let nearest = before
        .into_iter()
        .chain(after)
        .min_by_key(|(_, distance)| *distance)?;
    Some(nearest.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_and_an_end_are_never_earlier_and_never_later_than_in_openssh() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let check = |text: &str, wall: &str, openssh: &str| {
            let time = AbsoluteTime::read(text).unwrap();
            assert_eq!(time.by_the_wall(&berlin).to_string(), wall, "{text}");
            assert_eq!(time.by_openssh(&berlin).to_string(), openssh, "{text}");
        };
        check("20300101Z", "2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z");
        check(
            "203007010000utc",
            "2030-07-01T00:00:00Z",
            "2030-07-01T00:00:00Z",
        );
        check("20300101", "2029-12-31T23:00:00Z", "2029-12-31T23:00:00Z");
        check(
            "20300701123456",
            "2030-07-01T10:34:56Z",
            "2030-07-01T11:34:56Z",
        );
        let last = "9999-12-30T22:00:00.999999999Z";
        check("99991231Z", last, last);
        check("99991231", last, last);
        for none in [
            "",
            "Z",
            "2030010",
            "2030-1-1",
            "20301301",
            "20300231",
            "19700101",
            "2030010124",
        ] {
            assert_eq!(AbsoluteTime::read(none), None, "{none}");
        }
    }
}
