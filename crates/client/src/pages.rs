//! Paged lists.

use serde::de::DeserializeOwned;
use strongroom_api::Page;

use crate::{Client, ClientError};

/// Entries of a page.
const PAGE: usize = 500;

/// The entries of a list, which are asked for as they are needed.
pub struct Pages<'c, T> {
    client: &'c Client,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    here: std::vec::IntoIter<T>,
    next: Next,
}

/// What comes after the entries that are here.
enum Next {
    First,
    Token(String),
    Nothing,
}

impl Client {
    pub(crate) fn pages<T>(
        &self,
        path: &[&str],
        query: Vec<(&'static str, String)>,
    ) -> Pages<'_, T> {
        Pages {
            client: self,
            path: path.iter().map(|&part| part.to_owned()).collect(),
            query,
            here: Vec::new().into_iter(),
            next: Next::First,
        }
    }
}

impl<T: DeserializeOwned> Pages<'_, T> {
    /// Maximum number of entries; all if none is given.
    pub fn up_to(self, limit: Option<usize>) -> Result<Vec<T>, ClientError> {
        self.take(limit.unwrap_or(usize::MAX)).collect()
    }

    /// All entries.
    pub fn all(self) -> Result<Vec<T>, ClientError> {
        self.collect()
    }

    fn page(&mut self, token: Option<&str>) -> Result<(), ClientError> {
        let mut query = self.query.clone();
        query.push(("limit", PAGE.to_string()));
        query.extend(token.map(|token| ("page_token", token.to_owned())));
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let page: Page<T> = self.client.get(&path, &query)?;
        if page.next_page_token.is_some() && page.next_page_token.as_deref() == token {
            return Err(self.client.senseless("the list does not end".to_owned()));
        }
        self.here = page.items.into_iter();
        self.next = page.next_page_token.map_or(Next::Nothing, Next::Token);
        Ok(())
    }
}

impl<T: DeserializeOwned> Iterator for Pages<'_, T> {
    type Item = Result<T, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.here.next() {
                return Some(Ok(entry));
            }
            let token = match std::mem::replace(&mut self.next, Next::Nothing) {
                Next::Nothing => return None,
                Next::First => None,
                Next::Token(token) => Some(token),
            };
            if let Err(error) = self.page(token.as_deref()) {
                return Some(Err(error));
            }
        }
    }
}
