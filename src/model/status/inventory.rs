//! For the inventory of Systems Manager: two custom types, a file each. The limits are those of `PutInventory` (API reference,
//! `InventoryItem`), of Systems Manager ("Service quotas", Inventory), and of what its agent takes from a file.

use jiff::Timestamp;

use crate::model::escape::{escaped, quoted, shortened};
use crate::model::file::other_files::InFile;
use crate::model::key::id::KeyId;
use crate::model::status::problem::Severity;
use crate::model::status::schema::{AccountState, KeyStatus, Status};
use crate::model::status::told::Told;

/// Entries of one type.
const ENTRIES: usize = 10_000;
/// Bytes of one type: half of what one call takes, since the other types of a host share it.
const BYTES: usize = 512 << 10;
/// Bytes of one value.
const VALUE: usize = 4096;

/// What is written, each the content of a file.
pub struct Inventory {
    /// `Custom:AuthorizedKeysAgent`: one entry.
    pub agent: String,
    /// `Custom:AuthorizedKeys`: an entry for each key and account.
    pub keys: String,
}

/// One entry; its attributes are the same in every entry of a type, so that each is a column.
#[derive(Default)]
struct Entry(String);

impl Entry {
    fn add(&mut self, name: &str, value: &str) {
        let before = if self.0.is_empty() { "{\"" } else { ",\"" };
        let value = quoted(&shortened(&escaped(value), VALUE));
        for part in [before, name, "\":", &value] {
            self.0.push_str(part);
        }
    }

    fn count(&mut self, name: &str, value: usize) {
        self.add(name, &value.to_string());
    }

    fn time(&mut self, name: &str, at: Option<Timestamp>) {
        let text = at.map_or(String::new(), |at| format!("{at:.0}"));
        self.add(name, &text);
    }
}

/// The entries of one type, as many as fit.
struct Entries {
    text: String,
    shown: usize,
    left_out: usize,
    /// No room for more was found; nothing is made in vain of what comes then.
    is_full: bool,
}

impl Entries {
    fn new(name: &str) -> Self {
        let mut text = String::new();
        for part in [
            "{\"SchemaVersion\":\"1.0\",\"TypeName\":\"Custom:",
            name,
            "\",\"Content\":[",
        ] {
            text.push_str(part);
        }
        Self {
            text,
            shown: 0,
            left_out: 0,
            is_full: false,
        }
    }

    fn push(&mut self, entry: &Entry) {
        /// Of what ends an entry and the file.
        const END: usize = 16;
        if self.shown == ENTRIES || self.text.len() + entry.0.len() + END > BYTES {
            self.is_full = true;
            self.left_out += 1;
            return;
        }
        let before = if self.shown == 0 { "\n" } else { ",\n" };
        for part in [before, &entry.0, "}"] {
            self.text.push_str(part);
        }
        self.shown += 1;
    }

    fn key(
        &mut self,
        account: &str,
        state: &str,
        file: &str,
        key: &KeyId,
        from: Option<&KeyStatus>,
    ) {
        if self.is_full {
            self.left_out += 1;
            return;
        }
        let mut entry = Entry::default();
        entry.add("Account", account);
        entry.add("State", state);
        entry.add("File", file);
        entry.add("Fingerprint", &key.fingerprint);
        entry.add("KeyType", &key.algorithm);
        entry.add("Comment", &key.comment);
        entry.add("Parameter", from.map_or("", |from| &from.parameter));
        let version = from.and_then(|from| from.parameter_version);
        entry.add(
            "ParameterVersion",
            &version.map_or(String::new(), |version| version.to_string()),
        );
        entry.time("ExpiresAt", from.and_then(|from| from.expires_at));
        self.push(&entry);
    }

    /// What stands in a file that the agent does not write.
    fn found(&mut self, account: &str, state: &str, file: &str, found: &InFile) {
        for key in &found.keys {
            self.key(account, state, file, key, None);
        }
        self.left_out += found.more + found.unclear;
    }

    fn end(mut self) -> String {
        self.text.push_str("\n]}\n");
        self.text
    }
}

impl Status {
    /// As `--format inventory` writes it at `now`.
    pub fn inventory(&self, now: Timestamp) -> Inventory {
        let keys = self.key_entries();
        let tally = self.tally();
        let mut entry = Entry::default();
        // What is sent is captured when the agent of Systems Manager reads it, however old it is.
        entry.time("ReportedAt", Some(now));
        entry.add("Host", &self.host.name);
        entry.add("Version", &self.version);
        entry.add("Mode", &self.mode);
        entry.add("Health", self.health().as_str());
        entry.add("Problems", &self.codes(Severity::Warning).join(" "));
        let told = self.told();
        let worst = told.first();
        entry.add("WorstProblem", &worst.map_or(String::new(), Told::line));
        entry.add(
            "ListSource",
            self.list.source.as_deref().unwrap_or_default(),
        );
        let digest = self.list.listed.as_ref().map(|listed| &*listed.digest);
        entry.add("ListDigest", digest.unwrap_or_default());
        entry.time("ListConfirmedAt", self.list.confirmed_at);
        entry.time("SignatureExpiresAt", self.list.signed_until());
        let days = self.list.signature_days(now);
        let days = days.map_or(String::new(), |days| days.to_string());
        entry.add("SignatureDaysLeft", &days);
        entry.count(
            "HeldRemovals",
            self.list.held.as_ref().map_or(0, |held| held.removed),
        );
        entry.time("ChangedAt", tally.changed_at);
        for (state, count) in tally.states() {
            let mut name = String::from("Accounts");
            for word in state.as_str().split('-') {
                name.push_str(&word[..1].to_ascii_uppercase());
                name.push_str(&word[1..]);
            }
            entry.count(&name, count);
        }
        entry.count("Keys", tally.keys);
        entry.count("KeysReported", keys.shown);
        entry.count("KeysLeftOut", keys.left_out);
        let mut agent = Entries::new("AuthorizedKeysAgent");
        agent.push(&entry);
        Inventory {
            agent: agent.end(),
            keys: keys.end(),
        }
    }

    /// Every key that sshd reads, as far as it is known: those in force first.
    fn key_entries(&self) -> Entries {
        let mut all = Entries::new("AuthorizedKeys");
        for row in self.rows.values() {
            let file = row.file.as_deref().unwrap_or_default();
            for key in row.keys.iter().flatten() {
                all.key(
                    row.name.as_str(),
                    row.state.as_str(),
                    file,
                    &key.key,
                    Some(key),
                );
            }
        }
        for row in self.rows.values() {
            for other in &row.other_files {
                all.found(
                    row.name.as_str(),
                    row.state.as_str(),
                    &other.file,
                    &other.found,
                );
            }
        }
        for file in self.unmanaged.iter().flatten() {
            all.found(
                &file.name,
                AccountState::Unmanaged.as_str(),
                &file.file,
                &file.found,
            );
        }
        // How many keys are in the files that are not listed is not known.
        all.left_out += usize::from(self.unmanaged_cut);
        all
    }
}
