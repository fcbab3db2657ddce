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

/// Format and separator characters that change how the text around them is shown.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn nothing_that_a_terminal_acts_on_survives() {
        assert_eq!(escaped("alice@laptop grüße"), "alice@laptop grüße");
        assert_eq!(escaped("a\x1b[2Jb\n\t\u{7f}"), "a\\u{1b}[2Jb\\n\\t\\u{7f}");
        assert_eq!(escaped("a\u{202e}b\u{2028}"), "a\\u{202e}b\\u{2028}");
    }
}
