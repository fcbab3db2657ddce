//! Where log lines go: fields into journald under systemd, text on stderr elsewhere.

use std::fmt;
use std::io::IsTerminal;
use std::os::linux::fs::MetadataExt;

use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::model::escape::escaped;

/// How much is logged.
pub type Level = LevelFilter;

/// The name under which an event carries its constant id; journald knows it as `MESSAGE_ID`.
pub const MESSAGE_ID: &str = "message_id";

/// Targets of this program; other crates only speak from `warn` on, and none of them sees a request or a key.
const OWN_TARGET: &str = "authorized_keys_agent";

/// Sends log lines where they belong. `journal_stream` is the environment's `JOURNAL_STREAM`, `no_color` its
/// `NO_COLOR`.
pub fn start(level: Level, journal_stream: Option<&str>, no_color: bool) {
    let filter = tracing_subscriber::filter::filter_fn(move |meta| {
        let limit = if meta.target().starts_with(OWN_TARGET) {
            level
        } else {
            level.min(LevelFilter::WARN)
        };
        *meta.level() <= limit
    });
    if journal_stream.is_some_and(is_stderr)
        && let Ok(journal) = tracing_journald::layer()
    {
        let journal = journal
            .with_field_prefix(None)
            .with_syslog_identifier("authorized-keys-agent".to_owned());
        let _ = tracing_subscriber::registry()
            .with(journal.with_filter(filter))
            .try_init();
        return;
    }
    let color = !no_color && std::io::stderr().is_terminal();
    let text = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .with_target(false)
        .without_time()
        .fmt_fields(Plain);
    let _ = tracing_subscriber::registry()
        .with(boxed(text).with_filter(filter))
        .try_init();
}

fn boxed<S: Subscriber>(
    layer: impl Layer<S> + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync> {
    Box::new(layer)
}

/// `sd_journal_stream_fd(3)`: `device:inode` of the stream that systemd connected.
fn is_stderr(journal_stream: &str) -> bool {
    let Ok(meta) = std::fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    journal_stream == format!("{}:{}", meta.st_dev(), meta.st_ino())
}

/// Fields as `name=value`, the message first, without the id that only journald needs.
struct Plain;

impl<'w> FormatFields<'w> for Plain {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        writer: Writer<'w>,
        fields: R,
    ) -> fmt::Result {
        let mut visitor = PlainVisitor {
            writer,
            empty: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct PlainVisitor<'w> {
    writer: Writer<'w>,
    empty: bool,
    result: fmt::Result,
}

impl PlainVisitor<'_> {
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if field.name() == MESSAGE_ID || self.result.is_err() {
            return;
        }
        let gap = if self.empty { "" } else { " " };
        self.empty = false;
        let value = escaped(&value.to_string());
        self.result = match field.name() {
            "message" => write!(self.writer, "{gap}{value}"),
            name => write!(self.writer, "{gap}{name}={value}"),
        };
    }
}

impl Visit for PlainVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }
}
