//! Prints what fleets of 10 to 1,000,000 do to Parameter Store, and how long they wait. Made and run by `tests/fleet`.

#[path = "../../../src/model/list/cadence.rs"]
mod cadence;
mod simulation;

use std::time::Duration;

use simulation::{Counted, Fleet, Index, Setting};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// More hosts are simulated by a part of them that share the same part of the limits.
const MOST: u32 = 10_000;

/// How the hosts read.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    pages: u32,
    /// Parameters that a page returns.
    parameters: u32,
    limit: f64,
    /// Calls a second for the index, where it has a limit of its own.
    index: Option<Option<f64>>,
    /// Higher throughput is billed.
    billed: bool,
}

const fn by_path(name: &'static str, pages: u32, limit: f64) -> Layout {
    Layout {
        name,
        pages,
        parameters: 10,
        limit,
        index: None,
        billed: limit > 40.0,
    }
}

const LAYOUTS: [Layout; 12] = [
    by_path("1 page", 1, 40.0),
    by_path("3 pages", 3, 40.0),
    by_path("25 pages", 25, 40.0),
    by_path("1 page", 1, 100.0),
    by_path("3 pages", 3, 100.0),
    by_path("25 pages", 25, 100.0),
    by_path("1 x 10 names", 1, 1_000.0),
    by_path("3 x 10 names", 3, 1_000.0),
    by_path("25 x 10 names", 25, 1_000.0),
    Layout {
        index: Some(None),
        ..by_path("index, 25 pages", 25, 40.0)
    },
    Layout {
        index: Some(Some(1_000.0)),
        ..by_path("index, 25 pages", 25, 100.0)
    },
    Layout {
        parameters: 1,
        ..by_path("1 name", 1, 1_000.0)
    },
];

const SIZES: [u32; 6] = [10, 100, 2_000, 20_000, 100_000, 1_000_000];

const EVERIES: [Duration; 8] = [
    MINUTE,
    Duration::from_mins(2),
    Duration::from_mins(5),
    Duration::from_mins(10),
    Duration::from_mins(30),
    HOUR,
    Duration::from_hours(3),
    Duration::from_hours(12),
];

impl Layout {
    /// Part of the hosts, and the same part of the limits.
    fn fleet(&self, hosts: u32, every: Duration, burst: f64) -> (Fleet, f64) {
        let simulated = hosts.min(MOST);
        let part = f64::from(hosts) / f64::from(simulated);
        let setting = Setting {
            hosts: simulated,
            pages: self.pages,
            every,
            limit: self.limit / part,
            burst,
            index: self.index.map(|limit| Index {
                limit: limit.map(|limit| limit / part),
                full_every: self.full_every(hosts, every),
            }),
        };
        (Fleet::new(setting, 1), part)
    }

    /// Often enough to be a net, and half of the limit at most.
    fn full_every(&self, hosts: u32, every: Duration) -> Duration {
        let pages = f64::from(hosts) * f64::from(self.pages);
        let least = Duration::from_secs_f64(pages / self.limit / 0.75 / 0.4);
        least.max(every * 6).max(MINUTE * 15)
    }

    /// The shortest `every` with which the account is asked for four fifths of its limit at most.
    fn every(&self, hosts: u32) -> Option<Duration> {
        let fits = |every: &&Duration| {
            let polls = f64::from(hosts) / every.as_secs_f64();
            match self.index {
                None => polls * f64::from(self.pages) <= 0.84 * self.limit,
                Some(Some(limit)) => polls <= 0.84 * limit,
                Some(None) => polls <= 0.44 * self.limit,
            }
        };
        // A change is read by all of them, however they heard of it.
        let round = f64::from(hosts) * f64::from(self.pages) / self.limit;
        let fits_all = self.index.is_none() || round <= HOUR.as_secs_f64();
        EVERIES.iter().find(fits).copied().filter(|_| fits_all)
    }

    fn dollars(&self, counted: &Counted, part: f64) -> f64 {
        let [index, pages] = counted.answered;
        let returned = index as f64 + pages as f64 * f64::from(self.parameters);
        let month = 730.0 * 3600.0;
        if self.billed {
            returned * part / counted.seconds * month * 0.05 / 10_000.0
        } else {
            0.0
        }
    }

    fn row(&self, hosts: u32, every: Duration, burst: f64) {
        let limit = (every * 8).max(HOUR * 24);
        let (mut fleet, part) = self.fleet(hosts, every, burst);
        let shown = |counted: &Counted| format!("{:.0}", counted.busiest * part);

        fleet.ask(Duration::from_secs(1));
        fleet.run(Duration::from_secs(15));
        let boot = fleet.run_until_all_have_it(limit);
        let booted = fleet.reached();

        fleet.run((every * 12).max(HOUR));
        fleet.change();
        let steady = fleet.run((every * 5).max(HOUR));
        fleet.run_until_all_have_it(limit);
        let revoked = fleet.reached();

        fleet.run((every * 6).max(HOUR));
        fleet.set_down(true);
        fleet.run(HOUR);
        fleet.set_down(false);
        fleet.change();
        let outage = fleet.run_until_all_have_it(limit);
        let back = fleet.reached();

        fleet.run((every * 12).max(HOUR));
        fleet.change();
        fleet.ask(Duration::from_secs(1));
        fleet.run_until_all_have_it(limit);
        let pushed = fleet.reached();

        fleet.run((every * 12).max(HOUR));
        fleet.change();
        // Two seconds a command, 50 at a time.
        fleet.ask_in_turn(Duration::from_secs_f64(2.0 / 50.0 * part));
        fleet.run_until_all_have_it(limit);
        let in_turn = fleet.reached();

        let share = 100.0 * steady.throttled as f64 / steady.calls.max(1) as f64;
        let rate = steady.calls as f64 * part / steady.seconds;
        println!(
            "{hosts:>9} {:>16} {:>6} {:>6} {rate:>8.1} {share:>5.1} | {} | {} {:>6} | {} {:>6} | {} | {} | {:>8.0}",
            self.name,
            self.limit,
            time(every.as_secs_f64()),
            [revoked.half, revoked.most, revoked.all]
                .map(time)
                .join(" "),
            [booted.half, booted.most, booted.all].map(time).join(" "),
            shown(&boot),
            [back.half, back.most, back.all].map(time).join(" "),
            shown(&outage),
            [pushed.half, pushed.most, pushed.all].map(time).join(" "),
            [in_turn.half, in_turn.most, in_turn.all]
                .map(time)
                .join(" "),
            self.dollars(&steady, part),
        );
    }
}

/// Always as wide: `45s`, `12m`, `3.5h`.
fn time(seconds: f64) -> String {
    let text = match seconds {
        s if s.is_infinite() => "never".to_owned(),
        s if s < 99.5 => format!("{s:.0}s"),
        s if s < 5_970.0 => format!("{:.0}m", s / 60.0),
        s => format!("{:.1}h", s / 3600.0),
    };
    format!("{text:>5}")
}

fn head(what: &str) {
    println!("\n{what}");
    println!(
        "{:>9} {:>16} {:>6} {:>6} {:>8} {:>5} | {:^17} | {:^24} | {:^24} | {:^17} | {:^17} | {:>8}",
        "hosts",
        "list",
        "limit",
        "every",
        "calls/s",
        "thr.%",
        "a change",
        "boot of all, then /s",
        "end of outage, then /s",
        "push, all at once",
        "push, 50 at once",
        "$/month"
    );
}

fn main() {
    let most = std::env::args()
        .nth(1)
        .map_or(Ok(u32::MAX), |most| most.parse());
    let most = most.expect("the number of hosts of the largest fleet");
    let sizes = || SIZES.into_iter().filter(|hosts| *hosts <= most);
    println!(
        "Simulated. Limits a second; times until 50, 99 and 100 % of the hosts have the list; /s is the busiest ten seconds."
    );
    for burst in [1.0, 10.0] {
        head(&format!(
            "The shortest `every` that fits, and a bucket of {burst} s of the limit"
        ));
        for hosts in sizes() {
            for layout in &LAYOUTS {
                match layout.every(hosts) {
                    Some(every) => layout.row(hosts, every, burst),
                    None => println!(
                        "{hosts:>9} {:>16} {:>6}  does not fit: a list a host would take {}",
                        layout.name,
                        layout.limit,
                        time(f64::from(hosts) * f64::from(layout.pages) / layout.limit).trim()
                    ),
                }
            }
        }
    }
    head("every = 1m as shipped, whether it fits or not");
    for hosts in sizes() {
        for layout in LAYOUTS
            .iter()
            .filter(|layout| layout.every(hosts) != Some(MINUTE))
        {
            layout.row(hosts, MINUTE, 1.0);
        }
    }
}
