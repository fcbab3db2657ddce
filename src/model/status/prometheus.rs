//! For Prometheus, as the textfile collector of `node_exporter` reads it (Prometheus, "Exposition formats"). What may change at any
//! time has all of its series from the start, with 0, as Prometheus' "Avoid missing metrics" asks. What is not known has none.

use jiff::Timestamp;

use crate::model::escape::quoted;
use crate::model::status::problem::{CODES, Severity};
use crate::model::status::schema::{Health, Status};

/// What every name begins with.
const PREFIX: &str = "authorized_keys_agent_";

#[derive(Default)]
struct Text {
    text: String,
    /// The metric that samples belong to.
    name: &'static str,
}

impl Text {
    fn metric(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        for (what, of) in [("HELP", help), ("TYPE", kind)] {
            for part in ["# ", what, " ", PREFIX, name, " ", of, "\n"] {
                self.text.push_str(part);
            }
        }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: i64) {
        self.text.push_str(PREFIX);
        self.text.push_str(self.name);
        let mut before = "{";
        for (name, value) in labels {
            for part in [before, name, "=", &quoted(value)] {
                self.text.push_str(part);
            }
            before = ",";
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        for part in [" ", &value.to_string(), "\n"] {
            self.text.push_str(part);
        }
    }

    fn count(&mut self, labels: &[(&str, &str)], value: usize) {
        self.sample(labels, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn time(&mut self, name: &'static str, help: &str, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.metric(name, "gauge", help);
            self.sample(&[], at.as_second());
        }
    }
}

impl Status {
    /// As `--format prometheus` prints it at `now`.
    pub fn metrics(&self, now: Timestamp) -> String {
        let tally = self.tally();
        let codes = self.codes(Severity::Warning);
        let mut out = Text::default();
        out.metric("info", "gauge", "Version and mode of the agent.");
        let instance = self.host.instance.as_deref().unwrap_or_default();
        let labels = [
            ("version", &*self.version),
            ("mode", &self.mode),
            ("instance_id", instance),
        ];
        out.sample(&labels, 1);
        out.metric("health", "gauge", "1 for the health that the host has.");
        for health in Health::ALL {
            let is = health == self.health();
            out.count(&[("health", health.as_str())], is.into());
        }
        out.metric("problem", "gauge", "1 for each problem that is there.");
        for code in CODES {
            let is = codes.contains(code);
            out.count(&[("code", code)], is.into());
        }
        out.metric("accounts", "gauge", "Accounts by state.");
        for (state, count) in tally.states() {
            out.count(&[("state", state.as_str())], count);
        }
        out.metric(
            "keys",
            "gauge",
            "Keys in force, in observe mode keys found.",
        );
        out.count(&[], tally.keys);
        out.metric(
            "held_removals",
            "gauge",
            "Keys that a held list would remove.",
        );
        out.count(&[], self.list.held.as_ref().map_or(0, |held| held.removed));
        out.metric(
            "rejected_lines",
            "gauge",
            "Lines of the list that cannot be taken.",
        );
        out.count(&[], self.rejected.len());
        // An enforcer has spoken since the host booted, or what it has done is not known.
        if self.enforcer.pid != 0 {
            out.metric("repairs_total", "counter", "Changes undone since boot.");
            out.count(
                &[],
                usize::try_from(self.drift.repaired).unwrap_or(usize::MAX),
            );
            let last = self.drift.last.as_ref().map(|last| last.at);
            out.time(
                "last_repair_timestamp_seconds",
                "When the last change was undone.",
                last,
            );
            let at = Some(self.enforcer.started_at);
            out.time(
                "enforcer_start_timestamp_seconds",
                "When the enforcer started.",
                at,
            );
        }
        let at = self.list.confirmed_at;
        out.time(
            "list_confirmed_timestamp_seconds",
            "When a fetch last found the list in force.",
            at,
        );
        out.time(
            "signature_expires_timestamp_seconds",
            "When the signature of the list in force ends, the first where it has several.",
            self.list.signed_until(),
        );
        out.time(
            "report_timestamp_seconds",
            "When this was written.",
            Some(now),
        );
        out.text
    }
}
