//! The names of a vault's objects. Nothing else builds or takes apart such a name.
//!
//! Names need no key, so a program that copies or counts objects without one knows what each is.
//!
//! ```text
//!  strongroom.json               packs/data/<2 hex>/<64 hex>     points/<item>/<point id>
//!  keys/<vault id>/...           packs/node/<2 hex>/<64 hex>     deleted/<item>/<point id>
//!  writers/<writer id>/<note>    index/<ulid>                    condemned/<ulid>
//!  damaged/<64 hex>              service/<name>/<ulid>           locks/<item>/<point id>-<seconds>
//! ```

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use strongroom_base::{Key, PackId, PointId, SlotId, VaultId, WriterId};
use ulid::Ulid;

use crate::{VaultConfig, check_plain_name, pack::PackKind};

/// Key rings, key slots, and the copy of the description.
pub const KEYS: &str = "keys/";
/// Packs.
pub const PACKS: &str = "packs/";
/// Index objects.
pub const INDEX: &str = "index/";
/// What stands under the names of recovery points.
pub const POINTS: &str = "points/";
/// Deletion notes.
pub const DELETED: &str = "deleted/";
/// What writers put while they write.
pub const WRITERS: &str = "writers/";
/// Condemnations.
pub const CONDEMNED: &str = "condemned/";
/// Damage notes.
pub const DAMAGED: &str = "damaged/";
/// What a service keeps.
pub const SERVICE: &str = "service/";
/// Locks of recovery points.
pub const LOCKS: &str = "locks/";

/// The folder name of an item: a keyed hash, so that the store does not learn the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemKey(
    /// The first bytes of the hash.
    pub [u8; 16],
);

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

/// The description of the vault.
pub fn config() -> Key {
    key(VaultConfig::KEY.to_owned())
}

/// The same once more: a vault must not be lost with one small object.
pub fn config_copy(vault: VaultId) -> Key {
    key(format!("{}copies/{}", keys_of(vault), VaultConfig::KEY))
}

/// The folder of a vault's keys. Every object in it has a copy in its folder `copies/`.
pub fn keys_of(vault: VaultId) -> String {
    format!("{KEYS}{vault}/")
}

/// A generation of the key ring.
pub fn key_ring(vault: VaultId, generation: u32) -> Key {
    key(format!("{}rings/{generation:08}.json", keys_of(vault)))
}

/// A key slot.
pub fn key_slot(vault: VaultId, slot: SlotId) -> Key {
    key(format!("{}slots/{slot}.json", keys_of(vault)))
}

/// The copy of a key object; none if it is no key object, or a copy itself.
pub fn key_copy(main: &Key) -> Option<Key> {
    let (vault, rest) = main.as_str().strip_prefix(KEYS)?.split_once('/')?;
    let is_copy = rest.starts_with("copies/");
    if is_copy { None } else { Key::new(format!("{KEYS}{vault}/copies/{rest}")).ok() }
}

/// What a key object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyObject {
    /// A generation of the key ring.
    Ring(u32),
    /// A key slot.
    Slot(SlotId),
}

/// What a key object of a vault is, and whether it is the copy.
pub fn parse_key_object(vault: VaultId, key: &Key) -> Option<(KeyObject, bool)> {
    let name = key.as_str().strip_prefix(&keys_of(vault))?;
    let copied = name.strip_prefix("copies/");
    let (folder, name) = copied.unwrap_or(name).strip_suffix(".json")?.split_once('/')?;
    let object = match folder {
        "rings" => {
            let generation = name.parse::<u32>().ok()?;
            (format!("{generation:08}") == name).then_some(KeyObject::Ring(generation))?
        }
        "slots" => KeyObject::Slot(name.parse().ok()?),
        _ => return None,
    };
    Some((object, copied.is_some()))
}

const fn pack_folder(kind: PackKind) -> &'static str {
    match kind {
        PackKind::Data => "data",
        PackKind::Node => "node",
    }
}

/// A pack.
pub fn pack(kind: PackKind, id: &PackId) -> Key {
    let name = id.to_string();
    let folder = name.get(..2).unwrap_or_default();
    key(format!("{PACKS}{}/{folder}/{name}", pack_folder(kind)))
}

/// The kind and the id of a pack.
pub fn parse_pack(key: &Key) -> Option<(PackKind, PackId)> {
    let id = key.file_name().parse().ok()?;
    [PackKind::Data, PackKind::Node]
        .into_iter()
        .find(|kind| pack(*kind, &id) == *key)
        .map(|k| (k, id))
}

/// An index object.
pub fn index(id: Ulid) -> Key {
    key(format!("{INDEX}{id}"))
}

/// A condemnation.
pub fn condemned(id: Ulid) -> Key {
    key(format!("{CONDEMNED}{id}"))
}

/// The same once more, so that one that rots does not stop everybody.
pub fn condemned_copy(id: Ulid) -> Key {
    key(format!("{CONDEMNED}copies/{id}"))
}

/// The damage note of a pack.
pub fn damaged(pack: &PackId) -> Key {
    key(format!("{DAMAGED}{pack}"))
}

/// The pack of a damage note.
pub fn parse_damaged(key: &Key) -> Option<PackId> {
    let id = key.file_name().parse().ok()?;
    (damaged(&id) == *key).then_some(id)
}

/// The id of an index object or a condemnation.
pub fn parse_ulid(key: &Key) -> Option<Ulid> {
    Ulid::from_string(key.file_name()).ok().filter(|id| id.to_string() == key.file_name())
}

/// A generation of what a service keeps under a name, which must be a good one.
pub fn service(name: &str, id: Ulid) -> Key {
    key(format!("{SERVICE}{name}/{id}"))
}

/// The name and the generation of something that a service keeps.
pub fn parse_service(key: &Key) -> Option<(&str, Ulid)> {
    let (name, _) = key.as_str().strip_prefix(SERVICE)?.split_once('/')?;
    let id = parse_ulid(key)?;
    (check_plain_name(name) && service(name, id) == *key).then_some((name, id))
}

/// The manifest of a recovery point, or the void in its place.
pub fn point(item: ItemKey, id: PointId) -> Key {
    key(format!("{POINTS}{item}/{id}"))
}

/// The deletion note of a recovery point.
pub fn deleted(item: ItemKey, id: PointId) -> Key {
    key(format!("{DELETED}{item}/{id}"))
}

/// The item and the point of a name under `points/` or `deleted/`.
pub fn parse_point(key: &Key) -> Option<(ItemKey, PointId)> {
    let mut parts = key.as_str().split('/').skip(1);
    let (item, point) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((item, point))
}

/// A lock, which says in its name until when: a name does not rot.
pub fn lock(item: ItemKey, id: PointId, until: Timestamp) -> Key {
    key(format!("{LOCKS}{item}/{id}-{}", until.as_second()))
}

/// What [`lock`] says.
pub fn parse_lock(key: &Key) -> Option<(ItemKey, PointId, Timestamp)> {
    let (item, rest) = key.as_str().strip_prefix(LOCKS)?.split_once('/')?;
    let (point, seconds) = rest.split_once('-')?;
    let until = Timestamp::from_second(seconds.parse().ok()?).ok()?;
    let (item, point) = (item.parse().ok()?, point.parse().ok()?);
    (lock(item, point, until) == *key).then_some((item, point, until))
}

/// The folder of a writer.
pub fn writer_folder(id: WriterId) -> String {
    format!("{WRITERS}{id}/")
}

/// The note of a writer, as earlier programs named it.
pub fn writer_started(id: WriterId) -> Key {
    key(format!("{WRITERS}{id}/started"))
}

/// A sign of life of a writer.
pub fn writer_beat(id: WriterId, number: u64) -> Key {
    key(format!("{WRITERS}{id}/beat-{number}"))
}

/// Says in its name what the writer will publish, if anything: a name does not rot.
pub fn writer_target(id: WriterId, target: Option<(ItemKey, PointId)>) -> Key {
    let target = target.map_or("none".to_owned(), |(item, point)| format!("{item}-{point}"));
    key(format!("{WRITERS}{id}/for-{target}"))
}

/// What [`writer_target`] says; none if it is something else below a writer's name.
#[allow(clippy::option_option, reason = "a writer that publishes nothing says so")]
pub fn parse_writer_target(key: &Key) -> Option<Option<(ItemKey, PointId)>> {
    let target = key.file_name().strip_prefix("for-")?;
    if target == "none" {
        return Some(None);
    }
    let (item, point) = target.split_once('-')?;
    Some(Some((item.parse().ok()?, point.parse().ok()?)))
}

/// The writer of a name under `writers/`.
pub fn parse_writer(key: &Key) -> Option<WriterId> {
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
        let vault = VaultId::from_bytes([5; 16]);
        for (name, object) in [
            (key_ring(vault, 7), KeyObject::Ring(7)),
            (
                key_slot(vault, SlotId::from_bytes([6; 16])),
                KeyObject::Slot(SlotId::from_bytes([6; 16])),
            ),
        ] {
            assert_eq!(parse_key_object(vault, &name), Some((object, false)));
            let copy = key_copy(&name).expect("a copy");
            assert_eq!(parse_key_object(vault, &copy), Some((object, true)));
            assert_eq!(key_copy(&copy), None);
        }
        assert_eq!(parse_key_object(vault, &config_copy(vault)), None);
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
