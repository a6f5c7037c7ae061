//! Text as machines hold it: sentences of a fixed vocabulary, and log lines.

use std::{fmt::Write as _, io};

use crate::{Outcome, rng::Rng};

/// A vocabulary of made-up words, the frequent ones first.
#[derive(Debug)]
pub struct Words(Vec<String>);

impl Words {
    const COUNT: usize = 20_000;
    const LETTERS: [&str; 26] = [
        "e", "t", "a", "o", "i", "n", "s", "h", "r", "d", "l", "u", "c", "m", "f", "w", "y", "p",
        "v", "b", "g", "k", "q", "j", "x", "z",
    ];

    /// The one vocabulary.
    pub fn new() -> Self {
        let mut rng = Rng::new(26);
        let word = |rng: &mut Rng| {
            let length = rng.between(2, 11);
            (0..length)
                .map(|_| {
                    let letter = usize::try_from(rng.below(26).min(rng.below(26))).unwrap_or(0);
                    Self::LETTERS.get(letter).copied().unwrap_or_default()
                })
                .collect()
        };
        Self((0..Self::COUNT).map(|_| word(&mut rng)).collect())
    }

    /// A sentence of `words` words.
    pub fn sentence(&self, rng: &mut Rng, words: u64) -> String {
        let mut sentence = String::new();
        for _ in 0..words {
            let index = usize::try_from(rng.skewed(20_000)).unwrap_or(0);
            sentence.push_str(self.0.get(index).map_or("", String::as_str));
            sentence.push(' ');
        }
        sentence.truncate(sentence.trim_end().len());
        sentence
    }
}

impl Default for Words {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes at least `len` bytes of log lines, half of them of a web server.
pub fn write_log(out: &mut impl io::Write, len: u64, seed: u64) -> Outcome<()> {
    let mut rng = Rng::new(seed);
    let mut second = 1_760_000_000 + seed * 86_400;
    let mut written = 0;
    let mut line = String::new();
    while written < len {
        second += rng.below(6) / 5;
        line.clear();
        if rng.chance(50) {
            system_line(&mut line, second, &mut rng);
        } else {
            request_line(&mut line, second, &mut rng);
        }
        out.write_all(line.as_bytes())?;
        written += u64::try_from(line.len())?;
    }
    Ok(())
}

fn clock_time(second: u64) -> String {
    format!("{:02}:{:02}:{:02}", second / 3600 % 24, second / 60 % 60, second % 60)
}

fn system_line(line: &mut String, second: u64, rng: &mut Rng) {
    let unit = rng.pick(&["systemd", "sshd", "CRON", "kernel", "postgres", "dbus-daemon", "nginx"]);
    let message = rng.pick(&[
        "Started Session N of User root.",
        "Accepted publickey for deploy from 10.1.N port N ssh2",
        "(root) CMD (run-parts --report /etc/cron.hourly) N",
        "audit: type=1400 apparmor=\"STATUS\" operation=\"profile_load\" pid=N",
        "LOG:  checkpoint complete: wrote N buffers; write=N ms, sync=N ms",
        "connection authorized: user=app database=app pid=N",
        "Deactivated successfully after N ms.",
    ]);
    let (day, pid) = (second / 86_400 % 28 + 1, rng.between(400, 30_000));
    // Writing to a string cannot fail.
    _ = write!(line, "Nov {day:2} {} bench {unit}[{pid}]: ", clock_time(second));
    let mut parts = message.split('N');
    line.push_str(parts.next().unwrap_or_default());
    for part in parts {
        _ = write!(line, "{}{part}", rng.below(65_536));
    }
    line.push('\n');
}

fn request_line(line: &mut String, second: u64, rng: &mut Rng) {
    let path = rng.pick(&["/", "/login", "/api/v1/items/", "/static/app.", "/search?q=", "/img/"]);
    let agent = rng.pick(&[
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)",
        "curl/7.88.1",
    ]);
    let (a, b, c) = (rng.below(8), rng.below(256), rng.below(256));
    let (day, time) = (second / 86_400 % 28 + 1, clock_time(second));
    let status = rng.pick(&[200, 200, 200, 304, 302, 404]);
    let (item, size) = (rng.below(1 << 20), rng.between(100, 90_000));
    _ = writeln!(
        line,
        "10.{a}.{b}.{c} - - [{day:02}/Nov/2026:{time} +0000] \"GET {path}{item:x} HTTP/1.1\" \
         {status} {size} \"-\" \"{agent}\""
    );
}

#[cfg(test)]
mod tests {
    use super::{Words, write_log};
    use crate::rng::Rng;

    #[test]
    fn logs_are_lines_of_the_asked_size_and_repeat_for_a_seed() {
        let log = |seed| {
            let mut out = Vec::new();
            write_log(&mut out, 50_000, seed).unwrap();
            out
        };
        let text = String::from_utf8(log(1)).unwrap();
        assert!(text.len() >= 50_000 && text.len() < 51_000 && text.ends_with('\n'));
        assert_eq!(log(1), text.as_bytes());
        assert_ne!(log(2), text.as_bytes());
    }

    #[test]
    fn sentences_have_the_asked_number_of_words() {
        let words = Words::new();
        assert_eq!(words.sentence(&mut Rng::new(1), 9).split(' ').count(), 9);
    }
}
