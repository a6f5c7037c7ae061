//! The places of restored disks: folders, pools, room.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use strongroom_hypervisor::{Connection, Source};

use super::request::{MachineRestore, Storage};
use crate::{MachineError, error::Result};

/// The folder of one disk: as said of it, as said of all, or where it was.
pub(super) fn folder_of(
    connection: &Connection,
    request: &MachineRestore,
    disk: &str,
    was: &Source,
    machine: &str,
) -> Result<PathBuf> {
    let said = |name: Option<&str>| {
        request.storage.iter().find(|place| place.disk.as_deref() == name).map(|p| &p.storage)
    };
    let folder = match said(Some(disk)).or_else(|| said(None)) {
        Some(Storage::Folder(folder)) => absolute(folder)?,
        Some(Storage::Pool(pool)) => pool_folder(connection, pool, machine)?,
        None => match was {
            Source::File { path } => Path::new(path).parent().unwrap_or(Path::new("/")).to_owned(),
            other => {
                return Err(MachineError::Unsupported {
                    machine: machine.to_owned(),
                    reason: format!(
                        "disk {disk} was {other}, which is no file: say where it goes with \
                         --storage-dir or --pool"
                    ),
                });
            }
        },
    };
    check_folder(&folder)?;
    Ok(folder)
}

/// An absolute path, as libvirt wants it.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| local("find", path, source))
}

/// Only a folder that is there and that we may write to.
pub(super) fn check_folder(folder: &Path) -> Result<()> {
    let data = folder.metadata().map_err(|source| local("use the folder", folder, source))?;
    if !data.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(local("use the folder", folder, source));
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(folder, access).map_err(|error| local("write to", folder, error.into()))
}

pub(super) fn local(action: &'static str, path: &Path, source: std::io::Error) -> MachineError {
    MachineError::Local { action, path: path.display().to_string(), source }
}

/// The folder of a pool that is one.
fn pool_folder(connection: &Connection, name: &str, machine: &str) -> Result<PathBuf> {
    let lacks = |reason: String| MachineError::HostLacks {
        host: connection.uri().to_string(),
        machine: machine.to_owned(),
        reason,
    };
    let pools = connection.pools()?;
    let Some(pool) = pools.iter().find(|pool| pool.name == name) else {
        let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(lacks(format!("it has no storage pool {name}; it has {has}")));
    };
    let xml = connection.pool_xml(pool)?;
    let found = parse_pool(&xml);
    match found {
        Some((kind, Some(path))) if matches!(kind.as_str(), "dir" | "fs" | "netfs") => {
            Ok(PathBuf::from(path))
        }
        found => {
            let kind = found.map_or_else(|| "unknown".to_owned(), |(kind, _)| kind);
            Err(MachineError::Unsupported {
                machine: machine.to_owned(),
                reason: format!(
                    "storage pool {name} is of the kind {kind}; disks are restored to pools of \
                     files (dir, fs, netfs)"
                ),
            })
        }
    }
}

/// The kind and folder of a pool.
fn parse_pool(xml: &str) -> Option<(String, Option<String>)> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let root = document.root_element();
    let target = root.children().find(|node| node.has_tag_name("target"));
    let path = target.and_then(|target| target.children().find(|n| n.has_tag_name("path")));
    let path = path.and_then(|path| path.text()).map(|text| text.trim().to_owned());
    Some((root.attribute("type")?.to_owned(), path))
}

/// Checks that each folder has room for its bytes.
pub(super) fn check_room(needed: &[(PathBuf, u64)], machine: &str) -> Result<()> {
    let mut volumes: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    for (folder, bytes) in needed {
        let stat = rustix::fs::stat(folder)
            .map_err(|error| local("use the folder", folder, error.into()))?;
        let volume = volumes.entry(stat.st_dev).or_insert_with(|| (folder.clone(), 0));
        volume.1 = volume.1.saturating_add(*bytes);
    }
    for (folder, bytes) in volumes.values() {
        let stat = rustix::fs::statvfs(folder)
            .map_err(|error| local("ask for free space of", folder, error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < *bytes {
            return Err(MachineError::NoRoom {
                machine: machine.to_owned(),
                folder: folder.display().to_string(),
                needed: *bytes,
                free,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools() {
        let xml = "<pool type='dir'><name>x</name><target><path>/a b</path></target></pool>";
        assert_eq!(parse_pool(xml), Some(("dir".to_owned(), Some("/a b".to_owned()))));
        assert_eq!(parse_pool("<pool type='rbd'/>"), Some(("rbd".to_owned(), None)));
        assert_eq!(parse_pool("<"), None);
    }

    #[test]
    fn room() {
        let here = std::env::temp_dir();
        check_room(&[(here.clone(), 1), (here.clone(), 2)], "web").expect("room");
        let half = u64::MAX / 2;
        let error = check_room(&[(here.clone(), half), (here, half)], "web").expect_err("none");
        assert!(matches!(error, MachineError::NoRoom { .. }));
    }
}
