//! Runs the commands of a page as its reader would.

use crate::{blocks, harness::Lab};

pub(crate) use crate::blocks::{Page, read};

/// A page's commands, to be run in order in one shell.
pub(crate) struct Session<'a> {
    pub(crate) lab: &'a Lab,
    /// Says which lines are this test's; others are left to the tests that have what they need.
    pub(crate) page: &'a Page,
    /// Variables of the program, besides the folder's.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// What stands in the page, and what it is in the test's folder.
    pub(crate) replaced: Vec<(&'a str, String)>,
}

/// Functions for the commands of pages: the program, which says what it is asked, and a server that is
/// stopped as soon as it serves.
const FUNCTIONS: &str = r#"set -eu
strongroom() { echo "+ $*"; command "$PROGRAM" "$@"; }
serve_and_stop() {
  "$PROGRAM" serve "$@" 2> serve.log &
  server=$!
  for tries in $(seq 600); do
    if grep -q fingerprint serve.log; then break; fi
    kill -0 "$server" || { cat serve.log >&2; exit 1; }
    sleep 0.1
  done
  grep -q fingerprint serve.log
  kill -TERM "$server"
  wait "$server"
}
"#;

impl Session<'_> {
    /// Runs the test's lines in the fenced blocks of a text; all must succeed. Returns what they print.
    pub(crate) fn run(&self, text: &str) -> String {
        let parts = blocks::parts(text);
        self.run_parts(&parts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs the test's lines among these.
    pub(crate) fn run_parts(&self, parts: &[&str]) -> String {
        let mut script = FUNCTIONS.to_owned();
        for part in parts.iter().filter(|part| self.page.take(part)) {
            let replace = |line: String, (page, ours): &(&str, String)| line.replace(page, ours);
            script.push_str(&self.replaced.iter().fold((*part).to_owned(), replace));
            script.push('\n');
        }
        let output = self
            .lab
            .shell(&script)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("PROGRAM", env!("CARGO_BIN_EXE_strongroom"))
            .output()
            .expect("bash runs");
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{out}\n{err}");
        out.into_owned()
    }
}

/// A part of a page, from a heading to another.
pub(crate) fn part<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
    let rest = page.split(from).nth(1).unwrap_or_else(|| panic!("no {from:?}"));
    rest.split(to).next().expect("an end")
}
