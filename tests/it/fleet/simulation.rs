//! A fleet on virtual time: the cadence of the real fetch loop, and an account that throttles it.
//!
//! Each host polls as `agent/fetch.rs` does and reads its pages as `host/ssm` does: a first page that is throttled ends
//! the poll, a later one is asked for again until the time limit of the fetch. What AWS does is an assumption: a bucket of
//! tokens for the account, filled at the limit, as deep as `burst` seconds of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::cadence::{Cadence, Outcome, pause};

/// One call and its answer.
const CALL: Duration = Duration::from_millis(50);

/// `timeout` in the config: the pauses of one call may take as long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// `stale-after` in the config.
const STALE_AFTER: Duration = Duration::from_hours(1);

/// `Limits::fetch` in `host/ssm/connect.rs`.
const FETCH: Duration = Duration::from_mins(2);

/// What every host does.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub hosts: u32,
    /// Calls that read the list.
    pub pages: u32,
    pub every: Duration,
    /// Calls a second that the account may make to read lists.
    pub limit: f64,
    /// Seconds of the limit that a quiet account has saved up.
    pub burst: f64,
    pub index: Option<Index>,
}

/// A parameter that says whether the list is worth reading.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// Calls a second that the account may make for it; none where both share one limit.
    pub limit: Option<f64>,
    /// The list is read all the same, this often.
    pub full_every: Duration,
}

/// What was counted in a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub seconds: f64,
    pub calls: u64,
    pub throttled: u64,
    /// Calls that were answered: for the index, and for pages.
    pub answered: [u64; 2],
    /// Polls that brought a list.
    pub polls: u64,
    /// The most calls in one second.
    pub peak: u32,
    /// The most calls in ten seconds in a row, as calls a second.
    pub busiest: f64,
}

/// Seconds until so many of the hosts had a change; infinite where they had it not.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    pub half: f64,
    pub most: f64,
    pub all: f64,
}

#[derive(Clone, Copy)]
struct Host {
    cadence: Cadence,
    /// Calls of this poll that were answered.
    done: u32,
    tries: u32,
    paused: Duration,
    begun: u64,
    /// When the poll began that brought the last list.
    read: Option<u64>,
    /// When the last change arrived.
    got: u64,
    /// When the list itself, not only its index, is next read.
    full: u64,
    /// An event of an earlier turn is void.
    turn: u32,
}

struct Bucket {
    rate: f64,
    depth: f64,
    tokens: f64,
    at: u64,
}

impl Bucket {
    fn new(rate: f64, burst: f64) -> Self {
        let depth = (rate * burst).max(1.0);
        Self {
            rate,
            depth,
            tokens: depth,
            at: 0,
        }
    }

    fn take(&mut self, now: u64) -> bool {
        let gained = seconds(now - self.at) * self.rate;
        self.tokens = (self.tokens + gained).min(self.depth);
        self.at = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// Time is in microseconds.
pub struct Fleet {
    setting: Setting,
    hosts: Vec<Host>,
    due: BinaryHeap<Reverse<(u64, u32, u32)>>,
    lists: Bucket,
    index: Option<Bucket>,
    now: u64,
    down: bool,
    /// When the list last changed.
    changed: u64,
    random: u64,
    counted: Counted,
    second: u64,
    recent: [u32; 10],
}

impl Fleet {
    /// All hosts, stopped.
    pub fn new(setting: Setting, seed: u64) -> Self {
        let host = Host {
            cadence: Cadence::new(setting.every, STALE_AFTER),
            done: 0,
            tries: 0,
            paused: Duration::ZERO,
            begun: 0,
            read: None,
            got: 0,
            full: 0,
            turn: 0,
        };
        let index = setting.index.and_then(|index| index.limit);
        Self {
            setting,
            hosts: vec![host; setting.hosts as usize],
            due: BinaryHeap::new(),
            lists: Bucket::new(setting.limit, setting.burst),
            index: index.map(|limit| Bucket::new(limit, setting.burst)),
            now: 0,
            down: false,
            changed: 0,
            random: seed,
            counted: Counted::default(),
            second: 0,
            recent: [0; 10],
        }
    }

    /// All hosts start or are asked to fetch within `time`, in any order.
    pub fn ask(&mut self, within: Duration) {
        for host in 0..self.setting.hosts {
            let wait = within.mul_f64(self.uniform());
            self.ask_one(host, wait);
        }
    }

    /// The same, one after the other.
    pub fn ask_in_turn(&mut self, apart: Duration) {
        for host in 0..self.setting.hosts {
            self.ask_one(host, apart * host);
        }
    }

    fn ask_one(&mut self, number: u32, wait: Duration) {
        let host = &mut self.hosts[number as usize];
        host.cadence = host.cadence.asked(self.setting.every, STALE_AFTER);
        host.done = 0;
        host.tries = 0;
        host.paused = Duration::ZERO;
        self.push(number, wait);
    }

    /// Another limit to read lists.
    pub fn set_limit(&mut self, limit: f64) {
        self.lists = Bucket {
            at: self.now,
            ..Bucket::new(limit, self.setting.burst)
        };
    }

    /// Whether nothing answers.
    pub fn set_down(&mut self, down: bool) {
        self.down = down;
    }

    /// The list changes now; how long until the hosts have it is said by [`reached`](Self::reached).
    pub fn change(&mut self) {
        self.changed = self.now;
    }

    /// Runs for `time`, and returns what was counted.
    pub fn run(&mut self, time: Duration) -> Counted {
        let start = self.now;
        self.go_on(start + micros(time));
        self.count_from(start)
    }

    /// Runs until all hosts have the last change, `limit` at most.
    pub fn run_until_all_have_it(&mut self, limit: Duration) -> Counted {
        let start = self.now;
        let end = start + micros(limit);
        while self.now < end
            && !self
                .hosts
                .iter()
                .all(|host| host.read >= Some(self.changed))
        {
            let step = micros(limit) / 200;
            self.go_on((self.now + step.max(1)).min(end));
        }
        self.count_from(start)
    }

    fn count_from(&mut self, start: u64) -> Counted {
        self.close_second(self.now / 1_000_000 + 1);
        self.recent = [0; 10];
        let mut counted = std::mem::take(&mut self.counted);
        counted.seconds = seconds(self.now - start);
        counted
    }

    fn go_on(&mut self, end: u64) {
        while let Some(&Reverse((at, number, turn))) = self.due.peek() {
            if at > end {
                break;
            }
            self.due.pop();
            if self.hosts[number as usize].turn == turn {
                self.now = at;
                self.step(number);
            }
        }
        self.now = end;
    }

    /// One call of one host.
    fn step(&mut self, number: u32) {
        let host = self.hosts[number as usize];
        if host.done == 0 && host.tries == 0 {
            self.hosts[number as usize].begun = self.now;
        }
        let begun = self.hosts[number as usize].begun;
        if self.down {
            return self.end(number, Outcome::Failed);
        }
        let of_index = self.setting.index.is_some() && host.done == 0;
        self.count_call();
        let bucket = match &mut self.index {
            Some(index) if of_index => index,
            _ => &mut self.lists,
        };
        if !bucket.take(self.now) {
            self.counted.throttled += 1;
            let first = host.done <= u32::from(self.setting.index.is_some());
            let random = self.draw();
            let host = &mut self.hosts[number as usize];
            host.tries += 1;
            let wait = pause(host.tries, random);
            host.paused += wait;
            let late = self.now + micros(wait) > begun + micros(FETCH);
            if first || late || host.paused > TIMEOUT {
                return self.end(number, Outcome::Throttled);
            }
            return self.push(number, wait);
        }
        self.counted.answered[usize::from(!of_index)] += 1;
        let host = &mut self.hosts[number as usize];
        host.tries = 0;
        host.paused = Duration::ZERO;
        host.done += 1;
        // What the index said is what it said when it was asked.
        if of_index && host.read >= Some(self.changed) && self.now < host.full {
            return self.end(number, Outcome::Succeeded);
        }
        let calls = self.setting.pages + u32::from(self.setting.index.is_some());
        if host.done < calls {
            return self.push(number, CALL);
        }
        if let Some(index) = self.setting.index {
            // `Known::may_be_believed` in `model/list/index.rs`.
            let lasts = index.full_every.mul_f64(0.5 + 0.5 * self.uniform());
            let lasts = lasts.saturating_sub(self.setting.every.mul_f64(1.1));
            let host = &mut self.hosts[number as usize];
            host.full = host.begun + micros(lasts);
        }
        self.end(number, Outcome::Succeeded);
    }

    fn end(&mut self, number: u32, outcome: Outcome) {
        let random = self.draw();
        let host = &mut self.hosts[number as usize];
        if outcome == Outcome::Succeeded {
            if host.read < Some(self.changed) && host.begun >= self.changed {
                host.got = self.now;
            }
            host.read = Some(host.begun);
            self.counted.polls += 1;
        }
        host.done = 0;
        host.tries = 0;
        host.paused = Duration::ZERO;
        host.cadence = host.cadence.after(outcome);
        let wait = host.cadence.wait(random);
        self.push(number, wait);
    }

    fn push(&mut self, number: u32, wait: Duration) {
        let host = &mut self.hosts[number as usize];
        host.turn = host.turn.wrapping_add(1);
        self.due
            .push(Reverse((self.now + micros(wait), number, host.turn)));
    }

    fn count_call(&mut self) {
        self.close_second(self.now / 1_000_000);
        self.counted.calls += 1;
        let at = (self.second % 10) as usize;
        self.recent[at] += 1;
    }

    fn close_second(&mut self, now: u64) {
        while self.second < now {
            let last = self.recent[(self.second % 10) as usize];
            self.counted.peak = self.counted.peak.max(last);
            let ten = f64::from(self.recent.iter().sum::<u32>()) / 10.0;
            self.counted.busiest = self.counted.busiest.max(ten);
            self.second += 1;
            self.recent[(self.second % 10) as usize] = 0;
        }
    }

    /// Since the last change.
    pub fn reached(&self) -> Reached {
        let mut waits: Vec<f64> = self
            .hosts
            .iter()
            .map(|host| match host.read {
                Some(read) if read >= self.changed => seconds(host.got - self.changed),
                _ => f64::INFINITY,
            })
            .collect();
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| waits[((waits.len() as f64 * share).ceil() as usize).max(1) - 1];
        Reached {
            half: at(0.5),
            most: at(0.99),
            all: at(1.0),
        }
    }

    fn uniform(&mut self) -> f64 {
        self.draw() as f64 / u64::MAX as f64
    }

    /// `SplitMix64`.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
