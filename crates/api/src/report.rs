//! The report of a job.

use std::{fmt, ops::Index};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strongroom_base::{Message, message};

/// What a job did: one JSON object, as the command that does the same prints it.
///
/// It is made where the work is done, of a type of its own there, and read by people and scripts. The
/// service decides nothing by it: what it decides by is in fields of their own beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Report(Map<String, Value>);

impl Report {
    /// The report of something that is an object in JSON.
    pub fn of(report: &impl Serialize) -> Result<Self, Message> {
        match serde_json::to_value(report) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(message!(BUG, "a report that is no object")),
            Err(error) => {
                Err(message!(BUG, "a report that is no JSON: {error}", error = error.to_string()))
            }
        }
    }

    /// The same with a further field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// A field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

/// A field, or null if there is none.
impl Index<&str> for Report {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        self.get(name).unwrap_or(&Value::Null)
    }
}

impl From<&Report> for Value {
    fn from(report: &Report) -> Self {
        Self::Object(report.0.clone())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Value::from(self), f)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_an_object() {
        let report =
            Report::of(&json!({ "stored_bytes": 7 })).expect("an object").with("more", true);
        assert_eq!((&report["stored_bytes"], &report["more"]), (&json!(7), &json!(true)));
        assert!(report["nothing"].is_null());
        assert_eq!(
            serde_json::to_value(&report).expect("JSON"),
            json!({ "stored_bytes": 7, "more": true })
        );
        assert_eq!(Report::of(&7).expect_err("none").code, &strongroom_base::codes::BUG);
        assert!(serde_json::from_str::<Report>("[]").is_err());
    }
}
