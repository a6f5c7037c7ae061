//! Shipping: records from the journal of the primary, as batches of bytes.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use crc32c::crc32c;

use super::{Era, Position, ServerId, StoreId, role::has_history};
use crate::{
    copies::hub::Hub,
    engine::Shared,
    journal::{JournalDamage, Tail},
    numbers::{narrow, size, wide},
    record::Record,
    refusal::Refusal,
    store::StoreError,
};

/// What a batch begins with.
const MAGIC: [u8; 8] = *b"SRBATCH1";
/// The length of what is before the eras: magic, store, first number, counts of eras and of records.
const HEAD: usize = 8 + 16 + 8 + 4 + 4;
/// The length of an era.
const ERA: usize = 8 + 16 + 8;
/// The length of the checksum at the end.
const SUM: usize = 4;

/// Why records cannot be shipped.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The journal does not have the records behind this position any more, or the position is not in this store's
    /// history.
    #[error("the journal does not continue at this position")]
    TooFarBehind,
    /// The position is behind the end of this store: it has lost records, or the other server has another history.
    #[error("the other server has records that this one lacks")]
    Ahead,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch is damaged")]
pub struct BadBatch;

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The bytes are not a batch.
    #[error(transparent)]
    Bad(#[from] BadBatch),
    /// This server is not a secondary, or it is resynchronized at the moment.
    #[error("this server does not take records")]
    NotSecondary,
    /// The batch does not begin where this store stands, is of another store, or changes what this one does not have.
    #[error("the batch does not fit this store")]
    Position,
    /// It cannot be applied: the disk has no room for it, or a block is damaged here and must be fetched again.
    #[error(transparent)]
    Refused(Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
}

/// Records that came as bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) store: StoreId,
    /// The number of the first record.
    pub(crate) first: u64,
    /// The history of the store.
    pub(crate) eras: Vec<Era>,
    pub(crate) records: Vec<Record>,
}

impl Batch {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD);
        out.put_slice(&MAGIC);
        out.put_slice(&self.store.0);
        out.put_u64_le(self.first);
        out.put_u32_le(narrow(wide(self.eras.len())));
        out.put_u32_le(narrow(wide(self.records.len())));
        for era in &self.eras {
            out.put_u64_le(era.epoch);
            out.put_u128_le(era.server.number());
            out.put_u64_le(era.first);
        }
        for record in &self.records {
            let (head, data) = record.encode();
            out.put_u32_le(narrow(wide(head.len().saturating_add(data.len()))));
            out.put_slice(&head);
            out.put_slice(&data);
        }
        let sum = crc32c(&out);
        out.put_u32_le(sum);
        out.freeze()
    }

    /// Reads it.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, BadBatch> {
        let end = bytes.len().checked_sub(SUM).filter(|end| *end >= HEAD).ok_or(BadBatch)?;
        let sum = bytes.get(end..).and_then(|sum| sum.try_into().ok()).map(u32::from_le_bytes);
        let mut rest = bytes.slice(..end);
        if sum != Some(crc32c(&rest)) || rest.split_to(8) != MAGIC.as_slice() {
            return Err(BadBatch);
        }
        let store = rest.split_to(16).as_ref().try_into().map_err(|_| BadBatch)?;
        let first = take_u64(&mut rest)?;
        let eras = size(u64::from(take_u32(&mut rest)?));
        let count = take_u32(&mut rest)?;
        if eras.saturating_mul(ERA) > rest.len() {
            return Err(BadBatch);
        }
        let era = |rest: &mut Bytes| {
            let epoch = take_u64(rest)?;
            let server = rest.split_to(16).as_ref().try_into().map_err(|_| BadBatch)?;
            let server = ServerId::from_number(u128::from_le_bytes(server));
            Ok(Era { epoch, server, first: take_u64(rest)? })
        };
        let eras = (0..eras).map(|_| era(&mut rest)).collect::<Result<_, _>>()?;
        let mut records = Vec::new();
        for _ in 0..count {
            let len = size(u64::from(take_u32(&mut rest)?));
            if len > rest.len() {
                return Err(BadBatch);
            }
            records.push(Record::decode(&rest.split_to(len)).map_err(|_| BadBatch)?);
        }
        if !rest.is_empty() || first == 0 {
            return Err(BadBatch);
        }
        Ok(Self { store: StoreId(store), first, eras, records })
    }
}

fn take_u64(rest: &mut Bytes) -> Result<u64, BadBatch> {
    if rest.len() < 8 {
        return Err(BadBatch);
    }
    rest.split_to(8).as_ref().try_into().map(u64::from_le_bytes).map_err(|_| BadBatch)
}

fn take_u32(rest: &mut Bytes) -> Result<u32, BadBatch> {
    if rest.len() < 4 {
        return Err(BadBatch);
    }
    rest.split_to(4).as_ref().try_into().map(u32::from_le_bytes).map_err(|_| BadBatch)
}

/// Reads records from the journal, one batch after another.
pub struct Shipper {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    store: StoreId,
    tail: Tail,
    /// Where the next batch begins.
    position: Position,
}

impl Shipper {
    /// Begins behind a position of the other server.
    pub(crate) fn new(hub: &Arc<Hub>, store: StoreId, from: Position) -> Result<Self, ShipError> {
        let end = hub.position();
        if from.next_record > end.next_record {
            return Err(ShipError::Ahead);
        }
        if !has_history(&hub.eras(), &from) {
            return Err(ShipError::TooFarBehind);
        }
        let shared = hub.leading().ok_or(StoreError::Ended)?;
        let before = from.next_record.saturating_sub(1);
        let tail_at = |number| Tail::new(&shared.journal(), store.0, number);
        let mut tail = tail_at(from.next_record);
        let stamp = if from.next_record == end.next_record {
            Some(end.stamp)
        } else {
            let mut with_last = tail_at(before.max(1));
            match with_last.read(from.next_record, 1) {
                Ok(records) => {
                    tail = with_last;
                    records.last().map(|record| record.stamp)
                }
                Err(JournalDamage::Missing { .. }) => {
                    // The eras say that the history is the same; the journal must begin here.
                    tail_at(from.next_record).read(end.next_record, 1)?;
                    None
                }
                Err(damage) => return Err(damage.into()),
            }
        };
        if stamp.is_some_and(|stamp| stamp != from.stamp) {
            return Err(ShipError::TooFarBehind);
        }
        hub.want(Some(before));
        Ok(Self { hub: Arc::clone(hub), shared, store, tail, position: from })
    }

    /// Where the next batch begins.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The other server has made everything durable that is before this record: the journal may forget it.
    pub fn release(&self, next_record: u64) {
        self.hub.want(Some(next_record.saturating_sub(1)));
    }

    /// The next records that are durable, at most about `most` bytes of them; without a record if there are none.
    pub fn next(&mut self, most: usize) -> Result<Bytes, ShipError> {
        if self.hub.leading().is_none_or(|lead| lead.id != self.shared.id) {
            return Err(StoreError::Ended.into());
        }
        let first = self.position.next_record;
        let end = self.hub.position().next_record;
        let records = self.tail.read(end, most)?;
        if let Some(record) = records.last() {
            let next_record = self.tail.next();
            self.position = Position { next_record, stamp: record.stamp, era: self.position.era };
        }
        let eras = self.hub.eras();
        self.position.era = eras.last().map(|era| (era.epoch, era.server));
        Ok(Batch { store: self.store, first, eras, records }.encode())
    }
}

impl From<JournalDamage> for ShipError {
    fn from(damage: JournalDamage) -> Self {
        match damage {
            JournalDamage::Missing { .. } | JournalDamage::Ends { .. } => Self::TooFarBehind,
            other => Self::Store(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Op;

    fn batch() -> Batch {
        let put = Op::Put { key: b"key".to_vec(), value: b"value".to_vec() };
        let data = Bytes::from(vec![7; 4096]);
        let write = Op::Write { generation: 3, offset: 512, len: 512, data };
        let records =
            vec![Record { stamp: 5, ops: vec![put] }, Record { stamp: 6, ops: vec![write] }];
        let server = ServerId::from_number(5);
        let eras = vec![Era { epoch: 2, server, first: 7 }];
        Batch { store: StoreId([9; 16]), first: 41, eras, records }
    }

    #[test]
    fn a_batch_is_what_it_was_and_damage_is_found() {
        let bytes = batch().encode();
        assert_eq!(Batch::decode(&bytes), Ok(batch()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert_eq!(Batch::decode(&damaged.into()), Err(BadBatch), "byte {at}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Batch::decode(&bytes.slice(..len)), Err(BadBatch));
        }
    }

    #[test]
    fn what_is_shipped_may_be_on_any_thread() {
        fn is_send<T: Send>() {}
        is_send::<Shipper>();
        is_send::<crate::replication::ResyncSource>();
    }

    #[test]
    fn the_bytes_of_a_batch_are_as_documented() {
        let bytes = batch().encode();
        let golden =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/batch-v1.bin");
        if std::env::var_os("STRONGROOM_BLESS").is_some() {
            std::fs::write(&golden, &bytes).expect("writes");
        }
        assert!(std::fs::read(&golden).expect("the golden file") == bytes);
    }
}
