//! Pages of lists, and versions of what is changed.
//!
//! This module owns how a page of the catalog becomes one of the API, and the check of expected versions. It must
//! not know what is listed.

use strongroom_api as api;
use strongroom_base::codes;
use strongroom_catalog::{PageToken, Query, Stored};

use crate::error::{ControlError, Result};

/// A thing of the API and its version, for its `ETag`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The thing.
    pub value: T,
    /// Its version.
    pub version: u64,
}

/// Where a page of a list begins, and how long it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Maximum number of entries on a page; 100 if not given.
    pub limit: Option<usize>,
    /// What the page before said.
    pub token: Option<String>,
}

impl PageRequest {
    /// The query of this page.
    pub(crate) fn of(&self, query: Query) -> Query {
        let query = query.after(self.token.clone().map(PageToken::new));
        match self.limit {
            Some(limit) => query.limit(limit),
            None => query,
        }
    }
}

/// A page of the catalog as a page of the API.
pub(crate) fn page<D, T>(
    page: strongroom_catalog::Page<Stored<D>>,
    f: impl FnMut(Stored<D>) -> T,
) -> api::Page<T> {
    api::Page {
        next_page_token: page.next.map(|token| token.as_str().to_owned()),
        items: page.items.into_iter().map(f).collect(),
    }
}

/// Refuses a change of something that is not of the version that was expected.
pub(crate) fn check_version(found: u64, expected: Option<u64>) -> Result<()> {
    if expected.is_none_or(|expected| expected == found) {
        return Ok(());
    }
    Err(ControlError::refused(&codes::REQUEST_CHANGED, codes::REQUEST_CHANGED.meaning))
}
