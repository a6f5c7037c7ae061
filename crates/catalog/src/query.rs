//! Queries on the documents of one kind, and their SQL.
//!
//! Pages continue after the last document of the page before (its place in the order), never
//! after a count, so that a document that is there all the time is on exactly one page, whatever
//! is inserted and deleted meanwhile. The order is always total: by one column, then by id.
//! Nulls come first, or last when descending, on both databases.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    Column, Error, Kind, Result, Value,
    kind::Dialect,
    sql::{Bind, Statement},
};

/// The largest page.
pub const MAX_PAGE: usize = 1000;

/// The size of a page that says nothing of it.
const DEFAULT_PAGE: usize = 100;

/// More alternatives than this in one condition are refused.
const MAX_ALTERNATIVES: usize = 1000;

/// A condition that documents must meet: all of its parts at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// A column passes a test.
    Column(Cow<'static, str>, Test),
    /// At least one of these holds.
    Any(Vec<Filter>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Compare(&'static str, Value),
    OneOf(Vec<Value>),
    Prefix(String),
    Contains(String),
    Null(bool),
}

impl Filter {
    /// All documents.
    pub fn all() -> Self {
        Self::default()
    }

    fn and(mut self, column: impl Into<Cow<'static, str>>, test: Test) -> Self {
        self.0.push(Condition::Column(column.into(), test));
        self
    }

    /// And at least one of these holds; there may be none of them, then nothing matches.
    #[must_use]
    pub fn any(mut self, of: impl IntoIterator<Item = Self>) -> Self {
        self.0.push(Condition::Any(of.into_iter().collect()));
        self
    }

    /// And the column has this value.
    #[must_use]
    pub fn eq(self, column: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.and(column, Test::Compare("=", value.into()))
    }

    /// And the column has another value; one that is null does not count as another.
    #[must_use]
    pub fn ne(self, column: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.and(column, Test::Compare("<>", value.into()))
    }

    /// And the column is less.
    #[must_use]
    pub fn lt(self, column: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.and(column, Test::Compare("<", value.into()))
    }

    /// And the column is less or the same.
    #[must_use]
    pub fn le(self, column: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.and(column, Test::Compare("<=", value.into()))
    }

    /// And the column is greater.
    #[must_use]
    pub fn gt(self, column: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.and(column, Test::Compare(">", value.into()))
    }

    /// And the column is greater or the same.
    #[must_use]
    pub fn ge(self, column: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.and(column, Test::Compare(">=", value.into()))
    }

    /// And the column has one of these values; there may be none of them, then nothing matches.
    #[must_use]
    pub fn one_of<V: Into<Value>>(
        self,
        column: impl Into<Cow<'static, str>>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        self.and(column, Test::OneOf(values.into_iter().map(Into::into).collect()))
    }

    /// And the text begins like this.
    #[must_use]
    pub fn prefix(self, column: impl Into<Cow<'static, str>>, prefix: impl Into<String>) -> Self {
        self.and(column, Test::Prefix(prefix.into()))
    }

    /// And the text has this somewhere. No index helps with it.
    #[must_use]
    pub fn contains(self, column: impl Into<Cow<'static, str>>, part: impl Into<String>) -> Self {
        self.and(column, Test::Contains(part.into()))
    }

    /// And the column holds nothing.
    #[must_use]
    pub fn is_null(self, column: impl Into<Cow<'static, str>>) -> Self {
        self.and(column, Test::Null(true))
    }

    /// And the column holds something.
    #[must_use]
    pub fn not_null(self, column: impl Into<Cow<'static, str>>) -> Self {
        self.and(column, Test::Null(false))
    }

    /// Adds ` WHERE …` to a statement, if there is anything to say; whether there was.
    pub(crate) fn write(
        &self,
        kind: &'static Kind,
        dialect: Dialect,
        to: &mut Statement,
    ) -> Result<bool> {
        if self.0.is_empty() {
            return Ok(false);
        }
        to.push(" WHERE ");
        self.write_conditions(kind, dialect, to)?;
        Ok(true)
    }

    fn write_conditions(
        &self,
        kind: &'static Kind,
        dialect: Dialect,
        to: &mut Statement,
    ) -> Result<()> {
        if self.0.is_empty() {
            to.push("1 = 1");
        }
        for (at, condition) in self.0.iter().enumerate() {
            to.push(if at == 0 { "" } else { " AND " });
            match condition {
                Condition::Column(column, test) => test.write(column, kind, dialect, to)?,
                Condition::Any(of) if of.is_empty() => {
                    to.push("1 = 0");
                }
                Condition::Any(of) => {
                    for (at, filter) in of.iter().enumerate() {
                        to.push(if at == 0 { "(" } else { " OR " });
                        filter.write_conditions(kind, dialect, to)?;
                    }
                    to.push(")");
                }
            }
        }
        Ok(())
    }
}

impl Test {
    fn write(
        &self,
        column: &str,
        kind: &'static Kind,
        dialect: Dialect,
        to: &mut Statement,
    ) -> Result<()> {
        let column = kind.column(column)?;
        let fault = |reason: &str| {
            Err(Error::Query { kind: kind.table, reason: format!("{:?} {reason}", column.name) })
        };
        let name = quoted(column);
        let checked = |value: &Value| match value.type_of() {
            Some(of) if of == column.of => match value.fault() {
                None => Ok(Bind::column(value.clone(), of)),
                Some(reason) => {
                    fault(&format!("is compared with a text: {reason}")).map(|()| 0.into())
                }
            },
            _ => fault("is compared with a value of another type").map(|()| 0.into()),
        };
        match self {
            Self::Compare(sign, value) => {
                let value = checked(value)?;
                to.push(&format!("{name} {sign} ")).bind(value);
            }
            Self::OneOf(values) if values.is_empty() => {
                to.push("1 = 0");
            }
            Self::OneOf(values) if values.len() > MAX_ALTERNATIVES => {
                return fault("has more than 1000 alternatives");
            }
            Self::OneOf(values) => {
                to.push(&format!("{name} IN ("));
                // The number of values is rounded up, so that there are few different statements.
                let last = values.last().into_iter().cycle();
                let count = values.len().next_power_of_two();
                for (at, value) in values.iter().chain(last).take(count).enumerate() {
                    let value = checked(value)?;
                    to.push(if at == 0 { "" } else { ", " }).bind(value);
                }
                to.push(")");
            }
            Self::Prefix(prefix) => {
                let start = checked(&Value::from(prefix.as_str()))?;
                to.push(&format!("{name} >= ")).bind(start);
                if let Some(end) = after_all_with(prefix) {
                    to.push(&format!(" AND {name} < ")).bind(end);
                }
            }
            Self::Contains(part) => {
                let part = checked(&Value::from(part.as_str()))?;
                let find = match dialect {
                    Dialect::Sqlite => "instr",
                    Dialect::Postgres => "strpos",
                };
                to.push(&format!("{find}({name}, ")).bind(part).push(") > 0");
            }
            Self::Null(null) => {
                to.push(&format!("{name} IS {}NULL", if *null { "" } else { "NOT " }));
            }
        }
        Ok(())
    }
}

/// The least text that is greater than every text with a prefix, if there is any.
fn after_all_with(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last {
            char::MAX => None,
            // What lies between is no character.
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last).saturating_add(1)),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// A page of documents that meet a condition, in an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    filter: Filter,
    order: Cow<'static, str>,
    descending: bool,
    limit: usize,
    after: Option<PageToken>,
}

impl Default for Query {
    fn default() -> Self {
        Self::new(Filter::all())
    }
}

impl From<Filter> for Query {
    fn from(filter: Filter) -> Self {
        Self::new(filter)
    }
}

impl Query {
    /// The first 100 that meet a condition, by id.
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            order: Cow::Borrowed("id"),
            descending: false,
            limit: DEFAULT_PAGE,
            after: None,
        }
    }

    /// Sorted by a column, the least first.
    #[must_use]
    pub fn ascending(self, column: impl Into<Cow<'static, str>>) -> Self {
        Self { order: column.into(), descending: false, ..self }
    }

    /// Sorted by a column, the greatest first.
    #[must_use]
    pub fn descending(self, column: impl Into<Cow<'static, str>>) -> Self {
        Self { order: column.into(), descending: true, ..self }
    }

    /// No more than this; 1 to [`MAX_PAGE`].
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// What follows a page of the same order; `None` is the first page.
    #[must_use]
    pub fn after(self, token: impl Into<Option<PageToken>>) -> Self {
        Self { after: token.into(), ..self }
    }

    /// The size of a page, if it is one.
    pub(crate) fn checked_limit(&self, kind: &'static Kind) -> Result<usize> {
        if (1..=MAX_PAGE).contains(&self.limit) {
            return Ok(self.limit);
        }
        Err(Error::Query { kind: kind.table, reason: "a page has 1 to 1000 documents".to_owned() })
    }

    /// The column that is sorted by.
    pub(crate) fn order_column(&self, kind: &'static Kind) -> Result<&'static Column> {
        kind.column(&self.order)
    }

    /// The statements that, one after the other until there are enough rows, read the page: id,
    /// version, body and the value that is sorted by. Only an order by a nullable column takes
    /// two, one of which has the nulls; so each goes along an index.
    pub(crate) fn statements(
        &self,
        kind: &'static Kind,
        dialect: Dialect,
    ) -> Result<Vec<Statement>> {
        let column = self.order_column(kind)?;
        let after = match &self.after {
            Some(token) => Some(token.read(kind, column, self.descending)?),
            None => None,
        };
        let mut parts = Vec::new();
        if column.nullable {
            let (nulls, others) = match after {
                None => (Some(Part::Null(None)), Some(Part::NotNull)),
                Some((Value::Null, id)) => {
                    let others = (!self.descending).then_some(Part::NotNull);
                    (Some(Part::Null(Some(id))), others)
                }
                Some((value, id)) => {
                    (self.descending.then_some(Part::Null(None)), Some(Part::After(value, id)))
                }
            };
            let order = if self.descending { [others, nulls] } else { [nulls, others] };
            parts.extend(order.into_iter().flatten());
        } else {
            parts.push(after.map_or(Part::All, |(value, id)| Part::After(value, id)));
        }
        parts.into_iter().map(|part| self.statement(kind, dialect, column, part)).collect()
    }

    fn statement(
        &self,
        kind: &'static Kind,
        dialect: Dialect,
        column: &Column,
        part: Part,
    ) -> Result<Statement> {
        let name = quoted(column);
        let mut to = Statement::new(format!(
            "SELECT \"id\", \"version\", \"body\", {name} FROM \"{}\"",
            kind.table
        ));
        let filtered = self.filter.write(kind, dialect, &mut to)?;
        let (sign, direction) = if self.descending { ("<", "DESC") } else { (">", "ASC") };
        if part != Part::All {
            to.push(if filtered { " AND " } else { " WHERE " });
        }
        match part {
            Part::All => {}
            Part::Null(None) => {
                to.push(&format!("{name} IS NULL"));
            }
            Part::Null(Some(id)) => {
                to.push(&format!("{name} IS NULL AND \"id\" {sign} ")).bind(id);
            }
            Part::NotNull => {
                to.push(&format!("{name} IS NOT NULL"));
            }
            Part::After(_, id) if column.name == "id" => {
                to.push(&format!("\"id\" {sign} ")).bind(id);
            }
            Part::After(value, id) => {
                to.push(&format!("({name}, \"id\") {sign} ("));
                to.bind(Bind::column(value, column.of)).push(", ").bind(id).push(")");
            }
        }
        to.push(&format!(" ORDER BY {name} {direction}"));
        if column.name != "id" {
            to.push(&format!(", \"id\" {direction}"));
        }
        // One more tells whether there is another page.
        to.push(&format!(" LIMIT {}", self.limit.saturating_add(1)));
        Ok(to)
    }

    /// The token of the page after the one that ends with this document.
    pub(crate) fn token(&self, kind: &'static Kind, value: Value, id: &str) -> PageToken {
        let id = id.to_owned();
        let place = (kind.table, self.order.as_ref(), self.descending, value, id);
        PageToken(BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&place).unwrap_or_default()))
    }
}

/// A part of an order.
#[derive(PartialEq, Eq)]
enum Part {
    /// Everything.
    All,
    /// What has no value, after an id.
    Null(Option<String>),
    /// What has a value.
    NotNull,
    /// What comes after a value and an id, and has a value.
    After(Value, String),
}

/// Where a page ends, as an opaque text for the request for the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageToken(String);

impl PageToken {
    /// The token of this text, which may be anything; it is checked when it is used.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value and the id of the document that it points to.
    fn read(
        &self,
        kind: &'static Kind,
        column: &Column,
        descending: bool,
    ) -> Result<(Value, String)> {
        self.parse()
            .filter(|(table, order, desc, value, id)| {
                let of = value.type_of();
                *table == kind.table
                    && *order == column.name
                    && *desc == descending
                    && (of == Some(column.of) || (of.is_none() && column.nullable))
                    && value.fault().is_none()
                    && crate::value::text_fault(id).is_none()
            })
            .map(|(.., value, id)| (value, id))
            .ok_or_else(|| Error::Query {
                kind: kind.table,
                reason: "the page is not one of a list in this order".to_owned(),
            })
    }

    fn parse(&self) -> Option<(String, String, bool, Value, String)> {
        if self.0.len() > 8192 {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&self.0).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

impl std::fmt::Display for PageToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Some documents of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The documents.
    pub items: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<PageToken>,
}

/// A column's name in SQL.
pub(crate) fn quoted(column: &Column) -> String {
    format!("\"{}\"", column.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_above_all_that_have_it_and_below_the_rest() {
        assert_eq!(after_all_with("ab").as_deref(), Some("ac"));
        assert_eq!(after_all_with("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_all_with("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(after_all_with("\u{10ffff}"), None);
        assert_eq!(after_all_with(""), None);
    }
}
