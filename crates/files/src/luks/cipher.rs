//! Ciphers of sectors: AES with XTS, and with CBC as older volumes have it.

use aws_lc_rs::{
    cipher::{
        AES_128, AES_256, Algorithm, DecryptingKey, DecryptionContext, EncryptingKey,
        UnboundCipherKey,
    },
    digest,
    iv::FixedLength,
};

use super::header::Hash;
use crate::tree::Fault;

/// Bytes of a block of AES.
const BLOCK: usize = 16;

/// How numbers of sectors make every sector different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// XTS.
    Xts,
    /// CBC that begins with the number.
    Cbc,
    /// CBC that begins with the encrypted number.
    Essiv(Hash),
}

/// A cipher by its name, as `aes-xts-plain64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    mode: Mode,
    /// Only the lower half of the number counts.
    is_short: bool,
}

impl Spec {
    /// The cipher of this name, if it is known.
    pub(super) fn of(name: &str) -> Result<Self, Fault> {
        let (mode, is_short) = match name {
            "aes-xts-plain64" => (Mode::Xts, false),
            "aes-xts-plain" => (Mode::Xts, true),
            "aes-cbc-plain64" => (Mode::Cbc, false),
            "aes-cbc-plain" => (Mode::Cbc, true),
            _ => {
                let unknown = || Fault::unsupported(format!("its cipher {name} is not read"));
                let hash = name.strip_prefix("aes-cbc-essiv:").ok_or_else(unknown)?;
                (Mode::Essiv(Hash::of(hash).map_err(|_| unknown())?), false)
            }
        };
        Ok(Self { mode, is_short })
    }

    /// The cipher with a key.
    pub(super) fn with(self, key: &[u8]) -> Result<Cipher, Fault> {
        let odd = || Fault::unsupported(format!("its key of {} bits is not known", key.len() * 8));
        let (data, other) = match self.mode {
            Mode::Xts => key.split_at(key.len() / 2),
            Mode::Cbc | Mode::Essiv(_) => (key, [].as_slice()),
        };
        let unbound = |key: &[u8]| UnboundCipherKey::new(algorithm(key.len())?, key).ok();
        let ecb = |key: &[u8]| EncryptingKey::ecb(unbound(key)?).ok();
        let data = unbound(data).ok_or_else(odd)?;
        let (data, numbers) = match self.mode {
            Mode::Xts => (DecryptingKey::ecb(data), Some(ecb(other).ok_or_else(odd)?)),
            Mode::Cbc => (DecryptingKey::cbc(data), None),
            Mode::Essiv(hash) => {
                let salt = digest::digest(hash.digest(), key);
                (DecryptingKey::cbc(data), Some(ecb(salt.as_ref()).ok_or_else(odd)?))
            }
        };
        let data = data.map_err(|_| odd())?;
        Ok(Cipher { spec: self, data, numbers })
    }
}

fn algorithm(len: usize) -> Option<&'static Algorithm> {
    match len {
        16 => Some(&AES_128),
        32 => Some(&AES_256),
        _ => None,
    }
}

/// A cipher with its key.
pub(super) struct Cipher {
    spec: Spec,
    data: DecryptingKey,
    /// What encrypts the numbers of sectors.
    numbers: Option<EncryptingKey>,
}

impl Cipher {
    /// Decrypts whole sectors of this length. Numbers count parts of 512 bytes, also where sectors are larger.
    pub(super) fn decrypt(&self, first: u64, sector: usize, bytes: &mut [u8]) -> Result<(), Fault> {
        let failed = |_| Fault::unsupported("its cipher cannot be used");
        let step = u64::try_from(sector / 512).unwrap_or(1);
        let mut numbers = Vec::with_capacity(bytes.len() / sector.max(1) * BLOCK);
        let mut number = first;
        for _ in bytes.chunks(sector) {
            let counted = if self.spec.is_short { number & 0xffff_ffff } else { number };
            numbers.extend(u128::from(counted).to_le_bytes());
            number = number.wrapping_add(step);
        }
        if let Some(key) = &self.numbers {
            key.encrypt(&mut numbers).map_err(failed)?;
        }
        if self.spec.mode != Mode::Xts {
            for (sector, number) in bytes.chunks_mut(sector).zip(numbers.chunks_exact(BLOCK)) {
                let number = number.first_chunk::<BLOCK>().copied().unwrap_or_default();
                let context = DecryptionContext::Iv128(FixedLength::from(number));
                self.data.decrypt(sector, context).map_err(failed)?;
            }
            return Ok(());
        }
        mask(bytes, sector, &numbers);
        self.data.decrypt(bytes, DecryptionContext::None).map_err(failed)?;
        mask(bytes, sector, &numbers);
        Ok(())
    }
}

/// What XTS adds to each block before and after: the sector's number, doubled from block to block.
fn mask(bytes: &mut [u8], sector: usize, numbers: &[u8]) {
    for (sector, number) in bytes.chunks_mut(sector).zip(numbers.chunks_exact(BLOCK)) {
        let number = number.first_chunk::<BLOCK>().copied().unwrap_or_default();
        let mut number = u128::from_le_bytes(number);
        for block in sector.chunks_exact_mut(BLOCK) {
            for (byte, by) in block.iter_mut().zip(number.to_le_bytes()) {
                *byte ^= by;
            }
            let carry = if number >> 127 == 0 { 0 } else { 0x87 };
            number = (number << 1) ^ carry;
        }
    }
}
