//! Findings of a check.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing is wrong; it is only good to know.
    Info,
    /// It works, but less well or with something left out.
    Amber,
    /// It will fail.
    Red,
}

/// One thing that a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Which kind of thing it is, for scripts. It never changes.
    pub id: &'static str,
    /// What is the case.
    pub what: String,
    /// What to do about it.
    pub what_to_do: String,
}

impl Finding {
    /// What was found.
    pub fn new(
        level: Level,
        id: &'static str,
        what: impl Into<String>,
        what_to_do: impl Into<String>,
    ) -> Self {
        Self { level, id, what: what.into(), what_to_do: what_to_do.into() }
    }

    /// The worst level there is; none if nothing was found.
    pub fn worst(findings: &[Self]) -> Option<Level> {
        findings.iter().map(|finding| finding.level).max()
    }
}

impl Level {
    /// Its name for people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Amber => "amber",
            Self::Red => "red",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
