//! What a copy must remember over a restart, in a file that only the server reads: it has the source's signature.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use blobs::{BlobKind, BlobName, ContainerName};
use serde::{Deserialize, Serialize};
use strongroom_blobs as blobs;

use super::source::{Source, SourceHead};
use crate::storage::Storage;

/// How the names of the files end.
const EXTENSION: &str = "copy";

/// What a copy must remember.
#[derive(Serialize, Deserialize)]
pub(super) struct Memory {
    account: String,
    container: String,
    blob: String,
    /// The source as the blob's properties show it.
    pub(super) shown: String,
    /// The source.
    pub(super) source: Source,
    /// The tag that the source had.
    pub(super) etag: String,
    /// The kind of blob that the source is.
    #[serde(default)]
    pub(super) kind: BlobKind,
    #[serde(skip)]
    path: PathBuf,
}

impl Memory {
    pub(super) fn new(
        storage: &Storage,
        target: &BlobName,
        source: Source,
        shown: String,
        head: &SourceHead,
    ) -> Self {
        let path = storage.copies.folder.join(storage.new_id()).with_extension(EXTENSION);
        Self {
            account: target.container.account.clone(),
            container: target.container.container.clone(),
            blob: target.blob.clone(),
            shown,
            source,
            etag: head.stamp.etag.as_str().to_owned(),
            kind: head.blob.kind,
            path,
        }
    }

    /// The blob that the copy is made to.
    pub(super) fn target(&self) -> BlobName {
        ContainerName::new(self.account.as_str(), self.container.as_str()).blob(self.blob.as_str())
    }

    /// Writes the file; it is durable then.
    pub(super) fn keep(&self) -> io::Result<()> {
        let unfinished = self.path.with_extension("unfinished");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()
    }

    /// Deletes the file.
    pub(super) fn forget(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the file of an ended copy cannot be deleted");
        }
    }
}

/// Every copy in a folder. Files that are no memory of a copy are deleted.
pub(super) fn all(folder: &Path) -> Vec<Memory> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_memory = path.extension().is_some_and(|extension| extension == EXTENSION);
        let read = || {
            let bytes = fs::read(&path).ok().filter(|_| is_memory)?;
            serde_json::from_slice::<Memory>(&bytes).ok()
        };
        if let Some(memory) = read() {
            found.push(Memory { path, ..memory });
        } else {
            tracing::warn!(path = %path.display(), "a file of no copy is deleted");
            fs::remove_file(&path).ok();
        }
    }
    found
}
