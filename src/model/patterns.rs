//! Patterns as OpenSSH has them in its settings and in the options of a key (`PATTERNS` in `ssh_config(5)`; `match.c`).

/// `match_pattern`: `*` any text, `?` any one character.
pub fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_at_checked(1) {
        None => text.is_empty(),
        Some(("*", rest)) => {
            let mut tails = text.char_indices().map(|(at, _)| &text[at..]).chain([""]);
            let rest = rest.trim_start_matches('*');
            rest.is_empty() || tails.any(|tail| matches(rest, tail))
        }
        Some((first, rest)) => {
            let mut chars = text.chars();
            let next = chars.next();
            next.is_some_and(|c| first == "?" || first.starts_with(c))
                && matches(rest, chars.as_str())
        }
    }
}

/// `match_pattern_list`: one of the patterns between commas, and none of those with a `!` in front.
pub fn listed(patterns: &str, text: &str) -> bool {
    /// Bytes of one pattern: with a longer one, OpenSSH matches nothing.
    const MOST: usize = 1022;
    let mut found = false;
    for pattern in patterns.split(',') {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        if pattern.len() > MOST {
            return false;
        }
        if matches(pattern, text) {
            if negated {
                return false;
            }
            found = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_openssh() {
        for (pattern, text, expected) in [
            ("alice", "alice", true),
            ("alice", "alic", false),
            ("al*", "alice", true),
            ("*", "", true),
            ("?", "", false),
            ("a?ice", "alice", true),
            ("*i*e", "alice", true),
            ("**b", "alice", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_list_has_exceptions() {
        let long = format!("a,{}", "x".repeat(1023));
        for (patterns, text, expected) in [
            ("ssh-rsa,ecdsa-*", "ecdsa-sha2-nistp256", true),
            ("ssh-rsa", "ssh-ed25519", false),
            ("*,!a", "a", false),
            ("!a,*", "a", false),
            ("!a,*", "b", true),
            ("!a", "b", false),
            ("!!a", "a", false),
            ("b, a", "a", false),
            (",a,", "a", true),
            ("", "a", false),
            (&long, "a", false),
            (&long[1..], "a", false),
        ] {
            assert_eq!(listed(patterns, text), expected, "{patterns} {text}");
        }
    }
}
