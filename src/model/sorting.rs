//! Sorting, and collecting into sorted maps and sets, with little code.
//!
//! The standard library's sort is 3 kB of machine code for each type and each comparison, and `collect` into a `BTreeMap`
//! or `BTreeSet` sorts. The packaged program had sixty of them.

use std::cmp::Ordering;

/// Sorts in n log n; equals keep their order.
pub fn sort<T: Ord>(all: &mut [T]) {
    sort_by(all, T::cmp);
}

/// The same by any comparison.
pub fn sort_by<T>(all: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let swaps = swaps(all.len(), &|a, b| compare(&all[a], &all[b]));
    for (a, b) in swaps {
        all.swap(a, b);
    }
}

/// What sorts that many values, when it is done one after the other.
fn swaps(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<(usize, usize)> {
    let mut from: Vec<usize> = (0..count).collect();
    from.sort_by(|a, b| compare(*a, *b));
    let mut swaps = Vec::new();
    for start in 0..count {
        let mut at = start;
        while from[at] != start {
            swaps.push((at, from[at]));
            at = std::mem::replace(&mut from[at], at);
        }
        from[at] = at;
    }
    swaps
}

/// Any iterator.
pub trait Gather: Iterator + Sized {
    /// What `collect` does, by inserting one after the other.
    fn gather<C: Default + Extend<Self::Item>>(self) -> C {
        let mut all = C::default();
        all.extend(self);
        all
    }
}

impl<I: Iterator> Gather for I {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sorts_as_the_standard_library_does(mut all: Vec<(u8, u16)>) {
            let mut expected = all.clone();
            expected.sort_by_key(|(key, _)| *key);
            sort_by(&mut all, |a, b| a.0.cmp(&b.0));
            prop_assert_eq!(&all, &expected);
            expected.sort_unstable();
            sort(&mut all);
            prop_assert_eq!(all, expected);
        }
    }
}
