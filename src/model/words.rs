//! Numbers and names as sentences have them.

/// Names that are told one by one.
pub const SHOWN: usize = 5;

/// `1 key`, `2 keys`.
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A few names, and how many more.
pub fn several(names: &[&str]) -> String {
    first(SHOWN, names.iter())
}

/// The same of no more than `most`; of the others no words are made.
pub fn first(most: usize, names: impl ExactSizeIterator<Item = impl ToString>) -> String {
    let more = names.len().saturating_sub(most);
    let shown: Vec<String> = names.take(most).map(|name| name.to_string()).collect();
    let shown = shown.join(", ");
    match more {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        for (names, expected) in [
            (&[][..], ""),
            (&["a"], "a"),
            (&["a", "b"], "a, b"),
            (&["a", "b", "c", "d"], "a, b and 2 more"),
        ] {
            assert_eq!(first(2, names.iter()), expected);
        }
        assert_eq!(several(&["a"; 6]), "a, a, a, a, a and 1 more");
        assert_eq!(count(1, "key") + &count(0, "key"), "1 key0 keys");
    }
}
