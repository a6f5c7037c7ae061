//! Runs the commands of a page as its reader would.

use std::{fs, path::Path};

use crate::harness::Lab;

/// A page's commands, to be run in order in one shell.
pub(crate) struct Session<'a> {
    pub(crate) lab: &'a Lab,
    /// Variables of the program, besides the folder's.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// What stands in the page, and what it is in the test's folder.
    pub(crate) replaced: Vec<(&'a str, String)>,
    /// Lines with these words are left out: other tests run them, in a world that they need.
    pub(crate) left_out: &'a [&'a str],
}

impl Session<'_> {
    /// Runs the fenced blocks of a text; all must succeed. Returns how many lines were run and left out.
    pub(crate) fn run(&self, text: &str) -> (usize, usize) {
        let mut script =
            String::from("set -eu\nstrongroom() { echo \"+ $*\"; command \"$PROGRAM\" \"$@\"; }\n");
        let (mut run, mut left) = (0, 0);
        let blocks =
            text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
        for line in blocks.flat_map(|(_, block)| block.lines()).map(str::trim) {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            if self.left_out.iter().any(|word| line.contains(word)) {
                left += 1;
                continue;
            }
            run += 1;
            let line = self
                .replaced
                .iter()
                .fold(line.to_owned(), |line, (page, ours)| line.replace(page, ours));
            script.push_str(&line);
            script.push('\n');
        }
        let output = self
            .lab
            .shell(&script)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("PROGRAM", env!("CARGO_BIN_EXE_strongroom"))
            .output()
            .expect("bash runs");
        let (out, told) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{out}\n{told}");
        (run, left)
    }
}

/// A page of the project.
pub(crate) fn read(page: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(page)).expect("a page")
}

/// A part of a page, from a heading to another.
pub(crate) fn part<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
    let rest = page.split(from).nth(1).unwrap_or_else(|| panic!("no {from:?}"));
    rest.split(to).next().expect("an end")
}
