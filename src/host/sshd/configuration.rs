//! The files of sshd's configuration: which there are, so that a change is noticed, and whether the answer depends on
//! who is asked about.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::model::sshd::invocation::port;

/// What the text of the configuration says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says a thing of its own, and none depends on another"
)]
pub struct Configuration {
    /// Every file that is read.
    pub files: Vec<PathBuf>,
    /// Directories in which further files would be read.
    pub directories: Vec<PathBuf>,
    /// There is a `Match`, so every account may have a configuration of its own.
    pub has_match: bool,
    /// `AuthorizedKeysFile` has a path with a blank, which `sshd -T` prints as if it were two.
    pub has_blanks: bool,
    /// It says `AuthorizedKeysFile`, so what sshd reads is not what it would by itself.
    pub names_files: bool,
    /// A `Match` goes by the connection, and not only by who it is, and says something of who gets in.
    pub by_connection: bool,
    /// It says which files are read.
    pub files_by_connection: bool,
    /// The first port that it names.
    pub port: Option<u16>,
    /// The files of it that count for some connections only.
    inside: Vec<PathBuf>,
}

/// Where sshd looks without `-f`: as it is packaged, as it builds by itself, and where a distribution keeps its own
/// file apart from the host's.
const CONFIGS: [&str; 3] = [
    "/etc/ssh/sshd_config",
    "/usr/local/etc/sshd_config",
    "/usr/etc/ssh/sshd_config",
];

/// `Include` of a relative path is below it (`sshd_config(5)`).
const INCLUDES: &str = "/etc/ssh";

/// `servconf.c: SERVCONF_MAX_DEPTH`.
const DEPTH: u32 = 16;

/// Far more than anybody has.
const FILES: usize = 1000;

const KEYWORD: &str = "authorizedkeysfile";

/// What a `Match` may say (`sshd_config(5)`) that changes nothing about who gets in, nor by what. Whatever is not here
/// counts.
const HARMLESS: [&str; 31] = [
    "acceptenv",
    "allowagentforwarding",
    "allowstreamlocalforwarding",
    "allowtcpforwarding",
    "banner",
    "channeltimeout",
    "chrootdirectory",
    "clientalivecountmax",
    "clientaliveinterval",
    "disableforwarding",
    "exposeauthinfo",
    "forcecommand",
    "gatewayports",
    "include",
    "ipqos",
    "loglevel",
    "match",
    "maxsessions",
    "permitlisten",
    "permitopen",
    "permittty",
    "permittunnel",
    "permituserrc",
    "rekeylimit",
    "setenv",
    "streamlocalbindmask",
    "streamlocalbindunlink",
    "subsystem",
    "unusedconnectiontimeout",
    "x11displayoffset",
    "x11forwarding",
];

/// The most that is read of one file.
const LONGEST: u64 = 1 << 20;

/// Reads the configuration that starts with `config`, or with the file of this host.
pub fn configuration(config: Option<&Path>) -> Configuration {
    let mut all = Configuration::default();
    let usual = CONFIGS
        .iter()
        .map(Path::new)
        .filter(|path| config.is_none() && path.exists());
    config
        .into_iter()
        .chain(usual)
        .for_each(|path| all.read(path, false, 0));
    all
}

impl Configuration {
    /// Where `inside`, an `Include` below a `Match` that goes by the connection brought this up.
    fn read(&mut self, path: &Path, mut inside: bool, depth: u32) {
        let known = self.files.iter().any(|known| known == path);
        let known_inside = inside && self.inside.iter().any(|known| known == path);
        if depth > DEPTH || self.files.len() >= FILES || known_inside || known && !inside {
            return;
        }
        if !known {
            self.files.push(path.to_owned());
        }
        if inside {
            self.inside.push(path.to_owned());
        }
        // What cannot be read here cannot be read by sshd either, which then says so.
        let bytes = read_some(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for line in text.lines() {
            let line = line.trim();
            let end = line
                .find(|c: char| c.is_whitespace() || c == '=')
                .unwrap_or(line.len());
            let (keyword, rest) = line.split_at(end);
            if inside && !keyword.is_empty() && !keyword.starts_with('#') {
                self.by_connection |= !HARMLESS
                    .iter()
                    .any(|word| keyword.eq_ignore_ascii_case(word));
                self.files_by_connection |= line.to_ascii_lowercase().contains(KEYWORD);
            }
            self.has_blanks |= has_blank(line);
            self.names_files |= names_files(line);
            self.port = self.port.or_else(|| port(line));
            if keyword.eq_ignore_ascii_case("match") {
                self.has_match = true;
                inside = goes_by_connection(rest);
            } else if keyword.eq_ignore_ascii_case("include") {
                let rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '=');
                rest.split_whitespace()
                    .for_each(|pattern| self.include(pattern, inside, depth));
            }
        }
    }

    fn include(&mut self, pattern: &str, inside: bool, depth: u32) {
        let pattern = Path::new(INCLUDES).join(pattern.trim_matches('"'));
        let directory = pattern.parent().unwrap_or(Path::new(INCLUDES)).to_owned();
        if !self.directories.contains(&directory) {
            self.directories.push(directory);
        }
        let found = pattern
            .to_str()
            .and_then(|pattern| glob::glob(pattern).ok());
        for path in found.into_iter().flatten().flatten() {
            self.read(&path, inside, depth + 1);
        }
    }
}

/// True where the criteria of a `Match` (`sshd_config(5)`) are more than an account can answer for. A user of such a name
/// is taken for one: what is not sure is left alone.
fn goes_by_connection(criteria: &str) -> bool {
    let words = criteria.split(|c: char| c.is_whitespace() || c == '=');
    let of_connection = [
        "host",
        "address",
        "localaddress",
        "localport",
        "rdomain",
        "version",
        "invalid-user",
    ];
    words.into_iter().any(|word| {
        of_connection
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known))
    })
}

/// A part of a file. A FIFO in its place is not waited for, and what never ends is cut.
fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)?;
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(LONGEST).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// True for a line, or an `-o`, that says `AuthorizedKeysFile`.
pub fn names_files(line: &str) -> bool {
    line.get(..KEYWORD.len())
        .is_some_and(|word| word.eq_ignore_ascii_case(KEYWORD))
}

/// True for an `AuthorizedKeysFile` with a blank inside of one of its paths (`misc.c: argv_split`).
pub fn has_blank(line: &str) -> bool {
    let is_it = names_files(line);
    let (mut quote, mut escaped) = (None, false);
    is_it
        && line.chars().any(|c| {
            let inside = c.is_whitespace() && (quote.is_some() || escaped);
            match (c, quote) {
                _ if escaped => escaped = false,
                ('\\', _) => escaped = true,
                ('"' | '\'', None) => quote = Some(c),
                (_, Some(open)) if c == open => quote = None,
                _ => {}
            }
            inside
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_path_with_a_blank_is_told_from_two() {
        for (line, expected) in [
            ("AuthorizedKeysFile .ssh/a .ssh/b", false),
            ("AuthorizedKeysFile=\".ssh/a\" '.ssh/b'", false),
            ("authorizedkeysfile \".ssh/my keys\"", true),
            ("AuthorizedKeysFile .ssh/my\\ keys", true),
            ("AuthorizedKeysFile .ssh/a \"b'\" c", false),
            ("AuthorizedKeysCommand \"/x y\"", false),
        ] {
            assert_eq!(has_blank(line), expected, "{line}");
        }
    }

    #[test]
    fn includes_are_followed_and_a_match_is_found_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let main = path("main");
        let check = |text: &str, expected: &[&str], has_match: bool| {
            fs::write(
                &main,
                text.replace("DIR", directory.path().to_str().unwrap()),
            )
            .unwrap();
            let found = configuration(Some(&main));
            let expected: Vec<PathBuf> = expected.iter().map(|name| path(name)).collect();
            assert_eq!(
                (&found.files, found.has_match),
                (&expected, has_match),
                "{text}"
            );
        };
        fs::create_dir(path("d")).unwrap();
        fs::write(path("d/a.conf"), " \tmatch User bob\n").unwrap();
        fs::write(path("d/b.conf"), "Include DIR/main\n").unwrap();
        check("Port 22\n#Match all\nMatchbox no\n", &["main"], false);
        check("Match all", &["main"], true);
        check("MATCH=User bob", &["main"], true);
        check(
            "Include DIR/d/b.*\nInclude /nonexistent/*",
            &["main", "d/b.conf"],
            false,
        );
        check(
            "include \"DIR/d/*.conf\"",
            &["main", "d/a.conf", "d/b.conf"],
            true,
        );
        check("Include=DIR/main", &["main"], false);
    }

    #[test]
    fn a_match_by_connection_and_named_files_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("sshd_config");
        let more = directory.path().join("more");
        fs::write(&more, "AuthorizedKeysFile x\nMatch Host y\n").unwrap();
        for (text, named, by_connection, files) in [
            (
                "Match User bob\nPasswordAuthentication no\n",
                false,
                false,
                false,
            ),
            (
                "authorizedkeysfile .ssh/a\nMatch Group legacy\n",
                true,
                false,
                false,
            ),
            (
                "Match all\n AuthorizedKeysFile=.ssh/a\n",
                true,
                false,
                false,
            ),
            (
                "Match User bob Address 10.0.0.0/8\nPasswordAuthentication yes\n",
                false,
                true,
                false,
            ),
            (
                "Match LocalPort=2222\nauthorizedkeysfile=x\n",
                true,
                true,
                true,
            ),
            (
                "Match Address 10.0.0.0/8\n\n # nothing\nX11Forwarding no\nforcecommand=/x\n",
                false,
                false,
                false,
            ),
            (
                "AuthorizedKeysFile x\nMatch Address 10.0.0.0/8\nX11Forwarding no\n",
                true,
                false,
                false,
            ),
            (
                "Match Host x\nX11Forwarding no\nMatch all\nAuthorizedKeysFile x\n",
                true,
                false,
                false,
            ),
            ("Match Host x\nWhatever yes\n", false, true, false),
            (
                "Include MORE\nPasswordAuthentication no\n",
                true,
                false,
                false,
            ),
            (
                "Include MORE\nMatch Host x\nInclude MORE\n",
                true,
                true,
                true,
            ),
            (
                "Match Host x\nInclude MORE\nInclude MORE\nInclude MAIN\n",
                true,
                true,
                true,
            ),
            (
                "# AuthorizedKeysFile x\n#Match Host y\n",
                false,
                false,
                false,
            ),
        ] {
            let text = text
                .replace("MORE", more.to_str().unwrap())
                .replace("MAIN", main.to_str().unwrap());
            fs::write(&main, &text).unwrap();
            let found = configuration(Some(&main));
            let said = (
                found.names_files,
                found.by_connection,
                found.files_by_connection,
            );
            assert_eq!(said, (named, by_connection, files), "{text}");
        }
    }

    #[test]
    fn nothing_is_waited_for_and_nothing_read_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [fifo.as_path(), Path::new("/dev/zero")] {
            assert!(!configuration(Some(path)).has_match);
        }
    }
}
