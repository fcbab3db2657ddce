//! What each file of `src/` uses, read from its text: `use` lines, and paths in the code. Comments, strings and what
//! follows `#[cfg(test)]` are no code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Names from the outside in; of an item of this crate the first is `crate`.
pub type Names = Vec<String>;

pub struct Source {
    /// Below `src/`, as `agent/pass.rs`.
    pub file: String,
    /// Every path that the code names, as it would be written anywhere: `crate::model::key::Line`, `std::fs::read`.
    pub uses: BTreeSet<Names>,
    /// How often `unsafe` stands in the code.
    pub unsafes: usize,
    /// What a parent passes on of its children: the name, and whose it is.
    passed_on: BTreeMap<String, Names>,
}

pub struct Sources {
    pub all: Vec<Source>,
    /// Which of them a module is.
    modules: BTreeMap<Names, usize>,
}

impl Sources {
    /// Of this crate.
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut texts = BTreeMap::new();
        collect(&root, &root, &mut texts);
        Self::of(&texts)
    }

    /// Of files and their texts.
    pub fn of(texts: &BTreeMap<String, String>) -> Self {
        let modules: BTreeMap<Names, usize> = texts
            .keys()
            .enumerate()
            .map(|(at, file)| (module_of(file), at))
            .collect();
        let all = texts
            .iter()
            .map(|(file, text)| Reader::read(file, text, &modules))
            .collect();
        Self { all, modules }
    }

    /// The files that `source` uses, each with a path by which it does.
    pub fn used_by<'a>(&'a self, source: &'a Source) -> BTreeMap<&'a str, &'a Names> {
        let found = source
            .uses
            .iter()
            .filter_map(|names| Some((self.file(names)?, names)));
        found.filter(|(file, _)| *file != source.file).collect()
    }

    /// The file that says what `names` is: the deepest module on the way, or the child that it has the item from.
    fn file(&self, names: &[String]) -> Option<&str> {
        let mut names = names.to_vec();
        // A chain of re-exports is short; one without end does not compile.
        for _ in 0..8 {
            let depth = (1..=names.len())
                .rev()
                .find(|depth| self.modules.contains_key(&names[..*depth]))?;
            let source = &self.all[self.modules[&names[..depth]]];
            let Some(whose) = names.get(depth).and_then(|name| source.passed_on.get(name)) else {
                return Some(&source.file);
            };
            names = whose.iter().chain(&names[depth + 1..]).cloned().collect();
        }
        None
    }
}

fn collect(root: &Path, directory: &Path, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, texts);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let file = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            texts.insert(file, fs::read_to_string(&path).unwrap());
        }
    }
}

/// `agent/mod.rs` is `crate::agent`, `agent/pass.rs` is `crate::agent::pass`.
fn module_of(file: &str) -> Names {
    let path = file.trim_end_matches(".rs");
    // `main.rs` is a crate of its own.
    let path = if path == "lib" {
        ""
    } else {
        path.trim_end_matches("/mod")
    };
    ["crate"]
        .into_iter()
        .chain(path.split('/'))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    /// `::`
    Below,
    Sign(char),
}

impl Token {
    fn is(&self, text: &str) -> bool {
        match self {
            Self::Name(name) => name == text,
            Self::Below => text == "::",
            Self::Sign(sign) => text.len() == 1 && text.starts_with(*sign),
        }
    }
}

/// The code up to `#[cfg(test)]`.
fn tokens(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| {
        what.chars()
            .enumerate()
            .all(|(i, c)| text.get(at + i) == Some(&c))
    };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut all, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let c = text[at];
        let begin = at;
        if starts(at, "#[cfg(test)]") {
            break;
        } else if starts(at, "//") {
            while at < text.len() && text[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            while at < text.len() && !starts(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if c == '"' {
            at += 1;
            while at < text.len() && text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if let Some(hashes) = raw_string(&text[at..]) {
            let end = format!("\"{}", "#".repeat(hashes));
            at += text[at..].iter().position(|c| *c == '"').unwrap() + 1;
            while at < text.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
        } else if c == '\'' {
            // A character, or a lifetime, which has no second quote.
            at += if text.get(at + 1) == Some(&'\\') {
                4 + text[at + 3..].iter().position(|c| *c == '\'').unwrap()
            } else if text.get(at + 2) == Some(&'\'') {
                3
            } else {
                1
            };
            all.push(Token::Sign('\''));
        } else if is_word(c) {
            while at < text.len() && is_word(text[at]) {
                at += 1;
            }
            all.push(Token::Name(text[begin..at].iter().collect()));
        } else if starts(at, "::") {
            all.push(Token::Below);
            at += 2;
        } else {
            if !c.is_whitespace() {
                all.push(Token::Sign(c));
            }
            at += 1;
        }
    }
    all
}

/// How many `#` a raw string has that begins here.
fn raw_string(text: &[char]) -> Option<usize> {
    let after = text
        .strip_prefix(&['b'])
        .unwrap_or(text)
        .strip_prefix(&['r'])?;
    let hashes = after.iter().take_while(|c| **c == '#').count();
    (after.get(hashes) == Some(&'"')).then_some(hashes)
}

/// One imported name.
struct Import {
    path: Names,
    alias: String,
    is_glob: bool,
}

struct Reader<'a> {
    modules: &'a BTreeMap<Names, usize>,
    file: Names,
    /// Modules in the file that the reader stands in, each with the depth of braces it ends at.
    inside: Vec<(String, usize)>,
    /// Names by which the file knows what is elsewhere.
    aliases: BTreeMap<String, Names>,
    uses: BTreeSet<Names>,
    passed_on: BTreeMap<String, Names>,
}

impl<'a> Reader<'a> {
    fn read(file: &str, text: &str, modules: &'a BTreeMap<Names, usize>) -> Source {
        let tokens = tokens(text);
        let mut reader = Self {
            modules,
            file: module_of(file),
            inside: Vec::new(),
            aliases: BTreeMap::new(),
            uses: BTreeSet::new(),
            passed_on: BTreeMap::new(),
        };
        // Imports first: they count above the line they stand in, too.
        reader.walk(&tokens, true);
        reader.walk(&tokens, false);
        Source {
            file: file.to_owned(),
            uses: reader.uses,
            unsafes: tokens.iter().filter(|token| token.is("unsafe")).count(),
            passed_on: reader.passed_on,
        }
    }

    fn walk(&mut self, tokens: &[Token], imports: bool) {
        let (mut at, mut depth) = (0, 0);
        while at < tokens.len() {
            let before = at.checked_sub(1).map(|before| &tokens[before]);
            match &tokens[at..] {
                [first, Token::Name(name), brace, ..] if first.is("mod") && brace.is("{") => {
                    self.inside.push((name.clone(), depth));
                    depth += 1;
                    at += 3;
                }
                [first, ..] if first.is("use") => {
                    let mut end = at + 1;
                    let mut found = Vec::new();
                    tree(tokens, &mut end, &mut Vec::new(), &mut found);
                    if imports {
                        let public = before.is_some_and(|token| token.is("pub") || token.is(")"));
                        for import in &found {
                            self.import(import, public);
                        }
                    }
                    at = end;
                }
                [Token::Name(_), ..] => {
                    let (path, next) = path(tokens, at);
                    // A field or method, the rest of a path that began with a type, or what is being named here.
                    let is_start = !before.is_some_and(|token| {
                        token.is(".") || token.is("::") || token.is("fn") || token.is("mod")
                    });
                    if !imports && is_start {
                        self.name(&path);
                    }
                    at = next;
                }
                [sign, ..] => {
                    if sign.is("{") {
                        depth += 1;
                    } else if sign.is("}") {
                        depth -= 1;
                        if self.inside.last().is_some_and(|(_, ends)| *ends == depth) {
                            self.inside.pop();
                        }
                    }
                    at += 1;
                }
                [] => unreachable!(),
            }
        }
    }

    fn import(&mut self, import: &Import, public: bool) {
        let Some(path) = self.absolute(&import.path) else {
            return;
        };
        // `pub use child::Item` of a parent: its user has the item from the child, and the parent has no use for it.
        let of_child =
            self.inside.is_empty() && path.len() > self.file.len() && path.starts_with(&self.file);
        if public && of_child && !import.is_glob {
            self.passed_on.insert(import.alias.clone(), path);
            return;
        }
        // A module that is imported is used where it is named.
        if import.is_glob || !self.modules.contains_key(&path) {
            self.uses.insert(path.clone());
        }
        if !import.is_glob {
            self.aliases.insert(import.alias.clone(), path);
        }
    }

    fn name(&mut self, path: &Names) {
        // A parent that passes an item on may need it itself.
        let child = [self.file.as_slice(), &path[..1]].concat();
        let named = match self.passed_on.get(&path[0]) {
            Some(own) if path.len() == 1 || !self.modules.contains_key(&child) => {
                Some([own.as_slice(), &path[1..]].concat())
            }
            // A variable, or what an import has brought up already.
            _ if path.len() == 1 => None,
            _ => self.absolute(path),
        };
        self.uses.extend(named);
    }

    /// As seen from outside; `None` of `Self`.
    fn absolute(&self, path: &[String]) -> Option<Names> {
        let here: Names = self
            .file
            .iter()
            .cloned()
            .chain(self.inside.iter().map(|(name, _)| name.clone()))
            .collect();
        let (first, rest) = path.split_first()?;
        let base = match first.as_str() {
            "Self" => return None,
            "crate" => vec![first.clone()],
            "self" => here,
            "super" => {
                let up = 1 + rest.iter().take_while(|name| *name == "super").count();
                return Some([&here[..here.len().checked_sub(up)?], &rest[up - 1..]].concat());
            }
            _ if self
                .modules
                .contains_key(&[here.as_slice(), std::slice::from_ref(first)].concat()) =>
            {
                [here.as_slice(), std::slice::from_ref(first)].concat()
            }
            _ => self
                .aliases
                .get(first)
                .cloned()
                .unwrap_or_else(|| vec![first.clone()]),
        };
        Some([base.as_slice(), rest].concat())
    }
}

/// `a::b::c` from here on; the place after it.
fn path(tokens: &[Token], mut at: usize) -> (Names, usize) {
    let mut names = Names::new();
    while let Some(Token::Name(name)) = tokens.get(at) {
        names.push(name.clone());
        at += 1;
        if !tokens.get(at).is_some_and(|token| token.is("::"))
            || !matches!(tokens.get(at + 1), Some(Token::Name(_)))
        {
            break;
        }
        at += 1;
    }
    (names, at)
}

/// What one `use` imports, `above` being the names that stand before the braces.
fn tree(tokens: &[Token], at: &mut usize, above: &mut Names, found: &mut Vec<Import>) {
    let height = above.len();
    loop {
        match tokens.get(*at) {
            Some(Token::Name(name)) => above.push(name.clone()),
            Some(Token::Sign('*')) => {
                found.push(Import {
                    path: above.clone(),
                    alias: String::new(),
                    is_glob: true,
                });
                *at += 1;
                break;
            }
            Some(Token::Sign('{')) => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| !token.is("}")) {
                    tree(tokens, at, above, found);
                    *at += usize::from(tokens.get(*at).is_some_and(|token| token.is(",")));
                }
                *at += 1;
                break;
            }
            _ => break,
        }
        *at += 1;
        if tokens.get(*at).is_some_and(|token| token.is("::")) {
            *at += 1;
            continue;
        }
        // `use a::b::{self}` is `b`.
        if above.len() > 1 && above.last().is_some_and(|name| name == "self") {
            above.pop();
        }
        let mut alias = above.last().cloned().unwrap_or_default();
        if let [word, Token::Name(name), ..] = &tokens[*at..]
            && word.is("as")
        {
            alias.clone_from(name);
            *at += 2;
        }
        found.push(Import {
            path: above.clone(),
            alias,
            is_glob: false,
        });
        break;
    }
    above.truncate(height);
}
