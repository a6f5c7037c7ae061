//! What a recovery point records of its data: how consistent it is, and what could not be read.

use serde::{Deserialize, Serialize};

/// What was proved about the state of the data, never what was hoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// The applications had prepared for it.
    Application,
    /// The file systems were frozen.
    FileSystem,
    /// As after a power cut.
    Crash,
    /// Nothing: others may have written to it while it was read, so that its parts may be of
    /// different moments.
    Unknown,
}

/// A stretch of a source disk that could not be read and was recorded as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}
