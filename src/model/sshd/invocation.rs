//! How sshd was started: a configuration elsewhere (`-f`) and settings of the command line (`-o`), which win over the
//! file's. `sshd -T` shows them only when it is given them too.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The part of a command line that changes the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Invocation {
    /// `-f`.
    pub config: Option<PathBuf>,
    /// Each `-o`, in order: `Keyword=value` or `Keyword value`.
    pub options: Vec<String>,
    /// The first port that it names, by `-p` or `-o Port`.
    pub port: Option<u16>,
    /// It does not listen: it is for one connection, or only says something.
    pub is_brief: bool,
}

/// Options of sshd that take a value, and those that take none (`sshd.c: main`, getopt).
const VALUED: &str = "CEbcfghkopu";
const FLAGS: &str = "46DQRTtVdeiqrGI";

/// Those of one that does not listen.
const BRIEF: &str = "iRTtGV";

impl Invocation {
    /// Reads the words after the program's name.
    pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut invocation = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(letters) = word.strip_prefix('-') else {
                continue;
            };
            for (at, letter) in letters.char_indices() {
                if !VALUED.contains(letter) {
                    invocation.is_brief |= BRIEF.contains(letter);
                    continue;
                }
                let attached = &letters[at + letter.len_utf8()..];
                let value = if attached.is_empty() {
                    words.next()
                } else {
                    Some(attached)
                };
                match (letter, value) {
                    ('f', Some(value)) => invocation.config = Some(value.into()),
                    ('o', Some(value)) => {
                        invocation.port = invocation.port.or_else(|| port(value));
                        invocation.options.push(value.trim().to_owned());
                    }
                    ('p', Some(value)) => {
                        invocation.port = invocation.port.or_else(|| value.parse().ok());
                    }
                    _ => {}
                }
                break;
            }
        }
        invocation
    }

    /// The words to start another sshd with.
    pub fn words(&self) -> Vec<String> {
        let config = self
            .config
            .iter()
            .flat_map(|path| ["-f".to_owned(), path.display().to_string()]);
        let options = self
            .options
            .iter()
            .flat_map(|option| ["-o".to_owned(), option.clone()]);
        config.chain(options).collect()
    }
}

/// The number in a line, or an `-o`, that says `Port`.
pub fn port(line: &str) -> Option<u16> {
    let mut words = line
        .split(|c: char| c.is_whitespace() || c == '=')
        .filter(|word| !word.is_empty());
    words
        .next()
        .filter(|word| word.eq_ignore_ascii_case("port"))?;
    words.next()?.trim_matches('"').parse().ok()
}

/// The words of a listener, from what it has as its command line. A recent one writes its arguments there with blanks
/// between them and no quotes (`sshd.c: prepare_proctitle`), so they are those of the `unit` where that comes to the
/// same; else an `-o` goes on to the next word that looks like an option. `None` for what is no listener.
pub fn of_process(command_line: &[u8], unit: Option<&[String]>) -> Option<Vec<String>> {
    let text = String::from_utf8_lossy(command_line);
    let text = text.trim_end_matches('\0');
    let Some(title) = text.strip_prefix("sshd: ") else {
        let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
        // A child for one connection that has not said so yet has the same words.
        return words
            .first()
            .is_some_and(|word| word.ends_with("sshd"))
            .then_some(words);
    };
    let (body, _) = title.split_once(" [listener]")?;
    if let Some(unit) = unit.filter(|unit| unit.join(" ") == body) {
        return Some(unit.to_vec());
    }
    let mut words: Vec<String> = Vec::new();
    let mut in_value = false;
    for word in body.split(' ') {
        let mut letters = word.strip_prefix('-').unwrap_or_default().chars();
        let looks_like_option = letters
            .next()
            .is_some_and(|c| VALUED.contains(c) || FLAGS.contains(c));
        match words.last_mut() {
            Some(last) if in_value && !looks_like_option => {
                *last = if last.is_empty() {
                    word.to_owned()
                } else {
                    format!("{last} {word}")
                };
            }
            _ if word == "-o" => {
                words.extend([word.to_owned(), String::new()]);
                in_value = true;
            }
            _ => {
                words.push(word.to_owned());
                in_value = word.starts_with("-o");
            }
        }
    }
    Some(words)
}

/// What a unit and its drop-ins, in the order in which they count, start (`systemd.service(5)`, `systemd.syntax(7)`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// The last `ExecStart=`, as written.
    start: String,
    /// `Environment=`, as written.
    environment: Vec<String>,
    /// Files of `EnvironmentFile=`.
    pub environment_files: Vec<PathBuf>,
}

impl Unit {
    /// Reads the texts of a unit file and its drop-ins.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut unit = Self::default();
        for text in texts {
            let text = text.replace("\\\n", " ");
            let mut section = "";
            for line in text.lines().map(str::trim) {
                if line.starts_with('[') {
                    section = line;
                }
                if section != "[Service]" {
                    continue;
                }
                let Some((key, value)) = line.split_once('=') else {
                    continue;
                };
                let value = value.trim();
                match (key.trim(), value) {
                    ("ExecStart", value) => value.clone_into(&mut unit.start),
                    ("Environment", "") => unit.environment.clear(),
                    ("Environment", value) => unit.environment.push(value.to_owned()),
                    ("EnvironmentFile", "") => unit.environment_files.clear(),
                    ("EnvironmentFile", value) => {
                        unit.environment_files
                            .push(value.trim_start_matches('-').into());
                    }
                    _ => {}
                }
            }
        }
        unit
    }

    /// The words of its command, the program first; `files` are the texts of its environment files.
    pub fn words<'a>(&self, files: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        let assigned = |word: &str| {
            word.split_once('=')
                .map(|(n, v)| (n.trim().to_owned(), v.to_owned()))
        };
        variables.extend(
            self.environment
                .iter()
                .flat_map(|line| split(line))
                .filter_map(|w| assigned(&w)),
        );
        for line in files.into_iter().flat_map(str::lines) {
            let line = line.trim();
            if line.starts_with(['#', ';']) {
                continue;
            }
            let read = line
                .split_once('=')
                .map(|(name, value)| (name.trim().to_owned(), split(value).join(" ")));
            variables.extend(read);
        }
        let mut words = Vec::new();
        for word in split(self.start.trim_start_matches(['@', '-', ':', '+', '!'])) {
            // An unquoted variable of its own becomes as many words as it has.
            let whole = word
                .strip_prefix('$')
                .filter(|name| !name.starts_with(['{', '$']));
            match whole {
                Some(name) => words.extend(
                    variables
                        .get(name)
                        .into_iter()
                        .flat_map(|value| split(value)),
                ),
                None => words.push(filled(&word, &variables)),
            }
        }
        words
    }
}

/// `${NAME}` by its value, `%%` and `$$` by one character.
fn filled(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['$', '%']) {
        out.push_str(&rest[..at]);
        let (sign, after) = rest[at..].split_at(1);
        let braced = if sign == "$" {
            after.strip_prefix('{')
        } else {
            None
        };
        let named = braced.and_then(|after| after.split_once('}'));
        rest = if let Some((name, after)) = named {
            out.push_str(variables.get(name).map_or("", String::as_str));
            after
        } else {
            out.push_str(sign);
            after.strip_prefix(sign).unwrap_or(after)
        };
    }
    out + rest
}

/// Words between blanks, with the quotes and escapes of systemd taken off.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('"') | None) => word.extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                begun = true;
            }
            (c, None) if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (c, _) => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: &str =
        "AuthorizedKeysCommand /usr/share/ec2-instance-connect/eic_run_authorized_keys %u %f";

    fn read(words: &[String]) -> (Option<PathBuf>, Vec<String>) {
        let invocation = Invocation::read(words.iter().skip(1).map(String::as_str));
        (invocation.config, invocation.options)
    }

    #[test]
    fn a_unit_starts_what_its_last_drop_in_says() {
        let check = |texts: &[&str], files: &[&str], expected: &[&str]| {
            let unit = Unit::read(texts.iter().copied());
            assert_eq!(unit.words(files.iter().copied()), expected, "{texts:?}");
        };
        let plain = "[Unit]\nExecStart=no\n[Service]\nEnvironmentFile=-/etc/default/ssh\nExecStart=/usr/sbin/sshd -D $SSHD_OPTS\n";
        check(&[plain], &[], &["/usr/sbin/sshd", "-D"]);
        check(
            &[plain],
            &["# x\nSSHD_OPTS=\"-f '/etc/my config' -oPort=23\"\n"],
            &["/usr/sbin/sshd", "-D", "-f", "/etc/my config", "-oPort=23"],
        );
        let drop_in = format!(
            "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -o \"{}\" \\\n  -o \"AuthorizedKeysCommandUser ec2-instance-connect\" $SSHD_OPTS\n",
            CONNECT.replace('%', "%%")
        );
        let user = "AuthorizedKeysCommandUser ec2-instance-connect";
        check(
            &[plain, &drop_in],
            &[],
            &["/usr/sbin/sshd", "-D", "-o", CONNECT, "-o", user],
        );
        check(
            &[
                "[Service]\nEnvironment=A=1 \"B=x y\"\nExecStart=-/usr/sbin/sshd -i -o${A}=${B} $B $$\n",
            ],
            &["B=z"],
            &["/usr/sbin/sshd", "-i", "-o1=z", "z", "$"],
        );
        check(&["[Install]\nExecStart=/bin/no"], &[], &[]);
        assert_eq!(
            Unit::read([plain]).environment_files,
            [PathBuf::from("/etc/default/ssh")]
        );
    }

    #[test]
    fn a_listener_says_how_it_was_started() {
        let check =
            |line: &str, unit: Option<&[&str]>, expected: Option<(Option<&str>, &[&str])>| {
                let unit: Option<Vec<String>> =
                    unit.map(|words| words.iter().map(|w| (*w).to_owned()).collect());
                let found = of_process(line.as_bytes(), unit.as_deref()).map(|words| read(&words));
                let expected = expected.map(|(config, options)| {
                    (
                        config.map(PathBuf::from),
                        options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>(),
                    )
                });
                assert_eq!(found, expected, "{line}");
            };
        let tail = "[listener] 0 of 10-100 startups\0\0";
        check(
            &format!("sshd: /usr/sbin/sshd -D {tail}"),
            None,
            Some((None, &[])),
        );
        check(
            &format!(
                "sshd: /usr/sbin/sshd -D -o {CONNECT} -o AuthorizedKeysCommandUser x -p 22 {tail}"
            ),
            None,
            Some((None, &[CONNECT, "AuthorizedKeysCommandUser x"])),
        );
        check(
            &format!("sshd: /usr/sbin/sshd -f /etc/a b -oPort=23 {tail}"),
            Some(&["/usr/sbin/sshd", "-f", "/etc/a b", "-oPort=23"]),
            Some((Some("/etc/a b"), &["Port=23"])),
        );
        check(
            "/usr/sbin/sshd\0-D\0-o\0A b -c\0-f/x\0",
            None,
            Some((Some("/x"), &["A b -c"])),
        );
        check("sshd: alice [priv]\0", None, None);
        check("sshd: alice@pts/0\0", None, None);
        check("", None, None);
    }

    #[test]
    fn only_what_changes_the_configuration_is_passed_on() {
        let words = [
            "-D",
            "-h",
            "/key",
            "-4oPort=1",
            "-E-f",
            "-p",
            "-o",
            "-of",
            "/conf",
            "-f",
            "/c",
        ];
        let invocation = Invocation::read(words);
        assert_eq!(invocation.words(), ["-f", "/c", "-o", "Port=1", "-o", "f"]);
        assert_eq!(invocation.port, Some(1));
        assert_eq!(
            Invocation::read(["-D", "-p2222", "-p", "23"]).port,
            Some(2222)
        );
        for (words, expected) in [
            (["-D", "-f", "-i"], false),
            (["-i", "-E", "x"], true),
            (["-De", "-o", "A=T"], false),
            (["-4T", "-C", "x"], true),
        ] {
            assert_eq!(Invocation::read(words).is_brief, expected, "{words:?}");
        }
        for (line, expected) in [
            ("Port 23", Some(23)),
            ("port=\"23\"", Some(23)),
            ("Portable 23", None),
            ("Port", None),
        ] {
            assert_eq!(port(line), expected, "{line}");
        }
    }
}
