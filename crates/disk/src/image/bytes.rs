//! Looking at parts of a file whose content nobody vouches for.

use strongroom_base::ByteRange;

use crate::{num::to_u64, raw::RawFile};

/// What is wrong with an image, in words.
pub(super) type Wrong = String;

/// Something that bytes can be cut out of.
pub(super) trait Bytes {
    /// How many there are.
    fn len(&self) -> u64;

    /// `len` bytes from `offset`. It is an error if they are not all there. Nobody asks for more
    /// than a few MiB.
    fn cut(&self, offset: u64, len: usize) -> Result<Vec<u8>, Wrong>;
}

impl Bytes for RawFile {
    fn len(&self) -> u64 {
        self.len()
    }

    fn cut(&self, offset: u64, len: usize) -> Result<Vec<u8>, Wrong> {
        check(self.len(), offset, len)?;
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

/// A part of a file.
pub(super) struct Window<'a> {
    pub(super) file: &'a RawFile,
    pub(super) range: ByteRange,
}

impl Bytes for Window<'_> {
    fn len(&self) -> u64 {
        self.range.end().min(self.file.len()).saturating_sub(self.range.offset())
    }

    fn cut(&self, offset: u64, len: usize) -> Result<Vec<u8>, Wrong> {
        check(Bytes::len(self), offset, len)?;
        self.file.cut(self.range.offset().saturating_add(offset), len)
    }
}

impl Bytes for &[u8] {
    fn len(&self) -> u64 {
        to_u64(<[u8]>::len(self))
    }

    fn cut(&self, offset: u64, len: usize) -> Result<Vec<u8>, Wrong> {
        check(Bytes::len(self), offset, len)?;
        let part = self.get(crate::num::to_usize(offset)..).and_then(|rest| rest.get(..len));
        Ok(part.unwrap_or_default().to_vec())
    }
}

fn check(have: u64, offset: u64, len: usize) -> Result<(), Wrong> {
    match offset.checked_add(to_u64(len)) {
        Some(end) if end <= have => Ok(()),
        _ => Err(format!("it ends before the {len} bytes at offset {offset}")),
    }
}

/// A file that an image refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// The name as it stands in the image.
    pub(super) name: String,
    /// What the image says about its format.
    pub(super) format: Option<String>,
}

/// What a parser has found in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes of the disk; none if only QEMU can tell.
    pub(super) size: Option<u64>,
    /// Whether its content is encrypted, so that only who has its key can read it.
    pub(super) is_encrypted: bool,
    /// The image below this one.
    pub(super) backing: Option<Reference>,
    /// The file that holds a qcow2 image's data.
    pub(super) data_file: Option<Reference>,
    /// The files that hold a VMDK's data.
    pub(super) extents: Vec<Reference>,
}

/// Fixed-size numbers out of bytes; a place beyond their end reads as zero.
pub(super) mod number {
    fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
        part.copied().unwrap_or([0; N])
    }

    pub(in crate::image) fn be32(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(array(bytes, at))
    }

    pub(in crate::image) fn be64(bytes: &[u8], at: usize) -> u64 {
        u64::from_be_bytes(array(bytes, at))
    }

    pub(in crate::image) fn le16(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(array(bytes, at))
    }

    pub(in crate::image) fn le32(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(array(bytes, at))
    }

    pub(in crate::image) fn le64(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(array(bytes, at))
    }
}

/// A size that a disk can have.
pub(super) fn check_size(size: u64) -> Result<u64, Wrong> {
    if size > strongroom_base::MAX_DISK_SIZE {
        return Err(format!("it claims a size of {size} bytes"));
    }
    Ok(size)
}

/// Whether a table lies within the file.
pub(super) fn check_table(
    what: &str,
    offset: u64,
    len: u64,
    most: u64,
    have: u64,
) -> Result<(), Wrong> {
    let ends = offset.checked_add(len).is_some_and(|end| end <= have);
    if len > most || !ends {
        return Err(format!("its {what} of {len} bytes at offset {offset} is absurd or cut off"));
    }
    Ok(())
}
