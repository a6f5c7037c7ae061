//! Paths in a volume: from its uppermost folder, through links.

use std::collections::HashSet;

use strongroom_base::Cancel;

use crate::{
    deliver::why_no_name,
    error::{FilesError, shown},
    reader::FileReader,
    survey::Volume,
    tree::{Attributes, Entry, Fault, FaultKind, Kind},
};

/// Most links that are followed in one path.
const LINKS_MAX: u32 = 40;
/// How deep folders may lie in each other.
const DEPTH_MAX: usize = 4096;
/// Most components of a path.
const COMPONENTS_MAX: usize = 4096;

/// An open volume.
pub struct Files<'a> {
    reader: &'a mut FileReader,
    root: u64,
    notes: Vec<String>,
}

/// What a visit meets.
pub enum Visited<'a> {
    /// A file or folder; a folder before what is in it.
    Entry {
        /// Its path.
        path: &'a [u8],
        /// By which it is read.
        node: u64,
        /// What is known of it.
        attributes: &'a Attributes,
    },
    /// Something that cannot be read.
    Failed {
        /// Its path.
        path: &'a [u8],
        /// Why.
        error: FilesError,
    },
}

/// Gets everything that a visit meets.
pub type Visitor<'v> = &'v mut dyn FnMut(&mut Files<'_>, Visited<'_>) -> Result<(), FilesError>;

/// A file that was found.
#[derive(Clone, Debug)]
pub struct Located {
    /// Its path without links, which begins with `/`.
    pub path: Vec<u8>,
    /// By which it is read.
    pub node: u64,
    /// What is known of it.
    pub attributes: Attributes,
}

impl Located {
    /// Its last component; none of the uppermost folder.
    pub fn name(&self) -> Option<&[u8]> {
        self.path.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty())
    }
}

impl<'a> Files<'a> {
    /// Opens a volume, if it can be read.
    pub fn open(reader: &'a mut FileReader, volume: &Volume) -> Result<Self, FilesError> {
        let (root, notes) = reader.open(volume)?;
        Ok(Self { reader, root, notes })
    }

    /// What somebody should know who looks at it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The process that reads it.
    pub fn reader(&mut self) -> &mut FileReader {
        self.reader
    }

    /// Finds a path. Links before its last component are followed, and lead nowhere but into the same volume.
    pub fn locate(&mut self, path: &[u8]) -> Result<Located, FilesError> {
        // Components to come, the next one last.
        let mut rest: Vec<Vec<u8>> = components(path).map(<[u8]>::to_vec).rev().collect();
        // Where we are: nodes and names from the uppermost folder.
        let mut trail: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                trail.pop();
                continue;
            }
            let here = joined(&trail);
            let node = trail.last().map_or(self.root, |(node, _)| *node);
            let entry = self.reader.find(&here, node, &name)?;
            let missing = || FilesError::NotFound {
                path: shown(&child(&here, &name)),
                reason: "there is no such file".to_owned(),
            };
            let entry = entry.ok_or_else(missing)?;
            let is_link = matches!(&entry.attributes, Ok(found) if found.kind == Kind::Link);
            if !is_link || rest.is_empty() {
                // It may differ in capitals from the one that was asked for.
                let is_name = why_no_name(&entry.name, usize::MAX).is_none();
                trail.push((entry.node, if is_name { entry.name } else { name }));
                continue;
            }
            let target = self.reader.target(&child(&here, &name), entry.node)?;
            links += 1;
            let long = rest.len().saturating_add(target.len()) > COMPONENTS_MAX;
            if links > LINKS_MAX || long {
                // Links may be in a ring, which is no damage.
                let fault = Fault::new(FaultKind::NotFound, "too many links lead to it");
                return Err(FilesError::of_fault(path, fault));
            }
            if target.first() == Some(&b'/') {
                trail.clear();
            }
            let more: Vec<Vec<u8>> = components(&target).map(<[u8]>::to_vec).collect();
            rest.extend(more.into_iter().rev());
        }
        let path = joined(&trail);
        let node = trail.last().map_or(self.root, |(node, _)| *node);
        let attributes = self.reader.attributes(&path, node)?;
        Ok(Located { path, node, attributes })
    }

    /// Finds a path, and follows it if it is a link itself.
    pub fn locate_target(&mut self, path: &[u8]) -> Result<Located, FilesError> {
        let mut found = self.locate(path)?;
        for _ in 0..LINKS_MAX {
            if found.attributes.kind != Kind::Link {
                return Ok(found);
            }
            let target = self.reader.target(&found.path, found.node)?;
            let folder = found.path.len().saturating_sub(found.name().map_or(0, <[u8]>::len));
            let next = match target.first() {
                Some(b'/') => target,
                _ => [found.path.get(..folder).unwrap_or_default(), &target].concat(),
            };
            found = self.locate(&next)?;
        }
        let fault = Fault::new(FaultKind::NotFound, "too many links lead to it");
        Err(FilesError::of_fault(path, fault))
    }

    /// Visits a file, or a folder and all that is in it, by name. Whatever contradicts itself ends: a folder has one
    /// place.
    pub fn visit(
        &mut self,
        from: &Located,
        cancel: &Cancel,
        visitor: Visitor<'_>,
    ) -> Result<(), FilesError> {
        let mut entered = HashSet::new();
        // What comes next, last.
        let mut rest = vec![(from.path.clone(), from.node, Ok(from.attributes.clone()), 0_usize)];
        while let Some((path, node, attributes, depth)) = rest.pop() {
            if cancel.is_cancelled() {
                return Err(FilesError::Cancelled);
            }
            let attributes = match attributes {
                Ok(attributes) => attributes,
                Err(fault) => {
                    let error = FilesError::of_fault(&path, fault);
                    visitor(self, Visited::Failed { path: &path, error })?;
                    continue;
                }
            };
            visitor(self, Visited::Entry { path: &path, node, attributes: &attributes })?;
            if attributes.kind != Kind::Folder {
                continue;
            }
            let entries = if depth > DEPTH_MAX {
                Err(FilesError::of_fault(&path, Fault::unsupported("it lies too deep")))
            } else if entered.insert(node) {
                self.reader.list(&path, node)
            } else {
                let fault = Fault::damaged("the folder has two places, or is in itself");
                Err(FilesError::of_fault(&path, fault))
            };
            let mut entries = match entries {
                Ok(entries) => entries,
                Err(error) if self.reader.is_broken() => return Err(error),
                Err(error) => {
                    visitor(self, Visited::Failed { path: &path, error })?;
                    continue;
                }
            };
            entries.sort_by(|a, b| b.name.cmp(&a.name));
            for Entry { name, node, attributes } in entries {
                rest.push((child(&path, &name), node, attributes, depth.saturating_add(1)));
            }
        }
        Ok(())
    }

    /// The entries of a folder, by name.
    pub fn list(&mut self, folder: &Located) -> Result<Vec<Entry>, FilesError> {
        let mut entries = self.reader.list(&folder.path, folder.node)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

fn joined(trail: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut path = Vec::new();
    for (_, name) in trail {
        path.push(b'/');
        path.extend(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    path
}

/// The path of an entry of a folder.
pub(crate) fn child(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend(name);
    path
}
