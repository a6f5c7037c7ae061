//! Loads blocks of a vault together: stretches of packs are read whole, as the blocks of a point lie together.
//!
//! ```text
//!  digests ─▶ places, and the bases of deltas ─▶ stretches of packs ─▶ read (several at once) ─▶ open, check ─▶ cache
//! ```

use std::sync::Arc;

use strongroom_base::{BLOCK_SIZE, ByteRange, PackId};
use strongroom_vault::{Location, Reader, Vault, VaultError, is_damage};

use crate::cache::{Block, Failure, Ticket};

/// Unneeded bytes that are read along rather than starting another read.
const GAP_MAX: u64 = 64 * 1024;
/// The most bytes of a stretch.
const STRETCH_MAX: u64 = 4 << 20;
/// Stretches that are read at once from a store behind a network.
const AT_ONCE: usize = 8;

/// How much is done for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Everything: mirrors, other packs, a new look into the index.
    Full,
    /// One read: what fails is left to those who need it.
    Ahead,
}

/// A block to load, and where it is.
struct Wanted<'a> {
    ticket: Ticket<'a>,
    place: Option<Location>,
    base: Option<Location>,
}

/// A stretch of a pack, read or not.
struct Stretch {
    pack: PackId,
    range: ByteRange,
    bytes: Option<Result<Vec<u8>, Failure>>,
}

/// Loads blocks, and settles their tickets.
pub(crate) fn load(vault: &Vault, tickets: Vec<Ticket<'_>>, effort: Effort) {
    let wanted: Vec<Wanted<'_>> =
        tickets.into_iter().filter_map(|ticket| find(vault, ticket)).collect();
    let mut stretches = stretches_of(&wanted);
    read(vault, &mut stretches);
    let mut reader = vault.reader();
    for Wanted { ticket, place, base } in wanted {
        let mut plain = vec![0; BLOCK_SIZE];
        let opened = match &place {
            Some(place) => open(&mut reader, &stretches, place, base.as_ref(), &mut plain),
            None => Ok(false),
        };
        let opened = match opened {
            Ok(false) if effort == Effort::Full => {
                let read = reader.block(&ticket.key.digest, &mut plain);
                read.map(|()| true).map_err(Arc::new)
            }
            opened => opened,
        };
        match opened {
            Ok(true) => ticket.loaded(&Block::new(plain)),
            Ok(false) => drop(ticket),
            // One who reads ahead may have met a moment's failure.
            Err(_) if effort == Effort::Ahead => drop(ticket),
            Err(failure) => ticket.failed(&failure),
        }
    }
}

/// Finds where a block is. What fails is settled here.
fn find<'a>(vault: &Vault, ticket: Ticket<'a>) -> Option<Wanted<'a>> {
    let places = vault.places(&ticket.key.digest).and_then(|places| {
        let place = places.into_iter().next();
        let base = place.as_ref().map(|place| vault.base_of(place)).transpose()?.flatten();
        Ok((place, base))
    });
    match places {
        Ok((place, base)) => Some(Wanted { ticket, place, base }),
        Err(error) => {
            ticket.failed(&Failure::new(error));
            None
        }
    }
}

fn bytes_of(place: &Location) -> ByteRange {
    let start = u64::from(place.entry.offset);
    ByteRange::between(start, start.saturating_add(u64::from(place.entry.stored_len)))
}

fn stretches_of(wanted: &[Wanted<'_>]) -> Vec<Stretch> {
    let places = wanted.iter().flat_map(|it| it.place.iter().chain(&it.base));
    let mut parts: Vec<_> = places.map(|place| (place.pack, bytes_of(place))).collect();
    parts.sort_unstable_by_key(|(pack, range)| (*pack, range.offset(), range.end()));
    parts.dedup();
    let mut stretches: Vec<Stretch> = Vec::new();
    for (pack, range) in parts {
        if let Some(last) = stretches.last_mut()
            && last.pack == pack
            && range.offset().saturating_sub(last.range.end()) <= GAP_MAX
            && range.end().saturating_sub(last.range.offset()) <= STRETCH_MAX
        {
            let end = range.end().max(last.range.end());
            last.range = ByteRange::between(last.range.offset(), end);
        } else {
            stretches.push(Stretch { pack, range, bytes: None });
        }
    }
    stretches
}

fn read(vault: &Vault, stretches: &mut [Stretch]) {
    let read = |stretch: &mut Stretch| {
        stretch.bytes = Some(vault.fetch(&stretch.pack, stretch.range).map_err(Failure::new));
    };
    if vault.store().is_local() || stretches.len() < 2 {
        stretches.iter_mut().for_each(read);
        return;
    }
    for together in stretches.chunks_mut(AT_ONCE) {
        std::thread::scope(|scope| {
            for stretch in together {
                scope.spawn(|| read(stretch));
            }
        });
    }
}

/// The sealed bytes of a record; none if they were not there to read.
fn sealed<'s>(stretches: &'s [Stretch], place: &Location) -> Result<Option<&'s [u8]>, Failure> {
    let range = bytes_of(place);
    let holds = |stretch: &&Stretch| {
        stretch.pack == place.pack
            && stretch.range.offset() <= range.offset()
            && range.end() <= stretch.range.end()
    };
    let Some(stretch) = stretches.iter().find(holds) else { return Ok(None) };
    match &stretch.bytes {
        Some(Ok(bytes)) => {
            let start = range.offset().saturating_sub(stretch.range.offset());
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
            Ok(bytes.get(start..start.saturating_add(len)))
        }
        Some(Err(failure)) if !is_damage(failure) => Err(Arc::clone(failure)),
        Some(Err(_)) | None => Ok(None),
    }
}

/// Opens a block from what was read. False if it is not there, or damaged: then other copies may help.
fn open(
    reader: &mut Reader<'_>,
    stretches: &[Stretch],
    place: &Location,
    base: Option<&Location>,
    plain: &mut [u8],
) -> Result<bool, Failure> {
    if reader.is_at_hand(place, plain) {
        return Ok(true);
    }
    let Some(bytes) = sealed(stretches, place)? else { return Ok(false) };
    // The base is read again if it is not among what was read.
    let base = base.and_then(|base| Some((base, sealed(stretches, base).ok()??)));
    // In a copy: others may be opened from the same bytes.
    match reader.open_fetched(place, &mut bytes.to_vec(), base, plain) {
        Ok(()) => Ok(true),
        Err(error) if is_damage(&error) => Ok(false),
        Err(error) => Err(Failure::new(error)),
    }
}

/// An error that several get.
#[derive(Debug)]
pub(crate) struct Shared(pub(crate) Failure);

impl std::fmt::Display for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let error: &VaultError = &self.0;
        std::error::Error::source(error)
    }
}
