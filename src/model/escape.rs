//! Text from outside, made safe for a log line or a terminal.

/// `text` with every control character, and what a terminal or a log viewer may act on (bidirectional
/// overrides, line separators), written as an escape. Printable text is unchanged.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The same between quotes, as JSON and a label of Prometheus have it.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in escaped(text).chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// `text` in at most `most` bytes; what is cut ends in `...`.
pub fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most.saturating_sub(3))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    format!("{}...", &text[..end.unwrap_or_default()])
}

/// Format and separator characters that change how the text around them is shown.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::{escaped, shortened};

    #[test]
    fn nothing_that_a_terminal_acts_on_survives() {
        assert_eq!(escaped("alice@laptop grüße"), "alice@laptop grüße");
        assert_eq!(escaped("a\x1b[2Jb\n\t\u{7f}"), "a\\u{1b}[2Jb\\n\\t\\u{7f}");
        assert_eq!(escaped("a\u{202e}b\u{2028}"), "a\\u{202e}b\\u{2028}");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(shortened("grüße", 7), "grüße");
        assert_eq!(shortened("grüße", 6), "gr...");
        assert_eq!(shortened("alice@laptop", 8), "alice...");
    }
}
