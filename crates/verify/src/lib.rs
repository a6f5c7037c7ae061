//! Verification: is what the vault holds what was written, and does every point have all it needs?
//!
//! ```text
//!  metadata ──▶ description, keys, index objects, points, notes: every copy opened
//!  packs ─────▶ every copy: its bytes against its name
//!               full: header, trailer, index; every record opened, decompressed, digest compared
//!  points ────▶ full: every node and block that a visible or locked point needs is in a good pack
//! ```
//!
//! | module     | what it does |
//! |------------|--------------|
//! | `copies`   | looks at every copy of an object by itself, changes nothing |
//! | `inspect`  | judges an object by its copies, reports it, has it repaired |
//! | `keys`     | the key objects |
//! | `metadata` | everything else but packs |
//! | `packs`    | packs and the records in them |
//! | `reading`  | records by digest, without the repairs that ordinary reads make |
//! | `points`   | walks the trees of all points and finds what damage means for them |
//! | `done`     | remembers verified packs, to continue after an interruption |
//!
//! Invariants:
//! - Nothing is written unless repair was asked for, and nothing is ever deleted but notes of damage
//!   that is mended.
//! - A repair puts a good copy in place of a bad or missing one, and notes which packs have damage
//!   that no copy mends, so that backups store their content again. Reclaim deletes
//!   copies one after the other; so that no repair restores what is being deleted, verify
//!   announces itself as a writer before its first repair and leaves alone what was condemned or
//!   deleted before that.
//! - Cost: every byte of the chosen packs once for each copy; each distinct tree node about
//!   twice; one index look-up for each distinct block.
//! - Memory: about two packs for each thread, 50 bytes for each pack.
//!
//! This crate knows a vault by its public face and `vault::audit`, and neither disks nor jobs.

mod copies;
mod done;
mod inspect;
mod keys;
mod listing;
mod metadata;
mod packs;
mod points;
mod reading;
mod report;
mod words;

use std::{path::PathBuf, sync::Arc};

use strongroom_base::{Cancel, Stage};
use strongroom_objects::ObjectStore;

use strongroom_vault::{Vault, VaultError, VaultOptions};

/// The usual result.
type Result<T, E = VaultError> = std::result::Result<T, E>;

pub use strongroom_reports::{
    CopyState, DamagedDisk, DamagedObject, DamagedPoint, FailedRepair, LostRange, ObjectKind,
    UnsoundCopy, VerifyMode, VerifyReport,
};

use copies::Copies;
use inspect::{Inspector, Repairs};

/// What [`verify`] does.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// How deep to look.
    pub mode: VerifyMode,
    /// Read only about this percentage of the packs, chosen by chance; above 0, at most 100. All
    /// else is checked as without it.
    pub sample: Option<f64>,
    /// Replace bad and missing copies by good ones, and note which packs cannot be repaired.
    pub repair: bool,
    /// Most bytes per second to read.
    pub limit_rate: Option<u64>,
    /// Packs to verify at once, 1 to 64.
    pub threads: usize,
    /// Continue where an interrupted verify of the same vault, mode and copies stopped: packs that it
    /// found good are not read again. It is kept in the vault's cache folder; without one there is
    /// nothing to resume. Not together with `sample`.
    pub resume: bool,
    /// This host's name, for the note that a repair leaves for others while it runs.
    pub host: String,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            mode: VerifyMode::Full,
            sample: None,
            repair: false,
            limit_rate: None,
            threads: 2,
            resume: false,
            host: String::new(),
        }
    }
}

/// How far a verify has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Metadata, packs or points.
    pub stage: Stage,
    /// Objects or points done in this stage.
    pub done: u64,
    /// Objects or points in this stage; 0 if that is not known yet.
    pub total: u64,
    /// Bytes of packs done.
    pub bytes_done: u64,
    /// Bytes of packs in all.
    pub bytes_total: u64,
}

/// Gets the progress, from several threads.
pub type OnProgress<'a> = &'a (dyn Fn(VerifyProgress) + Sync);

/// Checks a vault and, if asked, repairs it. Damage is no error: it is in the report.
///
/// Backups and reclaim may run meanwhile. When `cancel` is raised the report says what was found so
/// far and that it was interrupted.
pub fn verify(
    vault: &Arc<Vault>,
    options: &VerifyOptions,
    progress: OnProgress<'_>,
    cancel: &Cancel,
) -> Result<VerifyReport> {
    let vault_options = vault.options();
    if options.mode == VerifyMode::Blind {
        return verify_blind(vault.store(), vault_options, options, progress, cancel);
    }
    let started = vault.clock().monotonic();
    let repairs = Repairs::keyed(vault, options);
    let inspector = Inspector::new(vault.store(), vault_options, options, &repairs);
    let look = Look { inspector: &inspector, options, progress, cancel };
    let dir = vault_options.cache_dir.as_ref();
    let dir = dir.map(|dir| dir.join(vault.config().vault_id.to_string()));
    let known = metadata::full(vault, &look)?;
    let reading = reading::Reading::new(vault, &inspector)?;
    let packs = packs::verify(&look, (vault_options, dir), Some((&reading, &known)))?;
    if !cancel.is_cancelled() {
        vault.sync()?;
        points::verify(&look, &reading, &packs, known.points, &known.locked)?;
        if options.repair && inspector.report().index_incomplete {
            vault.audit().adopt_unlisted()?;
            inspector.report().index_incomplete = false;
        }
        inspector.count_unindexed(vault, &known.bad_sources)?;
    }
    repairs.end();
    let took = vault.clock().monotonic().saturating_sub(started);
    Ok(inspector.into_report(took, cancel))
}

/// As [`verify`] with [`VerifyMode::Blind`], for a process that has the store but no key: a
/// replica's keeper.
pub fn verify_blind(
    store: &Arc<dyn ObjectStore>,
    vault_options: &VaultOptions,
    options: &VerifyOptions,
    progress: OnProgress<'_>,
    cancel: &Cancel,
) -> Result<VerifyReport> {
    let started = vault_options.clock.monotonic();
    let config = Vault::describe(&**store)?;
    let repairs = Repairs::blind(store, options);
    let inspector = Inspector::new(store, vault_options, options, &repairs);
    let look = Look { inspector: &inspector, options, progress, cancel };
    let dir: Option<PathBuf> =
        vault_options.cache_dir.as_ref().map(|dir| dir.join(config.vault_id.to_string()));
    metadata::blind(&look)?;
    packs::verify(&look, (vault_options, dir), None)?;
    let took = vault_options.clock.monotonic().saturating_sub(started);
    Ok(inspector.into_report(took, cancel))
}

/// What all parts of a verify share.
struct Look<'a> {
    inspector: &'a Inspector<'a>,
    options: &'a VerifyOptions,
    progress: OnProgress<'a>,
    cancel: &'a Cancel,
}
