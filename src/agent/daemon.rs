//! The loop of the enforcer: what wakes it, and how long it waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::agent::enforce::{Enforcing, Means, Passed};
use crate::agent::errand::LookAgain;
use crate::agent::lease_breaks::LeaseBreaks;
use crate::agent::signals::{Asked, Signals, StartError};
use crate::agent::wakeups::{
    AgentWatches, Changed, HeldBack, Pending, Subject, Trigger, Wake, watch_inputs,
};
use crate::host::Threads;
use crate::host::service::{Heartbeat, Service};
use crate::host::watch::Change;
use crate::model::config::tables::Config;
use crate::model::file::orders::Whom;
use crate::model::status::schema::{AccountState, Status};

/// What the loop knows besides the enforcer itself.
struct Daemon<Reread, Clock> {
    pending: Arc<Pending>,
    service: Service,
    heartbeat: Heartbeat,
    signals: Signals,
    watches: Option<Arc<AgentWatches>>,
    lease_breaks: LeaseBreaks,
    look_again: LookAgain,
    held_back: HeldBack,
    times: Times,
    /// What the service manager was told last.
    said: String,
    /// Reads the config again, at SIGHUP.
    reread: Reread,
    now: Clock,
}

/// When the loop does what, besides what wakes it.
struct Times {
    full_check: Instant,
    last_full: Instant,
    /// The watches are put on anew with the next full check after this.
    renew: Instant,
    /// When that was last done.
    renewed: Instant,
    /// When events were first lost of those that go on being lost, and last.
    storm: Option<(Instant, Instant)>,
    /// When those are looked at who are not watched.
    unwatched: Instant,
}

/// A watch may die without an event (an unmount, the watcher's thread); until then the full check sees what
/// it would have seen. Thousands of watches take seconds to put on.
const WATCHES_LAST: Duration = Duration::from_hours(1);

/// Least time before lost events cause that.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// Least time between two full passes that lost events cause. It grows while events go on being lost: an account that can
/// bring that about must not keep root looking at everybody.
const STORM_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_STORM_PAUSE: Duration = Duration::from_secs(30);

/// Time between two looks at those who cannot be watched; more where the looks would take more than this share of the time.
const UNWATCHED_PAUSE: Duration = Duration::from_secs(2);
const UNWATCHED_SHARE: u32 = 20;

/// Accounts that a program makes by the hundreds, one after the other, are taken in no more often than this.
const PEOPLE_PAUSE: Duration = Duration::from_secs(1);

/// A look at everybody after the clock was set waits for the fetcher, which then fetches at once: by the new time, the last
/// fetch may be too long ago for `on-stale`.
const CLOCK_PAUSE: Duration = Duration::from_secs(3);

/// Once no event was lost for so long, the next loss is a new one.
const CALM: Duration = Duration::from_mins(1);

/// Time between two tries to get a thread.
const THREADS_PAUSE: Duration = Duration::from_secs(5);

/// sshd waits for the first pass no longer than this: what hangs by then may hang for ever.
const READY_WITHIN: Duration = Duration::from_secs(8);

/// A pass that goes on for so long after SIGTERM hangs; what it leaves is swept up at the next start.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Enforces until SIGTERM or SIGINT. `reread` reads the config again, and has the other half read it at SIGHUP; `now` is
/// the clock.
pub async fn run(
    mut enforcing: Enforcing,
    pending: Arc<Pending>,
    service: Service,
    signals: Signals,
    reread: impl Fn(Asked) -> Result<Config, String>,
    now: impl Fn() -> Timestamp,
) -> Result<(), StartError> {
    let mode = enforcing.reconciler.config.mode.as_str();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mode,
        "enforcer started"
    );
    let again = Arc::clone(&pending);
    let look_again: LookAgain = Arc::new(move |name| again.add(Change::At(Subject::Account(name))));
    enforcing.reconciler.ring = Some(Arc::clone(&look_again));
    let start = Instant::now();
    let mut daemon = Daemon {
        pending,
        service,
        heartbeat: service.heartbeat(),
        signals,
        watches: None,
        lease_breaks: LeaseBreaks::listen()
            .map_err(|error| StartError::Signals("enforcer", error))?,
        look_again,
        held_back: HeldBack::default(),
        times: Times {
            full_check: start,
            last_full: start,
            renew: start,
            renewed: start,
            storm: None,
            unwatched: start,
        },
        said: String::new(),
        reread,
        now,
    };
    let mut wake = Wake {
        why: Trigger::Startup,
        whom: Whom::Everybody,
    };
    while daemon.pass(&mut enforcing, &wake).await {
        let Some(next) = daemon.next_wake(&mut enforcing).await else {
            break;
        };
        wake = next;
    }
    service.stopping();
    daemon.open_all(&mut enforcing).await;
    enforcing.publish_the_rest((daemon.now)());
    tracing::info!("enforcer ended");
    Ok(())
}

impl<Reread, Clock> Daemon<Reread, Clock>
where
    Reread: Fn(Asked) -> Result<Config, String>,
    Clock: Fn() -> Timestamp,
{
    /// One pass, and what goes with it; returns whether to go on.
    async fn pass(&mut self, enforcing: &mut Enforcing, wake: &Wake) -> bool {
        let full = wake.whom == Whom::Everybody;
        let begun = Instant::now();
        self.held_back
            .release(&wake.whom, Instant::now().into_std());
        let mut fresh = None;
        if full {
            let now = Instant::now();
            self.times.last_full = now;
            self.times.full_check = now + enforcing.reconciler.config.verify.every;
            let is_deaf = |watches: &Arc<AgentWatches>| watches.lack().is_some();
            if self.watches.as_ref().is_none_or(is_deaf) || self.times.renew <= now {
                // The old watches, if any, see what happens until the new ones are on, unless there is no room for both.
                self.watches.take_if(|old| old.are_many());
                self.times.renewed = now;
                self.times.renew = now + WATCHES_LAST;
                fresh = enforcing.start_watching(&self.pending);
            }
        }
        let watching = fresh.as_ref().or(self.watches.as_ref());
        if let Some(watches) = watching
            && (full || wake.why == Trigger::SshdAnswered)
        {
            let inputs = enforcing.reconciler.world.sshd_inputs();
            watch_inputs(watches, &enforcing.reconciler.config, inputs);
        }
        let service = self.service;
        let means = Means {
            watches: watching,
            leases: Some(&self.lease_breaks.leases),
            look_again: &self.look_again,
            alive: &|| service.alive(),
            now: (self.now)(),
        };
        let working = enforcing.pass(wake, means);
        let (passed, stopping) = in_time(working, &mut self.signals, wake.why, service).await;
        let Some(passed) = passed else { return false };
        if full {
            enforcing.relay_fetch();
            let next = at(passed.next_look, (self.now)());
            self.times.full_check = self.times.full_check.min(next);
        }
        self.watches = fresh.or(self.watches.take());
        let now = Instant::now();
        let pause = now.duration_since(begun) * UNWATCHED_SHARE;
        self.times.unwatched = self.times.unwatched.max(now + pause);
        if let Some(status) = enforcing.status() {
            for name in &passed.looked.undone {
                let row = status.rows.get(name);
                if row.is_some_and(|row| row.state == AccountState::InSync) {
                    self.held_back.forgive(name);
                }
            }
        }
        self.tell(wake.why, enforcing.status());
        if full || wake.why == Trigger::SshdAnswered {
            // Now that everything is in force and said to be; and again once what sshd's answer depends on is watched.
            let people = enforcing.reconciler.people();
            enforcing.reconciler.world.ask_sshd(people);
        }
        !stopping
    }

    /// Opens what is locked, for as long as a stop may take.
    async fn open_all(&mut self, enforcing: &mut Enforcing) {
        let service = self.service;
        let means = Means {
            watches: self.watches.as_ref(),
            leases: Some(&self.lease_breaks.leases),
            look_again: &self.look_again,
            alive: &|| service.alive(),
            now: (self.now)(),
        };
        // What hangs stays locked until the next start.
        let _ = tokio::time::timeout(LAST_WORK, enforcing.open_all(means)).await;
    }

    /// Waits until there is a reason for a pass; `None` when it is time to end.
    async fn next_wake(&mut self, enforcing: &mut Enforcing) -> Option<Wake> {
        loop {
            if Threads::lack().is_some() {
                // Everything that wants a thread tries again: what asks, what watches, what writes.
                let soon = Instant::now() + THREADS_PAUSE;
                self.times.full_check = self.times.full_check.min(soon);
            } else if enforcing.says_no_threads() {
                enforcing.publish_again((self.now)());
            }
            let retry = enforcing.reconciler.memory.next_retry();
            let slow = enforcing.reconciler.workers.next_due();
            let question = enforcing.sessions.next_question();
            let write = enforcing.next_writing();
            let held_back = self.held_back.next();
            let rest = enforcing.next_rest();
            let unwatched = self.unwatched();
            // Every arm is cancel-safe: signals and the bell keep what arrives meanwhile, sleeping keeps nothing.
            tokio::select! {
                () = self.heartbeat.next() => self.service.alive(),
                asked = self.signals.next() => match asked {
                    Asked::Stop => return None,
                    Asked::Reload | Asked::Sync => {
                        self.service.reloading();
                        enforcing.reconfigure((self.reread)(asked));
                        return Some(everybody(Trigger::Reload));
                    }
                },
                () = self.pending.changed() => {
                    let wake = self.after(enforcing, self.pending.take());
                    if wake.is_some() {
                        return wake;
                    }
                }
                broken = self.lease_breaks.next() => {
                    // Who waits there lets nobody in meanwhile.
                    let (now, memory) = ((self.now)(), &enforcing.reconciler.memory);
                    let wait = |name: &_| memory.pace(name, now);
                    let whom = self.held_back.sift(broken, wait, Instant::now().into_std());
                    if !whom.is_empty() {
                        return Some(Wake { why: Trigger::Drift, whom: Whom::These(whom) });
                    }
                }
                () = until(held_back), if held_back.is_some() => {
                    let due = self.held_back.due(Instant::now().into_std());
                    return Some(Wake { why: Trigger::Drift, whom: Whom::These(due) });
                }
                () = until(question), if question.is_some() => {
                    enforcing.sessions.ask_what_is_due(Instant::now().into_std());
                }
                () = until(rest), if rest.is_some() => enforcing.tell_the_rest(Instant::now().into_std()),
                () = until(write), if write.is_some() => enforcing.publish_again((self.now)()),
                answer = enforcing.sessions.answer() => {
                    enforcing.take_sessions(answer, (self.now)());
                }
                () = tokio::time::sleep_until(self.times.full_check) => return Some(everybody(Trigger::Timer)),
                () = tokio::time::sleep_until(self.times.unwatched), if unwatched.is_some() => {
                    self.times.unwatched = Instant::now() + UNWATCHED_PAUSE;
                    return unwatched.map(|whom| Wake { why: Trigger::Timer, whom });
                }
                () = until(slow), if slow.is_some() => {
                    let due = enforcing.reconciler.workers.due(Instant::now().into_std());
                    return Some(Wake { why: Trigger::Drift, whom: Whom::These(due) });
                }
                () = until(retry), if retry.is_some() => {
                    let due = enforcing.reconciler.memory.due_retries(Instant::now().into_std());
                    return Some(Wake { why: Trigger::Timer, whom: Whom::These(due) });
                }
            }
        }
    }

    /// Whom no event tells of.
    fn unwatched(&self) -> Option<Whom> {
        let Some(watches) = &self.watches else {
            return Some(Whom::Everybody);
        };
        if watches.lack().is_some() {
            return Some(Whom::Everybody);
        }
        let mut accounts = BTreeSet::new();
        for subject in watches.unwatched()?.subjects {
            match subject {
                Subject::Account(name) => accounts.insert(name),
                // What decides about everybody.
                Subject::List | Subject::Fetched | Subject::People => return Some(Whom::Everybody),
            };
        }
        Some(Whom::These(accounts))
    }

    /// Why, and for whom, a pass is made after a change, if at all.
    fn after(&mut self, enforcing: &mut Enforcing, mut changed: Changed) -> Option<Wake> {
        if changed.mounts {
            let file = &enforcing.reconciler.config.accounts.file;
            let whom = enforcing.reconciler.world.read_mounts(file);
            changed.accounts.extend(whom);
        }
        if changed.clock {
            let soon = Instant::now() + CLOCK_PAUSE;
            self.times.full_check = self.times.full_check.min(soon);
        }
        if changed.fetched || changed.lost {
            enforcing.relay_fetch();
        }
        // While a list is held, what the fetcher says may be the confirmation it waits for.
        let is_held = enforcing.reconciler.decision.held.is_some();
        let has_list = changed.list || changed.fetched && is_held;
        let has_people = changed.people && self.times.last_full.elapsed() >= PEOPLE_PAUSE;
        if changed.answered && (changed.lost || has_list || has_people) {
            // After that pass.
            self.pending.answered();
        }
        let (now, instant) = ((self.now)(), Instant::now().into_std());
        let memory = &enforcing.reconciler.memory;
        let wait = |name: &_| memory.back_off(name, now);
        let mut accounts = self.held_back.sift(changed.accounts, wait, instant);
        if changed.lost {
            let times = &mut self.times;
            let pause = times.storm_pause();
            // What is watched may have gone unseen, and another inode have its number: everything is watched anew.
            times.renew = times.renew.min(times.renewed + pause.max(RENEWAL_PAUSE));
            times.full_check = times.full_check.min(times.renew);
            // An account can bring that about on purpose, again and again: the rest of what is known is looked at now,
            // everything a moment later.
            if times.last_full.elapsed() >= pause {
                return Some(everybody(Trigger::Timer));
            }
            times.full_check = times.full_check.min(times.last_full + pause);
        }
        if has_list {
            return Some(everybody(Trigger::ListChanged));
        }
        if has_people {
            return Some(everybody(Trigger::PeopleChanged));
        }
        if changed.people {
            let next = self.times.last_full + PEOPLE_PAUSE;
            self.times.full_check = self.times.full_check.min(next);
        }
        if changed.answered && enforcing.reconciler.world.hear_names() {
            // What sshd may have said is heard after that pass.
            self.pending.answered();
            return Some(everybody(Trigger::NamesAnswered));
        }
        let mut why = Trigger::Drift;
        let heard = if changed.answered {
            enforcing.hear_sshd(now)
        } else {
            None
        };
        if enforcing.reconciler.world.sshd.take_again() {
            let people = enforcing.reconciler.people();
            enforcing.reconciler.world.ask_sshd(people);
        }
        if let Some(whom) = heard {
            why = Trigger::SshdAnswered;
            match whom {
                Whom::Everybody => return Some(everybody(why)),
                Whom::These(names) => accounts.extend(names),
            }
        }
        if accounts.is_empty() && why == Trigger::Drift {
            return None;
        }
        let whom = Whom::These(accounts);
        Some(Wake { why, whom })
    }

    /// Tells the service manager how things are, when it waits for that or when it is news.
    fn tell(&mut self, why: Trigger, status: Option<&Status>) {
        let summary = status.map(Status::summary).unwrap_or_default();
        let is_news = self.said != summary;
        self.said = summary;
        if matches!(why, Trigger::Startup | Trigger::Reload) {
            self.service.ready(&self.said);
        } else if is_news {
            self.service.says(&self.said);
        }
    }
}

impl Times {
    /// Events were lost: how long after the last look at everybody the next one comes.
    fn storm_pause(&mut self) -> Duration {
        let now = Instant::now();
        let began = match self.storm {
            Some((began, last)) if now.duration_since(last) < CALM => began,
            _ => now,
        };
        self.storm = Some((began, now));
        (now.duration_since(began) / 4).clamp(STORM_PAUSE, LONGEST_STORM_PAUSE)
    }
}

fn everybody(why: Trigger) -> Wake {
    Wake {
        why,
        whom: Whom::Everybody,
    }
}

async fn until(instant: Option<std::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for a pass, but neither keeps a start or a reload waiting for what hangs, nor a stop; returns what it came to,
/// `None` when it was left, and whether to stop.
async fn in_time(
    working: impl Future<Output = Passed>,
    signals: &mut Signals,
    why: Trigger,
    service: Service,
) -> (Option<Passed>, bool) {
    let mut working = std::pin::pin!(working);
    let mut awaited = matches!(why, Trigger::Startup | Trigger::Reload);
    let ready_at = Instant::now() + READY_WITHIN;
    let mut stop_at = None;
    loop {
        // Signals keep what arrives meanwhile, and sleeping keeps nothing: cancel-safe.
        tokio::select! {
            passed = &mut working => return (Some(passed), stop_at.is_some()),
            () = signals.stopped(), if stop_at.is_none() => stop_at = Some(Instant::now() + LAST_WORK),
            () = tokio::time::sleep_until(ready_at), if awaited => {
                awaited = false;
                service.ready("the first look at all files is not over yet");
            }
            () = tokio::time::sleep_until(stop_at.unwrap_or(ready_at)), if stop_at.is_some() => return (None, true),
        }
    }
}

/// The instant of a time of day, far off for `None`. A clock that jumps is corrected by the next full check.
fn at(time: Option<Timestamp>, now: Timestamp) -> Instant {
    const FAR: Duration = Duration::from_hours(24);
    let wait = match time {
        // A moment later than the second it expires in, or the pass would come too early.
        Some(time) => {
            Duration::try_from(time.duration_since(now)).unwrap_or_default()
                + Duration::from_millis(50)
        }
        None => FAR,
    };
    Instant::now() + wait.min(FAR)
}
