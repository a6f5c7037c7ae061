//! Requests that no client sends: those of `tests/requests`, with random changes.

use std::{fs, panic::catch_unwind, path::Path};

use strongroom_base::SplitMix64;

use crate::requests::requests;

/// Values that are at a limit of something.
const LIMITS: [&str; 14] = [
    "",
    "0",
    "-1",
    "1",
    "511",
    "512",
    "513",
    "4096",
    "9223372036854775807",
    "18446744073709551615",
    "%00",
    "%",
    "*",
    "\u{e9}",
];

/// Requests, and lines of all of them to make others of.
struct Chance {
    random: SplitMix64,
    seeds: Vec<String>,
    lines: Vec<String>,
    words: Vec<String>,
}

impl Chance {
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requests");
        let mut paths: Vec<_> = fs::read_dir(folder)
            .expect("readable")
            .map(|entry| entry.expect("readable").path())
            .collect();
        paths.sort();
        let seeds: Vec<String> =
            paths.iter().map(|path| fs::read_to_string(path).expect("text")).collect();
        let lines: Vec<String> =
            seeds.iter().flat_map(|seed| seed.split('\n').map(str::to_owned)).collect();
        let words = lines.iter().flat_map(|line| line.split(is_between).map(str::to_owned));
        let words = words.chain(LIMITS.map(str::to_owned)).chain(["a".repeat(9000)]).collect();
        Self { random: SplitMix64::new(1), seeds, lines, words }
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).expect("fits");
        usize::try_from(self.random.bits() % end).expect("fits")
    }

    /// One of the requests with some changes.
    fn input(&mut self) -> String {
        let seed = self.below(self.seeds.len());
        let mut lines: Vec<String> = self.seeds[seed].split('\n').map(str::to_owned).collect();
        for _ in 0..=self.below(4) {
            let at = self.below(lines.len());
            let other = self.below(self.lines.len());
            let other = self.lines[other].clone();
            match self.below(8) {
                0 if lines.len() > 1 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at].clone()),
                2 => lines.insert(at, other),
                3 => lines[at] = other,
                _ => lines[at] = self.changed(&lines[at]),
            }
        }
        lines.join("\n")
    }

    /// A line with another word.
    fn changed(&mut self, line: &str) -> String {
        let parts: Vec<&str> = line.split_inclusive(is_between).collect();
        let at = self.below(parts.len());
        let word = self.below(self.words.len());
        let mut changed = String::new();
        for (index, part) in parts.iter().enumerate() {
            if index == at {
                changed.push_str(&self.words[word]);
                changed.extend(part.chars().last().filter(|last| is_between(*last)));
            } else {
                changed.push_str(part);
            }
        }
        changed
    }
}

/// Whether a character is between two words.
const fn is_between(char: char) -> bool {
    matches!(char, ' ' | ':' | '=' | '&' | '?' | '/' | ',' | '-' | '<' | '>')
}

/// Carries an input out; says which one it was if that fails.
fn ask(input: &str) -> Vec<u16> {
    let answers = catch_unwind(|| requests(input.as_bytes()));
    assert!(answers.is_ok(), "as above, for:\n{input}");
    answers.unwrap_or_default()
}

#[test]
fn whatever_is_asked_the_answer_is_one_of_the_dialect() {
    let mut chance = Chance::new();
    for seed in chance.seeds.clone() {
        let answers = ask(&seed);
        assert!(answers.first().is_some_and(|status| *status < 300), "{answers:?}");
    }
    let inputs = if std::env::var_os("STRONGROOM_LONG").is_some() { 30_000 } else { 150 };
    for _ in 0..inputs {
        ask(&chance.input());
    }
}
