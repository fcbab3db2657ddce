//! Writes the man pages and shell completions that packages ship, from the command definitions and the default config:
//! `cargo run --example docs -- DIRECTORY DATE` makes `man1/`, `man5/` and `completions/` there. DATE stands below each page.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use authorized_keys_agent::cli::Cli;
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

const NAME: &str = "authorized-keys-agent";
const CONFIG: &str = include_str!("../packaging/config.toml");
const COPYING: &str = "Licensed under either of Apache-2.0 or MIT, at your choice.";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(date), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        bail!("usage: docs DIRECTORY DATE");
    };
    let directory = Path::new(&directory);
    for part in ["man1", "man5", "completions"] {
        fs::create_dir_all(directory.join(part))?;
    }
    for name in [NAME, "agent"] {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(
                shell,
                &mut Cli::command(),
                name,
                directory.join("completions"),
            )?;
        }
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| format!("{NAME}-{}", sub.get_name()))
        .collect();
    fs::write(
        directory.join(format!("man1/{NAME}.1")),
        page(command.clone(), &date, &names)?,
    )?;
    for sub in command.get_subcommands() {
        let name = format!("{NAME}-{}", sub.get_name());
        // Its usage line keeps the blank that is typed.
        let sub = sub.clone().display_name(name.clone());
        fs::write(
            directory.join(format!("man1/{name}.1")),
            page(sub, &date, &[NAME.to_owned()])?,
        )?;
    }
    fs::write(
        directory.join(format!("man5/{NAME}.toml.5")),
        config_page(&date)?,
    )?;
    Ok(())
}

/// The page of one command.
fn page(command: Command, date: &str, see_also: &[String]) -> Result<String> {
    let last = command
        .get_after_long_help()
        .or(command.get_after_help())
        .map(ToString::to_string);
    // Or it would be one section "EXTRA".
    let mut command = command.after_help("").after_long_help("");
    let usage = command.render_usage().to_string();
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command)
        .date(date)
        .source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")))
        .manual("SSH keys".to_owned());
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(&usage)?.to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    sections(&last.context("a command does not say what its exit status means")?)?
        .to_writer(&mut text)?;
    let mut pages: Vec<(String, u8)> = see_also.iter().map(|name| (name.clone(), 1)).collect();
    pages.push((format!("{NAME}.toml"), 5));
    if has_subcommands {
        pages.extend([("sshd".to_owned(), 8), ("systemctl".to_owned(), 1)]);
    }
    end(&pages).to_writer(&mut text)?;
    // Space between paragraphs in the way that no checker complains of.
    Ok(String::from_utf8(text)?.replace(".br\n\n.br\n", ".sp\n"))
}

/// The usage line, with what is typed as it stands in bold.
fn synopsis(usage: &str) -> Result<Roff> {
    let usage = usage
        .strip_prefix("Usage: ")
        .context("the usage does not begin so")?;
    let (typed, rest) = usage
        .split_once(" [")
        .context("a command without options")?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"])
        .text([bold(typed), roman(format!(" [{rest}"))]);
    Ok(roff)
}

/// `Title:` and, indented below it, terms: on one line with their text after two blanks, or with it indented further.
fn sections(text: &str) -> Result<Roff> {
    let mut roff = Roff::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let words = line.trim_start();
        match line.len() - words.len() {
            0 => {
                let title = words
                    .strip_suffix(':')
                    .with_context(|| format!("`{words}` is no title"))?;
                roff.control("SH", [title.to_uppercase().as_str()]);
            }
            2 => {
                let (term, meaning) = words.split_once("  ").unwrap_or((words, ""));
                roff.control("TP", []).text([bold(term)]);
                if !meaning.is_empty() {
                    roff.text([roman(meaning.trim_start())]);
                }
            }
            6 => {
                roff.text([roman(words)]);
            }
            other => bail!("`{words}` is indented by {other}"),
        }
    }
    Ok(roff)
}

fn end(pages: &[(String, u8)]) -> Roff {
    let mut names: Vec<Inline> = Vec::new();
    for (page, section) in pages {
        if !names.is_empty() {
            names.push(roman(", "));
        }
        names.extend([bold(page), roman(format!("({section})"))]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]).text(names);
    roff.control("PP", [])
        .text([roman(env!("CARGO_PKG_REPOSITORY"))]);
    roff.control("SH", ["COPYRIGHT"]).text([roman(COPYING)]);
    roff
}

/// One key of the shipped config: `key = value`, and what the comment beside it and the lines below it say.
struct Key {
    name: String,
    value: String,
    optional: bool,
    meaning: String,
}

/// The page of the config file, out of the comments in the shipped one.
fn config_page(date: &str) -> Result<Vec<u8>> {
    let title = format!("{NAME}.toml");
    let source = format!("{NAME} {}", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control(
        "TH",
        [title.as_str(), "5", date, source.as_str(), "SSH keys"],
    );
    roff.control("SH", ["NAME"])
        .text([roman(format!("{title} - configuration of {NAME}"))]);
    roff.control("SH", ["SYNOPSIS"])
        .text([italic("/etc/authorized-keys-agent/config.toml")]);
    roff.control("SH", ["DESCRIPTION"]);
    let (introduction, rest) = CONFIG
        .split_once("\n\n")
        .context("the config has no introduction")?;
    let comment = |line: &str| line.trim_start_matches('#').trim().to_owned();
    let introduction: Vec<String> = introduction.lines().map(comment).collect();
    let introduction = introduction.join(" ");
    roff.text([roman(
        introduction
            .strip_prefix(&format!("{NAME}. "))
            .unwrap_or(&introduction),
    )]);
    roff.control("SH", ["KEYS"]);
    for block in rest.split("\n\n") {
        let (notes, keys) = keys(block)?;
        if let Some(table) = block.lines().next().filter(|line| line.starts_with('[')) {
            roff.control("SS", [table]);
        }
        if !notes.is_empty() {
            roff.text([roman(notes)]);
        }
        for Key {
            name,
            value,
            optional,
            meaning,
        } in keys
        {
            ensure!(!meaning.is_empty(), "no comment says what `{name}` means");
            let value = if optional {
                format!(" = {value} (example)")
            } else {
                format!(" = {value}")
            };
            roff.control("TP", [])
                .text([bold(name), roman(value)])
                .text([roman(meaning)]);
        }
    }
    roff.control("SH", ["FILES"]);
    roff.control("TP", [])
        .text([italic("/etc/authorized-keys-agent/config.toml")]);
    roff.text([roman("What packages install: every key, with its default")]);
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    end(&[(NAME.to_owned(), 1), ("sshd_config".to_owned(), 5)]).to_writer(&mut text)?;
    Ok(text)
}

/// The keys of one table, and the comment that stands for all of them.
fn keys(block: &str) -> Result<(String, Vec<Key>)> {
    let mut keys: Vec<Key> = Vec::new();
    let mut notes: Vec<&str> = Vec::new();
    // Of a value that goes on: its lines, until a bracket closes it.
    let mut open = false;
    for line in block.lines().filter(|line| !line.starts_with('[')) {
        let (code, comment) = split(line);
        if open {
            let key = keys.last_mut().context("a value without a key")?;
            open = code != "]";
            key.value.push_str(if open && !key.value.ends_with('[') {
                " "
            } else {
                ""
            });
            key.value.push_str(code);
            continue;
        }
        let example = comment
            .split_once(" = ")
            .filter(|(name, _)| code.is_empty() && is_name(name));
        match (code.split_once(" = "), example) {
            (Some((name, value)), _) => {
                open = value == "[";
                keys.push(Key::new(name, value, false, comment));
            }
            (None, Some((name, value))) => {
                let (value, comment) = split(value);
                keys.push(Key::new(name, value, true, comment));
            }
            (None, None) => match keys.last_mut() {
                Some(key) if line.starts_with(' ') => {
                    key.meaning.push(' ');
                    key.meaning.push_str(comment);
                }
                None => notes.push(comment),
                Some(key) => bail!(
                    "a comment below `{}` that is not indented: {comment}",
                    key.name
                ),
            },
        }
    }
    for key in &mut keys {
        key.value = key.value.replace(",]", "]");
    }
    Ok((notes.join(" "), keys))
}

impl Key {
    fn new(name: &str, value: &str, optional: bool, meaning: &str) -> Self {
        let meaning = meaning.to_owned();
        Self {
            name: name.to_owned(),
            value: value.to_owned(),
            optional,
            meaning,
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// A line's code and its comment; a `#` within quotes is code.
fn split(line: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, character) in line.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '#' if !quoted => return (line[..at].trim(), line[at + 1..].trim()),
            _ => {}
        }
    }
    (line.trim(), "")
}
