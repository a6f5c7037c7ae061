//! Looking up many digests at once.

use std::{cmp::Ordering, io};

use strongroom_base::Digest;

use super::{PAGE_LEN, RECORD_LEN, RECORDS_A_PAGE, RawRecord, Segment, as_records};

/// Looks up digests in ascending order: each page is read once, whatever the number of digests that
/// are on it.
pub(crate) struct Ascending<'a> {
    segment: &'a Segment,
    /// The first page that can hold the last digest asked for.
    page: usize,
    /// The page in the buffer, and how many of its records are below that digest.
    read: Option<usize>,
    at: usize,
    /// How many records it has.
    len: usize,
    buffer: Box<[u8; PAGE_LEN]>,
}

impl<'a> Ascending<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        let buffer = Box::new([0; PAGE_LEN]);
        Self { segment, page: 0, read: None, at: 0, len: 0, buffer }
    }

    /// As [`Segment::find`]; no digest may be below the one before it.
    pub(crate) fn find(
        &mut self,
        digest: &Digest,
        found: &mut Vec<(u64, RawRecord)>,
    ) -> io::Result<()> {
        let (prefix, fences) = (digest.prefix(), &self.segment.fences);
        while fences.get(self.page.saturating_add(1)).is_some_and(|fence| *fence < prefix) {
            self.page = self.page.saturating_add(1);
        }
        let mut page = self.page;
        while fences.get(page).is_some_and(|fence| *fence <= prefix) {
            if self.read != Some(page) {
                self.read = None;
                self.len = self.segment.read_page(page, &mut self.buffer[..])?.len();
                (self.read, self.at) = (Some(page), 0);
            }
            let bytes = self.len.saturating_mul(RECORD_LEN);
            let records = as_records(self.buffer.get(..bytes).unwrap_or_default())?;
            let rest = records.get(self.at..).unwrap_or_default();
            // Nearly all differ in their first bytes, which are compared faster.
            let below = |record: &&RawRecord| match record.digest().prefix().cmp(&prefix) {
                Ordering::Less => true,
                Ordering::Equal => record.digest < *digest.as_bytes(),
                Ordering::Greater => false,
            };
            let below = rest.iter().take_while(below).count();
            self.at = self.at.saturating_add(below);
            let first = page.saturating_mul(RECORDS_A_PAGE).saturating_add(self.at);
            for (number, record) in (first..).zip(rest.get(below..).unwrap_or_default()) {
                if record.digest().prefix() != prefix || record.digest != *digest.as_bytes() {
                    return Ok(());
                }
                found.push((u64::try_from(number).unwrap_or(u64::MAX), *record));
            }
            page = page.saturating_add(1);
        }
        Ok(())
    }
}
