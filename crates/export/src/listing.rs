//! All files below a path of a volume, from the file system or from what was kept of an earlier look.
//!
//! The list of a whole volume is kept in the vault's cache folder, sealed, under the digests of the image's subtrees
//! that hold the volume: a point in which the volume has not changed costs reading those digests. What could not be
//! read because a disk or a process failed is not kept.

use serde::{Deserialize, Serialize};
use strongroom_base::{ByteRange, Cancel};
use strongroom_files::{Attributes, Files, FilesError, Visited, Volume, shown};
use strongroom_format::Manifest;
use strongroom_image::{Image, cover};
use strongroom_vault::Vault;

use crate::files::PointFiles;

/// What a list has.
pub enum Listed<'a> {
    /// A file or folder; a folder before what is in it.
    File {
        /// Its path.
        path: &'a [u8],
        /// What is known of it.
        attributes: &'a Attributes,
    },
    /// Something that cannot be read.
    Failed {
        /// Its path.
        path: &'a [u8],
        /// Why, with its path and all causes.
        reason: &'a str,
    },
}

/// Gets what a list has.
pub type OnListed<'a> = &'a mut dyn FnMut(Listed<'_>) -> Result<(), FilesError>;

/// A line of a list that is kept: how much of its path is that of the line before, the rest, and what it is.
#[derive(Serialize, Deserialize)]
struct Row {
    shared: u32,
    rest: Vec<u8>,
    what: Result<Attributes, String>,
}

impl PointFiles {
    /// Gives every file below a path, in the order of names, and what somebody should know of the file system.
    pub fn tree(
        &mut self,
        (vault, point): (&Vault, &Manifest),
        volume: &Volume,
        path: &[u8],
        cancel: &Cancel,
        each: OnListed<'_>,
    ) -> Result<Vec<String>, FilesError> {
        let name = self.name_of(vault, point, volume);
        let kept = name.as_deref().and_then(|name| vault.kept_beside(name));
        if let (Some(kept), Some(path)) = (kept, plain(path))
            && let Some(notes) = give(&kept, &path, cancel, each)?
        {
            return Ok(notes);
        }
        let mut files = Files::open(self.reader(), volume)?;
        let notes = files.notes().to_vec();
        let from = files.locate(path)?;
        let is_whole = from.path == b"/";
        let mut list = Keeping::new(&notes, is_whole && name.is_some());
        files.visit(&from, cancel, &mut |_, visited| match visited {
            Visited::Entry { path, attributes, .. } => {
                list.add(path, || Ok(attributes.clone()));
                each(Listed::File { path, attributes })
            }
            Visited::Failed { path, error } => {
                let reason = error.with_causes();
                if matches!(error, FilesError::Disk { .. } | FilesError::Reader { .. }) {
                    list.stop();
                }
                list.add(path, || Err(reason.clone()));
                each(Listed::Failed { path, reason: &reason })
            }
        })?;
        if let (Some(name), Some(bytes)) = (name, list.bytes) {
            vault.keep_beside(&name, &bytes);
        }
        Ok(notes)
    }

    /// By what the content of a volume is known; none if that cannot be read.
    fn name_of(&self, vault: &Vault, point: &Manifest, volume: &Volume) -> Option<String> {
        if self.is_unlocked() {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        // Another version may read more, or otherwise.
        hasher.update(concat!("listing 1 ", env!("CARGO_PKG_VERSION"), "\0").as_bytes());
        let facts = format!(
            "{:?} {:?} {} {:?} {}\0",
            volume.offset,
            volume.logical,
            volume.size,
            volume.file_system,
            self.is_machine()
        );
        hasher.update(facts.as_bytes());
        // Btrfs may have several devices, of which the volume names one.
        let is_spread = volume.file_system.as_deref() == Some("btrfs");
        let own = volume.disk.filter(|_| !is_spread).map(|_| self.disk(volume));
        for record in point.disks.iter().filter(|record| self.has(&record.name)) {
            let image = Image::new(record.size_bytes, record.root).ok()?;
            match own {
                Some(own) if own != record.name => {}
                Some(_) => {
                    let range = ByteRange::new(volume.offset?, volume.size).ok()?;
                    for part in cover(image, vault, range).ok()? {
                        hasher.update(&[part.level]).update(&part.index.to_le_bytes());
                        hasher.update(part.digest.as_bytes());
                    }
                }
                // It may lie anywhere.
                None => drop(hasher.update(record.root.as_bytes())),
            }
        }
        Some(format!("files-{}", hasher.finalize().to_hex()))
    }
}

/// A path without links and steps up, as lists have it; none of others.
fn plain(path: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    for part in path.split(|byte| *byte == b'/').filter(|it| !it.is_empty() && *it != b".") {
        if part == b".." {
            return None;
        }
        plain.push(b'/');
        plain.extend(part);
    }
    Some(if plain.is_empty() { b"/".to_vec() } else { plain })
}

/// Gives what lies below a path of a list that was kept. None if the list does not have the path, which may lead
/// through links, or is damaged where that is noticed before anything is given.
fn give(
    kept: &[u8],
    below: &[u8],
    cancel: &Cancel,
    each: OnListed<'_>,
) -> Result<Option<Vec<String>>, FilesError> {
    let Ok((notes, mut rest)) = postcard::take_from_bytes::<Vec<String>>(kept) else {
        return Ok(None);
    };
    let (mut path, mut has_any): (Vec<u8>, bool) = (Vec::new(), false);
    while !rest.is_empty() {
        if cancel.is_cancelled() {
            return Err(FilesError::Cancelled);
        }
        // It was sealed by ourselves: this does not happen.
        let Ok((row, next)) = postcard::take_from_bytes::<Row>(rest) else {
            let reason = "a list that was kept is damaged: remove the cache folder".to_owned();
            return if has_any {
                Err(FilesError::Reader { path: shown(&path), reason })
            } else {
                Ok(None)
            };
        };
        rest = next;
        path.truncate(usize::try_from(row.shared).unwrap_or(usize::MAX));
        path.extend(&row.rest);
        let is_below = below == b"/"
            || path.strip_prefix(below).is_some_and(|it| it.is_empty() || it.starts_with(b"/"));
        if !is_below {
            if has_any {
                break;
            }
            continue;
        }
        has_any = true;
        match &row.what {
            Ok(attributes) => each(Listed::File { path: &path, attributes })?,
            Err(reason) => each(Listed::Failed { path: &path, reason })?,
        }
    }
    Ok(has_any.then_some(notes))
}

/// A list that becomes one that is kept.
struct Keeping {
    /// None if it is not kept.
    bytes: Option<Vec<u8>>,
    last: Vec<u8>,
}

impl Keeping {
    fn new(notes: &[String], is_kept: bool) -> Self {
        let bytes = is_kept.then(|| postcard::to_stdvec(notes).ok()).flatten();
        Self { bytes, last: Vec::new() }
    }

    fn stop(&mut self) {
        self.bytes = None;
    }

    fn add(&mut self, path: &[u8], what: impl FnOnce() -> Result<Attributes, String>) {
        let Some(bytes) = self.bytes.take() else { return };
        let shared = path.iter().zip(&self.last).take_while(|(a, b)| a == b).count();
        let rest = path.get(shared..).unwrap_or_default().to_vec();
        let row = Row { shared: u32::try_from(shared).unwrap_or(0), rest, what: what() };
        self.last = path.to_vec();
        self.bytes =
            postcard::to_extend(&row, bytes).ok().filter(|it| it.len() <= Vault::MAX_BESIDE);
    }
}

#[cfg(test)]
mod tests {
    use strongroom_files::Kind;

    use super::*;

    fn paths(kept: &[u8], below: &str) -> Option<Vec<String>> {
        let mut found = Vec::new();
        let notes = give(kept, below.as_bytes(), &Cancel::new(), &mut |listed| {
            found.push(match listed {
                Listed::File { path, .. } => shown(path),
                Listed::Failed { reason, .. } => format!("!{reason}"),
            });
            Ok(())
        });
        let notes = notes.expect("given")?;
        assert_eq!(notes, ["a note"]);
        Some(found)
    }

    #[test]
    fn a_list_gives_what_lies_below_a_path() {
        let mut list = Keeping::new(&["a note".to_owned()], true);
        for path in ["/", "/etc", "/etc/a", "/etc/b", "/etcetera", "/etcetera/a", "/x"] {
            let what = || match path {
                "/x" => Err("x: torn".to_owned()),
                _ => Ok(Attributes::bare(Kind::File, 1)),
            };
            list.add(path.as_bytes(), what);
        }
        let kept = list.bytes.expect("kept");
        assert_eq!(paths(&kept, "/").expect("all").len(), 7);
        assert_eq!(paths(&kept, "/etc").expect("some"), ["/etc", "/etc/a", "/etc/b"]);
        assert_eq!(paths(&kept, "/x").expect("one"), ["!x: torn"]);
        assert_eq!(paths(&kept, "/et"), None);
        assert_eq!(paths(&kept[..kept.len() - 3], "/nothing"), None);
    }

    #[test]
    fn paths_with_steps_up_are_not_looked_up() {
        assert_eq!(plain(b"/a/./b//"), Some(b"/a/b".to_vec()));
        assert_eq!((plain(b""), plain(b"/a/../b")), (Some(b"/".to_vec()), None));
    }
}
