//! Where log lines go: fields into journald under systemd, text on stderr elsewhere. A daemon never waits for who takes
//! them; what was lost is counted, and said once somebody reads again.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::host::Outbox;
use crate::model::escape::escaped;

/// How much is logged.
pub type Level = LevelFilter;

/// The name under which an event carries its constant id; journald knows it as `MESSAGE_ID`.
pub const MESSAGE_ID: &str = "message_id";

/// Lines were lost, as nobody read the log.
pub const LOST: &str = "ecb648bce7cc471884771d67e2ad4a56";

/// Targets of this program; other crates only speak from `warn` on, and none of them sees a request or a key.
const OWN_TARGET: &str = "authorized_keys_agent";

/// The target of what only `--log debug` shows. Said at `info`, for what is below it is not compiled in: other crates say
/// hundreds of things there.
pub const DETAIL: &str = "authorized_keys_agent::detail";

/// Who waits for whoever reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A command: a line is out before the next one is said.
    Waits,
    /// A daemon: nothing keeps it from its work.
    NeverWaits,
}

/// Lines on their way out, where this process never waits for that.
static LINES: Outbox = Outbox::new(write, |lost| {
    tracing::warn!(
        message_id = LOST,
        lost,
        "so many lines were not logged, as nobody took them"
    );
});

/// Set where lines go into [`LINES`].
static NEVER_WAITS: OnceLock<()> = OnceLock::new();

/// Set where lines go to journald (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
static JOURNALD: OnceLock<UnixDatagram> = OnceLock::new();

const SOCKET: &str = "/run/systemd/journal/socket";

/// What every entry for journald begins with, and no other line.
const ENTRY: &str = "PRIORITY=";

/// The longest value of a field, in bytes. All fields of an entry fit into one datagram (`net.core.wmem_default`).
const VALUE: usize = 24 << 10;

/// Sends log lines where they belong. `journal_stream` is the environment's `JOURNAL_STREAM`, `no_color` its
/// `NO_COLOR`.
pub fn start(level: Level, patience: Patience, journal_stream: Option<&str>, no_color: bool) {
    if patience == Patience::NeverWaits {
        let _ = NEVER_WAITS.set(());
    }
    let form = if journal_stream.is_some_and(is_stderr)
        && let Ok(socket) = UnixDatagram::unbound()
        // Says only whether somebody is there; journald passes over what is empty.
        && socket.send_to(&[], SOCKET).is_ok()
    {
        let _ = JOURNALD.set(socket);
        Form::Entry
    } else {
        Form::Text {
            in_colour: !no_color && io::stderr().is_terminal(),
        }
    };
    let _ = tracing::subscriber::set_global_default(Journal { level, form });
}

/// What takes the lines that are logged.
struct Journal {
    level: Level,
    form: Form,
}

/// What becomes of an event.
enum Form {
    /// An entry of journald's.
    Entry,
    /// A line of text.
    Text { in_colour: bool },
}

impl Subscriber for Journal {
    fn enabled(&self, meta: &Metadata<'_>) -> bool {
        let limit = if meta.target().starts_with(OWN_TARGET) {
            self.level
        } else {
            self.level.min(LevelFilter::WARN)
        };
        meta.is_event() && level(meta) <= limit
    }

    fn event(&self, event: &Event<'_>) {
        put(match self.form {
            Form::Entry => entry(event),
            Form::Text { in_colour } => text(event, in_colour).into_bytes(),
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn level(meta: &Metadata<'_>) -> tracing::Level {
    if meta.target() == DETAIL {
        tracing::Level::DEBUG
    } else {
        *meta.level()
    }
}

/// A line that is logged whatever the level.
pub fn say(line: String) {
    put(line.into_bytes());
}

/// Waits until every line is out, no longer than `limit`.
pub fn flush(limit: Duration) {
    LINES.flush(limit);
}

/// How many lines were lost so far, and nobody could be told.
pub fn lost() -> u64 {
    LINES.lost()
}

fn put(line: Vec<u8>) {
    if NEVER_WAITS.get().is_some() {
        LINES.put(line);
    } else {
        // There is nobody else to tell.
        let _ = write(&line);
    }
}

/// Returns whether somebody took the line.
fn write(line: &[u8]) -> bool {
    match JOURNALD.get() {
        Some(socket) if line.starts_with(ENTRY.as_bytes()) => {
            socket.send_to(line, SOCKET).is_ok_and(|sent| sent > 0)
        }
        // Not by the standard library's: whoever writes there waits for everybody who does.
        _ => match io::stderr().as_fd().try_clone_to_owned() {
            Ok(stderr) => std::fs::File::from(stderr).write_all(line).is_ok(),
            Err(_) => false,
        },
    }
}

fn entry(event: &Event<'_>) -> Vec<u8> {
    let meta = event.metadata();
    // As `syslog(3)` has them: 3 for an error, 7 for what only a trace shows.
    let priority = match level(meta) {
        tracing::Level::ERROR => 3,
        tracing::Level::WARN => 4,
        tracing::Level::INFO => 5,
        tracing::Level::DEBUG => 6,
        tracing::Level::TRACE => 7,
    };
    let target = meta.target();
    let mut entry =
        format!("{ENTRY}{priority}\nSYSLOG_IDENTIFIER=authorized-keys-agent\nTARGET={target}\n");
    if let (Some(file), Some(line)) = (meta.file(), meta.line()) {
        let _ = writeln!(entry, "CODE_FILE={file}\nCODE_LINE={line}");
    }
    let mut fields = Entry(entry.into_bytes());
    event.record(&mut fields);
    fields.0
}

struct Entry(Vec<u8>);

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value = &value[..value.floor_char_boundary(VALUE)];
        // `systemd.journal-fields(7)`: capital letters, digits and underscores, and those of the journal's own begin with one.
        let name = field.name().trim_start_matches('_').to_ascii_uppercase();
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        self.0.extend(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend((value.len() as u64).to_le_bytes());
        self.0.extend(value.as_bytes());
        self.0.push(b'\n');
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// `sd_journal_stream_fd(3)`: `device:inode` of the stream that systemd connected.
fn is_stderr(journal_stream: &str) -> bool {
    let Ok(meta) = std::fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    journal_stream == format!("{}:{}", meta.st_dev(), meta.st_ino())
}

fn text(event: &Event<'_>, in_colour: bool) -> String {
    let (colour, word) = match level(event.metadata()) {
        tracing::Level::ERROR => (31, "ERROR"),
        tracing::Level::WARN => (33, " WARN"),
        tracing::Level::INFO => (32, " INFO"),
        tracing::Level::DEBUG => (34, "DEBUG"),
        tracing::Level::TRACE => (35, "TRACE"),
    };
    let mut text = Text(if in_colour {
        format!("\x1b[{colour}m{word}\x1b[0m")
    } else {
        word.to_owned()
    });
    event.record(&mut text);
    text.0.push('\n');
    text.0
}

/// Fields as `name=value`, the message first, without the id that only journald needs.
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        let name = field.name();
        if name == MESSAGE_ID {
            return;
        }
        self.0.push(' ');
        if name != "message" {
            self.0.push_str(name);
            self.0.push('=');
        }
        self.0.push_str(&escaped(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
