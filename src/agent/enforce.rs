//! A pass and its effects: what a pass returns is saved, told and published here and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::agent::errand::LookAgain;
use crate::agent::events::Teller;
use crate::agent::fetched;
use crate::agent::gather::{self, List};
use crate::agent::incidents::Incidents;
use crate::agent::pass::{Auditor, Look, Looked, Reconciler};
use crate::agent::publish::{News, Publisher};
use crate::agent::sessions::{Answer, Sessions};
use crate::agent::signals::StartError;
use crate::agent::wakeups::{AgentWatches, Pending, Subject, Trigger, Wake, watch};
use crate::agent::workers::{LONG_PATIENCE, PATIENCE};
use crate::agent::{events, paths};
use crate::host::keyfile::Leases;
use crate::host::process::{self, Lock};
use crate::host::{DETAIL, Threads, chain, journal, keyfile, store};
use crate::model::config::tables::{Config, Mode, Paths};
use crate::model::desired::decide::Trouble;
use crate::model::desired::guard::Held;
use crate::model::escape::escaped;
use crate::model::file::orders::Whom;
use crate::model::list::rejected::Rejected;
use crate::model::past::health::{self, Health};
use crate::model::status::assess::{self, OfEnforcer, OfFetcher, fights, rivals};
use crate::model::status::problem::{Cause, Problem};
use crate::model::status::schema::{Enforcer, Host, Status};
use crate::model::status::told::told;

/// Makes this process the enforcer of this host, for as long as the lock is held.
pub fn claim(paths: &Paths) -> Result<Lock, StartError> {
    process::widen_umask();
    store::make_directory(&paths.runtime_dir, 0o755)
        .map_err(|error| StartError::Directory("enforcer", error))?;
    let lock = process::lock(&paths::enforce_lock(paths))
        .map_err(|error| StartError::Lock("enforcer", error))?;
    keyfile::drop_supplementary_groups().map_err(|error| StartError::Groups(error.into()))?;
    process::raise_descriptor_limit();
    Ok(lock)
}

/// A reconciler, and everything by which what it returns has an effect.
pub struct Enforcing {
    pub reconciler: Reconciler,
    status: Option<Status>,
    effects: Effects,
    pub sessions: Sessions,
}

/// What was done last, so that it is not done again.
struct Effects {
    host_name: String,
    teller: Teller,
    incidents: Incidents,
    publisher: Publisher,
    enforcer: Enforcer,
    /// Fingerprint of what `enforced.json` holds.
    saved: Option<u64>,
    /// Why it could not be saved.
    unsaved: Option<String>,
    config_unusable: Option<String>,
    nothing_watched: Option<String>,
    unwatched: Option<Cause>,
    /// What was told of the list that is still so.
    held: Option<Held>,
    refused: Vec<Trouble>,
    rejected: Vec<Rejected>,
    health: Health,
}

/// What a pass came to, for the loop and the commands.
pub struct Passed {
    pub looked: Looked,
    /// When everything must be looked at again: a key expires, or something was left to settle.
    pub next_look: Option<Timestamp>,
}

/// By whose clock, and through whose watches, a pass goes.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    pub watches: Option<&'a Arc<AgentWatches>>,
    pub leases: Option<&'a Arc<Leases>>,
    pub look_again: &'a LookAgain,
    pub alive: &'a dyn Fn(),
    pub now: Timestamp,
}

/// By then every account has calmed down.
const CALM: Duration = Duration::from_mins(2);

impl Enforcing {
    pub fn new(reconciler: Reconciler, now: Timestamp) -> Self {
        let teller = Teller::default();
        let directory = paths::incidents(&reconciler.config.paths);
        let mut incidents = Incidents::new(&directory, teller.clone());
        incidents.tidy_up();
        let effects = Effects {
            host_name: process::host_name(),
            teller,
            incidents,
            publisher: Publisher::default(),
            enforcer: Enforcer {
                pid: std::process::id(),
                started_at: now,
                written_at: now,
                asked_at: None,
            },
            saved: reconciler.saved,
            unsaved: None,
            config_unusable: None,
            nothing_watched: None,
            unwatched: None,
            held: None,
            refused: Vec::new(),
            rejected: Vec::new(),
            health: Health::default(),
        };
        Self {
            reconciler,
            status: None,
            effects,
            sessions: Sessions::default(),
        }
    }

    /// What the last pass found.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// One pass over everything, without watching.
    pub async fn once(&mut self, accepted: Option<String>, now: Timestamp) -> Passed {
        self.decide(accepted, Some(PATIENCE), &|| (), now).await;
        self.reconciler.consult_sshd(Vec::new(), now).await;
        // What it makes of the files is the running enforcer's business.
        self.reconciler.world.sshd.answer = None;
        let look_again: LookAgain = Arc::new(|_| {});
        let means = Means {
            watches: None,
            leases: None,
            look_again: &look_again,
            alive: &|| (),
            now,
        };
        let wake = Wake {
            why: Trigger::Startup,
            whom: Whom::Everybody,
        };
        let passed = self.look(&wake, means).await;
        while self.sessions.is_asking() {
            let answer = self.sessions.answer().await;
            self.take_sessions(answer, now);
        }
        passed
    }

    /// The whole pass for a wake.
    pub async fn pass(&mut self, wake: &Wake, means: Means<'_>) -> Passed {
        tracing::info!(target: DETAIL, trigger = ?wake.why, whom = ?wake.whom, "pass");
        let everybody = Wake {
            why: Trigger::ListChanged,
            whom: Whom::Everybody,
        };
        // What was waited for before anything is taken away.
        let wake = if self.reconciler.can_look_first(&wake.whom) {
            &everybody
        } else {
            wake
        };
        if wake.whom == Whom::Everybody {
            let asked = matches!(wake.why, Trigger::Reload | Trigger::Startup);
            let paths = &self.reconciler.config.paths;
            let mut accepted = None;
            if asked {
                accepted = gather::take_accepted(paths, means.now);
            }
            if wake.why == Trigger::Startup {
                // One that was left before this process began was for another one.
                accepted = None;
            }
            let patience = asked.then_some(PATIENCE);
            self.decide(accepted, patience, means.alive, means.now)
                .await;
        }
        self.look(wake, means).await
    }

    /// Decides, and saves what is in force before any file is touched: a crash between the two must not forget who is
    /// managed.
    async fn decide(
        &mut self,
        accepted: Option<String>,
        patience: Option<Duration>,
        alive: &dyn Fn(),
        now: Timestamp,
    ) {
        self.reconciler
            .decide(List::Stored, accepted, patience, alive, now)
            .await;
        let Self {
            reconciler,
            effects,
            ..
        } = self;
        if let Some((from, here)) = reconciler.decision.cloned.take() {
            events::cloned(&from, &here);
        }
        let decision = &reconciler.decision;
        if decision.held != effects.held {
            if let Some(held) = &decision.held {
                events::held(&held.to_string());
            }
            effects.held.clone_from(&decision.held);
        }
        effects.tell_refused(&decision.troubles);
        let rejected = decision
            .rejected
            .iter()
            .chain(&decision.break_glass_rejected);
        let rejected: Vec<Rejected> = rejected.cloned().collect();
        for new in rejected
            .iter()
            .filter(|new| !effects.rejected.contains(new))
        {
            events::rejected(new);
        }
        effects.rejected = rejected;
        if decision.changed || effects.saved.is_none() || effects.unsaved.is_some() {
            effects.save(reconciler);
        }
    }

    async fn look(&mut self, wake: &Wake, means: Means<'_>) -> Passed {
        self.take_rows_back();
        let Self {
            reconciler,
            effects,
            ..
        } = self;
        let instant = Instant::now().into_std();
        let look = Look {
            wake,
            watches: means.watches,
            leases: means.leases,
            look_again: means.look_again,
            elsewhere: false,
            patience: matches!(wake.why, Trigger::Startup | Trigger::Reload)
                .then_some(LONG_PATIENCE),
            auditor: &effects.incidents,
            alive: means.alive,
            now: means.now,
            instant,
        };
        let mut looked = reconciler.look(look).await;
        // Every account was judged anew.
        looked.rows_are_others |= wake.why == Trigger::SshdAnswered;
        for event in looked.events.drain(..) {
            effects.teller.tell(&event, instant);
            effects.incidents.take(event);
        }
        effects.teller.tell_the_rest(instant);
        effects.incidents.try_again();
        let memory = &reconciler.memory;
        effects
            .incidents
            .forget(|account| memory.knows_a_change(account));
        if looked.in_force_changed {
            effects.save(reconciler);
        }
        self.look_for_sessions(wake, &looked);
        if wake.why == Trigger::Reload {
            self.effects.enforcer.asked_at = Some(means.now);
        }
        if let Some(watches) = means.watches {
            self.effects.note_unwatched(watches);
        }
        self.publish(&looked, wake.why == Trigger::Reload, means.now);
        if wake.whom == Whom::Everybody {
            self.tell_health(means.now, instant);
        }
        let decision = &self.reconciler.decision;
        let quiet = self.reconciler.memory.quiet_at();
        Passed {
            looked,
            next_look: decision.look_again.into_iter().chain(quiet).min(),
        }
    }

    fn look_for_sessions(&mut self, wake: &Wake, looked: &Looked) {
        let now = Instant::now().into_std();
        let is_open = !self.sessions.known.is_empty() || self.sessions.unknown.is_some();
        let known = wake.whom == Whom::Everybody && is_open;
        let asked = matches!(wake.why, Trigger::Startup | Trigger::Reload);
        if looked.keys_left {
            self.sessions.ask_again_later(now);
        }
        if known || asked || looked.keys_left {
            self.sessions.ask(now);
        }
    }

    pub fn take_sessions(&mut self, answer: Option<Answer>, now: Timestamp) {
        self.take_rows_back();
        let config = &self.reconciler.config;
        let may_end = config.accounts.end_sessions && config.mode == Mode::Enforce;
        let clocks = (now, Instant::now().into_std());
        self.sessions.take(
            answer,
            &self.reconciler.decision,
            may_end,
            &self.effects.teller,
            clocks,
        );
        self.publish(&Looked::default(), false, now);
    }

    pub fn hear_sshd(&mut self, now: Timestamp) -> Option<Whom> {
        self.take_rows_back();
        self.reconciler.hear_sshd(now)
    }

    /// The last status was made with them, and so is the next one.
    fn take_rows_back(&mut self) {
        if let Some(status) = self.status.take() {
            self.reconciler.keep_rows(status.rows);
        }
    }

    /// Makes the status anew, and writes what is new in it.
    fn publish(&mut self, looked: &Looked, asked: bool, now: Timestamp) {
        self.take_rows_back();
        let Self {
            reconciler,
            effects,
            sessions,
            ..
        } = self;
        let of = OfEnforcer {
            host: Host {
                name: effects.host_name.clone(),
                instance: reconciler.in_force().instance.clone(),
            },
            enforcer: effects.enforcer.clone(),
            problems: effects.problems(reconciler, sessions),
            sessions: sessions.known.clone(),
        };
        let mut status = reconciler.status(of, now);
        let news = News {
            rows: &looked.rows,
            is_whole: looked.rows_are_others,
            keys: reconciler.decision.changed,
            asked,
        };
        let clocks = (now, Instant::now().into_std());
        let paths = &reconciler.config.paths;
        effects
            .publisher
            .publish(paths, &mut status, &reconciler.decision, &news, clocks);
        reconciler.decision.changed = false;
        self.status = Some(status);
    }

    /// Tells the journal how the host is, by the same judgement as `agent status`.
    fn tell_health(&mut self, now: Timestamp, instant: std::time::Instant) {
        let Some(status) = &mut self.status else {
            return;
        };
        let config = &self.reconciler.config;
        let (report, unreadable) = match fetched::report(&config.paths) {
            Ok(report) => (report, None),
            Err(error) => (None, Some(chain(&error))),
        };
        let of = OfFetcher {
            report,
            runs: None,
            unreadable,
        };
        // What the fetcher makes of it stays out of what is published: whoever reads that asks anew.
        let (problems, list) = (status.problems.len(), status.list.clone());
        assess::add_fetcher(status, of, config, now);
        let errors = status.errors();
        status.problems.truncate(problems);
        status.list = list;
        // Two full checks in a row find what lasts.
        let lasting = config.verify.every / 2;
        match self.effects.health.after(&errors, lasting, (now, instant)) {
            Some(health::News::Degraded(since)) => events::degraded(&errors.join(", "), since),
            Some(health::News::Healthy) => events::healthy(),
            None => {}
        }
    }

    /// Takes a config that was read again; an error is a problem, and the old one stays.
    pub fn reconfigure(&mut self, config: Result<Config, String>) {
        let same = |config: &Config| config.paths == self.reconciler.config.paths;
        let config = match config {
            Ok(config) if same(&config) => Ok(config),
            Ok(_) => Err("`[paths]` cannot change while the agent runs; restart it".to_owned()),
            Err(error) => Err(error),
        };
        let taken = config.and_then(|config| {
            let taken = self.reconciler.reconfigure(config);
            taken.map_err(|error| chain(&error))
        });
        match taken {
            Ok(()) => {
                let mode = self.reconciler.config.mode.as_str();
                tracing::info!(mode, "config read again");
                self.effects.config_unusable = None;
            }
            Err(error) => {
                tracing::error!(error, "config not read again, the old one stays");
                self.effects.config_unusable = Some(error);
            }
        }
    }

    /// New watches; without inotify everybody is looked at every few seconds, and the status says so.
    pub fn start_watching(&mut self, pending: &Arc<Pending>) -> Option<Arc<AgentWatches>> {
        let (watches, lack) = match watch(pending) {
            Ok(watches) => {
                let lack = watches.lack().map(str::to_owned);
                (Some(watches), lack)
            }
            Err(error) => (None, Some(error)),
        };
        if let Some(error) = &lack
            && self.effects.nothing_watched != lack
        {
            tracing::warn!(
                error,
                "nothing is watched, all files are looked at every few seconds"
            );
        }
        self.effects.nothing_watched = lack;
        watches
    }

    /// When the whole status must be written, though nothing else may happen.
    pub fn next_writing(&self) -> Option<std::time::Instant> {
        self.effects.publisher.due()
    }

    /// When accounts that were left out of the log will have calmed down.
    pub fn next_rest(&self) -> Option<std::time::Instant> {
        self.effects.teller.next_rest()
    }

    pub fn tell_the_rest(&self, now: std::time::Instant) {
        self.effects.teller.tell_the_rest(now);
    }

    /// What the last status says, which may be over.
    pub fn says_no_threads(&self) -> bool {
        let mut problems = self.status.iter().flat_map(|status| &status.problems);
        problems.any(|problem| matches!(problem.cause, Cause::NoThreads { .. }))
    }

    pub fn publish_again(&mut self, now: Timestamp) {
        self.publish(&Looked::default(), false, now);
    }

    /// At the end: nothing stays locked that nobody would open again.
    pub async fn open_all(&mut self, means: Means<'_>) {
        let locked = self.reconciler.open_all();
        if !locked.is_empty() {
            let wake = Wake {
                why: Trigger::Reload,
                whom: Whom::These(locked),
            };
            self.look(&wake, means).await;
        }
    }

    /// At the end: what had to wait for its time.
    pub fn publish_the_rest(&mut self, now: Timestamp) {
        self.tell_the_rest(Instant::now().into_std() + CALM);
        if self.next_writing().is_some() {
            self.publish(&Looked::default(), true, now);
        }
    }

    pub fn relay_fetch(&mut self) {
        let paths = &self.reconciler.config.paths;
        self.effects
            .publisher
            .relay_fetch(paths, fetched::report(paths).ok().flatten());
    }
}

impl Effects {
    /// Tells once of each reason for which the list does not count, and once that it counts again.
    fn tell_refused(&mut self, troubles: &[Trouble]) {
        let mut refused = Vec::new();
        for trouble in troubles {
            // While a list is being published it does not count, and a moment later it does.
            if !trouble.is_of_signatures()
                || matches!(trouble, Trouble::Unsigned { lasts: false, .. })
            {
                continue;
            }
            if !self.refused.contains(trouble) {
                let cause = Cause::Decision(trouble.clone());
                let (scope, reason) = match trouble {
                    Trouble::Unsigned { what, .. } => {
                        (Some(escaped(&what.scope)), what.fault.reason())
                    }
                    _ => (None, cause.reason()),
                };
                events::list_refused(
                    cause.code(),
                    scope.as_deref(),
                    &reason,
                    cause.hint().as_deref(),
                );
            }
            refused.push(trouble.clone());
        }
        if refused.is_empty() && !self.refused.is_empty() {
            events::list_counts();
        }
        self.refused = refused;
    }

    /// What only this enforcer knows to be wrong.
    fn problems(&self, reconciler: &Reconciler, sessions: &Sessions) -> Vec<Problem> {
        let mut all = Vec::new();
        let mut add = |cause| all.push(Problem::new(cause));
        if let Some(error) = self.config_unusable.clone() {
            add(Cause::ConfigUnusable { error });
        }
        if let Some(error) = reconciler.damaged.clone() {
            add(Cause::StateDamaged { error });
        }
        if let Some(error) = self.unsaved.clone() {
            add(Cause::StateUnsaved { error });
        }
        if let Some(error) = Threads::lack() {
            let error = error.to_string();
            add(Cause::NoThreads { error });
        }
        if let Some(error) = self.nothing_watched.clone() {
            add(Cause::NothingWatched { error });
        }
        if let Some(cause) = self.unwatched.clone() {
            add(cause);
        }
        if let Some(error) = sessions.unknown.clone() {
            add(Cause::SessionsUnknown { error });
        }
        let lines = journal::lost();
        if lines > 0 {
            add(Cause::LogLost { lines });
        }
        all.extend(fights(&reconciler.memory));
        all.extend(rivals(&reconciler.memory, |account| {
            self.incidents.program(account)
        }));
        all
    }

    /// Notes whom no event tells of.
    fn note_unwatched(&mut self, watches: &AgentWatches) {
        let unwatched = watches.unwatched().map(|unwatched| {
            let accounts = unwatched.subjects.iter();
            Cause::Unwatched {
                accounts: accounts
                    .filter(|one| matches!(one, Subject::Account(_)))
                    .count(),
                error: unwatched.error,
                want: unwatched.want,
            }
        });
        if let Some(cause) = &unwatched
            && self.unwatched.is_none()
        {
            let problem = Problem::new(cause.clone());
            for told in told([problem]) {
                tracing::warn!("{}", told.line());
            }
        }
        self.unwatched = unwatched;
    }

    /// Writes what is in force, if it changed; in observe mode nothing is.
    fn save(&mut self, reconciler: &Reconciler) {
        if reconciler.config.mode == Mode::Observe {
            return;
        }
        let in_force = reconciler.in_force();
        let fingerprint = Some(in_force.fingerprint());
        if self.saved == fingerprint && self.unsaved.is_none() {
            return;
        }
        let paths = &reconciler.config.paths;
        if reconciler.damaged.is_some() && self.saved.is_none() {
            // For a person to look at; without room for it, the state that works matters more.
            let _ = std::fs::rename(paths::in_force(paths), paths::damaged(paths));
        }
        let saved = store::make_directory(&paths.state_dir, 0o700)
            .and_then(|()| store::write_large_json(&paths::in_force(paths), in_force, 0o600));
        match saved {
            Ok(()) => {
                self.saved = fingerprint;
                self.unsaved = None;
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "state not saved");
                self.unsaved = Some(error);
            }
        }
    }
}
