//! What a resynchronization asks and is answered, as bytes. Numbers are little-endian, those in keys big-endian.

use bytes::{Bytes, BytesMut};

use super::{
    Era, ServerId,
    tables::{KeyRange, Row, Table},
};
use crate::{
    numbers::{narrow, size, wide},
    pages::CELL,
};

/// The length of a digest.
pub(crate) const DIGEST: usize = 32;
/// Ranges that are compared by one question.
pub(crate) const RANGES: usize = 64;
/// Rows of a range whose digest is compared.
pub(crate) const ROWS: usize = 4096;
/// Bytes of rows in an answer.
pub(crate) const ANSWER: usize = 4 << 20;
/// Slots that one question asks for.
pub(crate) const SLOTS: usize = 64;

/// Why bytes are no question or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is damaged")]
pub(crate) struct BadMessage;

/// Cells of a slot, and the checksums that they must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedSlot {
    pub(crate) generation: u64,
    pub(crate) block: u32,
    pub(crate) slot: u64,
    pub(crate) cells: u16,
    /// Of the cells that are asked for, in order.
    pub(crate) checksums: Vec<u32>,
}

/// Cells of a version, by the key of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WantedDigest {
    pub(crate) key: (u64, u32, u32),
    pub(crate) cells: u16,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Which moment is it? Answer: [`Moment`].
    Begin,
    /// Which of these ranges have these digests? Answer: a byte for each, 1 if it has.
    Compare { table: Table, ranges: Vec<(KeyRange, [u8; DIGEST])> },
    /// Which rows are in a range? Answer: [`Rows`].
    Rows { table: Table, range: KeyRange },
    /// No more rows are asked for. Answer: nothing.
    EndRows,
    /// What is in these slots? Answer: [`Cells`] for each.
    Slots(Vec<WantedSlot>),
    /// Which records follow? Answer: [`Records`].
    Records { next: u64 },
    /// Which digests have these cells? Answer: [`Digests`] for each.
    Digests(Vec<WantedDigest>),
}

/// The moment of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) next_record: u64,
    pub(crate) stamp: u64,
    pub(crate) next_generation: u64,
    /// Rows of blocks.
    pub(crate) blocks: u64,
    /// Who decided the history up to there.
    pub(crate) eras: Vec<Era>,
}

/// Rows of a range, and where the rest of it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) next: Option<Vec<u8>>,
}

/// Some of the records from a number on, and where the primary stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Records {
    /// The number of the next record that the primary decides.
    pub(crate) end: u64,
    /// The bytes of a batch.
    pub(crate) batch: Bytes,
}

/// Cells that have their checksums, and their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cells {
    pub(crate) cells: u16,
    pub(crate) bytes: Bytes,
}

/// Which of the cells that were asked for are as the moment had them, and their digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) cells: u16,
    pub(crate) digest: [u8; DIGEST],
}

#[derive(Default)]
struct Out(BytesMut);

impl Out {
    fn u8(&mut self, number: u8) -> &mut Self {
        self.raw(&[number])
    }

    fn u16(&mut self, number: u16) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn count(&mut self, count: usize) -> &mut Self {
        self.u32(narrow(wide(count)))
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).raw(bytes)
    }

    fn maybe(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        match bytes {
            Some(bytes) => self.u8(1).bytes(bytes),
            None => self.u8(0),
        }
    }
}

struct In(Bytes);

impl In {
    fn take(&mut self, len: usize) -> Result<Bytes, BadMessage> {
        if len > self.0.len() {
            return Err(BadMessage);
        }
        Ok(self.0.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        self.take(N)?.as_ref().try_into().map_err(|_| BadMessage)
    }

    fn u8(&mut self) -> Result<u8, BadMessage> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, BadMessage> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadMessage> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadMessage> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of at least `least` bytes each, which must be there.
    fn count(&mut self, least: usize) -> Result<usize, BadMessage> {
        let count = size(u64::from(self.u32()?));
        if count.saturating_mul(least.max(1)) > self.0.len() {
            return Err(BadMessage);
        }
        Ok(count)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, BadMessage> {
        let len = self.count(1)?;
        self.take(len).map(|bytes| bytes.to_vec())
    }

    fn maybe(&mut self) -> Result<Option<Vec<u8>>, BadMessage> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.bytes().map(Some),
            _ => Err(BadMessage),
        }
    }

    fn end<T>(self, value: T) -> Result<T, BadMessage> {
        if self.0.is_empty() { Ok(value) } else { Err(BadMessage) }
    }
}

impl Question {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Out::default();
        match self {
            Self::Begin => drop(out.u8(1)),
            Self::Compare { table, ranges } => {
                out.u8(2).u8(table.number()).count(ranges.len());
                for (range, digest) in ranges {
                    out.bytes(&range.from).maybe(range.to.as_deref()).raw(digest);
                }
            }
            Self::Rows { table, range } => {
                out.u8(3).u8(table.number()).bytes(&range.from).maybe(range.to.as_deref());
            }
            Self::EndRows => drop(out.u8(4)),
            Self::Slots(slots) => {
                out.u8(5).count(slots.len());
                for one in slots {
                    out.u64(one.generation).u32(one.block).u64(one.slot).u16(one.cells);
                    for checksum in &one.checksums {
                        out.u32(*checksum);
                    }
                }
            }
            Self::Records { next } => drop(out.u8(6).u64(*next)),
            Self::Digests(wanted) => {
                out.u8(7).count(wanted.len());
                for WantedDigest { key: (generation, block, epoch), cells } in wanted {
                    out.u64(*generation).u32(*block).u32(*epoch).u16(*cells);
                }
            }
        }
        out.0.freeze()
    }

    /// Reads it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        let mut fields = In(Bytes::copy_from_slice(bytes));
        let question = match fields.u8()? {
            1 => Self::Begin,
            2 => {
                let table = Table::from_number(fields.u8()?)?;
                let count = fields.count(DIGEST)?;
                if count > RANGES {
                    return Err(BadMessage);
                }
                let range = |fields: &mut In| {
                    let range = KeyRange { from: fields.bytes()?, to: fields.maybe()? };
                    Ok((range, fields.array()?))
                };
                let ranges = (0..count).map(|_| range(&mut fields)).collect::<Result<_, _>>()?;
                Self::Compare { table, ranges }
            }
            3 => {
                let table = Table::from_number(fields.u8()?)?;
                let range = KeyRange { from: fields.bytes()?, to: fields.maybe()? };
                Self::Rows { table, range }
            }
            4 => Self::EndRows,
            5 => {
                let count = fields.count(22)?;
                if count > SLOTS {
                    return Err(BadMessage);
                }
                let slot = |fields: &mut In| {
                    let (generation, block, slot) = (fields.u64()?, fields.u32()?, fields.u64()?);
                    let cells = fields.u16()?;
                    let checksums =
                        (0..cells.count_ones()).map(|_| fields.u32()).collect::<Result<_, _>>()?;
                    Ok(WantedSlot { generation, block, slot, cells, checksums })
                };
                Self::Slots((0..count).map(|_| slot(&mut fields)).collect::<Result<_, _>>()?)
            }
            6 => Self::Records { next: fields.u64()? },
            7 => {
                let count = fields.count(18)?;
                if count > SLOTS {
                    return Err(BadMessage);
                }
                let wanted = |fields: &mut In| {
                    let key = (fields.u64()?, fields.u32()?, fields.u32()?);
                    Ok(WantedDigest { key, cells: fields.u16()? })
                };
                Self::Digests((0..count).map(|_| wanted(&mut fields)).collect::<Result<_, _>>()?)
            }
            _ => return Err(BadMessage),
        };
        fields.end(question)
    }
}

impl Moment {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Out::default();
        let Self { next_record, stamp, next_generation, blocks, eras } = self;
        out.u64(*next_record).u64(*stamp).u64(*next_generation).u64(*blocks).count(eras.len());
        for era in eras {
            out.u64(era.epoch).raw(&era.server.number().to_le_bytes()).u64(era.first);
        }
        out.0.freeze()
    }

    /// Reads it.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, BadMessage> {
        let mut fields = In(bytes);
        let (next_record, stamp) = (fields.u64()?, fields.u64()?);
        let (next_generation, blocks) = (fields.u64()?, fields.u64()?);
        let count = fields.count(32)?;
        let era = |fields: &mut In| {
            let epoch = fields.u64()?;
            let server = ServerId::from_number(u128::from_le_bytes(fields.array()?));
            Ok(Era { epoch, server, first: fields.u64()? })
        };
        let eras = (0..count).map(|_| era(&mut fields)).collect::<Result<_, _>>()?;
        fields.end(Self { next_record, stamp, next_generation, blocks, eras })
    }
}

impl Rows {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Out::default();
        out.count(self.rows.len());
        for row in &self.rows {
            out.bytes(&row.key).bytes(&row.value).u64(row.slot);
        }
        out.maybe(self.next.as_deref());
        out.0.freeze()
    }

    /// Reads it.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, BadMessage> {
        let mut fields = In(bytes);
        let count = fields.count(16)?;
        let row = |fields: &mut In| {
            Ok(Row { key: fields.bytes()?, value: fields.bytes()?, slot: fields.u64()? })
        };
        let rows = (0..count).map(|_| row(&mut fields)).collect::<Result<_, _>>()?;
        let next = fields.maybe()?;
        fields.end(Self { rows, next })
    }
}

impl Records {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Out::default();
        out.u64(self.end).raw(&self.batch);
        out.0.freeze()
    }

    /// Reads it.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, BadMessage> {
        let mut fields = In(bytes);
        let end = fields.u64()?;
        Ok(Self { end, batch: fields.0 })
    }
}

impl Cells {
    /// The bytes of several.
    pub(crate) fn encode_all(all: &[Self]) -> Bytes {
        let mut out = Out::default();
        for one in all {
            out.u16(one.cells).raw(&one.bytes);
        }
        out.0.freeze()
    }

    /// Reads `count`.
    pub(crate) fn decode_all(bytes: Bytes, count: usize) -> Result<Vec<Self>, BadMessage> {
        let mut fields = In(bytes);
        let one = |fields: &mut In| {
            let cells = fields.u16()?;
            let len = size(CELL).saturating_mul(size(u64::from(cells.count_ones())));
            Ok(Self { cells, bytes: fields.take(len)? })
        };
        let all = (0..count).map(|_| one(&mut fields)).collect::<Result<_, _>>()?;
        fields.end(all)
    }
}

impl Digests {
    /// The bytes of several.
    pub(crate) fn encode_all(all: &[Self]) -> Bytes {
        let mut out = Out::default();
        for one in all {
            out.u16(one.cells).raw(&one.digest);
        }
        out.0.freeze()
    }

    /// Reads `count`.
    pub(crate) fn decode_all(bytes: Bytes, count: usize) -> Result<Vec<Self>, BadMessage> {
        let mut fields = In(bytes);
        let one = |fields: &mut In| Ok(Self { cells: fields.u16()?, digest: fields.array()? });
        let all = (0..count).map(|_| one(&mut fields)).collect::<Result<_, _>>()?;
        fields.end(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn questions() -> Vec<Question> {
        let range = || KeyRange { from: vec![1, 2], to: Some(vec![3]) };
        let open = KeyRange { from: Vec::new(), to: None };
        let slot = WantedSlot { generation: 7, block: 3, slot: 9, cells: 5, checksums: vec![1, 2] };
        vec![
            Question::Begin,
            Question::Compare {
                table: Table::Blocks,
                ranges: vec![(range(), [7; DIGEST]), (open, [8; DIGEST])],
            },
            Question::Rows { table: Table::Names, range: range() },
            Question::EndRows,
            Question::Slots(vec![slot]),
            Question::Records { next: 9 },
            Question::Digests(vec![WantedDigest { key: (1, 2, 3), cells: 4 }]),
        ]
    }

    #[test]
    fn messages_are_what_they_were() {
        for question in questions() {
            let bytes = question.encode();
            assert_eq!(Question::decode(&bytes), Ok(question));
            for len in 0..bytes.len() {
                assert_eq!(Question::decode(&bytes[..len]), Err(BadMessage));
            }
        }
        let eras = vec![Era { epoch: 5, server: ServerId::from_number(6), first: 7 }];
        let moment = Moment { next_record: 1, stamp: 2, next_generation: 3, blocks: 4, eras };
        assert_eq!(Moment::decode(moment.encode()), Ok(moment));
        let row = Row { key: vec![1], value: vec![2, 3], slot: 4 };
        let rows = Rows { rows: vec![row], next: Some(vec![9]) };
        assert_eq!(Rows::decode(rows.encode()), Ok(rows));
        let records = Records { end: 7, batch: Bytes::from_static(b"batch") };
        assert_eq!(Records::decode(records.encode()), Ok(records));
        let cells = vec![Cells { cells: 0b11, bytes: Bytes::from(vec![7; 8192]) }];
        assert_eq!(Cells::decode_all(Cells::encode_all(&cells), 1), Ok(cells));
        let digests = vec![Digests { cells: 5, digest: [6; DIGEST] }];
        assert_eq!(Digests::decode_all(Digests::encode_all(&digests), 1), Ok(digests));
    }

    proptest! {
        #[test]
        fn no_bytes_of_another_server_end_this_one(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _read = Question::decode(&bytes);
            let bytes = Bytes::from(bytes);
            let _read = Moment::decode(bytes.clone());
            let _read = Rows::decode(bytes.clone());
            let _read = Records::decode(bytes.clone());
            let _read = Cells::decode_all(bytes.clone(), 3);
            let _read = Digests::decode_all(bytes.clone(), 3);
            let _read = crate::replication::ship::Batch::decode(&bytes);
        }
    }
}
