//! What the journal says: records of operations on rows, epochs and pages.
//!
//! A record holds everything that was decided by chance or time, so that the same records make the same state. It
//! knows no rules: those were checked before it was made. `docs/understand/blob-format.md` has the bytes.

use bytes::Bytes;

use crate::{numbers::wide, pages::CELL};

/// One change, as operations that are applied together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// When it was made: 100 ns ticks since 1970, made unique; later records have a greater one.
    pub(crate) stamp: u64,
    /// What it does, in order. Only the last one may be a write.
    pub(crate) ops: Vec<Op>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A row of the table of names has this value now.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// A row of the table of names is gone.
    Remove { key: Vec<u8> },
    /// A generation begins: no pages, epoch 0.
    Begin { generation: u64 },
    /// What a generation's present says of itself.
    Mark { generation: u64, mark: Mark },
    /// A snapshot ends the present epoch, and the next begins.
    Seal { generation: u64 },
    /// An epoch has no reader any more; tasks merge it into the next one.
    End { generation: u64, epoch: u32 },
    /// The first `limit` rows of an ended epoch move to the next one; if there were fewer, the epoch is no more.
    Merge { generation: u64, epoch: u32, limit: u32 },
    /// Pages have no content any more.
    Clear { generation: u64, offset: u64, len: u64 },
    /// All rows of the table of names from `from` to before `end` are gone.
    RemoveRange { from: Vec<u8>, end: Vec<u8> },
    /// Pages have this content: `data` begins and ends at the borders of cells around `offset` and `len`.
    Write { generation: u64, offset: u64, len: u64, data: Bytes },
}

/// The part of a blob that each write changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes.
    pub(crate) size: u64,
    /// The number that the `ETag` is made of.
    pub(crate) etag: u64,
    /// Seconds since 1970.
    pub(crate) modified: u64,
    /// The sequence number.
    pub(crate) sequence: u64,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// It ends within an operation.
    #[error("the record ends within an operation")]
    Short,
    /// It has an operation that this version does not know.
    #[error("the record has an unknown operation {0}")]
    Operation(u8),
    /// Bytes follow its last operation.
    #[error("bytes follow the record's last operation")]
    Long,
}

/// The range of whole cells around a range.
pub(crate) fn cells_around(offset: u64, len: u64) -> (u64, u64) {
    let start = offset / CELL * CELL;
    (start, offset.saturating_add(len).div_ceil(CELL).saturating_mul(CELL))
}

impl Record {
    /// Its bytes: a head, and the data of the write that ends it.
    pub(crate) fn encode(&self) -> (Vec<u8>, Bytes) {
        let mut head = Vec::with_capacity(64);
        let mut tail = Bytes::new();
        head.extend(self.stamp.to_le_bytes());
        head.extend(crate::numbers::narrow(wide(self.ops.len())).to_le_bytes());
        for op in &self.ops {
            op.encode(&mut head);
            if let Op::Write { data, .. } = op {
                tail = data.clone();
            }
        }
        (head, tail)
    }

    /// Whether it brings content.
    pub(crate) fn has_data(&self) -> bool {
        matches!(self.ops.last(), Some(Op::Write { .. }))
    }

    /// Reads a record.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, BadRecord> {
        let mut fields = Fields(bytes.clone());
        let stamp = fields.u64()?;
        let count = fields.u32()?;
        let ops = (0..count).map(|_| Op::decode(&mut fields)).collect::<Result<_, _>>()?;
        if fields.0.is_empty() { Ok(Self { stamp, ops }) } else { Err(BadRecord::Long) }
    }
}

impl Op {
    fn encode(&self, out: &mut Vec<u8>) {
        let numbers = |out: &mut Vec<u8>, tag: u8, numbers: &[u64]| {
            out.push(tag);
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        };
        match self {
            Self::Put { key, value } => {
                out.push(1);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Self::Remove { key } => {
                out.push(2);
                put_bytes(out, key);
            }
            Self::Begin { generation } => numbers(out, 3, &[*generation]),
            Self::Mark { generation, mark } => {
                let Mark { size, etag, modified, sequence } = *mark;
                numbers(out, 4, &[*generation, size, etag, modified, sequence]);
            }
            Self::Seal { generation } => numbers(out, 5, &[*generation]),
            Self::End { generation, epoch } => {
                numbers(out, 6, &[*generation, u64::from(*epoch)]);
            }
            Self::Merge { generation, epoch, limit } => {
                numbers(out, 7, &[*generation, u64::from(*epoch), u64::from(*limit)]);
            }
            Self::Clear { generation, offset, len } => {
                numbers(out, 8, &[*generation, *offset, *len]);
            }
            Self::RemoveRange { from, end } => {
                out.push(10);
                put_bytes(out, from);
                put_bytes(out, end);
            }
            Self::Write { generation, offset, len, .. } => {
                numbers(out, 9, &[*generation, *offset, *len]);
            }
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, BadRecord> {
        Ok(match fields.u8()? {
            1 => Self::Put { key: fields.bytes()?, value: fields.bytes()? },
            2 => Self::Remove { key: fields.bytes()? },
            3 => Self::Begin { generation: fields.u64()? },
            4 => Self::Mark {
                generation: fields.u64()?,
                mark: Mark {
                    size: fields.u64()?,
                    etag: fields.u64()?,
                    modified: fields.u64()?,
                    sequence: fields.u64()?,
                },
            },
            5 => Self::Seal { generation: fields.u64()? },
            6 => Self::End { generation: fields.u64()?, epoch: fields.small()? },
            7 => Self::Merge {
                generation: fields.u64()?,
                epoch: fields.small()?,
                limit: fields.small()?,
            },
            8 => {
                Self::Clear { generation: fields.u64()?, offset: fields.u64()?, len: fields.u64()? }
            }
            9 => {
                let (generation, offset, len) = (fields.u64()?, fields.u64()?, fields.u64()?);
                let (start, end) = cells_around(offset, len);
                let data = fields.take(end.saturating_sub(start))?;
                Self::Write { generation, offset, len, data }
            }
            10 => Self::RemoveRange { from: fields.bytes()?, end: fields.bytes()? },
            unknown => return Err(BadRecord::Operation(unknown)),
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(crate::numbers::narrow(wide(bytes.len())).to_le_bytes());
    out.extend(bytes);
}

/// What is left of a record.
struct Fields(Bytes);

impl Fields {
    fn take(&mut self, len: u64) -> Result<Bytes, BadRecord> {
        if wide(self.0.len()) < len {
            return Err(BadRecord::Short);
        }
        Ok(self.0.split_to(crate::numbers::size(len)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let bytes = self.take(wide(N))?;
        bytes.as_ref().try_into().map_err(|_| BadRecord::Short)
    }

    fn u8(&mut self) -> Result<u8, BadRecord> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadRecord> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadRecord> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number that is written in eight bytes and needs four.
    fn small(&mut self) -> Result<u32, BadRecord> {
        self.u64().and_then(|number| u32::try_from(number).map_err(|_| BadRecord::Short))
    }

    fn bytes(&mut self) -> Result<Vec<u8>, BadRecord> {
        let len = self.u32()?;
        self.take(u64::from(len)).map(|bytes| bytes.to_vec())
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
