//! What a person should look at. A problem is a value with a stable code; it becomes words only when it is printed.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::desired::decide::Trouble;
use crate::model::desired::guard::Held;
use crate::model::file::other_files::OtherFile;
use crate::model::list::bounds::Excess;
use crate::model::mounts::OwnMount;
use crate::model::session::Session;
use crate::model::sshd::access::{Doubt, RefusedBy};
use crate::model::sshd::doors::Door;

/// What is wrong, and whose file it concerns, where it concerns one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    pub cause: Cause,
    pub account: Option<AccountName>,
}

/// What is wrong. Codes never change their meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    NoEnforcer,
    /// The enforcer runs and has said nothing yet.
    FirstPass,
    WordUnreadable {
        error: String,
    },
    ConfigUnusable {
        error: String,
    },
    /// Others than root can change it, or put another one in its place.
    ConfigOpen {
        path: String,
    },
    StateDamaged {
        error: String,
    },
    StateUnsaved {
        error: String,
    },
    /// The enforcer gets no thread to work on.
    NoThreads {
        error: String,
    },
    /// inotify is not to be had.
    NothingWatched {
        error: String,
    },
    /// Changes of these accounts, or with none of what decides about all, are told by no event.
    Unwatched {
        accounts: usize,
        error: String,
        /// How many watches would do, and how many the agent takes at most.
        want: Option<(usize, usize)>,
    },
    /// The account database denies an account that it had a moment ago.
    Vanished,
    NoFetcher,
    FetcherLate,
    FetchReportUnreadable {
        error: String,
    },
    FetchFailed {
        error: String,
        hint: Option<String>,
    },
    ListStale {
        seconds: i64,
        limit: i64,
    },
    ListUnenforced,
    Decision(Trouble),
    ListHeld(Held),
    LinesRejected {
        lines: usize,
    },
    /// The file is not as it should be, and nothing could be done.
    FileRefused {
        reason: String,
        #[serde(default)]
        hint: Option<String>,
    },
    FileDrifted {
        changes: String,
    },
    /// An account answers for the file system that the file is on.
    OwnMount(OwnMount),
    /// `manage` names an account that no list ever named, and its file has keys.
    NotListed,
    /// The list names an account for the first time and gives it no usable key.
    NothingUsable,
    /// The list that would change the file is held.
    HeldBack,
    /// The list names an account that `manage` does not; below this uid, a system account.
    NotManaged {
        uid_min: Option<u32>,
    },
    SshdRefuses {
        reason: String,
        by: Option<RefusedBy>,
    },
    Rival {
        program: Option<String>,
        times: u64,
        since: Timestamp,
    },
    /// The account plants a key again and again; until when nothing can be changed there, or why it can.
    Fight {
        times: u64,
        until: Option<Timestamp>,
        cannot: Option<String>,
    },
    Session(Session),
    /// Which key opened a session cannot be told.
    SessionsUnknown {
        error: String,
    },
    /// Nobody takes what the enforcer logs.
    LogLost {
        lines: u64,
    },
    OpenDoor(Door),
    OtherFile(OtherFile),
    /// sshd reads the file, and does not take all of its keys.
    KeysRefused {
        reason: String,
    },
    SshdSilent {
        error: String,
    },
    SshdDoubt(Doubt),
    OtherSshd {
        command: String,
    },
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The agent does not do its job, or not for this account: the status is degraded.
    Error,
    /// A person should know of it; nothing need be wrong.
    Warning,
}

/// Every problem with the same cause, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub cause: Cause,
    pub accounts: Vec<AccountName>,
}

impl Problem {
    pub fn new(cause: Cause) -> Self {
        Self {
            cause,
            account: None,
        }
    }

    pub fn of(account: &AccountName, cause: Cause) -> Self {
        Self {
            cause,
            account: Some(account.clone()),
        }
    }
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        Self::new(Cause::Decision(trouble))
    }
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Puts problems with the same cause together, the worst first.
pub fn told(problems: impl IntoIterator<Item = Problem>) -> Vec<Told> {
    let mut by_cause: HashMap<Cause, Vec<AccountName>> = HashMap::new();
    for Problem { cause, account } in problems {
        by_cause.entry(cause).or_default().extend(account);
    }
    let all = by_cause.into_iter();
    let mut all: Vec<Told> = all
        .map(|(cause, accounts)| Told { cause, accounts })
        .collect();
    all.sort_by_cached_key(|told| (told.cause.severity(), told.cause.rank(), told.text()));
    all
}

impl Told {
    /// One sentence.
    pub fn text(&self) -> String {
        let names: Vec<&str> = self.accounts.iter().map(AccountName::as_str).collect();
        self.cause.text(&several(&names), names.len() > 1)
    }

    /// The sentence and what a person can do, in one line.
    pub fn line(&self) -> String {
        match self.cause.hint() {
            Some(hint) => format!("{}; hint: {hint}", self.text()),
            None => self.text(),
        }
    }
}

/// Names that are told one by one.
pub const SHOWN: usize = 5;

/// A few names, and how many more.
pub fn several(names: &[&str]) -> String {
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Seconds in the two largest units that matter.
pub fn duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The code of every cause, and all of them as [`CODES`]. The first is the worst of its severity.
macro_rules! codes {
    ($($cause:pat => $code:literal,)*) => {
        /// Every code, the worst first. `docs/problems.md` says what each means.
        pub const CODES: &[&str] = &[$($code),*];

        impl Cause {
            /// The name that scripts go by.
            pub fn code(&self) -> &'static str {
                match self {
                    $($cause => $code,)*
                }
            }
        }
    };
}

codes! {
    Cause::NoEnforcer => "no-enforcer",
    Cause::ConfigUnusable { .. } => "config-unusable",
    Cause::ConfigOpen { .. } => "config-open",
    Cause::NoThreads { .. } => "no-threads",
    Cause::FileRefused { .. } => "file-refused",
    Cause::FileDrifted { .. } => "file-drifted",
    Cause::OwnMount(_) => "own-mount",
    Cause::Session(_) => "session-not-approved",
    Cause::SshdRefuses { .. } => "sshd-refuses",
    Cause::Fight { .. } => "fight",
    Cause::Rival { .. } => "rival",
    Cause::NotListed => "not-listed",
    Cause::NothingUsable => "nothing-usable",
    Cause::StateDamaged { .. } => "state-damaged",
    Cause::StateUnsaved { .. } => "state-unsaved",
    Cause::NothingWatched { .. } => "nothing-watched",
    Cause::Unwatched { .. } => "unwatched",
    Cause::Vanished => "account-vanished",
    Cause::Decision(Trouble::Revoked { .. }) => "revoked",
    Cause::Decision(Trouble::NoList { .. }) => "no-list",
    Cause::Decision(Trouble::ListForeign { .. }) => "list-of-another-instance",
    Cause::Decision(Trouble::ListTooLarge(_)) => "list-too-large",
    Cause::Decision(Trouble::ListUnreadable { .. }) => "list-unreadable",
    Cause::Decision(Trouble::ListGone { .. }) => "list-gone",
    Cause::Decision(Trouble::ListSchema { .. }) => "list-schema",
    Cause::Decision(Trouble::ListEmpty) => "list-empty",
    Cause::Decision(Trouble::BreakGlassOpen { .. }) => "break-glass-open",
    Cause::Decision(Trouble::BreakGlassUnreadable { .. }) => "break-glass-unreadable",
    Cause::Decision(Trouble::BreakGlassRefused { .. }) => "break-glass-refused",
    Cause::Decision(Trouble::PeopleSilent { .. }) => "accounts-unknown",
    Cause::ListHeld(_) => "list-held",
    Cause::NoFetcher => "no-fetcher",
    Cause::FetcherLate => "fetcher-late",
    Cause::FetchFailed { .. } => "fetch-failed",
    Cause::ListStale { .. } => "list-stale",
    Cause::ListUnenforced => "list-unenforced",
    Cause::LinesRejected { .. } => "lines-rejected",
    Cause::FirstPass => "first-pass",
    Cause::WordUnreadable { .. } => "status-unreadable",
    Cause::FetchReportUnreadable { .. } => "fetch-report-unreadable",
    Cause::OpenDoor(_) => "open-door",
    Cause::SessionsUnknown { .. } => "sessions-unknown",
    Cause::LogLost { .. } => "log-lost",
    Cause::KeysRefused { .. } => "keys-refused",
    Cause::OtherFile(_) => "other-file",
    Cause::SshdSilent { .. } => "sshd-silent",
    Cause::SshdDoubt(_) => "sshd-not-judged",
    Cause::OtherSshd { .. } => "other-sshd",
    Cause::HeldBack => "held-back",
    Cause::NotManaged { .. } => "not-managed",
}

impl Cause {
    /// Where it stands among those of its severity.
    fn rank(&self) -> usize {
        let place = CODES.iter().position(|code| *code == self.code());
        place.unwrap_or(CODES.len())
    }

    pub fn severity(&self) -> Severity {
        match self {
            Self::OpenDoor(_)
            | Self::SessionsUnknown { .. }
            | Self::LogLost { .. }
            | Self::OtherFile(_)
            | Self::KeysRefused { .. }
            | Self::SshdSilent { .. }
            | Self::SshdDoubt(_)
            | Self::OtherSshd { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// Why an account is as it is, where nothing is wrong with it, or where another problem says so.
    pub fn is_only_a_reason(&self) -> bool {
        matches!(self, Self::HeldBack | Self::NotManaged { .. })
    }

    /// Why the file of one account is not in sync, without its name.
    pub fn reason(&self) -> String {
        match self {
            Self::FileRefused { reason, .. } | Self::SshdRefuses { reason, .. } => reason.clone(),
            Self::FileDrifted { changes } => changes.clone(),
            Self::OwnMount(OwnMount { place, uid, .. }) => format!(
                "uid {uid} answers for the file system at `{place}` and can show sshd other keys than the agent"
            ),
            Self::NotListed => {
                "the list says nothing about it and never did, so its keys stay".to_owned()
            }
            Self::NothingUsable => {
                "the list has no usable key for it yet, so the file stays as it is".to_owned()
            }
            Self::HeldBack => "the list that would change it is held".to_owned(),
            Self::NotManaged { uid_min: None } => "not in `manage`".to_owned(),
            Self::NotManaged { uid_min: Some(uid) } => format!(
                "a system account (uid below {uid}); name it in full in `manage` to manage it"
            ),
            other => other.text("", false),
        }
    }

    /// Only root may ask sshd.
    pub fn is_of_sshd(&self) -> bool {
        matches!(
            self,
            Self::SshdSilent { .. } | Self::SshdDoubt(_) | Self::OtherSshd { .. }
        )
    }

    /// Only the enforcer knows of it. Everything else a command sees for itself.
    pub fn is_the_enforcers_own(&self) -> bool {
        matches!(
            self,
            Self::ConfigUnusable { .. }
                | Self::StateDamaged { .. }
                | Self::StateUnsaved { .. }
                | Self::NoThreads { .. }
                | Self::NothingWatched { .. }
                | Self::Unwatched { .. }
                | Self::Vanished
                | Self::Fight { .. }
                | Self::Rival { .. }
                | Self::SessionsUnknown { .. }
                | Self::LogLost { .. }
        )
    }

    /// One sentence; `whom` are the accounts it concerns, of which there may be `many`.
    fn text(&self, whom: &str, many: bool) -> String {
        let is = if many { "are" } else { "is" };
        match self {
            Self::NoEnforcer => "no enforcer is running, so nothing is repaired".to_owned(),
            Self::FirstPass => "the enforcer has not finished its first pass yet".to_owned(),
            Self::WordUnreadable { error } => {
                format!("{error}; what the enforcer says is not known")
            }
            Self::ConfigUnusable { error } => {
                format!("the config was changed and cannot be used: {error}")
            }
            Self::ConfigOpen { path } => format!(
                "`{path}` can be changed by others than root, who then decide whose keys work here"
            ),
            Self::StateDamaged { error } => format!("{error}; the state was started anew"),
            Self::StateUnsaved { error } => {
                format!("{error}; what is in force is lost when the agent restarts")
            }
            Self::NoThreads { error } => {
                format!("the enforcer gets no thread, so its work waits: {error}")
            }
            Self::NothingWatched { error } => {
                format!("no file is watched, so all are looked at every few seconds: {error}")
            }
            Self::Unwatched {
                accounts,
                error,
                want,
            } => unwatched_text(*accounts, error, *want),
            Self::Vanished => format!(
                "{whom} {is} not in the account database any more, and kept as before for a while"
            ),
            Self::NoFetcher => "no fetcher is running, so no change of the list arrives".to_owned(),
            Self::FetcherLate => {
                "no word of the fetch that was due: the fetcher hangs, was stopped, or cannot write its report".to_owned()
            }
            Self::FetchReportUnreadable { error } => error.clone(),
            Self::FetchFailed { error, .. } => format!("the last fetch failed: {error}"),
            Self::ListStale { seconds, limit } => format!(
                "the list is stale: no fetch has confirmed it for {} (`stale-after` is {})",
                duration(*seconds),
                duration(*limit)
            ),
            Self::ListUnenforced => {
                "the list that was fetched is not the one the enforcer speaks of".to_owned()
            }
            Self::Decision(trouble) => trouble_text(trouble),
            Self::ListHeld(held) => held.to_string(),
            Self::LinesRejected { lines: 1 } => {
                "1 line of the list not taken, see `rejected`".to_owned()
            }
            Self::LinesRejected { lines } => {
                format!("{lines} lines of the list not taken, see `rejected`")
            }
            Self::FileRefused { reason, .. } => format!("{whom} {is} refused: {reason}"),
            Self::FileDrifted { changes } => format!("{whom} {is} drifted: {changes}"),
            Self::OwnMount(_) => format!("{whom} {is} refused: {}", self.reason()),
            Self::NotListed => format!("{whom} {is} not listed: {}", self.reason()),
            Self::NothingUsable | Self::HeldBack => format!("{whom} {is} held: {}", self.reason()),
            Self::NotManaged { .. } => format!("{whom} {is} unmanaged: {}", self.reason()),
            Self::SshdRefuses { reason, .. } => format!("{whom} {is} refused by sshd: {reason}"),
            Self::Rival {
                program,
                times,
                since,
            } => {
                let who = match program {
                    Some(program) => format!("`{program}` manages this file too"),
                    None => "another program manages this file".to_owned(),
                };
                format!(
                    "{whom}: the same change comes again and again ({times} times since {since:.0}): {who}"
                )
            }
            Self::Fight {
                times,
                until,
                cannot,
            } => {
                // `lock = "always"`.
                if let (0, Some(why)) = (times, cannot) {
                    return format!("{whom} {is} not locked: {why}");
                }
                let now = match (cannot, until) {
                    (Some(why), _) => format!("each change is undone, and {why}"),
                    (None, Some(until)) => {
                        format!("nothing can be changed in its directory until {until:.0}")
                    }
                    (None, None) => "each change is undone".to_owned(),
                };
                format!("{whom} changes the file again and again ({times} times): {now}")
            }
            Self::Session(session) => {
                let Session {
                    id, fingerprint, ..
                } = session;
                let from = session.from.as_ref().map(|from| format!(" from {from}"));
                let from = from.unwrap_or_default();
                format!(
                    "session {id} of {whom}{from} was opened with a key that is not approved, {fingerprint}"
                )
            }
            Self::SessionsUnknown { error } => {
                format!("which keys opened live sessions is not known: {error}")
            }
            Self::LogLost { lines } => {
                format!("nobody takes what the enforcer logs; lines lost so far: {lines}")
            }
            Self::OpenDoor(door) => format!("bypassed: {}", door.describe(whom)),
            Self::OtherFile(other) => {
                let OtherFile { file, found, .. } = other;
                format!("{whom}: sshd also reads `{file}` with {}", found.in_words())
            }
            Self::KeysRefused { reason } => format!("{whom}: {reason}"),
            Self::SshdSilent { error } => {
                format!("what sshd makes of the files is not known: {error}")
            }
            Self::SshdDoubt(doubt) => doubt.describe().to_owned(),
            Self::OtherSshd { command } => {
                format!("another sshd listens, and whom it lets in is not judged: `{command}`")
            }
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::FetchFailed { hint, .. } | Self::FileRefused { hint, .. } => return hint.clone(),
            Self::OpenDoor(door) => return Some(door.hint()),
            Self::Session(Session { id, .. }) => {
                return Some(format!(
                    "loginctl kill-session --signal=SIGKILL {id}, or `end-sessions = true`"
                ));
            }
            Self::Decision(Trouble::BreakGlassOpen { path }) => {
                return Some(format!("chown root:root {path}; chmod 0600 {path}"));
            }
            Self::ConfigOpen { path } => {
                return Some(format!("chown root:root {path}; chmod go-w {path}"));
            }
            Self::OwnMount(OwnMount { place, .. }) => {
                return Some(format!(
                    "umount -l '{place}', and take `user_allow_other` out of /etc/fuse.conf"
                ));
            }
            Self::NoEnforcer => "systemctl enable --now authorized-keys-agent",
            Self::NoFetcher => "systemctl enable --now authorized-keys-fetch",
            Self::FetcherLate => {
                "`journalctl -u authorized-keys-fetch` says more; then `systemctl restart authorized-keys-fetch`"
            }
            Self::FetchReportUnreadable { .. } => "systemctl restart authorized-keys-fetch",
            Self::ConfigUnusable { .. } => {
                "correct the config, then `systemctl reload authorized-keys-agent`"
            }
            Self::ListHeld(_) => {
                "`agent diff` shows what it would take away, `agent sync --accept-removals` lets it through"
            }
            Self::Decision(Trouble::NoList { .. } | Trouble::ListEmpty) => {
                "`agent check` looks at the source: is it the right path, region and AWS account?"
            }
            Self::Decision(Trouble::ListTooLarge(_)) => Excess::HINT,
            Self::Decision(Trouble::PeopleSilent { .. }) => {
                "look at nsswitch.conf(5) and what it names, such as sssd"
            }
            Self::Vanished => {
                "is the service that knew it at work, such as sssd? Nothing need be done for an account that was deleted"
            }
            Self::NotListed | Self::NothingUsable => {
                "publish keys for it, or a comment-only value to leave it without"
            }
            Self::LinesRejected { .. } => "`agent lint` says of each line what is wrong",
            Self::Fight { .. } => {
                "`ps -u` shows its processes, and `agent incidents` what they planted; revoke its keys, end its sessions"
            }
            Self::Rival { .. } => {
                "take the file away from that program, or the account out of `[accounts] manage`"
            }
            Self::NoThreads { .. } => {
                "`systemctl status authorized-keys-agent` shows its tasks and their limit; see also `kernel.pid_max` and `kernel.threads-max` (sysctl(8))"
            }
            Self::NothingWatched { .. } => {
                "raise `fs.inotify.max_user_instances` (sysctl(8)): other programs of root have all of them"
            }
            Self::Unwatched {
                want: Some((needed, most)),
                ..
            } => {
                let others = if needed > most { 0 } else { *most };
                let limit = (others + needed) * 3 / 2;
                return Some(format!(
                    "sysctl -w fs.inotify.max_user_watches={}, and the same line without `sysctl -w` in /etc/sysctl.d/",
                    limit.next_multiple_of(1024)
                ));
            }
            Self::Unwatched { .. } => {
                "is it on a file system that lets neither root nor the account read it?"
            }
            Self::OtherFile(_) => {
                "`other-files = \"remove\"` in `[accounts]` takes away those in a home"
            }
            Self::SshdRefuses {
                by: Some(RefusedBy::StrictModes),
                ..
            } => "let only the account write to that directory: chmod go-w",
            Self::SshdRefuses {
                by: Some(RefusedBy::OtherFile),
                ..
            } => "let `AuthorizedKeysFile` in sshd_config and `[accounts] file` name the same file",
            Self::SshdRefuses { .. } => {
                "change that setting in sshd_config, or expect nobody to log in by this file"
            }
            Self::KeysRefused { .. } => "replace these keys, or change that setting in sshd_config",
            Self::SshdSilent { .. } => {
                "`sshd -t` as root checks its configuration; `/run/sshd` is missing until sshd has run once"
            }
            Self::SessionsUnknown { .. } => {
                "`loginctl` must answer, and the journal must keep what sshd says at `LogLevel INFO` (journald.conf(5))"
            }
            Self::LogLost { .. } => {
                "look at systemd-journald, or at what reads the log of the container"
            }
            Self::SshdDoubt(_) | Self::OtherSshd { .. } => {
                "look at sshd_config(5), and at how sshd is started, for who else gets in"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn unwatched_text(accounts: usize, error: &str, want: Option<(usize, usize)>) -> String {
    let what = match accounts {
        0 => "what decides about all accounts".to_owned(),
        1 => "1 account".to_owned(),
        more => format!("{more} accounts"),
    };
    let why = match want {
        Some((needed, most)) if needed > most => format!(
            "{needed} watches are needed, and the agent takes no more than {most}, three quarters of `fs.inotify.max_user_watches`"
        ),
        Some((needed, _)) => format!(
            "{needed} watches are needed, and other programs have nearly all that `fs.inotify.max_user_watches` allows"
        ),
        None => error.to_owned(),
    };
    format!("{what} cannot be watched, and looked at every few seconds instead: {why}")
}

fn trouble_text(trouble: &Trouble) -> String {
    const STAYS: &str = "the last list stays in force";
    const KEPT: &str = "the break-glass keys stay as they were";
    match trouble {
        Trouble::NoList { foreign: None } => "no list yet, so nothing is changed".to_owned(),
        Trouble::NoList { foreign: Some(id) } => {
            format!("no list yet (the stored one was fetched for `{id}`), so nothing is changed")
        }
        Trouble::ListForeign { instance } => {
            format!("the stored list was fetched for `{instance}`; {STAYS}")
        }
        Trouble::ListTooLarge(excess) => format!("{excess}; {STAYS}"),
        Trouble::ListUnreadable { error } => format!("{error}; {STAYS}"),
        Trouble::ListGone { path } => format!("`{path}` is gone; {STAYS}"),
        Trouble::ListSchema { schema } => {
            format!("the stored list has schema {schema}, which this agent does not read; {STAYS}")
        }
        Trouble::ListEmpty => {
            "the list is empty: is the path, or the directory, the right one?".to_owned()
        }
        Trouble::BreakGlassOpen { path } => {
            format!("`{path}` can be changed by others than root; {KEPT}")
        }
        Trouble::BreakGlassUnreadable { error } => format!("{error}; {KEPT}"),
        Trouble::BreakGlassRefused { path } => format!("no line of `{path}` can be read; {KEPT}"),
        Trouble::PeopleSilent { accounts } => {
            let names: Vec<&str> = accounts.iter().map(AccountName::as_str).collect();
            let whom = several(&names);
            format!(
                "the account database (NSS) does not answer for {whom}; what it said last counts meanwhile"
            )
        }
        Trouble::Revoked { since } => format!(
            "no good list since {since}, so all keys but the break-glass ones are removed (`on-stale = \"revoke\"`)"
        ),
    }
}
