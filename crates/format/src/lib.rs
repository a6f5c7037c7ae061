//! Every byte Strongroom writes to a vault, versioned and specified.
//!
//! Pure: bytes in, structures out, and back; no I/O and no policy. What readers are given comes
//! from outside and may be damaged or hostile: every length is checked against a hard limit
//! before anything is allocated or decompressed, and nothing here panics on input.
//!
//! ```text
//!  block ─▶ codec (stored, zstd, delta) ─▶ seal (AES-256-GCM) ─▶ pack (records, trailer, footer)
//!  manifest, index, ... ─▶ sealed (zstd, AES-256-GCM, bound to the object's name)
//! ```
//!
//! `docs/format.md` is the specification in words; golden files under `tests/golden` hold it fast.

pub mod codec;
mod config;
mod error;
mod index;
mod manifest;
pub mod names;
pub mod pack;
pub mod ring;
mod seal;
pub mod sealed;
pub mod secret;
pub mod slot;
mod text;

pub use config::{Conditional, VaultConfig};
pub use error::FormatError;
pub use index::IndexObject;
pub use manifest::{
    ConfigurationRecord, Consistency, DiskRecord, ExcludedDisk, Manifest, SkippedRange,
    SourceRecord, check_plain_name, names_are_valid,
};
pub use seal::SealKey;

#[cfg(test)]
pub(crate) mod golden {
    //! Holds what was ever written against the files of `tests/golden`.

    /// Compares with a golden file. `STRONGROOM_BLESS=1` writes it first: only ever for a new
    /// format version, never to make a test pass.
    pub(crate) fn assert_golden(name: &str, bytes: &[u8]) {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("STRONGROOM_BLESS").is_some() {
            std::fs::write(&path, bytes).expect("golden file");
        }
        let golden = std::fs::read(&path).expect("golden file");
        assert_eq!(bytes, golden, "{name}: what version 1 writes must never change");
    }
}
