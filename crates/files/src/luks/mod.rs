//! LUKS1 and LUKS2: volumes that are encrypted by a key, which passphrases and key files unlock.
//!
//! The secret is given to a process of its own, which reads headers, answers the volume's key and ends. The process
//! that reads file systems gets that key alone, which decrypts nothing but what it reads anyway.

use std::{io, num::NonZeroU32, sync::Arc};

use aws_lc_rs::{constant_time, digest, pbkdf2};
use zeroize::Zeroizing;

use self::{
    cipher::Cipher,
    header::{Derivation, Hash, Header, Proof, Slot, header},
};
use crate::{
    probe::Found,
    source::{Cached, ReadAt, check_within, length},
    tree::{Fault, FaultKind},
};

mod cipher;
mod header;

/// What a volume is called that has LUKS, as `blkid` does.
pub(crate) const KIND: &str = "crypto_LUKS";
/// Most memory for one secret, in KiB: what cryptsetup takes at most if nobody asks for more.
const MEMORY_MAX: u32 = 1 << 20;
/// Most rounds for one secret.
const TIME_MAX: u32 = 1000;
/// Most bytes that are decrypted at once.
const PART: usize = 1 << 20;

/// What is on a disk that begins as LUKS does.
pub(crate) fn found(disk: &dyn ReadAt) -> Found {
    let (label, uuid, refusal) = match header(disk) {
        Ok(header) => {
            let reason =
                "it is encrypted (LUKS): its passphrase or key file is needed (--luks-key-file)";
            (header.label, header.uuid, Fault::unsupported(reason))
        }
        Err(fault) => (None, None, fault),
    };
    Found { kind: KIND, label, uuid, reader: Err(refusal), notes: Vec::new() }
}

/// Reads a header whose sum is right, for fuzzing.
pub(crate) fn fuzz(header: &[u8]) {
    if let Ok(header) = header::described(header) {
        drop(header.data.cipher.with(&[7; 64]));
    }
}

/// The key of a volume; none if no slot takes the secret. Slots that are not read are an error if no other takes it.
pub(crate) fn unlock(disk: &dyn ReadAt, secret: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let header = header(disk)?;
    let mut unread = None;
    for slot in &header.slots {
        match slot.as_ref().map_err(Clone::clone).and_then(|slot| try_slot(disk, slot, secret)) {
            Ok(key) if is_proved(&header.proof, &key)? => return Ok(Some(key.to_vec())),
            Ok(_) => {}
            Err(fault) => unread = Some(fault),
        }
    }
    unread.map_or(Ok(None), Err)
}

/// Whether a key is the volume's.
fn is_proved(proof: &Proof, key: &[u8]) -> Result<bool, Fault> {
    let len = proof.digest.len().min(64);
    let mut digest = vec![0; len];
    derive(proof.hash, proof.iterations, &proof.salt, key, &mut digest)?;
    Ok(len >= 16 && constant_time::verify_slices_are_equal(&digest, &proof.digest).is_ok())
}

fn derive(
    hash: Hash,
    iterations: u32,
    salt: &[u8],
    secret: &[u8],
    out: &mut [u8],
) -> Result<(), Fault> {
    let rounds = NonZeroU32::new(iterations);
    let rounds = rounds.ok_or_else(|| Fault::damaged("a key is derived in no rounds"))?;
    pbkdf2::derive(hash.pbkdf2(), rounds, salt, secret, out);
    Ok(())
}

/// The key that is in a slot, if the secret is the right one; something else if not.
fn try_slot(disk: &dyn ReadAt, slot: &Slot, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut derived = Zeroizing::new(vec![0; slot.derived]);
    match &slot.derivation {
        Derivation::Pbkdf2 { hash, iterations, salt } => {
            derive(*hash, *iterations, salt, secret, &mut derived)?;
        }
        Derivation::Argon2 { algorithm, time, memory, lanes, salt } => {
            if *memory > MEMORY_MAX || *time > TIME_MAX {
                let reason = format!(
                    "a secret of it takes {memory} KiB of memory and {time} rounds; up to {MEMORY_MAX} KiB and \
                     {TIME_MAX} rounds are read"
                );
                return Err(Fault::unsupported(reason));
            }
            let odd = |_| Fault::damaged("a key is derived in a way that is none");
            let params = argon2::Params::new(*memory, *time, *lanes, Some(slot.derived));
            let params = params.map_err(odd)?;
            let argon = argon2::Argon2::new(*algorithm, argon2::Version::V0x13, params);
            argon.hash_password_into(secret, salt, &mut derived).map_err(odd)?;
        }
    }
    let split = slot.key.saturating_mul(slot.stripes);
    // Whole sectors lie there.
    let mut area = Zeroizing::new(vec![0; split.next_multiple_of(512)]);
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::damaged("a slot of its keys lies beyond the disk"),
        _ => Fault::new(FaultKind::Disk, error.to_string()),
    };
    disk.read_at(slot.offset, &mut area).map_err(lost)?;
    slot.cipher.with(&derived)?.decrypt(0, 512, &mut area)?;
    Ok(merge(area.get(..split).unwrap_or_default(), slot.key, slot.hash))
}

/// Puts a key together that was split into parts of its length, so that none can be left out.
fn merge(parts: &[u8], len: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; len]);
    let mut parts = parts.chunks_exact(len).peekable();
    while let Some(part) = parts.next() {
        key.iter_mut().zip(part).for_each(|(to, from)| *to ^= from);
        if parts.peek().is_some() {
            for (number, block) in (0_u32..).zip(key.chunks_mut(hash.digest().output_len())) {
                let mut context = digest::Context::new(hash.digest());
                context.update(&number.to_be_bytes());
                context.update(block);
                let sum = context.finish();
                block.iter_mut().zip(sum.as_ref()).for_each(|(to, from)| *to = *from);
            }
        }
    }
    key
}

/// The decrypted bytes of a volume.
struct Decrypted {
    of: Arc<dyn ReadAt>,
    cipher: Cipher,
    offset: u64,
    size: u64,
    sector: usize,
    first: u64,
}

/// Opens a volume with its key.
pub(crate) fn decrypted(of: Arc<dyn ReadAt>, key: &[u8]) -> Result<Arc<dyn ReadAt>, Fault> {
    let Header { data, .. } = header(&*of)?;
    if data.offset == 0 {
        return Err(Fault::unsupported(
            "the header of its encryption (LUKS) is apart from its data",
        ));
    }
    let there = of.size().saturating_sub(data.offset);
    let size = data.size.unwrap_or(there).min(there);
    let sector = u64::try_from(data.sector).unwrap_or(512);
    let size = size - size.checked_rem(sector).unwrap_or(0);
    let cipher = data.cipher.with(key)?;
    let (offset, first) = (data.offset, data.first);
    let decrypted = Decrypted { of, cipher, offset, size, sector: data.sector, first };
    Ok(Arc::new(Cached::new(Arc::new(decrypted))))
}

impl ReadAt for Decrypted {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size, offset, length(buf))?;
        let sector = u64::try_from(self.sector).map_err(io::Error::other)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let skip = at.checked_rem(sector).unwrap_or(0);
            let (start, skip) = (at - skip, usize::try_from(skip).map_err(io::Error::other)?);
            let len = rest.len().min(PART - skip);
            let mut sectors = vec![0; (skip + len).next_multiple_of(self.sector)];
            self.of.read_at(self.offset.saturating_add(start), &mut sectors)?;
            let number = self.first.wrapping_add(start / 512);
            let decrypted = self.cipher.decrypt(number, self.sector, &mut sectors);
            decrypted.map_err(|fault| io::Error::other(fault.reason))?;
            let (part, after) = rest.split_at_mut(len);
            part.copy_from_slice(sectors.get(skip..skip + len).unwrap_or_default());
            at = at.saturating_add(length(part));
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
