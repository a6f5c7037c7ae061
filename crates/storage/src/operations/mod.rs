//! What each operation does: the change or the question to the store, and the answer.

mod account;
mod batch;
mod blob;
mod blocks;
mod container;
mod pages;
mod reads;

use azure::{Code, Refusal};
use strongroom_azure as azure;

/// Refuses what the dialect has and this service does not do.
fn unsupported(code: Code, reason: &str) -> Refusal {
    Refusal::new(code).with("Reason", reason)
}

/// A marker of a list: what it holds is for nobody else to read.
fn bad_marker(marker: &str) -> Refusal {
    Refusal::new(Code::InvalidQueryParameterValue)
        .with("QueryParameterName", "marker")
        .with("QueryParameterValue", marker)
        .with("Reason", "It is not the NextMarker of an answer.")
}
