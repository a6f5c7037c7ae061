//! The bytes of the copy: a head and chunks, as JSON. `docs/understand/format.md` shows both.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_api::{PointState, Trigger};
use strongroom_base::{ItemId, JobId, PointId, VaultId, message};

use crate::{
    error::{ControlError, Result},
    model::{HostDoc, ItemDoc, PointDoc, PolicyDoc, VaultDoc},
};

/// The name under which the head is kept; names of chunks begin with it.
pub(crate) const NAME: &str = "catalog";

/// Version of what is kept. Version 1 was a single object with whole points.
pub(super) const FORMAT: u16 = 2;

/// What is kept of the catalog in a vault, read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    /// Version of this structure.
    pub format: u16,
    /// The program that wrote it.
    pub software: String,
    /// When it was saved; format 1 does not say.
    #[serde(default)]
    pub saved: Option<Timestamp>,
    /// The vault.
    pub vault: VaultDoc,
    /// Hosts of its items.
    pub hosts: Vec<HostDoc>,
    /// Its policies.
    pub policies: Vec<PolicyDoc>,
    /// Its items.
    #[serde(default)]
    pub items: Vec<ItemDoc>,
    /// What is kept of their points.
    #[serde(default)]
    pub points: Vec<KeptPoint>,
    /// The chunks that hold items and points; none in format 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) chunks: Vec<String>,
    /// Chunks that cannot be read; their items are found by their points only.
    #[serde(skip)]
    pub lost: u64,
}

/// The head: all that is not by item, and the names of the chunks.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    pub(super) format: u16,
    pub(super) software: String,
    pub(super) saved: Timestamp,
    pub(super) vault: VaultDoc,
    pub(super) hosts: Vec<HostDoc>,
    pub(super) policies: Vec<PolicyDoc>,
    pub(super) chunks: Vec<String>,
}

/// Some items with what is kept of their points.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Chunk {
    pub(super) format: u16,
    pub(super) items: Vec<ItemDoc>,
    pub(super) points: Vec<KeptPoint>,
}

/// What is kept of a point: what its manifest does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AnyPoint")]
pub struct KeptPoint {
    /// The item.
    pub item: ItemId,
    /// The point.
    pub id: PointId,
    /// Whether it can be restored.
    pub state: PointState,
    /// Why it was made.
    pub trigger: Trigger,
    /// The job that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The occurrence of the schedule that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occurrence: Option<Timestamp>,
    /// The longest that anything ever promised to keep it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promised: Option<Timestamp>,
    /// Until when somebody wants it kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_until: Option<Timestamp>,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// When it can no longer be undeleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purge_after: Option<Timestamp>,
    /// Whether it was deleted by itself, and not with its item.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// A point as either version has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyPoint {
    Whole(Box<PointDoc>),
    Kept {
        item: ItemId,
        id: PointId,
        state: PointState,
        trigger: Trigger,
        #[serde(default)]
        job: Option<JobId>,
        #[serde(default)]
        occurrence: Option<Timestamp>,
        #[serde(default)]
        promised: Option<Timestamp>,
        #[serde(default)]
        retain_until: Option<Timestamp>,
        #[serde(default)]
        deleted: Option<Timestamp>,
        #[serde(default)]
        purge_after: Option<Timestamp>,
        #[serde(default)]
        cut: bool,
    },
}

impl From<AnyPoint> for KeptPoint {
    fn from(any: AnyPoint) -> Self {
        match any {
            AnyPoint::Whole(doc) => Self::of(&doc),
            #[rustfmt::skip]
            AnyPoint::Kept {
                item, id, state, trigger, job, occurrence, promised, retain_until, deleted,
                purge_after, cut,
            } => Self {
                item, id, state, trigger, job, occurrence, promised, retain_until, deleted,
                purge_after, cut,
            },
        }
    }
}

impl KeptPoint {
    /// What is kept of a point.
    pub(super) fn of(doc: &PointDoc) -> Self {
        let point = &doc.point;
        Self {
            item: point.item,
            id: point.id,
            state: point.state,
            trigger: point.trigger,
            job: point.job,
            occurrence: doc.occurrence,
            promised: doc.promised,
            retain_until: point.retain_until,
            deleted: point.deleted,
            purge_after: point.purge_after,
            cut: doc.cut,
        }
    }

    /// Gives it back to a point that was found in the vault.
    pub(super) fn give(self, doc: &mut PointDoc) {
        let point = &mut doc.point;
        // What was being validated when it was kept is in the vault, and complete.
        point.state = match self.state {
            PointState::Pending => PointState::Restorable,
            state => state,
        };
        (point.trigger, point.job) = (self.trigger, self.job);
        point.retain_until = self.retain_until;
        (point.deleted, point.purge_after) = (self.deleted, self.purge_after);
        (doc.occurrence, doc.promised, doc.cut) = (self.occurrence, self.promised, self.cut);
    }
}

/// The name of a chunk: by its content, so that the same is put once.
pub(super) fn chunk_name(bytes: &[u8]) -> String {
    let digest = blake3::hash(bytes).to_hex();
    format!("{NAME}-{}", digest.get(..32).unwrap_or_default())
}

/// Whether a name may be of a chunk.
pub(super) fn is_chunk(name: &str) -> bool {
    let digest = name.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('-'));
    digest.is_some_and(|it| it.len() == 32 && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn damaged(what: &str) -> ControlError {
    let message =
        message!(CATALOG_CORRUPT, "what the service has kept of itself in the vault: {what}", what);
    ControlError::from(message)
}

/// A head of format 2, or all of format 1.
pub(super) fn parse_head(bytes: &[u8], vault: VaultId) -> Result<Saved> {
    #[derive(Deserialize)]
    struct Version {
        format: u16,
    }
    let of: Version = serde_json::from_slice(bytes).map_err(|it| damaged(&it.to_string()))?;
    if !(1..=FORMAT).contains(&of.format) {
        let message = message!(
            CATALOG_SCHEMA,
            "the copy of the catalog has format {format}; this program reads 1 to {known}",
            format = of.format,
            known = FORMAT
        );
        return Err(ControlError::from(message));
    }
    let saved: Saved = serde_json::from_slice(bytes).map_err(|it| damaged(&it.to_string()))?;
    if saved.vault.vault.id != vault {
        return Err(damaged("it is of another vault"));
    }
    Ok(saved)
}

/// A chunk, of the name that the head gives it.
pub(super) fn parse_chunk(bytes: &[u8], name: &str) -> Result<Chunk> {
    if chunk_name(bytes) != name {
        return Err(damaged("a chunk is not what its name says"));
    }
    serde_json::from_slice(bytes).map_err(|error| damaged(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("reads")
    }

    fn vault() -> VaultId {
        "01KH0000000000000000000001".parse().expect("an id")
    }

    /// What was written once is read for ever; it is written anew only with a new format.
    fn same(name: &str, bytes: &[u8]) {
        if std::env::var_os("STRONGROOM_BLESS").is_some() {
            let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(path, bytes).expect("writes");
        }
        assert_eq!(String::from_utf8_lossy(&golden(name)), String::from_utf8_lossy(bytes));
    }

    #[test]
    fn a_copy_of_the_first_format_is_read_and_written_as_the_second() {
        let saved = parse_head(&golden("catalog-v1.json"), vault()).expect("reads");
        assert_eq!((saved.items.len(), saved.points.len(), saved.saved), (1, 1, None));
        let point = saved.points.first().expect("a point");
        assert_eq!(point.retain_until.expect("a time").to_string(), "2027-03-01T12:00:00Z");
        assert!(point.promised.is_some() && point.occurrence.is_some() && point.job.is_some());

        let chunk = Chunk { format: FORMAT, items: saved.items, points: saved.points };
        let chunk = serde_json::to_vec(&chunk).expect("JSON");
        same("catalog-v2-chunk.json", &chunk);
        let name = chunk_name(&chunk);
        assert!(is_chunk(&name) && !is_chunk(NAME) && !is_chunk("catalog-of-somebody"));
        let read = parse_chunk(&golden("catalog-v2-chunk.json"), &name).expect("reads");
        assert_eq!((read.items.len(), read.points.len()), (1, 1));
        assert!(parse_chunk(b"{}", &name).is_err(), "its name says what it is");

        let head = Head {
            format: FORMAT,
            software: "strongroom 0.1.0".to_owned(),
            saved: "2026-03-01T12:00:00Z".parse().expect("a time"),
            vault: saved.vault,
            hosts: saved.hosts,
            policies: saved.policies,
            chunks: vec![name.clone()],
        };
        same("catalog-v2.json", &serde_json::to_vec(&head).expect("JSON"));
        let read = parse_head(&golden("catalog-v2.json"), vault()).expect("reads");
        assert_eq!((read.chunks, read.saved.is_some()), (vec![name], true));
    }

    #[test]
    fn what_is_no_copy_of_this_vault_is_refused() {
        let code = |bytes: &[u8], vault| {
            parse_head(bytes, vault).expect_err("refused").body().code.as_str().to_owned()
        };
        let golden = golden("catalog-v1.json");
        assert_eq!(code(&golden, VaultId::from_bytes([7; 16])), "catalog.corrupt");
        assert_eq!(code(b"{\"format\": 3}", vault()), "catalog.schema");
        assert_eq!(code(b"{\"format\": 2}", vault()), "catalog.corrupt");
        assert_eq!(code(b"[", vault()), "catalog.corrupt");
    }
}
