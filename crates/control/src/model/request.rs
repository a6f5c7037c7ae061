//! Requests that bear an idempotency key, so that one that is sent again is carried out once.
//!
//! This module owns when a request came and whether it was carried out. What was answered is kept with it
//! in the words of the face that answered: the service never looks into it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use strongroom_base::JobId;
use strongroom_catalog::{Column, Document, Kind, Value};

/// A request that bore an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDoc {
    /// Who asked, and the key.
    pub key: String,
    /// BLAKE3 of the request, as the face has read it.
    pub request: String,
    /// Whether it has changed what it should.
    #[serde(default)]
    pub carried_out: bool,
    /// The job that it has begun.
    #[serde(default)]
    pub job: Option<JobId>,
    /// When it was asked.
    pub time: Timestamp,
    /// The answer, in the words of the face that gave it; empty while the request is worked on.
    #[serde(flatten)]
    pub answer: Map<String, Json>,
}

impl Document for RequestDoc {
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
