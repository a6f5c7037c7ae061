//! What is sent by a channel.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_api::Notice;
use strongroom_catalog::{Column, Document, Kind, Value};

/// What is to be sent by one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeDoc {
    /// What is sent.
    pub notice: Notice,
    /// The channel's name.
    pub channel: String,
    /// How often it was tried; one that was, is changed no more.
    pub tries: u32,
    /// When it is tried next; none: it was given up.
    pub next: Option<Timestamp>,
    /// Why the last try failed.
    pub error: Option<String>,
}

impl Document for NoticeDoc {
    const KIND: &'static Kind = &Kind {
        table: "notices",
        columns: &[
            Column::text("channel"),
            Column::integer("time"),
            Column::integer("tries"),
            Column::integer("next").nullable(),
        ],
        unique: &[],
        indexes: &[&["channel", "time"], &["time"]],
    };

    fn id(&self) -> String {
        self.notice.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.channel.as_str().into(),
            self.notice.time.into(),
            self.tries.into(),
            self.next.into(),
        ]
    }
}
