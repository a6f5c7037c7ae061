//! The audit chain: an ordered record of who did what, in which a later change shows.
//!
//! Every record has the hash of the one before and a hash of its own. An altered, removed or
//! inserted entry breaks the chain at that position. Somebody who can write to the database can
//! make a whole new chain, or cut off its end; comparison with a head ([`AuditHead`]) kept
//! elsewhere reveals both.
//!
//! The hash of a record is BLAKE3 in its mode for deriving keys, with the context
//! `strongroom catalog audit record 1`, of these bytes:
//!
//! ```text
//! prev_hash      32 bytes; zeros for the first record
//! seq            u64, little endian; the first is 1
//! time           i64, little endian; microseconds since 1970
//! actor, action, target, outcome, detail
//!                each: its length in bytes as u32, little endian; then its UTF-8
//! ```
//!
//! `detail` is the JSON text exactly as it is kept. The `hash` in the database and in exports is
//! the hash in lower-case hexadecimal. This encoding never changes; another would have another
//! context.

use std::ops::{ControlFlow, RangeInclusive};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strongroom_base::Digest;

use crate::{
    Catalog, Error, ReadTx, Result, Tx,
    error::Cause,
    sql::{Row, Statement},
    value::text_fault,
};

/// What separates these hashes from all others.
const CONTEXT: &str = "strongroom catalog audit record 1";

/// Records that are read at once.
const BATCH: u64 = 1000;

/// The longest detail, in bytes.
const MAX_DETAIL: usize = 1 << 20;

/// What is to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct AuditRecord<'a> {
    /// Who did it: a user, a token, a server.
    pub actor: &'a str,
    /// What was done, like `policy.update`.
    pub action: &'a str,
    /// To what, like `policy/nightly`; may be empty.
    pub target: &'a str,
    /// What became of it, like `ok` or `denied`.
    pub outcome: &'a str,
    /// What else is worth knowing. Never a secret.
    pub detail: &'a serde_json::Value,
}

/// A record of the chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number, from 1 without gaps.
    pub seq: u64,
    /// When, in microseconds since 1970.
    pub time: i64,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// What became of it.
    pub outcome: String,
    /// What else is worth knowing, as the JSON text that was recorded.
    pub detail: Box<RawValue>,
    /// The hash of the record before.
    pub prev_hash: Digest,
    /// The hash of this one.
    pub hash: Digest,
}

impl AuditEntry {
    /// The hash that the record must have.
    pub fn expected_hash(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(self.prev_hash.as_bytes());
        hasher.update(&self.seq.to_le_bytes());
        hasher.update(&self.time.to_le_bytes());
        let texts = [&self.actor, &self.action, &self.target, &self.outcome];
        for text in texts.into_iter().map(String::as_str).chain([self.detail.get()]) {
            // Lengths are limited where records are made; a longer one has no valid hash.
            hasher.update(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        Digest::new(*hasher.finalize().as_bytes())
    }

    /// The record as the last one of a chain.
    pub fn head(&self) -> AuditHead {
        AuditHead { seq: self.seq, hash: self.hash }
    }
}

/// A place in the chain that vouches for all before it. Kept elsewhere, it shows whether the
/// chain was cut off or rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// How many records there are up to here.
    pub seq: u64,
    /// The hash of the last one; zeros if there is none.
    pub hash: Digest,
}

impl AuditHead {
    /// That of a chain without records.
    pub const EMPTY: Self = Self { seq: 0, hash: Digest::HOLE };
}

/// What was found out about a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainReport {
    /// The last record that is right, after nothing but such.
    pub head: AuditHead,
    /// What is wrong after it, if anything is.
    pub broken: Option<ChainBreak>,
}

/// The first thing that is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainBreak {
    /// Where.
    pub seq: u64,
    /// What.
    pub what: ChainFault,
}

/// What can be wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainFault {
    /// A record is missing here.
    Missing,
    /// The record does not follow from the one before.
    Unlinked,
    /// The record is not what was hashed.
    Altered,
    /// The record is well formed, but not the one that the anchor was taken of: the chain was
    /// rebuilt.
    NotAnchored,
    /// An anchor is of a record beyond the end: the chain was cut off.
    CutOff,
}

/// Which records to list, the latest first.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Only those of this actor.
    pub actor: Option<String>,
    /// Only those with this action.
    pub action: Option<String>,
    /// Only those with this target.
    pub target: Option<String>,
    /// Only those with this outcome.
    pub outcome: Option<String>,
    /// Only those at or after this, in microseconds since 1970.
    pub from: Option<i64>,
    /// Only those before this, in microseconds since 1970.
    pub until: Option<i64>,
    /// Only those before this record: the last one of the page before.
    pub before: Option<u64>,
    /// No more than this; 1 to [`MAX_PAGE`](crate::MAX_PAGE).
    pub limit: usize,
}

/// All columns, in the order of [`entry`].
const SELECT: &str = "SELECT seq, time, actor, action, target, outcome, detail, prev_hash, hash \
                      FROM catalog_audit";

/// The record in a row.
pub(crate) fn entry(row: &Row) -> Result<AuditEntry> {
    let seq = row.count(0)?;
    let damaged = |source: Cause| Error::corrupt(format!("audit record {seq}"), Some(source));
    let digest = |at| -> Result<Digest> { row.text(at)?.parse().map_err(|e| damaged(Box::new(e))) };
    let detail = RawValue::from_string(row.text(6)?.to_owned());
    Ok(AuditEntry {
        seq,
        time: row.integer(1)?,
        actor: row.text(2)?.to_owned(),
        action: row.text(3)?.to_owned(),
        target: row.text(4)?.to_owned(),
        outcome: row.text(5)?.to_owned(),
        detail: detail.map_err(|source| damaged(source.into()))?,
        prev_hash: digest(7)?,
        hash: digest(8)?,
    })
}

impl ReadTx {
    /// The head of the chain.
    pub async fn audit_head(&mut self) -> Result<AuditHead> {
        let sql = Statement::new("SELECT seq, hash FROM catalog_audit ORDER BY seq DESC LIMIT 1");
        let Some(row) = self.session.first(sql).await? else { return Ok(AuditHead::EMPTY) };
        let seq = row.count(0)?;
        let hash = row.text(1)?.parse().map_err(|source: strongroom_base::ParseHexError| {
            Error::corrupt(format!("audit record {seq}"), Some(source.into()))
        })?;
        Ok(AuditHead { seq, hash })
    }

    /// Records, the latest first.
    pub async fn audit_list(&mut self, query: &AuditQuery) -> Result<Vec<AuditEntry>> {
        if !(1..=crate::MAX_PAGE).contains(&query.limit) {
            let reason = "a page has 1 to 1000 records".to_owned();
            return Err(Error::Query { kind: "the audit chain", reason });
        }
        let mut sql = Statement::new(SELECT);
        sql.push(" WHERE seq < ").bind(query.before.map_or(i64::MAX, signed));
        let texts = [
            ("actor", &query.actor),
            ("action", &query.action),
            ("target", &query.target),
            ("outcome", &query.outcome),
        ];
        for (column, text) in texts {
            if let Some(text) = text {
                if text_fault(text).is_some() {
                    return Ok(Vec::new());
                }
                sql.push(&format!(" AND {column} = ")).bind(text.as_str());
            }
        }
        if let Some(from) = query.from {
            sql.push(" AND time >= ").bind(from);
        }
        if let Some(until) = query.until {
            sql.push(" AND time < ").bind(until);
        }
        sql.push(&format!(" ORDER BY seq DESC LIMIT {}", query.limit));
        self.session.fetch(sql).await?.iter().map(entry).collect()
    }

    /// Up to 1000 records from a number on, in order.
    pub(crate) async fn audit_from(&mut self, seq: i64) -> Result<Vec<Row>> {
        let mut sql = Statement::new(SELECT);
        sql.push(" WHERE seq >= ").bind(seq);
        sql.push(&format!(" ORDER BY seq LIMIT {BATCH}"));
        self.session.fetch(sql).await
    }

    /// Hands out records of a range of numbers, in order, until `each` stops it. A record that
    /// cannot even be read is [`Error::Corrupt`].
    pub async fn audit_export(
        &mut self,
        range: RangeInclusive<u64>,
        mut sink: impl FnMut(AuditEntry) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut next = signed(*range.start());
        loop {
            let rows = self.audit_from(next).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in &rows {
                let entry = entry(row)?;
                next = signed(entry.seq.saturating_add(1));
                if entry.seq > *range.end() || sink(entry).is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// Reads the whole chain and checks every record, and that the anchors, in any order, are
    /// heads that it has had.
    pub async fn verify_chain(&mut self, anchors: &[AuditHead]) -> Result<ChainReport> {
        let mut checker = Checker::new(anchors);
        // What has a number below the first one does not belong there.
        let mut from = i64::MIN;
        loop {
            let rows = self.audit_from(from).await?;
            if rows.is_empty() {
                return Ok(checker.end());
            }
            for row in &rows {
                let next = checker.head.seq.saturating_add(1);
                let found = match entry(row) {
                    // Not even of the right form.
                    Err(Error::Corrupt { .. }) => {
                        Some(ChainBreak { seq: next, what: ChainFault::Altered })
                    }
                    entry => checker.check(&entry?),
                };
                if found.is_some() {
                    return Ok(ChainReport { head: checker.head, broken: found });
                }
            }
            from = signed(checker.head.seq.saturating_add(1));
        }
    }
}

/// Checks records, one after the other.
pub(crate) struct Checker {
    /// The last record that was right.
    pub(crate) head: AuditHead,
    /// Those that are yet to be met, the last one first.
    anchors: Vec<AuditHead>,
}

impl Checker {
    pub(crate) fn new(anchors: &[AuditHead]) -> Self {
        let mut anchors = anchors.to_vec();
        anchors.retain(|anchor| *anchor != AuditHead::EMPTY);
        anchors.sort_by_key(|anchor| std::cmp::Reverse(anchor.seq));
        Self { head: AuditHead::EMPTY, anchors }
    }

    /// What is wrong with the next record, if anything is.
    pub(crate) fn check(&mut self, entry: &AuditEntry) -> Option<ChainBreak> {
        let expected = self.head.seq.saturating_add(1);
        let broken = |what| Some(ChainBreak { seq: expected, what });
        if entry.seq != expected {
            return broken(ChainFault::Missing);
        }
        if entry.prev_hash != self.head.hash {
            return broken(ChainFault::Unlinked);
        }
        if entry.expected_hash() != entry.hash {
            return broken(ChainFault::Altered);
        }
        while let Some(anchor) = self.anchors.last().filter(|anchor| anchor.seq <= entry.seq) {
            if *anchor != entry.head() {
                return broken(ChainFault::NotAnchored);
            }
            self.anchors.pop();
        }
        self.head = entry.head();
        None
    }

    /// What is to be said when there are no more records.
    pub(crate) fn end(self) -> ChainReport {
        let seq = self.head.seq.saturating_add(1);
        let cut = self.anchors.last().map(|_| ChainBreak { seq, what: ChainFault::CutOff });
        ChainReport { head: self.head, broken: cut }
    }
}

impl Tx {
    /// Adds a record to the chain, in the same transaction as what it is about; the new head.
    pub async fn audit(&mut self, record: AuditRecord<'_>) -> Result<AuditHead> {
        let texts = [
            ("the actor", record.actor),
            ("the action", record.action),
            ("the target", record.target),
            ("the outcome", record.outcome),
        ];
        let unkept = |what: &str, reason| {
            Err(Error::Value { kind: "an audit record", what: what.to_owned(), reason })
        };
        for (what, text) in texts {
            if let Some(reason) = text_fault(text) {
                return unkept(what, reason);
            }
        }
        let detail = record.detail.to_string();
        if detail.len() > MAX_DETAIL {
            return unkept("the detail", "it is longer than 1 MiB");
        }
        let detail = RawValue::from_string(detail)
            .map_err(|source| Error::corrupt("a JSON text just made", Some(source.into())))?;
        let before = self.audit_head().await?;
        let mut entry = AuditEntry {
            seq: before.seq.saturating_add(1),
            time: self.clock.now().as_microsecond(),
            actor: record.actor.to_owned(),
            action: record.action.to_owned(),
            target: record.target.to_owned(),
            outcome: record.outcome.to_owned(),
            detail,
            prev_hash: before.hash,
            hash: Digest::HOLE,
        };
        entry.hash = entry.expected_hash();
        self.audit_insert(&entry).await?;
        Ok(entry.head())
    }

    /// Writes a record as it is.
    pub(crate) async fn audit_insert(&mut self, entry: &AuditEntry) -> Result<()> {
        let mut sql = Statement::new(
            "INSERT INTO catalog_audit \
             (seq, time, actor, action, target, outcome, detail, prev_hash, hash) VALUES (",
        );
        sql.bind(signed(entry.seq)).push(", ").bind(entry.time);
        for text in [&entry.actor, &entry.action, &entry.target, &entry.outcome] {
            sql.push(", ").bind(text.as_str());
        }
        sql.push(", ").bind(entry.detail.get());
        for digest in [entry.prev_hash, entry.hash] {
            sql.push(", ").bind(digest.to_string());
        }
        sql.push(")");
        self.session.execute(sql).await.map(drop)
    }
}

impl Catalog {
    /// Checks the whole audit chain; see [`ReadTx::verify_chain`].
    pub async fn verify_chain(&self, anchors: &[AuditHead]) -> Result<ChainReport> {
        self.read().await?.verify_chain(anchors).await
    }
}

/// A number as it is kept; one that cannot be is beyond all others.
pub(crate) fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_record_never_changes() {
        let entry = AuditEntry {
            seq: 7,
            time: 1_700_000_000_000_000,
            actor: "user/ada".to_owned(),
            action: "policy.update".to_owned(),
            target: "policy/nächtlich".to_owned(),
            outcome: "ok".to_owned(),
            detail: RawValue::from_string(r#"{"keep":7}"#.to_owned()).expect("JSON"),
            prev_hash: Digest::new([1; 32]),
            hash: Digest::HOLE,
        };
        // From another implementation of BLAKE3, by the description above.
        assert_eq!(
            entry.expected_hash().to_string(),
            "e89fb83c4e5384ffd6a41b7bbb2d071ade052c1fc88de1345815a8f91e4f0232"
        );
    }
}
