//! Puts objects into a folder until it is killed: for the test of what kill -9 leaves.
//!
//! usage: `put_loop FOLDER`. Says the name of each object once its put has returned.

#![allow(clippy::print_stdout, reason = "the caller reads the names")]

use std::{error::Error, io::Write, path::Path, sync::Arc};

use strongroom_base::{EntropyExt, SystemEntropy};
use strongroom_objects::{Folder, Key, ObjectStore};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: put_loop FOLDER")?;
    let folder = Folder::open(Path::new(&folder), Arc::new(SystemEntropy))?;
    let mut out = std::io::stdout();
    loop {
        // Around the size from which bodies go past the page cache, and small ones.
        let random = u32::from_le_bytes(SystemEntropy.array());
        let len = if random.is_multiple_of(4) { random % 1000 } else { random % 1_500_000 };
        let mut body = vec![0; usize::try_from(len)?];
        blake3::Hasher::new().update(&random.to_le_bytes()).finalize_xof().fill(&mut body);
        let name = blake3::hash(&body).to_hex();
        let key = Key::new(format!("packs/{}/{name}", name.get(..1).unwrap_or_default()))?;
        folder.put_new(&key, &body)?;
        writeln!(out, "{key}")?;
        out.flush()?;
    }
}
