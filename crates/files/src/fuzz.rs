//! What fuzzing calls: parsers of bytes from disks and from the process that reads.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use crate::{
    luks,
    probe::{Found, Reader, probe},
    source::{ReadAt, check_within, length},
    survey::{open, survey},
    tree::{Kind, Piece},
    wire::{Answer, Given, Hello, Request},
};

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn size(&self) -> u64 {
        length(&self.0)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size(), offset, length(buf))?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let part = self.0.get(start..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Partitions and file systems of a disk. Every volume that can be read lies within it.
pub fn disk(data: &[u8]) {
    let disk: Arc<dyn ReadAt> = Arc::new(Bytes(data.to_vec()));
    for it in survey(&[Arc::clone(&disk)]) {
        assert!(it.volume.refusal.is_some() || it.volume.offset.is_none_or(|at| at <= disk.size()));
    }
}

/// Where sectors of a disk have bytes; the others are zeros.
struct Sectors(HashMap<u64, Vec<u8>>);

impl ReadAt for Sectors {
    fn size(&self) -> u64 {
        4 << 20
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size(), offset, length(buf))?;
        let skip = usize::try_from(offset % 512).map_err(io::Error::other)?;
        let (first, rest) = buf.split_at_mut(buf.len().min((512 - skip) % 512));
        let start = offset / 512;
        let parts = [(start, skip, first)].into_iter().filter(|(_, _, part)| !part.is_empty());
        let rest = (start + u64::from(skip != 0)..).zip(rest.chunks_mut(512));
        for (sector, from, part) in parts.chain(rest.map(|(sector, part)| (sector, 0, part))) {
            part.fill(0);
            let there = self.0.get(&sector).and_then(|it| it.get(from..)).unwrap_or_default();
            part.iter_mut().zip(there).for_each(|(to, byte)| *to = *byte);
        }
        Ok(())
    }
}

/// All files of a file system, if it is one of those with readers of our own. The disk is given sector by sector:
/// two bytes say which, 512 follow.
pub fn tree(data: &[u8]) {
    let sectors = data.chunks(514).filter_map(|chunk| {
        let (number, bytes) = chunk.split_first_chunk::<2>()?;
        Some((u64::from(u16::from_le_bytes(*number)), bytes.to_vec()))
    });
    let disk: Arc<dyn ReadAt> = Arc::new(Sectors(sectors.collect()));
    let ours = |found: &Found| matches!(found.reader, Ok(Reader::Ntfs | Reader::Exfat));
    let Some(mut tree) = probe(&*disk).filter(ours).and_then(|_| open(disk).ok()) else { return };
    let (mut folders, mut seen) = (vec![tree.root()], HashSet::new());
    let mut buf = vec![0; 5000];
    while let Some(folder) = folders.pop().filter(|_| seen.len() < 300) {
        for entry in tree.list(folder).unwrap_or_default().into_iter().take(100) {
            drop((tree.target(entry.node), tree.xattrs(entry.node), tree.folded(&entry.name)));
            let Ok(attributes) = entry.attributes else { continue };
            if attributes.kind == Kind::Folder && seen.insert(entry.node) {
                folders.push(entry.node);
            }
            for offset in [0, 700, attributes.size / 2, attributes.size.saturating_sub(1)] {
                match tree.read(entry.node, offset, &mut buf) {
                    Ok(Piece::Data(len)) => assert!(len <= buf.len()),
                    Ok(Piece::Hole(len)) => assert!(offset + len <= attributes.size),
                    Err(_) => {}
                }
            }
        }
    }
}

/// Headers of encrypted volumes, the bytes as a disk and as a header whose sum is right.
pub fn encrypted(data: &[u8]) {
    drop(luks::found(&Bytes(data.to_vec())));
    luks::fuzz(data);
}

/// Messages of both sides.
pub fn messages(data: &[u8]) {
    drop(postcard::from_bytes::<Answer>(data));
    drop(postcard::from_bytes::<Request>(data));
    drop(postcard::from_bytes::<Hello>(data));
    drop(postcard::from_bytes::<Given>(data));
}
