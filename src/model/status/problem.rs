//! What a person should look at. A problem is a value with a stable code; it becomes words only when it is printed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::desired::decide::Trouble;
use crate::model::desired::guard::Held;
use crate::model::desired::signed::{Fault, Unsigned};
use crate::model::escape::escaped;
use crate::model::file::other_files::OtherFile;
use crate::model::list::bounds::Excess;
use crate::model::mounts::OwnMount;
use crate::model::session::Session;
use crate::model::sshd::access::{Doubt, RefusedBy};
use crate::model::sshd::doors::Door;
use crate::model::words::{count, several};

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
    /// A value of the list holds a private key, and so do so many more.
    PrivateKey {
        place: String,
        more: usize,
    },
    /// The file is not as it should be, and nothing could be done.
    FileRefused {
        reason: String,
        #[serde(default)]
        hint: Option<String>,
    },
    FileDrifted {
        changes: Vec<String>,
        /// The same without the names of keys.
        in_short: String,
    },
    /// The file is as it should be, and without any key.
    NoKeys,
    /// An account answers for the file system that the file is on.
    OwnMount(OwnMount),
    /// `manage` names an account that no list ever named, and its file has keys.
    NotListed,
    /// The list names an account for the first time and gives it no usable key.
    NothingUsable,
    /// The list that would take keys of it away is held.
    HeldBack,
    /// The same, and what stands in its files only sshd may understand.
    FilesStay {
        lines: usize,
    },
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

/// A list that does not count.
macro_rules! unsigned {
    ($($fault:tt)*) => {
        Cause::Decision(Trouble::Unsigned {
            what: Unsigned {
                fault: Fault::$($fault)*,
                ..
            },
            ..
        })
    };
}

codes! {
    Cause::PrivateKey { .. } => "private-key",
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
    unsigned!(Refused { .. }) => "signature-refused",
    unsigned!(TooFew { .. }) => "signatures-too-few",
    unsigned!(Missing) => "signature-missing",
    unsigned!(Malformed(_)) => "signature-malformed",
    unsigned!(Scope { .. }) => "signature-scope",
    unsigned!(Audience { .. }) => "signature-audience",
    unsigned!(FromFuture { .. }) => "signature-from-future",
    unsigned!(Expired { .. }) => "signature-expired",
    unsigned!(SerialBack { .. }) => "serial-went-back",
    unsigned!(SerialReused { .. }) => "serial-reused",
    unsigned!(Contents { .. } | Fault::Uncovered { .. }) => "not-as-signed",
    Cause::Decision(Trouble::SignersOpen { .. }) => "signers-open",
    Cause::Decision(Trouble::SignersUnreadable { .. }) => "signers-unreadable",
    Cause::Decision(Trouble::SignersTooFew { .. }) => "signers-too-few",
    Cause::Decision(Trouble::BreakGlassOpen { .. }) => "break-glass-open",
    Cause::Decision(Trouble::BreakGlassUnreadable { .. }) => "break-glass-unreadable",
    Cause::Decision(Trouble::BreakGlassRefused { .. }) => "break-glass-refused",
    Cause::Decision(Trouble::PeopleSilent { .. }) => "accounts-unknown",
    Cause::ListHeld(_) => "list-held",
    Cause::FilesStay { .. } => "files-stay",
    Cause::NoFetcher => "no-fetcher",
    Cause::FetcherLate => "fetcher-late",
    Cause::FetchFailed { .. } => "fetch-failed",
    Cause::ListStale { .. } => "list-stale",
    Cause::ListUnenforced => "list-unenforced",
    Cause::LinesRejected { .. } => "lines-rejected",
    Cause::FirstPass => "first-pass",
    Cause::WordUnreadable { .. } => "status-unreadable",
    Cause::FetchReportUnreadable { .. } => "fetch-report-unreadable",
    Cause::Decision(Trouble::SignatureEnds { .. }) => "signature-ends",
    Cause::Decision(Trouble::SignersRefused { .. }) => "signers-refused",
    Cause::OpenDoor(_) => "open-door",
    Cause::SessionsUnknown { .. } => "sessions-unknown",
    Cause::LogLost { .. } => "log-lost",
    Cause::NoKeys => "no-keys",
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
    pub(super) fn rank(&self) -> usize {
        let place = CODES.iter().position(|code| *code == self.code());
        place.unwrap_or(CODES.len())
    }

    pub fn severity(&self) -> Severity {
        match self {
            Self::OpenDoor(_)
            | Self::SessionsUnknown { .. }
            | Self::LogLost { .. }
            | Self::OtherFile(_)
            | Self::NoKeys
            | Self::KeysRefused { .. }
            | Self::SshdSilent { .. }
            | Self::SshdDoubt(_)
            | Self::OtherSshd { .. }
            | Self::Decision(
                Trouble::Unsigned { lasts: false, .. }
                | Trouble::SignatureEnds { .. }
                | Trouble::SignersRefused { .. },
            ) => Severity::Warning,
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
            Self::FileDrifted { changes, .. } => changes.join(", "),
            Self::OwnMount(OwnMount { place, uid, .. }) => format!(
                "a process of uid {uid} serves the file system at `{place}` and can show sshd other keys than the agent"
            ),
            Self::NotListed => "no list has ever named it, so its keys stay".to_owned(),
            Self::NothingUsable => {
                "the list gives it no key that can be used, so its file stays as it is".to_owned()
            }
            Self::HeldBack => "keys that are not on the list stay, since it is held".to_owned(),
            Self::FilesStay { lines } => format!(
                "its files hold {} that only sshd can judge, so they stay as they are, without the list's keys, while the list is held",
                match lines {
                    1 => "1 line".to_owned(),
                    lines => format!("{lines} lines"),
                }
            ),
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
    #[expect(clippy::too_many_lines, reason = "one sentence a cause, in rows")]
    pub(super) fn text(&self, whom: &str, many: bool) -> String {
        let is = if many { "are" } else { "is" };
        let has = if many { "have" } else { "has" };
        match self {
            Self::NoEnforcer => "no enforcer is running, so the agent repairs nothing".to_owned(),
            Self::FirstPass => "the enforcer has not finished its first pass yet".to_owned(),
            Self::WordUnreadable { error } => {
                format!("{error}; so this command cannot tell what the enforcer says")
            }
            Self::ConfigUnusable { error } => {
                format!("the config has changed and the agent cannot use it: {error}")
            }
            Self::ConfigOpen { path } => {
                format!("others than root can change `{path}`, and so decide whose keys work here")
            }
            Self::StateDamaged { error } => {
                format!("{error}; the enforcer has started with an empty state")
            }
            Self::StateUnsaved { error } => {
                format!("{error}; a restart of the agent would lose which keys are in force")
            }
            Self::NoThreads { error } => {
                format!("the kernel gives the enforcer no thread, so its work waits: {error}")
            }
            Self::NothingWatched { error } => {
                format!(
                    "the agent cannot watch any file, so it looks at all of them every few seconds: {error}"
                )
            }
            Self::Unwatched {
                accounts,
                error,
                want,
            } => unwatched_text(*accounts, error, *want),
            Self::Vanished => format!(
                "the account database no longer knows {whom}; the agent keeps the keys as they are for an hour"
            ),
            Self::NoFetcher => {
                "no fetcher is running, so no change of the list arrives here".to_owned()
            }
            Self::FetcherLate => {
                "a fetch is overdue: the fetcher hangs, was stopped, or cannot write its report"
                    .to_owned()
            }
            Self::FetchReportUnreadable { error } => error.clone(),
            Self::FetchFailed { error, .. } => format!("the last fetch failed: {error}"),
            Self::ListStale { seconds, limit } => format!(
                "the list is stale: no fetch has confirmed it for {} (`stale-after` is {})",
                duration(*seconds),
                duration(*limit)
            ),
            Self::ListUnenforced => {
                "the enforcer has not taken up the list that was fetched".to_owned()
            }
            Self::Decision(trouble) => trouble_text(trouble),
            Self::ListHeld(held) => held.to_string(),
            Self::LinesRejected { lines: 1 } => {
                "1 line of the list was not taken, see `rejected`".to_owned()
            }
            Self::LinesRejected { lines } => {
                format!("{lines} lines of the list were not taken, see `rejected`")
            }
            Self::PrivateKey { place, more } => {
                let more = match more {
                    0 => String::new(),
                    1 => " and in 1 more value".to_owned(),
                    more => format!(" and in {more} more values"),
                };
                format!(
                    "a PRIVATE key is in {place}{more}: all who can read the list know it, and the agent takes nothing of \
                     that value"
                )
            }
            Self::FileRefused { reason, .. } => format!("{whom} {is} refused: {reason}"),
            Self::FileDrifted { changes, in_short } => {
                /// More are counted.
                const NAMED: usize = 2;
                let changes = if changes.len() > NAMED {
                    in_short
                } else {
                    &changes.join(", ")
                };
                format!("{whom} {has} drifted: {changes}")
            }
            Self::NoKeys => format!("{whom} {has} no keys, so the managed file lets nobody in"),
            Self::OwnMount(_) => format!("{whom} {is} refused: {}", self.reason()),
            Self::NotListed => format!("{whom} {is} not listed: {}", self.reason()),
            Self::NothingUsable | Self::HeldBack | Self::FilesStay { .. } => {
                format!("{whom} {is} held: {}", self.reason())
            }
            Self::NotManaged { .. } => format!("{whom} {is} unmanaged: {}", self.reason()),
            Self::SshdRefuses { reason, .. } => format!("{whom} {is} refused by sshd: {reason}"),
            Self::Rival {
                program,
                times,
                since,
            } => {
                let who = match program {
                    Some(program) => format!("`{program}` writes this file too"),
                    None => "another program writes this file too".to_owned(),
                };
                format!(
                    "{whom}: the agent undoes the same change again and again ({times} times since {since:.0}): {who}"
                )
            }
            Self::Fight {
                times,
                until,
                cannot,
            } => {
                // `lock = "always"`.
                if let (0, Some(why)) = (times, cannot) {
                    return format!("the agent cannot lock the directory of {whom}: {why}");
                }
                let now = match (cannot, until) {
                    (Some(why), _) => format!("the agent undoes each change, and {why}"),
                    (None, Some(until)) => {
                        format!("until {until:.0} the agent lets nothing change in that directory")
                    }
                    (None, None) => "the agent undoes each change".to_owned(),
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
                    "session {id} of {whom}{from} was opened with a key that is not approved: {fingerprint}"
                )
            }
            Self::SessionsUnknown { error } => {
                format!("the agent cannot tell which keys opened the live sessions: {error}")
            }
            Self::LogLost { lines } => {
                format!("no program reads what the enforcer logs; it has lost {lines} lines so far")
            }
            Self::OpenDoor(door) => door.describe(whom),
            Self::OtherFile(other) => {
                let OtherFile { file, found, .. } = other;
                format!("{whom}: sshd also reads `{file}` with {}", found.in_words())
            }
            Self::KeysRefused { reason } => format!("{whom}: {reason}"),
            Self::SshdSilent { error } => {
                format!("sshd does not say which files it reads: {error}")
            }
            Self::SshdDoubt(doubt) => doubt.describe().to_owned(),
            Self::OtherSshd { command } => {
                format!(
                    "another sshd listens, and the agent does not judge whom it lets in: `{command}`"
                )
            }
        }
    }

    /// What a person can type or change about it.
    #[expect(clippy::too_many_lines, reason = "one hint a cause, in rows")]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::FetchFailed { hint, .. } | Self::FileRefused { hint, .. } => return hint.clone(),
            Self::OpenDoor(door) => return Some(door.hint()),
            Self::Session(Session { id, .. }) => {
                return Some(format!(
                    "loginctl kill-session --signal=SIGKILL {id}; or `end-sessions = true` in `[accounts]`"
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
                    "umount -l '{place}'; then take `user_allow_other` out of /etc/fuse.conf"
                ));
            }
            Self::NoEnforcer => "systemctl enable --now authorized-keys-agent",
            Self::NoFetcher => "systemctl enable --now authorized-keys-fetch",
            Self::FetcherLate => {
                "systemctl restart authorized-keys-fetch; `journalctl -u authorized-keys-fetch` says more"
            }
            Self::FetchReportUnreadable { .. } => "systemctl restart authorized-keys-fetch",
            Self::ConfigUnusable { .. } => {
                "correct the config, then `systemctl reload authorized-keys-agent`"
            }
            Self::ListHeld(_) => {
                "`agent diff` shows what waits, `agent sync --accept-removals` lets it go now"
            }
            Self::FilesStay { .. } => {
                "put each key into a line that `agent lint` takes, in a file that no other account can write to; or accept the list's removals"
            }
            Self::Decision(Trouble::NoList { .. } | Trouble::ListEmpty) => {
                "`agent check` looks at the source: is it the right directory, or path, region and AWS account?"
            }
            Self::Decision(Trouble::ListTooLarge(_)) => Excess::HINT,
            Self::Decision(Trouble::PeopleSilent { .. }) => {
                "check the services that nsswitch.conf(5) names for `passwd`, such as sssd"
            }
            Self::Vanished => {
                "if it still exists: start the service that knows it, such as sssd; if it was deleted: nothing"
            }
            Self::PrivateKey { .. } => {
                "delete that value, and replace that key everywhere: take its public half off every host"
            }
            Self::NotListed | Self::NothingUsable | Self::NoKeys => {
                "publish keys for it; or, to leave it without keys, a value of comments alone"
            }
            Self::LinesRejected { .. } => {
                "correct each line; `agent lint` judges a list before it is published"
            }
            Self::Fight { .. } => {
                "revoke its keys and end its sessions; `ps -u` shows its processes, `agent incidents` what they planted"
            }
            Self::Rival { .. } => {
                "configure that program to leave the file alone, or take the account out of `manage` in `[accounts]`"
            }
            Self::NoThreads { .. } => {
                "raise `TasksMax=` of the unit (`systemctl status authorized-keys-agent` shows it), or `kernel.pid_max` and `kernel.threads-max` (sysctl(8))"
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
                    "sysctl -w fs.inotify.max_user_watches={}; to keep it, the same without `sysctl -w` in /etc/sysctl.d/",
                    limit.next_multiple_of(1024)
                ));
            }
            Self::Unwatched { .. } => {
                "move it to a file system where root, or the account, may read it"
            }
            Self::OtherFile(_) => {
                "publish these keys, then remove that file; in homes `other-files = \"remove\"` in `[accounts]` does"
            }
            Self::SshdRefuses {
                by: Some(RefusedBy::StrictModes),
                ..
            } => {
                "chmod go-w on what the text names; where it belongs to neither the account nor root, chown it"
            }
            Self::SshdRefuses {
                by: Some(RefusedBy::OtherFile),
                ..
            } => {
                "name the same file in `AuthorizedKeysFile` (sshd_config) and in `file` of `[accounts]`"
            }
            Self::SshdRefuses { .. } => {
                "change that setting in sshd_config, or take the account out of `manage` in `[accounts]`"
            }
            Self::KeysRefused { .. } => "replace these keys, or change that setting in sshd_config",
            Self::SshdSilent { .. } => {
                "`sshd -t` as root checks its configuration; if `/run/sshd` is missing, start sshd once"
            }
            Self::SessionsUnknown { .. } => {
                "check that `loginctl` answers, and that the journal keeps what sshd logs at `LogLevel INFO`"
            }
            Self::LogLost { .. } => {
                "`systemctl status systemd-journald`; in a container, check what reads its log"
            }
            Self::SshdDoubt(_) | Self::OtherSshd { .. } => {
                "check in sshd_config(5), and in how sshd is started, who else gets in"
            }
            Self::FileDrifted { .. } => {
                "`agent diff` shows all of it; with `mode = \"enforce\"` the agent puts it right"
            }
            Self::FirstPass => "wait; a home on a dead file server takes some seconds",
            Self::WordUnreadable { .. } => "systemctl restart authorized-keys-agent",
            Self::StateDamaged { .. } => {
                "nothing, if the list is right; the damaged state is kept as `enforced.json.damaged`"
            }
            Self::StateUnsaved { .. } => {
                "make room, or let root write to the directory that the text names"
            }
            Self::ListStale { .. } | Self::Decision(Trouble::Revoked { .. }) => {
                "`agent check` looks at everything that a fetch needs"
            }
            Self::ListUnenforced => {
                "`journalctl -u authorized-keys-agent` says why; `agent sync` tries again"
            }
            Self::Decision(Trouble::ListForeign { .. } | Trouble::ListGone { .. }) => "agent sync",
            Self::Decision(Trouble::ListUnreadable { .. }) => {
                "remove the file that the text names, then `agent sync`"
            }
            Self::Decision(Trouble::Unsigned { what, lasts, .. }) => {
                return Some(unsigned_hint(&what.fault, *lasts));
            }
            Self::Decision(Trouble::SignatureEnds { .. }) => SIGN,
            Self::Decision(Trouble::SignersOpen { .. }) => {
                "let root own it and nobody else write to it, or keep the file elsewhere, as in /etc/authorized-keys-agent"
            }
            Self::Decision(Trouble::SignersUnreadable { .. } | Trouble::SignersRefused { .. }) => {
                "write it as ssh-keygen(1) says under ALLOWED SIGNERS: a name and a public key a line"
            }
            Self::Decision(Trouble::SignersTooFew { .. }) => {
                "add a line for each signer, or lower `signatures` in `[policy]`"
            }
            Self::Decision(Trouble::ListSchema { .. }) => {
                "systemctl restart authorized-keys-fetch authorized-keys-agent"
            }
            Self::Decision(
                Trouble::BreakGlassUnreadable { .. } | Trouble::BreakGlassRefused { .. },
            ) => "correct the file; `agent lint` with its name says what is wrong with each line",
            Self::HeldBack => "`agent diff` shows what the list would change",
            Self::NotManaged { .. } => "to manage it, name it in `manage` of `[accounts]`",
        };
        Some(hint.to_owned())
    }
}

fn unwatched_text(accounts: usize, error: &str, want: Option<(usize, usize)>) -> String {
    let what = match accounts {
        0 => "the files that decide about all accounts".to_owned(),
        1 => "1 account".to_owned(),
        more => format!("{more} accounts"),
    };
    let why = match want {
        Some((needed, most)) if needed > most => format!(
            "it needs {needed} watches, and takes no more than {most}, three quarters of `fs.inotify.max_user_watches`"
        ),
        Some((needed, _)) => format!(
            "it needs {needed} watches, and other programs have nearly all that `fs.inotify.max_user_watches` allows"
        ),
        None => error.to_owned(),
    };
    format!("the agent cannot watch {what}, so it looks every few seconds: {why}")
}

/// For a list without a signature that counts.
const SIGN: &str = "sign the list: `agent publish DIR --to PATH --sign KEY`, or `agent sign`";

fn unsigned_hint(fault: &Fault, lasts: bool) -> String {
    let hint = match fault {
        _ if !lasts => "wait: while a list is being published, this passes",
        Fault::Missing | Fault::Expired { .. } | Fault::Malformed(_) => SIGN,
        Fault::TooFew { .. } => {
            "have the next signer add one: `agent publish DIR --to PATH --add-signature --sign KEY`"
        }
        Fault::Refused { .. } => {
            "compare who signed with the file that `signed-by` in `[policy]` names"
        }
        Fault::Contents { .. } | Fault::Uncovered { .. } => {
            "find out who changed it; then publish the list that is meant, signed"
        }
        Fault::Scope { .. } => {
            "find out who copied it here; then publish the list that is meant, signed"
        }
        Fault::Audience { .. } => {
            "compare `audience` in `[policy]` with `--audience` of `agent publish`"
        }
        Fault::FromFuture { .. } => "compare the clocks: of this host, and of the one that signed",
        Fault::SerialBack { known: serial, .. } | Fault::SerialReused { serial } => {
            return format!(
                "find out who put it there; if it is meant, sign it anew: `agent publish DIR --to PATH --sign KEY --serial {}`",
                serial.saturating_add(1)
            );
        }
    };
    hint.to_owned()
}

fn trouble_text(trouble: &Trouble) -> String {
    const STAYS: &str = "the last list stays in force";
    const KEPT: &str = "the break-glass keys stay as they were";
    const NO_NEW: &str = "no new list counts, and what is in force stays";
    match trouble {
        Trouble::NoList { foreign: None } => {
            "no list has come yet, so the agent changes nothing".to_owned()
        }
        Trouble::NoList { foreign: Some(id) } => {
            format!(
                "no list has come yet (the stored one was fetched for `{id}`), so the agent changes nothing"
            )
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
        Trouble::Unsigned { what, is_first, .. } => format!(
            "the list of `{}` does not count: {}; {}",
            escaped(&what.scope),
            what.fault.reason(),
            if *is_first {
                "no list is in force yet, so the agent changes nothing"
            } else {
                "the keys in force stay"
            }
        ),
        Trouble::SignatureEnds { scope, at } => format!(
            "the signature of the list of `{}` ends at {at:.0}; after that the list does not count, and the keys in force stay",
            escaped(scope)
        ),
        Trouble::SignersOpen { path } => {
            format!("others than root can change `{path}`, and so who may sign; {NO_NEW}")
        }
        Trouble::SignersUnreadable { error } => {
            format!("{error}; who may sign is not known, so {NO_NEW}")
        }
        Trouble::SignersTooFew {
            path,
            there,
            needed,
        } => format!(
            "`{path}` names {} that may sign, and a list must be signed by {needed}, so {NO_NEW}",
            count(*there, "key")
        ),
        Trouble::SignersRefused {
            path,
            line,
            reason,
            more,
        } => {
            let more = match more {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!("line {line} of `{path}` does not count: {reason}{more}")
        }
        Trouble::ListEmpty => {
            "the list is empty: its source has no parameter and no file".to_owned()
        }
        Trouble::BreakGlassOpen { path } => {
            format!("others than root can change `{path}`; {KEPT}")
        }
        Trouble::BreakGlassUnreadable { error } => format!("{error}; {KEPT}"),
        Trouble::BreakGlassRefused { path } => {
            format!("`{path}` has no line that is a key; {KEPT}")
        }
        Trouble::PeopleSilent { accounts } => {
            let names: Vec<&str> = accounts.iter().map(AccountName::as_str).collect();
            let whom = several(&names);
            format!(
                "the account database (NSS) does not answer for {whom}; its last answer counts meanwhile"
            )
        }
        Trouble::Revoked { since } => format!(
            "no good list has come since {since}, so the agent has removed all keys but the break-glass ones (`on-stale = \"revoke\"`)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::list::statement::Malformed;

    /// The code, how bad it is, the sentence and the hint, each on a line.
    fn told(trouble: Trouble) -> String {
        let cause = Cause::Decision(trouble);
        let hint = cause.hint().unwrap();
        let (severity, code) = (cause.severity().as_str(), cause.code());
        format!(
            "{severity} {code}\n  {}\n  hint: {hint}\n",
            cause.text("", false)
        )
    }

    fn unsigned(fault: Fault) -> Trouble {
        let scope = "/authorized-keys/web".to_owned();
        Trouble::Unsigned {
            what: Unsigned { scope, fault },
            lasts: true,
            is_first: false,
        }
    }

    #[test]
    fn each_trouble_with_signatures_in_words() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let path = || "/etc/authorized-keys-agent/allowed_signers".to_owned();
        let parameter = || "/authorized-keys/web/alice/laptop".to_owned();
        let mut all = String::new();
        for fault in [
            Fault::Refused {
                good: 0,
                needed: 1,
                faults: vec![
                    "the signature is by the key SHA256:x, which is not one that may sign"
                        .to_owned(),
                    "bob@example.com SHA256:y could sign until 2026-11-01T00:00:00Z".to_owned(),
                ],
            },
            Fault::TooFew { good: 1, needed: 2 },
            Fault::Missing,
            Fault::Malformed(Malformed::Line),
            Fault::Scope {
                said: "/authorized-keys/db".to_owned(),
            },
            Fault::Audience {
                said: Some("test".to_owned()),
                own: Some("prod".to_owned()),
            },
            Fault::Audience {
                said: None,
                own: Some("prod".to_owned()),
            },
            Fault::Audience {
                said: Some("test".to_owned()),
                own: None,
            },
            Fault::FromFuture {
                issued: at("2026-12-01T00:00:00Z"),
            },
            Fault::Expired {
                at: at("2026-11-01T00:00:00Z"),
            },
            Fault::SerialBack {
                serial: 41,
                known: 43,
            },
            Fault::SerialReused { serial: 43 },
            Fault::Contents {
                said: 3,
                found: 3,
                later: vec![parameter()],
            },
            Fault::Contents {
                said: 3,
                found: 4,
                later: Vec::new(),
            },
            Fault::Uncovered {
                parameter: parameter(),
            },
        ] {
            all += &told(unsigned(fault));
        }
        let scope = || "/authorized-keys/web".to_owned();
        let fault = Fault::Missing;
        all += &told(Trouble::Unsigned {
            what: Unsigned {
                scope: scope(),
                fault,
            },
            lasts: false,
            is_first: true,
        });
        for trouble in [
            Trouble::SignersOpen { path: path() },
            Trouble::SignersUnreadable {
                error: format!("`{}` is missing", path()),
            },
            Trouble::SignersTooFew {
                path: path(),
                there: 1,
                needed: 2,
            },
            Trouble::SignatureEnds {
                scope: scope(),
                at: at("2026-12-04T12:00:00Z"),
            },
            Trouble::SignersRefused {
                path: path(),
                line: 3,
                reason: "no name in front of the key".to_owned(),
                more: 2,
            },
        ] {
            all += &told(trouble);
        }
        assert_eq!(all, include_str!("golden/signatures.txt"), "\n{all}");
    }
}
