//! The names of a vault's objects. Nothing else builds or takes apart such a name.
//!
//! ```text
//!  strongroom.json               packs/data/<2 hex>/<64 hex>     points/<item>/<point id>
//!  keys/...                      packs/node/<2 hex>/<64 hex>     deleted/<item>/<point id>
//!  writers/<writer id>/<note>    index/<ulid>                    condemned/<ulid>
//!  damaged/<64 hex>              service/<name>/<ulid>           locks/<item>/<point id>-<seconds>
//! ```

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use strongroom_base::{PackId, PointId, VaultId, WriterId};
use strongroom_format::{check_plain_name, pack::PackKind};
use strongroom_objects::Key;
use ulid::Ulid;

pub(crate) const PACKS: &str = "packs/";
pub(crate) const INDEX: &str = "index/";
pub(crate) const POINTS: &str = "points/";
pub(crate) const DELETED: &str = "deleted/";
pub(crate) const WRITERS: &str = "writers/";
pub(crate) const CONDEMNED: &str = "condemned/";
pub(crate) const DAMAGED: &str = "damaged/";
pub(crate) const SERVICE: &str = "service/";
pub(crate) const LOCKS: &str = "locks/";

/// The folder name of an item: a keyed hash, so that the store does not learn the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ItemKey(pub(crate) [u8; 16]);

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ItemKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
        let item = Self(bytes.ok_or(())?.to_be_bytes());
        if item.to_string() == text { Ok(item) } else { Err(()) }
    }
}

/// The names here consist of fixed words, digits and letters: always good.
#[allow(clippy::expect_used, reason = "ids and fixed words make a good name")]
fn key(name: String) -> Key {
    Key::new(name).expect("a name of fixed words and ids")
}

pub(crate) fn config() -> Key {
    key(strongroom_format::VaultConfig::KEY.to_owned())
}

/// The same once more: a vault must not be lost with one small object.
pub(crate) fn config_copy(vault: VaultId) -> Key {
    key(format!("keys/{vault}/copies/{}", strongroom_format::VaultConfig::KEY))
}

const fn pack_folder(kind: PackKind) -> &'static str {
    match kind {
        PackKind::Data => "data",
        PackKind::Node => "node",
    }
}

pub(crate) fn pack(kind: PackKind, id: &PackId) -> Key {
    let name = id.to_string();
    let folder = name.get(..2).unwrap_or_default();
    key(format!("{PACKS}{}/{folder}/{name}", pack_folder(kind)))
}

pub(crate) fn parse_pack(key: &Key) -> Option<(PackKind, PackId)> {
    let id = key.file_name().parse().ok()?;
    [PackKind::Data, PackKind::Node]
        .into_iter()
        .find(|kind| pack(*kind, &id) == *key)
        .map(|k| (k, id))
}

pub(crate) fn index(id: Ulid) -> Key {
    key(format!("{INDEX}{id}"))
}

pub(crate) fn condemned(id: Ulid) -> Key {
    key(format!("{CONDEMNED}{id}"))
}

/// The same once more, so that one that rots does not stop everybody.
pub(crate) fn condemned_copy(id: Ulid) -> Key {
    key(format!("{CONDEMNED}copies/{id}"))
}

/// The damage note of a pack.
pub(crate) fn damaged(pack: &PackId) -> Key {
    key(format!("{DAMAGED}{pack}"))
}

pub(crate) fn parse_damaged(key: &Key) -> Option<PackId> {
    let id = key.file_name().parse().ok()?;
    (damaged(&id) == *key).then_some(id)
}

/// The id of an index object or a condemnation.
pub(crate) fn parse_ulid(key: &Key) -> Option<Ulid> {
    Ulid::from_string(key.file_name()).ok().filter(|id| id.to_string() == key.file_name())
}

/// A generation of what a service keeps under a name, which must be a good one.
pub(crate) fn service(name: &str, id: Ulid) -> Key {
    key(format!("{SERVICE}{name}/{id}"))
}

/// The name and the generation of something that a service keeps.
pub(crate) fn parse_service(key: &Key) -> Option<(&str, Ulid)> {
    let (name, _) = key.as_str().strip_prefix(SERVICE)?.split_once('/')?;
    let id = parse_ulid(key)?;
    (check_plain_name(name) && service(name, id) == *key).then_some((name, id))
}

pub(crate) fn point(item: ItemKey, id: PointId) -> Key {
    key(format!("{POINTS}{item}/{id}"))
}

pub(crate) fn deleted(item: ItemKey, id: PointId) -> Key {
    key(format!("{DELETED}{item}/{id}"))
}

/// The item and the point of a name under `points/` or `deleted/`.
pub(crate) fn parse_point(key: &Key) -> Option<(ItemKey, PointId)> {
    let mut parts = key.as_str().split('/').skip(1);
    let (item, point) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((item, point))
}

/// A lock, which says in its name until when: a name does not rot.
pub(crate) fn lock(item: ItemKey, id: PointId, until: Timestamp) -> Key {
    key(format!("{LOCKS}{item}/{id}-{}", until.as_second()))
}

/// What [`lock`] says.
pub(crate) fn parse_lock(key: &Key) -> Option<(ItemKey, PointId, Timestamp)> {
    let (item, rest) = key.as_str().strip_prefix(LOCKS)?.split_once('/')?;
    let (point, seconds) = rest.split_once('-')?;
    let until = Timestamp::from_second(seconds.parse().ok()?).ok()?;
    let (item, point) = (item.parse().ok()?, point.parse().ok()?);
    (lock(item, point, until) == *key).then_some((item, point, until))
}

pub(crate) fn writer_folder(id: WriterId) -> String {
    format!("{WRITERS}{id}/")
}

pub(crate) fn writer_started(id: WriterId) -> Key {
    key(format!("{WRITERS}{id}/started"))
}

pub(crate) fn writer_beat(id: WriterId, number: u64) -> Key {
    key(format!("{WRITERS}{id}/beat-{number}"))
}

/// Says in its name what the writer will publish, if anything: a name does not rot.
pub(crate) fn writer_target(id: WriterId, target: Option<(ItemKey, PointId)>) -> Key {
    let target = target.map_or("none".to_owned(), |(item, point)| format!("{item}-{point}"));
    key(format!("{WRITERS}{id}/for-{target}"))
}

/// What [`writer_target`] says; none if it is something else below a writer's name.
#[allow(clippy::option_option, reason = "a writer that publishes nothing says so")]
pub(crate) fn parse_writer_target(key: &Key) -> Option<Option<(ItemKey, PointId)>> {
    let target = key.file_name().strip_prefix("for-")?;
    if target == "none" {
        return Some(None);
    }
    let (item, point) = target.split_once('-')?;
    Some(Some((item.parse().ok()?, point.parse().ok()?)))
}

pub(crate) fn parse_writer(key: &Key) -> Option<WriterId> {
    key.as_str().split('/').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let pack_id = PackId::new([0xab; 32]);
        let name = pack(PackKind::Node, &pack_id);
        assert!(name.as_str().starts_with("packs/node/ab/abab"));
        assert_eq!(parse_pack(&name), Some((PackKind::Node, pack_id)));
        let (item, id) = (ItemKey([1; 16]), PointId::from_bytes([2; 16]));
        assert_eq!(parse_point(&point(item, id)), Some((item, id)));
        assert_eq!(parse_point(&deleted(item, id)), Some((item, id)));
        assert_eq!(parse_damaged(&damaged(&pack_id)), Some(pack_id));
        let writer = WriterId::from_bytes([3; 16]);
        assert_eq!(parse_writer(&writer_beat(writer, 7)), Some(writer));
        for target in [None, Some((item, id))] {
            let name = writer_target(writer, target);
            assert_eq!(parse_writer(&name), Some(writer));
            assert_eq!(parse_writer_target(&name), Some(target));
        }
        assert_eq!(parse_writer_target(&writer_started(writer)), None);
        let copy = condemned_copy(Ulid::from_bytes([4; 16]));
        assert_eq!(parse_ulid(&copy), Some(Ulid::from_bytes([4; 16])));
        assert_eq!(parse_ulid(&index(Ulid::from_bytes([4; 16]))), Some(Ulid::from_bytes([4; 16])));
        let kept = service("catalog", Ulid::from_bytes([4; 16]));
        assert_eq!(parse_service(&kept), Some(("catalog", Ulid::from_bytes([4; 16]))));
        let until = Timestamp::from_second(1_795_478_400).expect("a time");
        assert_eq!(parse_lock(&lock(item, id, until)), Some((item, id, until)));
        for foreign in [
            "packs/data/ab/xyz",
            "locks/x/y-1",
            "packs/data/00/abab",
            "points/x/y",
            "writers/x/started",
            "service/x/y",
        ] {
            let foreign = Key::new(foreign).expect("a key");
            assert!(parse_pack(&foreign).is_none());
            assert!(parse_point(&foreign).is_none());
            assert!(parse_writer(&foreign).is_none());
            assert!(parse_service(&foreign).is_none());
            assert!(parse_lock(&foreign).is_none());
        }
    }
}
