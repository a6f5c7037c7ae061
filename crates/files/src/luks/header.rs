//! Headers of LUKS1 and LUKS2: where the data is, and what its key is locked by.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, pbkdf2};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::cipher::Spec;
use crate::{
    bytes::Le,
    source::{ReadAt, bytes_at},
    tree::Fault,
};

/// Bytes of a sector in LUKS1.
const SECTOR: u64 = 512;
/// Most bytes of a header of LUKS2.
const HEADER_MAX: u64 = 4 << 20;
/// Most bytes of a key.
const KEY_MAX: u32 = 128;
/// Most parts into which a key is split.
const STRIPES_MAX: u32 = 16_384;
/// A slot of LUKS1 that is in use.
const ENABLED: u32 = 0x00ac_71f3;

/// A hash by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(super) fn of(name: &str) -> Result<Self, Fault> {
        match name {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha384" => Ok(Self::Sha384),
            "sha512" => Ok(Self::Sha512),
            _ => Err(Fault::unsupported(format!("its hash {name} is not read"))),
        }
    }

    pub(super) fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    pub(super) fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha384 => pbkdf2::PBKDF2_HMAC_SHA384,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// How a secret becomes the key of a slot.
pub(super) enum Derivation {
    Pbkdf2 { hash: Hash, iterations: u32, salt: Vec<u8> },
    Argon2 { algorithm: argon2::Algorithm, time: u32, memory: u32, lanes: u32, salt: Vec<u8> },
}

/// A slot: the volume's key, locked by a secret.
pub(super) struct Slot {
    pub(super) derivation: Derivation,
    pub(super) cipher: Spec,
    /// Bytes of the key that the secret becomes.
    pub(super) derived: usize,
    /// Bytes of the volume's key.
    pub(super) key: usize,
    /// Where it lies, split into parts, and into how many.
    pub(super) offset: u64,
    pub(super) stripes: usize,
    /// By which the parts are put together.
    pub(super) hash: Hash,
}

/// What proves that a key is the volume's.
pub(super) struct Proof {
    pub(super) hash: Hash,
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) digest: Vec<u8>,
}

/// Where the data is.
pub(super) struct Data {
    pub(super) cipher: Spec,
    pub(super) offset: u64,
    /// Bytes; none if they end where the disk does.
    pub(super) size: Option<u64>,
    pub(super) sector: usize,
    /// The number of its first sector.
    pub(super) first: u64,
}

/// A header.
pub(super) struct Header {
    pub(super) label: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) data: Data,
    /// Slots, or why one of them is not read.
    pub(super) slots: Vec<Result<Slot, Fault>>,
    pub(super) proof: Proof,
}

fn broken() -> Fault {
    Fault::damaged("the header of its encryption contradicts itself")
}

/// Big-endian, as all of LUKS is.
fn be32(le: &Le, at: usize) -> u32 {
    le.u32(at).swap_bytes()
}

fn be64(le: &Le, at: usize) -> u64 {
    le.u64(at).swap_bytes()
}

/// The header of a disk that begins as one of LUKS does.
pub(super) fn header(disk: &dyn ReadAt) -> Result<Header, Fault> {
    let first = bytes_at(disk, 0, 4096).ok_or_else(broken)?;
    match Le(&first).u16(6).swap_bytes() {
        1 => first_version(&Le(&first)),
        2 => second_version(disk),
        version => Err(Fault::unsupported(format!("it is encrypted (LUKS) in version {version}"))),
    }
}

fn first_version(head: &Le) -> Result<Header, Fault> {
    let text = |at, len| head.text(at, len).ok_or_else(broken);
    let cipher = Spec::of(&format!("{}-{}", text(8, 32)?, text(40, 32)?))?;
    let hash = Hash::of(&text(72, 32)?)?;
    let key = be32(head, 108);
    let salt = |at: usize| head.0.get(at..at + 32).unwrap_or_default().to_vec();
    if key == 0 || key > KEY_MAX {
        return Err(broken());
    }
    let key = usize::try_from(key).unwrap_or(0);
    let slots = (0..8).map(|index| 208 + index * 48).filter(|at| be32(head, *at) == ENABLED);
    let slots = slots.map(|at| {
        let stripes = Some(be32(head, at + 44)).filter(|count| (1..=STRIPES_MAX).contains(count));
        let stripes = usize::try_from(stripes.ok_or_else(broken)?).unwrap_or(0);
        Ok(Slot {
            derivation: Derivation::Pbkdf2 {
                hash,
                iterations: be32(head, at + 4),
                salt: salt(at + 8),
            },
            cipher,
            derived: key,
            key,
            offset: u64::from(be32(head, at + 40)) * SECTOR,
            stripes,
            hash,
        })
    });
    Ok(Header {
        label: None,
        uuid: head.text(168, 40),
        slots: slots.collect(),
        proof: Proof {
            hash,
            iterations: be32(head, 164),
            salt: salt(132),
            digest: head.0.get(112..132).unwrap_or_default().to_vec(),
        },
        data: Data {
            cipher,
            offset: u64::from(be32(head, 104)) * SECTOR,
            size: None,
            sector: 512,
            first: 0,
        },
    })
}

/// The description in a header of LUKS2, of the first copy that is whole.
#[derive(Deserialize)]
struct Description {
    keyslots: BTreeMap<String, serde_json::Value>,
    segments: BTreeMap<String, Segment>,
    digests: BTreeMap<String, Check>,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    requirements: Option<Requirements>,
}

#[derive(Deserialize)]
struct Requirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

#[derive(Deserialize)]
struct Segment {
    r#type: String,
    offset: String,
    size: String,
    iv_tweak: Option<String>,
    encryption: Option<String>,
    sector_size: Option<u32>,
    integrity: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Check {
    r#type: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u32,
    salt: String,
    digest: String,
}

#[derive(Deserialize)]
struct Keyslot {
    key_size: u32,
    af: Split,
    area: Area,
    kdf: Kdf,
}

#[derive(Deserialize)]
struct Split {
    stripes: u32,
    hash: String,
}

#[derive(Deserialize)]
struct Area {
    offset: String,
    encryption: String,
    key_size: u32,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Kdf {
    Pbkdf2 { hash: String, iterations: u32, salt: String },
    Argon2i { time: u32, memory: u32, cpus: u32, salt: String },
    Argon2id { time: u32, memory: u32, cpus: u32, salt: String },
}

fn number(text: &str) -> Result<u64, Fault> {
    text.parse().map_err(|_| broken())
}

fn bytes(text: &str) -> Result<Vec<u8>, Fault> {
    STANDARD.decode(text).map_err(|_| broken())
}

/// A header of LUKS2 that begins here, if its check sum is right.
fn copy(disk: &dyn ReadAt, at: u64, magic: &[u8]) -> Option<Vec<u8>> {
    let first = bytes_at(disk, at, 4096)?;
    let le = Le(&first);
    let size = be64(&le, 8);
    let is_one = le.has(0, magic) && le.u16(6).swap_bytes() == 2 && be64(&le, 256) == at;
    if !is_one || !(8192..=HEADER_MAX).contains(&size) {
        return None;
    }
    let hash = Hash::of(&le.text(72, 32)?).ok()?;
    let mut all = bytes_at(disk, at, usize::try_from(size).ok()?)?;
    all.get_mut(448..512)?.fill(0);
    let sum = digest::digest(hash.digest(), &all);
    le.has(448, sum.as_ref()).then_some(all)
}

fn second_version(disk: &dyn ReadAt) -> Result<Header, Fault> {
    let second = || {
        let places = (14..=22).map(|power| 1_u64 << power);
        places.map(|at| copy(disk, at, b"SKUL\xba\xbe")).find_map(|found| found)
    };
    described(&copy(disk, 0, b"LUKS\xba\xbe").or_else(second).ok_or_else(broken)?)
}

/// What a whole header of LUKS2 says.
pub(super) fn described(all: &[u8]) -> Result<Header, Fault> {
    let le = Le(all);
    let text = all.get(4096..).unwrap_or_default();
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let text = text.get(..end).unwrap_or_default();
    let found: Description = serde_json::from_slice(text).map_err(|_| broken())?;
    let required = found.config.requirements.map(|it| it.mandatory).unwrap_or_default();
    if !required.is_empty() {
        let reason =
            format!("it is encrypted (LUKS) in a way that is not read: {}", required.join(", "));
        return Err(Fault::unsupported(reason));
    }
    let mut segments = found.segments.iter();
    let (Some((name, segment)), None) = (segments.next(), segments.next()) else {
        return Err(Fault::unsupported("its encryption (LUKS) has several parts"));
    };
    if segment.r#type != "crypt" || segment.integrity.is_some() {
        let reason =
            "its encryption (LUKS) is of a kind that is not read, or has check sums of its own";
        return Err(Fault::unsupported(reason));
    }
    let sector = segment.sector_size.filter(|size| matches!(size, 512 | 1024 | 2048 | 4096));
    let data = Data {
        cipher: Spec::of(segment.encryption.as_deref().unwrap_or_default())?,
        offset: number(&segment.offset)?,
        size: if segment.size == "dynamic" { None } else { Some(number(&segment.size)?) },
        sector: usize::try_from(sector.ok_or_else(broken)?).unwrap_or(512),
        first: number(segment.iv_tweak.as_deref().unwrap_or("0"))?,
    };
    let digest = found.digests.values().find(|it| it.segments.contains(name));
    let digest = digest.filter(|it| it.r#type == "pbkdf2").ok_or_else(broken)?;
    let slots = found.keyslots.iter().filter(|(name, _)| digest.keyslots.contains(name));
    Ok(Header {
        label: le.text(24, 48),
        uuid: le.text(168, 40),
        data,
        slots: slots.map(|(_, slot)| keyslot(slot)).collect(),
        proof: Proof {
            hash: Hash::of(&digest.hash)?,
            iterations: digest.iterations,
            salt: bytes(&digest.salt)?,
            digest: bytes(&digest.digest)?,
        },
    })
}

fn keyslot(slot: &serde_json::Value) -> Result<Slot, Fault> {
    let unknown = |_| Fault::unsupported("a slot of its keys is of a kind that is not read");
    let slot = Keyslot::deserialize(slot).map_err(unknown)?;
    let is_usual = |bytes: u32| (1..=KEY_MAX).contains(&bytes);
    let split = slot.af;
    if !is_usual(slot.key_size) || !is_usual(slot.area.key_size) {
        return Err(broken());
    }
    if !(1..=STRIPES_MAX).contains(&split.stripes) {
        return Err(broken());
    }
    let argon = |algorithm, time, memory, lanes, salt: &str| {
        Ok::<_, Fault>(Derivation::Argon2 { algorithm, time, memory, lanes, salt: bytes(salt)? })
    };
    let derivation = match slot.kdf {
        Kdf::Pbkdf2 { hash, iterations, salt } => {
            Derivation::Pbkdf2 { hash: Hash::of(&hash)?, iterations, salt: bytes(&salt)? }
        }
        Kdf::Argon2i { time, memory, cpus, salt } => {
            argon(argon2::Algorithm::Argon2i, time, memory, cpus, &salt)?
        }
        Kdf::Argon2id { time, memory, cpus, salt } => {
            argon(argon2::Algorithm::Argon2id, time, memory, cpus, &salt)?
        }
    };
    Ok(Slot {
        derivation,
        cipher: Spec::of(&slot.area.encryption)?,
        derived: usize::try_from(slot.area.key_size).unwrap_or(0),
        key: usize::try_from(slot.key_size).unwrap_or(0),
        offset: number(&slot.area.offset)?,
        stripes: usize::try_from(split.stripes).unwrap_or(0),
        hash: Hash::of(&split.hash)?,
    })
}
