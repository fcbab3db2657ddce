//! People: one file a command. stdout is data, stderr is everything else.

mod check;
mod daemons;
mod diff;
mod export;
mod incidents;
mod lint;
mod print;
mod publish;
mod seal;
mod status;
mod surroundings;
mod sync;
mod wrap;

use std::ffi::OsString;
use std::io;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use self::surroundings::{Outcome, USAGE, read_config};
use crate::host::journal::{self, Patience};
use crate::host::service;
use crate::model::escape::escaped;

/// Makes this host's authorized_keys say exactly what the approved list says.
///
/// The approved list says who may log in. The agent fetches it, rewrites the managed authorized_keys files
/// atomically, watches them, and undoes any other change. A fetch that fails removes no key: the last good list stays in
/// force.
///
/// Packages install the command as `agent`, too. Two services do the work: one fetches the list and has no root, the
/// other enforces it and has no network.
#[derive(Parser)]
#[command(version, max_term_width = 80, after_long_help = REFERENCE)]
pub struct Cli {
    /// Configuration file [default: /etc/authorized-keys-agent/config.toml]
    #[arg(long, global = true, value_name = "FILE", display_order = LAST)]
    config: Option<PathBuf>,
    /// What to log on stderr: error, warn, info, debug or trace [default: info]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        default_value = "info",
        hide_default_value = true,
        hide_possible_values = true,
        display_order = LAST
    )]
    log: LogLevel,
    #[command(subcommand)]
    command: Command,
}

/// Where options stand that every command has: after its own.
const LAST: usize = 100;

#[derive(Subcommand)]
enum Command {
    /// Say whether all is right, and if not, what to do
    ///
    /// Looks at the files as it answers. Any user can run it: what that user may not read is the enforcer's last word,
    /// shown with its age. In observe mode the keys are those in the file, not those of the list.
    ///
    /// An error makes the status degraded, a warning does not. In /usr/share/doc/authorized-keys-agent, problems.md.gz explains
    /// each and status.schema.json describes the JSON.
    #[command(after_help = status::END)]
    Status(status::Arguments),
    /// Fetch now, enforce now, wait, and print what changed
    ///
    /// Asks the running services to do it, and waits for them; does itself what no running service does.
    #[command(after_help = sync::END)]
    Sync(sync::Arguments),
    /// Print what enforcing would change, and write nothing
    ///
    /// Fetches afresh; with the source out of reach the stored list is compared. `+` is what a file would get, `-` what it
    /// would lose, `~` what else would change, such as the options of a key. With `--list` or `--path` it compares with a
    /// list that is not in force yet: what publishing it would change on this host.
    #[command(after_help = diff::END)]
    Diff(diff::Arguments),
    /// Look at all that the agent needs, and say what is missing
    ///
    /// Configuration, source, credentials, instance metadata, accounts, directories and sshd. Nothing is written; below
    /// each failure stands what to do.
    #[command(after_help = check::END)]
    Check(check::Arguments),
    /// Make a first list of the keys that this host's accounts have now
    ///
    /// Writes a directory for each account, and in it a file for each key, named by the key's comment. `lint`, `diff --list`
    /// and a `directory` in `[source]` read it. Nothing else changes on this host. What a list would not take is named with
    /// file and line, and exported as it stands, so that nothing is lost; a private key is never exported. Works without a
    /// configuration, and without root for your own account.
    #[command(after_help = export::END)]
    Export(export::Arguments),
    /// Judge authorized_keys lines before they are published
    ///
    /// Says whether the policy and sshd take each line, and whether it fits into a parameter. Takes a whole list as a
    /// directory, or single files. For CI; works without a configuration, by the default policy.
    #[command(after_help = lint::END)]
    Lint(lint::Arguments),
    /// Put a directory of keys into Parameter Store
    ///
    /// Judges each line as `lint` does, shows which parameters change and who gains and loses on each account, asks, and puts
    /// them in an order in which after each write every account still has the keys that it keeps. From a laptop or in CI: needs
    /// no root and no configuration. Stopped anywhere and run again, it finishes.
    #[command(after_help = publish::END)]
    Publish(publish::Arguments),
    /// Sign a directory of keys, and put nothing
    ///
    /// Judges each line as `lint` does, shows what is signed, and writes DIR/.signed: a text that says for which hosts the list
    /// is, its serial number, until when it counts and what it holds, and the signature of that by ssh-keygen. For a list that
    /// a second person signs and publishes, that CI publishes without a key, or that reaches hosts by other means. Needs no root
    /// and no configuration.
    #[command(after_help = publish::sign::END)]
    Sign(publish::sign::Arguments),
    /// Print who changed managed files, what, and how it was undone
    ///
    /// As root. The newest is last. Of each it says how long it stood, where the content that stood in the file is kept, and
    /// who made the change where the audit log knows.
    #[command(after_help = incidents::END)]
    Incidents(incidents::Arguments),
    /// Remove what is this instance's own, before an image is made of it
    ///
    /// The configuration, the break-glass keys and the authorized_keys files stay; it names the files that have keys.
    #[command(after_help = seal::END)]
    Seal,
    /// Fetch and enforce in the foreground
    ///
    /// For containers, development and a first try. Under systemd the two halves are two services; here the enforcer starts
    /// the fetcher as a process of its own, and starts it again when it ends.
    #[command(after_help = daemons::RUN_END)]
    Run,
    /// Fetch the list and store it, as authorized-keys-fetch.service does
    ///
    /// Needs no root. The list is replaced only when its content changed; if anything goes wrong, the last good one stays.
    #[command(after_help = daemons::FETCH_END)]
    Fetch(daemons::FetchArguments),
    /// Enforce the stored list, as authorized-keys-agent.service does
    ///
    /// Needs root and no network. Before a first list has come it changes nothing.
    #[command(after_help = daemons::ENFORCE_END)]
    Enforce(daemons::EnforceArguments),
}

impl Cli {
    /// The options of this command that another one of this program is to have.
    fn same(&self) -> Vec<OsString> {
        let level = self.log.to_possible_value();
        let level = level.map(|level| format!("--log={}", level.get_name()).into());
        let config = self.config.clone();
        let config = config.map(|config| ["--config".into(), config.into_os_string()]);
        level
            .into_iter()
            .chain(config.into_iter().flatten())
            .collect()
    }
}

impl Command {
    /// Whether it waits for who reads its log: what goes on for ever must not.
    fn patience(&self) -> Patience {
        match self {
            Self::Run => Patience::NeverWaits,
            Self::Fetch(arguments) => arguments.patience(),
            Self::Enforce(arguments) => arguments.patience(),
            _ => Patience::Waits,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for journal::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// What `--help` ends with, and the man page too: sections of terms and what they mean.
const REFERENCE: &str = "\
Examples:
  sudo agent check
      What is missing, before the first list comes
  sudo agent diff
      What the list would change here
  sudo agent status
      What is in force, what is wrong, and what to do

Words:
  held
      The list would remove too many of this host's keys at once: these keys
      stay until enough polls in a row have found that list, or until
      `sync --accept-removals`; the keys that it adds come at once
  refused
      The agent could not bring the file in line, or sshd does not take it
  also open
      sshd lets people in by another way too, such as EC2 Instance Connect
  not listed
      The configuration manages the account and no list ever named it: its keys
      stay

Exit status:
  0  done, and all is well
  1  something is not as it should be; each command says what
  2  wrong usage or configuration
  3  status: no enforcer is running
  141  the output is not all written, as its reader is gone

Files:
  /etc/authorized-keys-agent/config.toml
      The configuration
  /etc/authorized-keys-agent/break-glass
      Lines that every managed account keeps, whatever the list says
  /etc/authorized-keys-agent/approved
      The list, where a directory is its source
  /var/lib/authorized-keys-fetch/approved.json
      The last good list
  /run/authorized-keys-fetch/fetch.json
      The last attempt to fetch, the last success, the next attempt
  /var/lib/authorized-keys-agent
      What is in force, and copies of the files before the first change
  /run/authorized-keys-agent/status.json, keys.json, status-changes.json
      The enforcer's word, for `status`; scripts use `status --json`
  /run/authorized-keys-agent/fetch-report.json
      A copy of fetch.json, for every user

Signals:
  HUP   read the configuration again, and fetch or enforce now
  USR1  the same; of `run`, only what enforces
  TERM  end; the files stay as they are

Environment:
  NO_COLOR
      No colour in what is logged on a terminal
  AWS_REGION, AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
      As in other AWS programs; else the instance's role and region count
  AWS_ENDPOINT_URL_SSM
      Another address of Parameter Store
  HTTPS_PROXY, NO_PROXY
      A proxy on the way to Parameter Store";

/// Where the config is unless `--config` says.
const CONFIG: &str = "/etc/authorized-keys-agent/config.toml";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    #[expect(
        clippy::disallowed_methods,
        reason = "the environment is read here and nowhere else"
    )]
    let (journal_stream, no_color) = (
        std::env::var("JOURNAL_STREAM").ok(),
        std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()),
    );
    let patience = cli.command.patience();
    journal::start(
        cli.log.into(),
        patience,
        journal_stream.as_deref(),
        no_color,
    );
    std::panic::set_hook(Box::new(last_words));
    let code = match run(&cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => CLOSED_PIPE,
        Err(error) => {
            // The lines stay: a config error shows its own with a caret.
            let text: Vec<String> = format!("{error:#}").lines().map(escaped).collect();
            journal::say(format!("error: {}\n", text.join("\n")));
            USAGE
        }
    };
    service::flush(LAST_WORDS);
    journal::flush(LAST_WORDS);
    ExitCode::from(code)
}

/// How long a process that ends waits for who reads its last lines.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// As of a process that SIGPIPE ended: who reads has closed the pipe, and what was asked for is not all said.
const CLOSED_PIPE: u8 = 128 + 13;

/// Says where the program ends for a mistake of its own or of a library.
fn last_words(panic: &PanicHookInfo<'_>) {
    // Only what was written by a programmer: what is put together may hold what must not be shown.
    let why = panic.payload().downcast_ref::<&str>().unwrap_or(&"");
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_default();
    journal::say(format!("error: a bug at {place}: {}\n", escaped(why)));
    journal::flush(LAST_WORDS);
}

fn run(cli: &Cli) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let path = cli.config.as_deref().unwrap_or(Path::new(CONFIG));
    // These work without a config.
    let is_named = cli.config.is_some();
    match &cli.command {
        Command::Lint(arguments) => return lint::run(arguments, path, is_named),
        Command::Export(arguments) => {
            return runtime.block_on(export::run(arguments, path, is_named));
        }
        Command::Sign(arguments) => {
            let signed = publish::sign::run(arguments, path, is_named);
            return runtime.block_on(Box::pin(signed));
        }
        Command::Publish(arguments) => {
            let published = publish::run(arguments, path, is_named);
            return runtime.block_on(Box::pin(published));
        }
        _ => {}
    }
    let config = match (read_config(path), &cli.command) {
        (Err(error), Command::Status(arguments)) => {
            status::last_word(arguments, path, &error)?;
            return Err(error);
        }
        (read, _) => read?,
    };
    runtime.block_on(async {
        match &cli.command {
            // Done above.
            Command::Lint(_) | Command::Export(_) | Command::Publish(_) | Command::Sign(_) => {
                Ok(USAGE)
            }
            Command::Run => Box::pin(daemons::run(config, path, cli.same())).await,
            Command::Fetch(arguments) => daemons::fetch(arguments, config, path).await,
            Command::Enforce(arguments) => {
                Box::pin(daemons::enforce(arguments, config, path)).await
            }
            Command::Sync(arguments) => sync::run(arguments, config).await,
            Command::Seal => seal::run(&config),
            Command::Diff(arguments) => diff::run(arguments, config).await,
            Command::Check(arguments) => check::run(arguments, config, path).await,
            Command::Incidents(arguments) => incidents::run(arguments, &config),
            Command::Status(arguments) => status::run(arguments, config, path).await,
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
