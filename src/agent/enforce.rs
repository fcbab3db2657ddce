//! The enforce loop: level-triggered. An event only says "look again"; a pass does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::events::chain;
use crate::agent::pass::{Enforcer, List, Report, Terms, due};
use crate::agent::start::{Asked, Signals, StartError};
use crate::agent::work::{AgentWatches, Subject};
use crate::agent::{Trigger, files};
use crate::host::process::{self, Lock};
use crate::host::service::Service;
use crate::host::watch::{ANY, Change, Watches};
use crate::host::{keyfile, store};
use crate::model::account::AccountName;
use crate::model::config::tables::{Config, Paths};

/// Makes this process the enforcer of this host, for as long as the lock is held.
pub fn claim(paths: &Paths) -> Result<Lock, StartError> {
    process::widen_umask();
    store::make_directory(&paths.runtime_dir, 0o755)
        .map_err(|error| StartError::Directory("enforcer", error))?;
    let lock = process::lock(&files::enforce_lock(paths))
        .map_err(|error| StartError::Lock("enforcer", error))?;
    keyfile::drop_supplementary_groups().map_err(|error| StartError::Groups(error.into()))?;
    process::raise_descriptor_limit();
    Ok(lock)
}

/// One pass over everything, without watching.
pub async fn once(
    enforcer: &mut Enforcer,
    list: List<'_>,
    accepted: Option<String>,
    now: Timestamp,
) -> Report {
    let terms = Terms {
        trigger: Trigger::Startup,
        only: None,
        list,
        accepted,
        watches: None,
        consults: true,
        publish: true,
        alive: &|| (),
        now,
    };
    let report = enforcer.pass(terms, |_| {}).await;
    while enforcer.is_asking() {
        let answer = enforcer.session_answer().await;
        enforcer.take_sessions(answer, now);
    }
    report
}

/// What changed since the last pass.
#[derive(Default)]
struct Pending {
    changed: Mutex<Changed>,
    bell: Notify,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bell of its own")]
struct Changed {
    /// The stored list, or what goes with it.
    list: bool,
    accounts: BTreeSet<AccountName>,
    /// The fetcher has tried again.
    fetched: bool,
    /// Events were lost: anything may have changed.
    lost: bool,
    /// sshd has answered.
    sshd: bool,
}

impl Pending {
    fn add(&self, change: Change<Subject>) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::At(Subject::List) => changed.list = true,
            Change::At(Subject::Fetched) => changed.fetched = true,
            Change::At(Subject::Account(name)) => drop(changed.accounts.insert(name)),
            Change::Everything => changed.lost = true,
        }
        self.bell.notify_one();
    }

    fn sshd_answered(&self) {
        self.changed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sshd = true;
        self.bell.notify_one();
    }

    fn take(&self) -> Changed {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Enforces until SIGTERM or SIGINT. `reread` gives the config again at SIGHUP; `now` is the clock.
pub async fn run(
    mut enforcer: Enforcer,
    service: Service,
    reread: impl Fn() -> Result<Config, String>,
    now: impl Fn() -> Timestamp,
) -> Result<(), StartError> {
    let mut signals = Signals::listen("enforcer")?;
    let pending = Arc::new(Pending::default());
    let told = Arc::clone(&pending);
    enforcer.when_version_comes(move || told.sshd_answered());
    let (mut trigger, mut only) = (Trigger::Startup, None::<BTreeSet<AccountName>>);
    let mut watches: Option<Arc<AgentWatches>> = None;
    let mut said = String::new();
    // Accounts whose repair waits, for a rival's sake.
    let mut waiting: BTreeMap<AccountName, Instant> = BTreeMap::new();
    let (mut full_check, mut last_full, mut renew) =
        (Instant::now(), Instant::now(), Instant::now());
    let mut heartbeat = service.heartbeat();
    'work: loop {
        let full = only.is_none();
        waiting.retain(|name, _| only.as_ref().is_some_and(|only| !only.contains(name)));
        let mut fresh = None;
        if full {
            last_full = Instant::now();
            full_check = last_full + enforcer.config().verify.every;
            if watches.is_none() || renew <= last_full {
                // The old watches, if any, see what happens until the new ones are on.
                renew = last_full + WATCHES_LAST;
                fresh = watch(&pending);
            }
        }
        let watching = fresh.as_ref().or(watches.as_ref());
        let heard = enforcer.hear_sshd(now());
        if let Some(watches) = watching.filter(|_| full || heard) {
            watch_inputs(watches, &enforcer);
        }
        let working = pass(
            &mut enforcer,
            trigger,
            only,
            watching,
            &pending,
            service,
            now(),
        );
        let (report, stopping) = in_time(working, &mut signals, trigger, service).await;
        let Some(report) = report else { break };
        if full {
            enforcer.relay_fetch();
            full_check = full_check.min(at(report.next_look, now()));
        }
        watches = fresh.or(watches);
        if report.newly_hanging {
            // Whatever holds the thread may hold the watcher too: put the others' watches on another one.
            renew = Instant::now();
            full_check = full_check.min(last_full + STORM_PAUSE);
        }
        tell(service, trigger, &mut said, enforcer.summary());
        if full {
            // Now that everything is in force and said to be.
            let told = Arc::clone(&pending);
            enforcer.ask_sshd(now(), move || told.sshd_answered());
        }
        if stopping {
            break;
        }
        let retry = enforcer.next_retry();
        // Every arm is cancel-safe: signals and the bell keep what arrives while nobody waits, sleeping keeps
        // nothing.
        (trigger, only) = loop {
            let next = waiting.values().min().copied();
            let question = enforcer.next_question();
            break tokio::select! {
                () = heartbeat.next() => {
                    service.alive();
                    continue;
                }
                asked = signals.next() => match asked {
                    Asked::Stop => break 'work,
                    Asked::Reload => {
                        service.reloading();
                        enforcer.reconfigure(reread());
                        (Trigger::Reload, None)
                    }
                },
                () = pending.bell.notified() => {
                    let changed = pending.take();
                    // An account can bring that about on purpose, again and again: the rest of what is known is looked
                    // at now, everything a moment later.
                    let soon = changed.lost && last_full.elapsed() < STORM_PAUSE;
                    if soon {
                        full_check = full_check.min(last_full + STORM_PAUSE);
                    }
                    match after(&mut enforcer, changed, soon, &mut waiting, now()) {
                        Some(next) => next,
                        None => continue,
                    }
                }
                () = tokio::time::sleep_until(next.unwrap_or(full_check)), if next.is_some() => {
                    (Trigger::Drift, Some(due(waiting.iter().map(|(name, at)| (name, *at)))))
                }
                () = tokio::time::sleep_until(question.unwrap_or(full_check)), if question.is_some() => {
                    enforcer.ask_now();
                    continue;
                }
                answer = enforcer.session_answer() => {
                    enforcer.take_sessions(answer, now());
                    continue;
                }
                () = tokio::time::sleep_until(full_check) => (Trigger::Timer, None),
                () = tokio::time::sleep_until(retry.unwrap_or(full_check)), if retry.is_some() => {
                    (Trigger::Timer, Some(enforcer.due_retries()))
                }
            };
        };
    }
    service.stopping();
    Ok(())
}

/// Tells the service manager how things are, when it waits for that or when it is news.
fn tell(service: Service, trigger: Trigger, said: &mut String, summary: String) {
    let is_news = *said != summary;
    *said = summary;
    if matches!(trigger, Trigger::Startup | Trigger::Reload) {
        service.ready(said);
    } else if is_news {
        service.says(said);
    }
}

/// sshd waits for the first pass no longer than this: what hangs by then may hang for ever.
const READY_WITHIN: Duration = Duration::from_secs(8);

/// A pass that goes on for so long after SIGTERM hangs; what it leaves is swept up at the next start.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Waits for a pass, but neither keeps a start or a reload waiting for what hangs, nor a stop; gives its report, `None` when it was
/// left, and whether to stop.
async fn in_time(
    working: impl Future<Output = Report>,
    signals: &mut Signals,
    trigger: Trigger,
    service: Service,
) -> (Option<Report>, bool) {
    let mut working = std::pin::pin!(working);
    let mut awaited = matches!(trigger, Trigger::Startup | Trigger::Reload);
    let ready_at = Instant::now() + READY_WITHIN;
    let mut stop_at = None;
    loop {
        // Signals keep what arrives while nobody waits, and sleeping keeps nothing: cancel-safe.
        tokio::select! {
            report = &mut working => return (Some(report), stop_at.is_some()),
            () = signals.stopped(), if stop_at.is_none() => stop_at = Some(Instant::now() + LAST_WORK),
            () = tokio::time::sleep_until(ready_at), if awaited => {
                awaited = false;
                service.ready("the first look at all files is not over yet");
            }
            () = tokio::time::sleep_until(stop_at.unwrap_or(ready_at)), if stop_at.is_some() => return (None, true),
        }
    }
}

/// Why, and for whom, to make a pass after a change, if at all; when events were lost, and all is looked at `soon`, only for
/// those that are known.
fn after(
    enforcer: &mut Enforcer,
    changed: Changed,
    soon: bool,
    waiting: &mut BTreeMap<AccountName, Instant>,
    now: Timestamp,
) -> Option<(Trigger, Option<BTreeSet<AccountName>>)> {
    if changed.fetched || changed.lost {
        enforcer.relay_fetch();
    }
    // While a list is held, what the fetcher says may be the confirmation it waits for.
    let list = changed.list || changed.fetched && enforcer.holds_a_list();
    match changed {
        Changed {
            lost: true,
            accounts,
            ..
        } if soon => Some((Trigger::Drift, Some(accounts))),
        Changed { lost: true, .. } => Some((Trigger::Timer, None)),
        _ if list => Some((Trigger::ListChanged, None)),
        Changed { sshd, accounts, .. } => {
            let accounts = hold_back(enforcer, accounts, waiting, now);
            let trigger = if sshd {
                Trigger::SshdAnswered
            } else {
                Trigger::Drift
            };
            (sshd || !accounts.is_empty()).then_some((trigger, Some(accounts)))
        }
    }
}

/// Those of `accounts` that are looked at now; the others wait, each from its first change on.
fn hold_back(
    enforcer: &mut Enforcer,
    mut accounts: BTreeSet<AccountName>,
    waiting: &mut BTreeMap<AccountName, Instant>,
    now: Timestamp,
) -> BTreeSet<AccountName> {
    accounts.retain(|name| {
        let Some(wait) = enforcer.back_off(name, now) else {
            return true;
        };
        waiting
            .entry(name.clone())
            .or_insert_with(|| Instant::now() + wait);
        false
    });
    accounts
}

/// A watch may die in ways that nobody tells of (an unmount, the watcher's thread); until then the full check sees what
/// it would have seen. Thousands of watches take seconds to put on.
const WATCHES_LAST: Duration = Duration::from_hours(1);

/// Least time between two full passes that lost events cause.
const STORM_PAUSE: Duration = Duration::from_secs(1);

async fn pass(
    enforcer: &mut Enforcer,
    trigger: Trigger,
    only: Option<BTreeSet<AccountName>>,
    watches: Option<&Arc<AgentWatches>>,
    pending: &Arc<Pending>,
    service: Service,
    now: Timestamp,
) -> Report {
    let asked = matches!(trigger, Trigger::Reload | Trigger::Startup);
    let accepted = if asked {
        take_accepted(&enforcer.config().paths, now)
    } else {
        None
    };
    let accepted = accepted.filter(|_| trigger == Trigger::Reload);
    let again = Arc::clone(pending);
    let terms = Terms {
        trigger,
        only,
        list: List::Stored,
        accepted,
        watches: watches.cloned(),
        consults: false,
        publish: true,
        alive: &|| service.alive(),
        now,
    };
    enforcer
        .pass(terms, move |name| {
            again.add(Change::At(Subject::Account(name)))
        })
        .await
}

/// What `sync --accept-removals` leaves for the enforcer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Digest of the list whose removals are accepted.
    pub digest: String,
    /// When.
    pub at: Timestamp,
}

/// An acceptance is for now: an empty list always has the same digest, and the next one may be an outage.
const ACCEPTANCE_LASTS: SignedDuration = SignedDuration::from_mins(10);

/// The digest that `sync --accept-removals` left; it counts once, whatever comes of it.
fn take_accepted(paths: &Paths, now: Timestamp) -> Option<String> {
    let path = files::accepted(paths);
    let accepted = store::read_json::<Accepted>(&path).ok().flatten();
    // If it stays, its time runs out.
    let _ = std::fs::remove_file(&path);
    let age = |accepted: &Accepted| now.duration_since(accepted.at);
    accepted
        .filter(|a| age(a) >= SignedDuration::ZERO && age(a) < ACCEPTANCE_LASTS)
        .map(|a| a.digest)
}

/// New watches; `None`, and a warning, where inotify is not to be had.
fn watch(pending: &Arc<Pending>) -> Option<Arc<AgentWatches>> {
    let told = Arc::clone(pending);
    match Watches::start(move |change| told.add(change)) {
        Ok(watches) => Some(Arc::new(watches)),
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "nothing is watched, changes are seen by the full check only"
            );
            None
        }
    }
}

/// Watches what a full pass reads. A directory that was missing may be there by now.
fn watch_inputs(watches: &AgentWatches, enforcer: &Enforcer) {
    watches.recount();
    watch_file(
        watches,
        &files::approved(&enforcer.config().paths),
        &Subject::List,
    );
    watch_file(
        watches,
        &enforcer.config().accounts.break_glass,
        &Subject::List,
    );
    watch_file(
        watches,
        &files::fetch_report(&enforcer.config().paths),
        &Subject::Fetched,
    );
    let (files, directories) = enforcer.sshd_inputs();
    for path in files {
        watch_file(watches, &path, &Subject::List);
    }
    for path in directories {
        match store::open_directory(&path).and_then(|opened| Ok((opened.metadata()?, opened))) {
            Ok((meta, opened)) => put(watches, &opened, &meta, (ANY, &Subject::List), &path),
            Err(_) => watch_file(watches, &path, &Subject::List),
        }
    }
}

/// Watches for a file to be replaced or, where its directory is missing too, for the directory to appear.
fn watch_file(watches: &AgentWatches, path: &Path, subject: &Subject) {
    let watch = |place: &Path| -> Option<()> {
        let (directory, name) = (place.parent()?, place.file_name()?.to_str()?);
        let opened = store::open_directory(directory).ok()?;
        let meta = opened.metadata().ok()?;
        put(watches, &opened, &meta, (name, subject), path);
        Some(())
    };
    if watch(path).is_none() {
        path.parent().and_then(watch);
        // The directory may have come before that watch was on.
        watch(path);
    }
}

fn put(
    watches: &AgentWatches,
    directory: &File,
    meta: &Metadata,
    (name, subject): (&str, &Subject),
    path: &Path,
) {
    let inode = (meta.dev(), meta.ino());
    if let Err(error) = watches.put(directory.as_fd(), inode, Some(name), subject) {
        tracing::warn!(path = %path.display(), error = chain(&error), "not watched");
    }
}

/// The instant of a time of day, far off for `None`. A clock that jumps is corrected by the next full check.
fn at(time: Option<Timestamp>, now: Timestamp) -> Instant {
    const FAR: Duration = Duration::from_hours(24);
    let wait = time.map_or(FAR, |time| {
        // A moment later than the second it expires in, or the pass would come too early.
        Duration::try_from(time.duration_since(now)).unwrap_or_default() + Duration::from_millis(50)
    });
    Instant::now() + wait.min(FAR)
}
