//! `incidents`: what was changed in managed files, and how it was undone. Exit 0 listed, or none; 2 usage or config, or not
//! readable.

use crate::cli::print;
use crate::cli::wrap::{Colour, wrap};
use crate::model::sorting;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, civil};
use serde::Serialize;

use crate::agent::paths;
use crate::cli::surroundings::{self, Outcome};
use crate::host::store;
use crate::host::{DETAIL, chain};
use crate::model::config::tables::Config;
use crate::model::escape::escaped;
use crate::model::past::incident::{Incident, Kept, SCHEMA, Since, Undone, Who};
use crate::model::status::problem::duration;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent incidents --since yesterday
      What was changed since then, and by whom

Exit status:
  0  listed, or there is none
  2  wrong usage or configuration, or not readable";

#[derive(Args)]
pub(super) struct Arguments {
    /// Print JSON, schema 1
    #[arg(long)]
    json: bool,
    /// Only those since then: `1h`, `2d`, `today`, `yesterday`, `2026-11-25`, `2026-11-25T10:00:00Z`
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Listed {
    schema: u32,
    incidents: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    incident: Incident,
    /// The file with what is kept of the content.
    content_file: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Outcome {
    let since = arguments
        .since
        .as_deref()
        .map(|text| point(text, surroundings::now(), &surroundings::zone()))
        .transpose()?;
    let directory = paths::incidents(&config.paths);
    let mut incidents = read(&directory)?;
    incidents.retain(|told| since.is_none_or(|since| told.incident.last_at >= since));
    let text = if arguments.json {
        let mut text = serde_json::to_string_pretty(&Listed {
            schema: SCHEMA,
            incidents,
        })?;
        text.push('\n');
        text
    } else if incidents.is_empty() {
        "no incident\n".to_owned()
    } else {
        incidents
            .iter()
            .map(describe)
            .collect::<Vec<_>>()
            .join("\n")
    };
    print::data(&text)?;
    Ok(0)
}

/// All that can be read, in order of time.
fn read(directory: &Path) -> anyhow::Result<Vec<Told>> {
    let mut names = match store::names(directory) {
        Err(error) if error.is_denied() => {
            bail!("{}; incidents are for root alone", chain(&error))
        }
        names => names?,
    };
    sorting::sort(&mut names);
    let mut all = Vec::new();
    for (name, size) in &names {
        let Some(id) = name.strip_suffix(".json") else {
            continue;
        };
        if *size == 0 {
            // A power cut left it; the enforcer removes it when it starts.
            tracing::info!(target: DETAIL, name, "empty, passed over");
            continue;
        }
        match store::read_json::<Incident>(&directory.join(name)) {
            Ok(Some(incident)) if incident.id == id => {
                let content = format!("{id}.content");
                let content = names
                    .iter()
                    .any(|(name, _)| *name == content)
                    .then(|| directory.join(content));
                all.push(Told {
                    incident,
                    content_file: content,
                });
            }
            Ok(Some(_)) => tracing::warn!(name, "not the incident it is named after, passed over"),
            // It went to make room.
            Ok(None) => {}
            Err(error) => tracing::warn!(error = chain(&error), "passed over"),
        }
    }
    Ok(all)
}

/// A point in time as people write it.
fn point(text: &str, now: Timestamp, zone: &TimeZone) -> anyhow::Result<Timestamp> {
    let midnight = |date: civil::Date| anyhow::Ok(zone.to_timestamp(date.at(0, 0, 0, 0))?);
    let today = zone.to_datetime(now);
    match text {
        "today" => return midnight(today.date()),
        "yesterday" => return midnight(today.date().yesterday()?),
        _ => {}
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(at) = text.parse::<civil::DateTime>() {
        return Ok(zone.to_timestamp(at)?);
    }
    let ago = text.parse::<Span>().ok().filter(Span::is_positive);
    let ago = ago.with_context(|| {
        format!(
            "not a time: `{}`; write 1h, 2d, today, yesterday, 2026-11-25 or 2026-11-25T10:00:00Z",
            escaped(text)
        )
    })?;
    // A day is a day of the calendar; hours are hours, whatever the clocks do.
    Ok(now
        .checked_sub(ago)
        .or_else(|_| zone.to_timestamp(today.checked_sub(ago)?))?)
}

fn describe(told: &Told) -> String {
    let incident = &told.incident;
    let mut text = format!(
        "{:.3}  {}  {}\n",
        incident.at,
        incident.account,
        escaped(&incident.file)
    );
    let mut line = |words: &str| wrap(&mut text, ("", Colour::None), 2, &escaped(words));
    for change in &incident.changes {
        line(&change.to_string());
    }
    if incident.more_changes > 0 {
        line(&format!("and {} more", incident.more_changes));
    }
    let stood = match (incident.stood_milliseconds, incident.stood_since) {
        (Some(stood), Some(Since::Seen)) => {
            format!("stood {} after the agent first saw it", brief(stood))
        }
        (Some(stood), _) => format!("stood {}", brief(stood)),
        (None, _) => "stood for an unknown time".to_owned(),
    };
    let undone = match incident.undone {
        Undone::Replaced => "undone: the agent replaced the file",
        Undone::Removed => "undone: the agent removed the file",
        Undone::Prevented => "prevented: the agent replaced the file before the write",
        Undone::Cut => "undone: without room for a new file, the agent wrote over this one",
        Undone::Renewed => "undone: the agent renamed the directory and made a new one",
        Undone::SeenOnly => "seen and not undone (mode = \"observe\")",
    };
    line(&format!("{stood}, {undone}"));
    if let Some(who) = &incident.who {
        let first = if incident.repeated > 0 {
            "the first "
        } else {
            ""
        };
        line(&format!("{first}by {}", said_of(who)));
    }
    if incident.repeated > 0 {
        let again = match incident.repeated {
            1 => "once".to_owned(),
            many => format!("{many} times"),
        };
        line(&format!(
            "the same came again {again}, last at {:.3}",
            incident.last_at
        ));
    }
    for who in &incident.again_by {
        line(&format!("again by {}", said_of(who)));
    }
    if incident.uncounted > 0 {
        line(&format!(
            "other changes in the same minute: {}, not kept one by one",
            incident.uncounted
        ));
    }
    if let Some(evidence) = &incident.evidence {
        let kept = match (evidence.kept, &told.content_file) {
            (Kept::Whole, Some(path)) => path.display().to_string(),
            (Kept::Cut, Some(path)) => format!("{}, the beginning of it", path.display()),
            (Kept::Lines, Some(path)) => format!("{}, without comments", path.display()),
            _ => "not kept".to_owned(),
        };
        let (bytes, sha256) = (evidence.bytes, &evidence.sha256);
        line(&format!("content {kept} ({bytes} bytes, {sha256})"));
    }
    text
}

fn said_of(who: &Who) -> String {
    let login = match who.auid {
        Some(auid) => format!("logged in as uid {auid}"),
        None => "no login".to_owned(),
    };
    let Who {
        exe,
        comm,
        pid,
        uid,
        ..
    } = who;
    format!(
        "{exe} ({comm}), pid {pid}, uid {uid}, {login}, at {:.3}",
        who.at
    )
}

/// What is over in a moment is told in finer units.
fn brief(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        _ => duration(i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_in_time_is_read_as_people_write_it() {
        let (now, zone) = (
            "2026-11-25T22:11:33Z".parse().unwrap(),
            TimeZone::fixed(jiff::tz::offset(1)),
        );
        let check = |text: &str, expected: &str| {
            assert_eq!(
                point(text, now, &zone).unwrap().to_string(),
                expected,
                "{text}"
            );
        };
        check("2026-11-25T10:00:00Z", "2026-11-25T10:00:00Z");
        check("2026-11-25T10:00:00", "2026-11-25T09:00:00Z");
        check("2026-11-25", "2026-11-24T23:00:00Z");
        check("today", "2026-11-24T23:00:00Z");
        check("yesterday", "2026-11-23T23:00:00Z");
        check("90m", "2026-11-25T20:41:33Z");
        check("2d", "2026-11-23T22:11:33Z");
        for text in ["", "soon", "-1h", "2026-13-01"] {
            let error = point(text, now, &zone).unwrap_err().to_string();
            assert!(error.starts_with("not a time"), "{text}: {error}");
        }
    }

    #[test]
    fn how_long_it_stood_is_told_in_the_unit_that_a_person_would_take() {
        let check = |milliseconds, expected: &str| assert_eq!(brief(milliseconds), expected);
        check(0, "0 ms");
        check(999, "999 ms");
        check(1_950, "1.9 s");
        check(61_999, "1 min 1 s");
        check(7_265_000, "2 h 1 min");
        check(90_000_000, "1 d 1 h");
    }
}
