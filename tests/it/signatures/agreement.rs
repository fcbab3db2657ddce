//! Our verdict is that of `ssh-keygen -Y verify`, on signatures and signers that are damaged in every way we know.
//!
//! `SIGNATURES=20000` in the environment asks that many questions instead of some hundred.

use std::fmt::Display;
use std::sync::Mutex;
use std::thread;

mod blocks;
mod lines;

/// What both say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Both,
    Neither,
    /// We refuse what `ssh-keygen` takes, for this reason.
    Stricter(&'static str),
    /// It depends on the version of `ssh-keygen`; we go by the newest.
    Newer,
    /// As long as it is the same.
    Same,
}

/// The same numbers each time: what disagrees can be looked at again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % sides as u64).unwrap()
    }

    /// The usual text, and sometimes one of those.
    fn seldom<'a>(&mut self, usual: &'a str, of: &[&'a str]) -> &'a str {
        if self.roll(8) == 0 {
            self.one(of)
        } else {
            usual
        }
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

/// How many questions are asked, when `usual` are enough for every day.
#[expect(clippy::disallowed_methods, reason = "a longer run, by hand")]
fn questions(usual: usize) -> usize {
    std::env::var("SIGNATURES").map_or(usual, |number| number.parse().unwrap())
}

/// Both verdicts on each question, on all processors.
fn ask<Q: Sync>(
    questions: &[Q],
    verdicts: impl Fn(&Q) -> (bool, bool) + Sync,
) -> Vec<(bool, bool)> {
    let next = Mutex::new(0..questions.len());
    let answers = Mutex::new(vec![(false, false); questions.len()]);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                loop {
                    let Some(number) = next.lock().unwrap().next() else {
                        break;
                    };
                    let answer = verdicts(&questions[number]);
                    answers.lock().unwrap()[number] = answer;
                }
            });
        }
    });
    answers.into_inner().unwrap()
}

/// That each (`ours`, `theirs`) is what is expected. Returns how many were taken by both.
fn judge<Q: Display>(questions: &[Q], expected: &[Expect], answers: &[(bool, bool)]) -> usize {
    let mut wrong = Vec::new();
    for ((question, expected), (ours, theirs)) in questions.iter().zip(expected).zip(answers) {
        let fits = match expected {
            Expect::Both => *ours && *theirs,
            Expect::Neither => !ours && !theirs,
            Expect::Stricter(_) => !ours && *theirs,
            Expect::Newer => *ours,
            Expect::Same => ours == theirs,
        };
        if !fits {
            wrong.push(format!(
                "we {ours}, ssh-keygen {theirs}, expected {expected:?}:\n{question}"
            ));
        }
    }
    let shown = wrong[..wrong.len().min(10)].join("\n\n");
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{shown}",
        wrong.len(),
        questions.len()
    );
    answers
        .iter()
        .filter(|answer| **answer == (true, true))
        .count()
}
