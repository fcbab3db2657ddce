//! Text in 80 columns, broken at blanks only.

/// Columns of a terminal.
const WIDTH: usize = 80;

/// What a terminal shows a word in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    None,
    Red,
    Yellow,
    Green,
}

impl Colour {
    pub(super) fn when(self, on: bool) -> Self {
        if on { self } else { Self::None }
    }

    fn paint(self, words: &str) -> String {
        let code = match self {
            Self::None => return words.to_owned(),
            Self::Red => 31,
            Self::Yellow => 33,
            Self::Green => 32,
        };
        format!("\x1b[{code}m{words}\x1b[0m")
    }
}

/// Adds `words` after a label, each further line by `indent`. What is longer than a line is not broken.
pub(super) fn wrap(text: &mut String, (label, colour): (&str, Colour), indent: usize, words: &str) {
    text.push_str(&colour.paint(label));
    let mut column = label.len();
    let mut is_first = true;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        let mut blanks = 1;
        if is_first {
            blanks = indent.saturating_sub(column).max(usize::from(column > 0));
        } else if column + 1 + length > WIDTH {
            text.push('\n');
            (column, blanks) = (0, indent);
        }
        text.extend(std::iter::repeat_n(' ', blanks));
        text.push_str(word);
        column += blanks + length;
        is_first = false;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole_and_lines_of_80_columns() {
        let check = |label: &str, indent, words: &str, expected: &str| {
            let mut text = String::new();
            wrap(&mut text, (label, Colour::None), indent, words);
            assert_eq!(text, expected);
        };
        let long = "x".repeat(77);
        check("list", 10, "none yet", "list      none yet\n");
        check("error:", 2, "a b", "error: a b\n");
        check("", 2, &format!("a {long}"), &format!("  a\n  {long}\n"));
        check(
            "",
            2,
            &format!("{long} {long}{long}"),
            &format!("  {long}\n  {long}{long}\n"),
        );
        check("keys", 10, "", "keys\n");
        let mut text = String::new();
        wrap(&mut text, ("healthy", Colour::Green), 10, "web-1");
        assert_eq!(text, "\x1b[32mhealthy\x1b[0m   web-1\n");
    }
}
