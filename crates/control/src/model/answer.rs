//! Answers that are kept, so that a request that is sent again is carried out once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::JobId;
use strongroom_catalog::{Column, Document, Kind, Value};

/// What was answered to a request that bore an idempotency key, to answer the same again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerDoc {
    /// Who asked, and the key.
    pub key: String,
    /// BLAKE3 of the request: method, path and body.
    pub request: String,
    /// Whether it has changed what it should.
    #[serde(default)]
    pub carried_out: bool,
    /// The job that it has begun.
    #[serde(default)]
    pub job: Option<JobId>,
    /// The status; none while the request is worked on.
    pub status: Option<u16>,
    /// The answer's headers that count.
    pub headers: Vec<(String, String)>,
    /// The answer's body.
    pub body: String,
    /// When it was asked.
    pub time: Timestamp,
}

impl Document for AnswerDoc {
    const KIND: &'static Kind = &Kind {
        table: "answers",
        columns: &[Column::integer("time")],
        unique: &[],
        indexes: &[&["time"]],
    };

    fn id(&self) -> String {
        self.key.clone()
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.time.into()]
    }
}
