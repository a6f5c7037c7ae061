//! Packs: every copy against its name, and in a full verify every record in them.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use strongroom_base::{
    BLOCK_SIZE, ByteRange, Digest, Entropy, EntropyExt as _, PackId, Stage, lock,
};
use strongroom_format::{
    IndexObject,
    codec::{Decoder, Encoding},
    names,
    pack::{self, Contents, Entry, FOOTER_LEN, Footer, Header, MAX_PACK, PackKind, RecordKind},
};
use strongroom_image::Node;
use strongroom_reports::{CopyState, DamagedObject, ObjectKind, UnsoundCopy};

use super::{
    Look, VerifyProgress,
    copies::Seen,
    done::Done,
    metadata::{Known, disagreement, fingerprint, read_index},
    reading::Reading,
    words::words,
};
use strongroom_vault::{Location, Vault, VaultError, VaultOptions, is_damage};

use crate::Result;

/// A pack as the copies list it.
struct Listed {
    kind: PackKind,
    id: PackId,
    size: u64,
    /// Copies that list it.
    copies: usize,
}

/// What the verify of the packs did.
pub(super) struct Verified {
    /// Whether only a sample of the packs was read.
    pub(super) sampled: bool,
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn list(look: &Look<'_>) -> Result<Vec<Listed>> {
    let mut packs: BTreeMap<PackId, Listed> = BTreeMap::new();
    look.inspector.copies.list(names::PACKS, |_, entry| {
        if let Some((kind, id)) = names::parse_pack(&entry.key) {
            let new = Listed { kind, id, size: entry.size, copies: 0 };
            let pack = packs.entry(id).or_insert(new);
            pack.size = pack.size.max(entry.size);
            pack.copies = pack.copies.saturating_add(1);
        }
    })?;
    Ok(packs.into_values().collect())
}

/// The packs that exist in any copy.
pub(super) fn present_packs(look: &Look<'_>) -> Result<HashSet<PackId>> {
    Ok(list(look)?.into_iter().map(|pack| pack.id).collect())
}

/// Tells those of a list that are in the sample, each by its own chance; at least one.
fn choose(packs: &[Listed], percent: Option<f64>, entropy: &dyn Entropy) -> Vec<bool> {
    let Some(percent) = percent else { return vec![true; packs.len()] };
    let chance =
        |bytes: [u8; 4]| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX) * 100.0;
    let mut chosen: Vec<bool> = packs.iter().map(|_| chance(entropy.array()) < percent).collect();
    if !chosen.contains(&true) {
        let len = count(chosen.len()).max(1);
        let lucky = u64::from_le_bytes(entropy.array()).checked_rem(len).unwrap_or(0);
        if let Some(one) = chosen.get_mut(usize::try_from(lucky).unwrap_or(0)) {
            *one = true;
        }
    }
    chosen
}

/// Verifies all packs, or a sample.
pub(super) fn verify(
    look: &Look<'_>,
    (vault, dir): (&VaultOptions, Option<PathBuf>),
    full: Option<(&Reading<'_>, &Known)>,
) -> Result<Verified> {
    let packs = list(look)?;
    let sampled = look.options.sample.is_some();
    let mut chosen = choose(&packs, look.options.sample, &*vault.entropy);
    let mode = look.inspector.report().mode;
    let done = match dir {
        Some(dir) if !sampled => {
            let copies = look.inspector.copies.names();
            Some(Done::open(&dir, mode.name(), copies, look.options.resume, &*vault.clock)?)
        }
        _ => None,
    };
    {
        let mut report = look.inspector.report();
        report.packs = count(packs.len());
        if let Some(done) = &done {
            report.resumed_from = done.began;
            for (pack, chosen) in packs.iter().zip(&mut chosen) {
                if done.packs.contains(&pack.id) {
                    *chosen = false;
                    report.resumed_packs = report.resumed_packs.saturating_add(1);
                }
            }
        }
    }
    if let Some((reading, _)) = full {
        reading.set_present(packs.iter().map(|pack| pack.id));
    }
    let work = Work {
        look,
        vault,
        full,
        total: count(chosen.iter().filter(|chosen| **chosen).count()),
        bytes_total: packs.iter().zip(&chosen).filter(|(_, c)| **c).map(|(p, _)| p.size).sum(),
        packs,
        chosen,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        done_packs: AtomicU64::new(0),
        done_bytes: AtomicU64::new(0),
        done: Mutex::new(done),
        unindexed: Mutex::default(),
        damaged: Mutex::default(),
        good: Mutex::default(),
    };
    let result = work.run();
    let done = lock(&work.done).take();
    match done {
        Some(done) if result.is_ok() && !look.cancel.is_cancelled() => done.remove()?,
        Some(done) => done.keep()?,
        None => {}
    }
    result?;
    if let Some((reading, _)) = full
        && look.options.repair
    {
        let damaged = std::mem::take(&mut *lock(&work.damaged));
        let good = std::mem::take(&mut *lock(&work.good));
        write_notes(reading.vault, look, &damaged, &good)?;
    }
    Ok(Verified { sampled })
}

/// Notes which packs are not to be relied upon, and withdraws the notes of those that are good. That
/// it fails changes nothing about what was found.
fn write_notes(
    vault: &Vault,
    look: &Look<'_>,
    damaged: &HashSet<PackId>,
    good: &HashSet<PackId>,
) -> Result<()> {
    let mut noted = 0_u64;
    for pack in damaged {
        match vault.audit().put_damage_note(*pack, &look.options.host) {
            Ok(()) => noted = noted.saturating_add(1),
            Err(error) => tracing::warn!(%pack, %error, "that it is damaged could not be noted"),
        }
    }
    look.inspector.report().distrusted_packs = noted;
    for pack in vault.audit().damaged_packs()?.intersection(good) {
        if let Err(error) = vault.audit().remove_damage_note(pack) {
            tracing::warn!(%pack, %error, "that it is good again could not be noted");
        }
    }
    Ok(())
}

struct Work<'a> {
    look: &'a Look<'a>,
    vault: &'a VaultOptions,
    full: Option<(&'a Reading<'a>, &'a Known)>,
    packs: Vec<Listed>,
    chosen: Vec<bool>,
    total: u64,
    bytes_total: u64,
    next: AtomicUsize,
    failed: AtomicBool,
    done_packs: AtomicU64,
    done_bytes: AtomicU64,
    done: Mutex<Option<Done>>,
    /// Contents of packs that no index object lists, until there are many.
    unindexed: Mutex<Vec<Contents>>,
    /// Packs with damage that no copy mends.
    damaged: Mutex<HashSet<PackId>>,
    /// Packs that are what was written, all their records included.
    good: Mutex<HashSet<PackId>>,
}

/// A thread's memory.
struct Tools {
    decoder: Decoder,
    plain: Vec<u8>,
    base: Vec<u8>,
    /// The base that `base` holds.
    base_digest: Option<Digest>,
    /// The plain bytes of the unit that is looked at; empty if it cannot be opened.
    unit: Vec<u8>,
}

/// What the records of a pack are.
struct Records {
    readable: u64,
    bad: HashSet<Digest>,
    lost: u64,
    /// Deltas whose base was not found.
    baseless: Vec<Entry>,
}

/// What a record is.
enum Record {
    Good,
    Bad,
    /// Its base was not found.
    Baseless,
}

impl Work<'_> {
    fn run(&self) -> Result<()> {
        let threads = self.look.options.threads.clamp(1, 64);
        thread::scope(|scope| {
            let work = || {
                let done = self.work();
                if done.is_err() {
                    self.failed.store(true, Ordering::Relaxed);
                }
                done
            };
            let others: Vec<_> =
                (1..threads.min(self.packs.len())).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for other in others {
                let other = other.join();
                let other = other.unwrap_or(Err(VaultError::Bug("a thread of verify panicked")));
                result = result.and(other);
            }
            result
        })?;
        self.flush_unindexed(1)
    }

    fn work(&self) -> Result<()> {
        let mut tools = Tools {
            decoder: Decoder::new(),
            plain: Vec::new(),
            base: Vec::new(),
            base_digest: None,
            unit: Vec::new(),
        };
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let (Some(pack), Some(chosen)) = (self.packs.get(number), self.chosen.get(number))
            else {
                return Ok(());
            };
            if self.look.cancel.is_cancelled() || self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            // A copy that lacks it is reason enough to read it.
            let everywhere = pack.copies >= self.look.inspector.copies.stores().len();
            if !*chosen && everywhere {
                self.glance(pack)?;
                continue;
            }
            if self.pack(pack, &mut tools)?
                && let Some(done) = &mut *lock(&self.done)
            {
                done.add(&pack.id, &*self.vault.clock)?;
            }
            let done = self.done_packs.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let bytes = self.done_bytes.fetch_add(pack.size, Ordering::Relaxed);
            (self.look.progress)(VerifyProgress {
                stage: Stage::Packs,
                done,
                total: self.total,
                bytes_done: bytes.saturating_add(pack.size),
                bytes_total: self.bytes_total,
            });
        }
    }

    /// A pack that is not read whole: whether the index knows it.
    fn glance(&self, pack: &Listed) -> Result<()> {
        let Some((reading, known)) = self.full else { return Ok(()) };
        if !known.indexed.contains_key(&pack.id) {
            let key = names::pack(pack.kind, &pack.id);
            let whole = ByteRange::between(0, pack.size);
            let bytes = self.look.inspector.copies.find(&key, whole, |_, bytes| Some(bytes))?;
            match bytes.map(|mut bytes| open_contents(reading.vault, pack, &mut bytes)) {
                Some(Ok(contents)) => self.unindexed(contents)?,
                Some(Err(error)) if !is_damage(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Compares every copy with its name. Reports and repairs what
    /// is wrong if one of them is good.
    fn named(&self, pack: &Listed) -> Result<Seen> {
        let key = names::pack(pack.kind, &pack.id);
        let check = |bytes: &[u8]| {
            if pack::pack_id(bytes) == pack.id {
                Ok(())
            } else {
                Err("its bytes do not match its name".to_owned())
            }
        };
        let inspector = self.look.inspector;
        let seen = inspector.look(&key, count(MAX_PACK), &check)?;
        {
            let mut report = inspector.report();
            report.read_bytes = report.read_bytes.saturating_add(seen.read);
        }
        if seen.good.is_some() {
            inspector.judge(object_kind(pack.kind), &key, &seen, &check)?;
        }
        Ok(seen)
    }

    /// Verifies one pack; whether it is good in every respect.
    fn pack(&self, pack: &Listed, tools: &mut Tools) -> Result<bool> {
        let Seen { good, bad, unsound, .. } = self.named(pack)?;
        {
            let mut report = self.look.inspector.report();
            report.verified_packs = report.verified_packs.saturating_add(1);
        }
        match (good, self.full) {
            (Some(_), None) => Ok(true),
            (Some(bytes), Some((reading, known))) => {
                self.content(pack, bytes, (reading, known), tools)
            }
            (None, full) => {
                if unsound.iter().all(|copy| copy.state == CopyState::Missing) {
                    // Removed since it was listed, or missing: that shows when it is needed.
                    if let Some((reading, _)) = full {
                        reading.add_bad_pack(pack.id);
                    }
                    return Ok(true);
                }
                self.salvage(pack, bad.unwrap_or_default(), unsound, tools)?;
                Ok(false)
            }
        }
    }

    /// Checks what is in a pack whose bytes are those that its name stands for.
    fn content(
        &self,
        pack: &Listed,
        mut bytes: Vec<u8>,
        (reading, known): (&Reading<'_>, &Known),
        tools: &mut Tools,
    ) -> Result<bool> {
        let contents = match open_contents(reading.vault, pack, &mut bytes) {
            Ok(contents) => contents,
            Err(error) if is_damage(&error) => {
                reading.add_bad_pack(pack.id);
                lock(&self.damaged).insert(pack.id);
                self.damaged(pack, &words(&error), None);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let (print, contents) = fingerprint(contents)?;
        let records = check_records(reading, &contents, &mut bytes, tools)?;
        drop(bytes);
        {
            let mut report = self.look.inspector.report();
            let looked_at = count(contents.entries.len());
            report.verified_records = report.verified_records.saturating_add(looked_at);
        }
        let good = records.lost == 0 && records.baseless.is_empty();
        Self::defer(reading, &contents, &records);
        if records.lost == 0 {
            lock(&self.good).insert(pack.id);
        }
        if records.lost > 0 {
            reading.add_bad_records(pack.id, records.bad.iter().copied());
            lock(&self.damaged).insert(pack.id);
            let what = "the pack is what was written, but records in it are not what they say";
            self.damaged(pack, what, Some(&records));
        }
        match known.indexed.get(&pack.id) {
            None => self.unindexed(contents)?,
            Some(said) if said.fingerprint != print => {
                let key = names::index(said.source);
                disagreement(
                    self.look,
                    &key,
                    &format!("it does not say what pack {} says of itself", pack.id),
                );
            }
            Some(_) => {}
        }
        Ok(good)
    }

    /// Puts deltas without base off until all packs are known.
    fn defer(reading: &Reading<'_>, contents: &Contents, records: &Records) {
        for entry in records.baseless.iter().copied() {
            reading.add_baseless(Location {
                pack: contents.id,
                pack_size: contents.size,
                header: contents.header,
                entry,
            });
        }
    }

    /// Finds what can still be read of a pack of which no copy is good.
    fn salvage(
        &self,
        pack: &Listed,
        mut bytes: Vec<u8>,
        unsound: Vec<UnsoundCopy>,
        tools: &mut Tools,
    ) -> Result<()> {
        let mut object = DamagedObject {
            object: names::pack(pack.kind, &pack.id).to_string(),
            kind: object_kind(pack.kind),
            copies: unsound,
            good_copies: 0,
            repaired: false,
            readable_records: None,
            lost_records: None,
        };
        if let Some((reading, known)) = self.full {
            lock(&self.damaged).insert(pack.id);
            // The index knows what should be there even if the pack itself does not any more.
            let contents = match known.indexed.get(&pack.id) {
                Some(said) => read_index(reading.vault, self.look, said.source)?
                    .and_then(|index| index.packs.into_iter().find(|c| c.id == pack.id)),
                None => open_contents(reading.vault, pack, &mut bytes).ok(),
            };
            match contents {
                Some(contents) => {
                    let records = check_records(reading, &contents, &mut bytes, tools)?;
                    object.readable_records = Some(records.readable);
                    object.lost_records = Some(records.lost);
                    Self::defer(reading, &contents, &records);
                    reading.add_bad_records(pack.id, records.bad.into_iter());
                }
                None => reading.add_bad_pack(pack.id),
            }
        }
        self.look.inspector.damaged(object);
        Ok(())
    }

    fn damaged(&self, pack: &Listed, reason: &str, records: Option<&Records>) {
        let copies = self.look.inspector.copies.names().iter().map(|copy| UnsoundCopy {
            copy: copy.clone(),
            state: CopyState::Damaged,
            reason: reason.to_owned(),
        });
        self.look.inspector.damaged(DamagedObject {
            object: names::pack(pack.kind, &pack.id).to_string(),
            kind: object_kind(pack.kind),
            copies: copies.collect(),
            good_copies: 0,
            repaired: false,
            readable_records: records.map(|records| records.readable),
            lost_records: records.map(|records| records.lost),
        });
    }

    /// A pack that no index object lists: the points may need it all the same.
    fn unindexed(&self, contents: Contents) -> Result<()> {
        self.look.inspector.unindexed(contents.id);
        lock(&self.unindexed).push(contents);
        self.flush_unindexed(IndexObject::TARGET_RECORDS)
    }

    fn flush_unindexed(&self, enough: usize) -> Result<()> {
        let mut waiting = lock(&self.unindexed);
        if waiting.iter().map(|contents| contents.entries.len()).sum::<usize>() < enough {
            return Ok(());
        }
        if let Some((reading, _)) = self.full {
            reading.add_unindexed(&waiting)?;
        }
        waiting.clear();
        Ok(())
    }
}

/// Opens every record and compares it with its digest.
fn check_records(
    reading: &Reading<'_>,
    contents: &Contents,
    bytes: &mut [u8],
    tools: &mut Tools,
) -> Result<Records> {
    let mut records = Records { readable: 0, bad: HashSet::new(), lost: 0, baseless: Vec::new() };
    let object = names::pack(contents.header.kind, &contents.id);
    let key = reading.vault.audit().pack_key(&contents.header, &object)?;
    for entry in &contents.entries {
        let start = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(entry.stored_len).unwrap_or(usize::MAX));
        let record = match bytes.get_mut(start..end) {
            Some(sealed) if entry.kind.pack_kind() == contents.header.kind => {
                check_record(reading, entry, &key, sealed, tools)?
            }
            _ => Record::Bad,
        };
        match record {
            Record::Good => records.readable = records.readable.saturating_add(1),
            Record::Baseless => records.baseless.push(*entry),
            Record::Bad => {
                records.lost = records.lost.saturating_add(1);
                records.bad.insert(entry.digest);
            }
        }
    }
    Ok(records)
}

const fn object_kind(kind: PackKind) -> ObjectKind {
    match kind {
        PackKind::Data => ObjectKind::DataPack,
        PackKind::Node => ObjectKind::NodePack,
    }
}

/// Reads a pack's own table of contents. Opens the trailer in place: `bytes` is of no use for its
/// name afterwards.
fn open_contents(vault: &Vault, pack: &Listed, bytes: &mut [u8]) -> Result<Contents> {
    let key = names::pack(pack.kind, &pack.id);
    let damaged = |source| VaultError::Object { object: key.to_string(), source };
    let size = count(bytes.len());
    let header = Header::parse(bytes).map_err(damaged)?;
    if header.kind != pack.kind {
        return Err(VaultError::Pack { pack: pack.id });
    }
    let footer = Footer::parse(bytes, size).map_err(damaged)?;
    let end = bytes.len().saturating_sub(FOOTER_LEN);
    let start = end.saturating_sub(footer.trailer_len);
    let seal_key = vault.audit().pack_key(&header, &key)?;
    let trailer = bytes.get_mut(start..end).unwrap_or_default();
    let (entries, bases) = footer.open_trailer(&seal_key, trailer).map_err(damaged)?;
    Ok(Contents { id: pack.id, header, size, entries, bases })
}

/// Opens a unit, in place, at its first block.
fn open_unit(
    entry: &Entry,
    key: &strongroom_format::SealKey,
    sealed: &mut [u8],
    tools: &mut Tools,
) {
    tools.unit.clear();
    let Ok(payload) = entry.open(key, sealed) else { return };
    // Limits were checked when the trailer was opened.
    tools.unit.resize(usize::try_from(entry.record_plain_len()).unwrap_or(0), 0);
    if tools.decoder.decode(Encoding::Zstd, payload.bytes, None, &mut tools.unit).is_err() {
        tools.unit.clear();
    }
}

/// Opens one record, in place, and compares it with its digest. Fails only if the store does.
fn check_record(
    reading: &Reading<'_>,
    entry: &Entry,
    key: &strongroom_format::SealKey,
    sealed: &mut [u8],
    tools: &mut Tools,
) -> Result<Record> {
    let hasher = reading.vault.hasher();
    let verdict = |good| if good { Record::Good } else { Record::Bad };
    if entry.kind == RecordKind::BlockUnit {
        if entry.part.at == 0 {
            open_unit(entry, key, sealed, tools);
        }
        let start = entry.plain_start();
        let block = tools.unit.get(start..start.saturating_add(BLOCK_SIZE));
        return Ok(verdict(block.is_some_and(|block| hasher.block(block) == entry.digest)));
    }
    let Ok(payload) = entry.open(key, sealed) else { return Ok(Record::Bad) };
    if entry.kind == RecordKind::Node {
        let same = hasher.node(payload.bytes) == entry.digest;
        return Ok(verdict(same && Node::decode(payload.bytes).is_ok()));
    }
    let Tools { decoder, plain, base, base_digest, .. } = tools;
    let base = match payload.base {
        Some(digest) => {
            if *base_digest != Some(digest) {
                *base_digest = None;
                if !reading.full_block(&digest, decoder, base)? {
                    return Ok(Record::Baseless);
                }
                *base_digest = Some(digest);
            }
            Some(base.as_slice())
        }
        None => None,
    };
    // Limits were checked when the trailer was opened.
    plain.resize(usize::try_from(entry.plain_len).unwrap_or(0), 0);
    let decoded = decoder.decode(entry.kind.encoding(), payload.bytes, base, plain);
    Ok(verdict(decoded.is_ok() && hasher.block(plain) == entry.digest))
}
