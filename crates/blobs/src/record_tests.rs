//! Records keep what they say, and any bytes are read without harm.

use proptest::{collection::vec, prelude::*};

use super::*;

fn joined(record: &Record) -> Bytes {
    let (mut head, tail) = record.encode();
    head.extend(tail);
    Bytes::from(head)
}

fn any_op() -> impl Strategy<Value = Op> {
    let bytes = || vec(any::<u8>(), 0..20);
    let mark = any::<[u64; 4]>().prop_map(|[size, etag, modified, sequence]| Mark {
        size,
        etag,
        modified,
        sequence,
    });
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| Op::Put { key, value }),
        bytes().prop_map(|key| Op::Remove { key }),
        (bytes(), bytes()).prop_map(|(from, end)| Op::RemoveRange { from, end }),
        any::<u64>().prop_map(|generation| Op::Begin { generation }),
        (any::<u64>(), mark).prop_map(|(generation, mark)| Op::Mark { generation, mark }),
        any::<u64>().prop_map(|generation| Op::Seal { generation }),
        any::<(u64, u32)>().prop_map(|(generation, epoch)| Op::End { generation, epoch }),
        any::<(u64, [u32; 2])>().prop_map(|(generation, [epoch, limit])| Op::Merge {
            generation,
            epoch,
            limit
        }),
        any::<[u64; 3]>().prop_map(|[generation, offset, len]| Op::Clear {
            generation,
            offset,
            len
        }),
    ]
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(
        stamp: u64, mut ops in vec(any_op(), 0..5), pages in 0_u64..40, at in 0_u64..1000,
    ) {
        if pages > 0 {
            let (offset, len) = (at * 512, pages * 512);
            let (start, end) = cells_around(offset, len);
            let data = Bytes::from(vec![7; crate::numbers::size(end - start)]);
            ops.push(Op::Write { generation: 3, offset, len, data });
        }
        let record = Record { stamp, ops };
        prop_assert_eq!(Record::decode(&joined(&record)), Ok(record));
    }

    #[test]
    fn any_bytes_are_a_record_or_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(joined(&record), bytes);
        }
    }
}

#[test]
fn a_record_without_its_end_is_refused() {
    let record = Record { stamp: 1, ops: vec![Op::Clear { generation: 1, offset: 0, len: 512 }] };
    let whole = joined(&record);
    for len in 0..whole.len() {
        assert_eq!(Record::decode(&whole.slice(..len)), Err(BadRecord::Short), "{len}");
    }
    let mut longer = whole.to_vec();
    longer.push(0);
    assert_eq!(Record::decode(&Bytes::from(longer)), Err(BadRecord::Long));
}
