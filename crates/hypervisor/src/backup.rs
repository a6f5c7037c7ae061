//! Backup jobs and checkpoints of running machines.
//!
//! Source: libvirt's `docs/kbase/internals/incremental-backup.rst`, `formatbackup.rst` and
//! `formatcheckpoint.rst`. A job fixes the content of the chosen disks at one instant and serves it
//! over NBD until it ends; a checkpoint begins, at the same instant, a bitmap of later changes.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Connection, Domain,
    connection::{arguments, domain, named},
    error::{Result, number},
    rpc::{Decoder, Malformed, Procedure, xdr},
};

/// Beginning a job creates scratch files and may wait for the guest's writes to end.
const BEGIN: Duration = Duration::from_mins(2);

/// How often, and how soon, a list is asked for again that has something in it that is not whole.
const AGAIN: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// The work that libvirt does on a machine (`virDomainJobOperation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Nothing.
    None,
    /// A backup, ours or another's.
    Backup,
    /// A migration to or from another host.
    Migration,
    /// A snapshot, a dump or saving of memory.
    Other,
}

/// What libvirt says of the work on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What work.
    pub kind: JobKind,
    /// Bytes of scratch space in use, of a backup.
    pub scratch_used: u64,
}

/// A running block job on one disk: a commit, pull, copy or mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockJob {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Who makes the scratch images of a backup job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScratchImages {
    /// libvirt and QEMU do, while the job begins.
    Made,
    /// They are there, empty and as large as their disks: the job begins sooner.
    AreThere,
}

impl Connection {
    /// Begins a backup job, and a checkpoint if its XML is given, in one instant. `scratch` says who
    /// makes the job's scratch images.
    pub fn begin_backup(
        &self,
        of: &Domain,
        backup: &str,
        checkpoint: Option<&str>,
        scratch: ScratchImages,
    ) -> Result<()> {
        // VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
        let flags = u32::from(scratch == ScratchImages::AreThere);
        let arguments = arguments(of).string(backup).optional_string(checkpoint).u32(flags);
        let procedure = Procedure::DomainBackupBegin;
        self.call_within(BEGIN, "starting the backup job", procedure, arguments, |_| Ok(()))
    }

    /// The description of the running backup job, if there is one.
    pub fn backup_xml(&self, of: &Domain) -> Result<Option<String>> {
        let procedure = Procedure::DomainBackupGetXmlDesc;
        match self.call("asking for backup jobs", procedure, arguments(of).u32(0), xdr::text) {
            // A machine that is off has none either.
            Err(error)
                if error.is_missing() || error.number() == Some(number::OPERATION_INVALID) =>
            {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// What libvirt is doing with a machine.
    pub fn job(&self, of: &Domain) -> Result<Job> {
        let arguments = arguments(of).u32(0);
        let procedure = Procedure::DomainGetJobStats;
        let (kind, values) = match self.call("asking for jobs", procedure, arguments, job_stats) {
            // A machine that is off has none.
            Err(error) if error.number() == Some(number::OPERATION_INVALID) => (0, Vec::new()),
            other => other?,
        };
        let values: BTreeMap<String, u64> =
            values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let kind = match (kind, values.get("operation")) {
            (0, _) => JobKind::None,
            (_, Some(9)) => JobKind::Backup,
            (_, Some(4 | 5)) => JobKind::Migration,
            _ => JobKind::Other,
        };
        let scratch_used = values.get("disk_temp_used").copied().unwrap_or(0);
        Ok(Job { kind, scratch_used })
    }

    /// Ends the job that runs on a machine. For a backup job that serves its data this is the
    /// normal end. Only for jobs that are known to be ours.
    pub fn end_job(&self, of: &Domain) -> Result<()> {
        let procedure = Procedure::DomainAbortJob;
        match self.call("ending the backup job", procedure, arguments(of), |_| Ok(())) {
            // There is none (any more).
            Err(error) if error.number() == Some(number::OPERATION_INVALID) => Ok(()),
            other => other,
        }
    }

    /// Names of a machine's checkpoints, parents before children.
    pub fn checkpoints(&self, of: &Domain) -> Result<Vec<String>> {
        const TOPOLOGICAL: u32 = 2;
        let read = |answer: &mut Decoder<'_>| {
            answer.list(|item| {
                let name = item.string()?;
                domain(item)?;
                Ok(name)
            })
        };
        let ask = || {
            let arguments = arguments(of).i32(1).u32(TOPOLOGICAL);
            let procedure = Procedure::DomainListAllCheckpoints;
            self.call("listing checkpoints", procedure, arguments, read)
        };
        // libvirt 9 fails if a checkpoint is being made or deleted at this moment.
        for _ in 0..AGAIN {
            match ask() {
                Err(error) if error.is_half_made() => self.clock().sleep(PAUSE),
                other => return other,
            }
        }
        ask()
    }

    /// A checkpoint's description, whole: it can be made known again from it.
    pub fn checkpoint_xml(&self, of: &Domain, checkpoint: &str) -> Result<String> {
        const SECURE: u32 = 1;
        let arguments = named(checkpoint, of).u32(SECURE);
        let procedure = Procedure::DomainCheckpointGetXmlDesc;
        self.call("reading a checkpoint's description", procedure, arguments, xdr::text)
    }

    /// Makes a checkpoint known again whose bitmaps exist. If the machine runs, libvirt checks
    /// that they do.
    pub fn redefine_checkpoint(&self, of: &Domain, xml: &str, validate: bool) -> Result<()> {
        const REDEFINE: u32 = 1;
        const VALIDATE: u32 = 4;
        let flags = if validate { REDEFINE | VALIDATE } else { REDEFINE };
        let arguments = arguments(of).string(xml).u32(flags);
        let procedure = Procedure::DomainCheckpointCreateXml;
        self.call("making a checkpoint known again", procedure, arguments, |_| Ok(()))
    }

    /// Deletes a checkpoint; what its bitmap recorded goes to its parent's. With `metadata_only`
    /// libvirt only forgets it.
    pub fn delete_checkpoint(
        &self,
        of: &Domain,
        checkpoint: &str,
        metadata_only: bool,
    ) -> Result<()> {
        const METADATA_ONLY: u32 = 2;
        let flags = if metadata_only { METADATA_ONLY } else { 0 };
        let arguments = named(checkpoint, of).u32(flags);
        let procedure = Procedure::DomainCheckpointDelete;
        self.call("deleting a checkpoint", procedure, arguments, |_| Ok(()))
    }

    /// The block job on a disk (by target, such as `vda`), if there is one.
    pub fn block_job(&self, of: &Domain, target: &str) -> Result<Option<BlockJob>> {
        let read = |answer: &mut Decoder<'_>| {
            let (found, _kind) = (answer.i32()?, answer.i32()?);
            let (_bandwidth, done, total) = (answer.u64()?, answer.u64()?, answer.u64()?);
            Ok((found != 0).then_some(BlockJob { done, total }))
        };
        let arguments = arguments(of).string(target).u32(0);
        self.call("asking for block jobs", Procedure::DomainGetBlockJobInfo, arguments, read)
    }

    /// Capacity, allocated bytes and the size of the file of a disk (by target).
    pub fn block_sizes(&self, of: &Domain, target: &str) -> Result<BlockSizes> {
        let read = |answer: &mut Decoder<'_>| {
            let (allocated, capacity, file) = (answer.u64()?, answer.u64()?, answer.u64()?);
            Ok(BlockSizes { capacity, allocated, file })
        };
        let arguments = arguments(of).string(target).u32(0);
        self.call("asking for disks' sizes", Procedure::DomainGetBlockInfo, arguments, read)
    }
}

/// Sizes of a disk, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// What the guest sees.
    pub capacity: u64,
    /// What is taken on the host.
    pub allocated: u64,
    /// Where its file ends.
    pub file: u64,
}

/// A kind of job, and what is known of it.
type JobStats = (i32, Vec<(String, Option<u64>)>);

fn job_stats(answer: &mut Decoder<'_>) -> std::result::Result<JobStats, Malformed> {
    let kind = answer.i32()?;
    Ok((kind, answer.list(typed_parameter)?))
}

/// Reads what a daemon says of a job; for fuzzing.
pub(crate) fn read_job(bytes: &[u8]) -> Option<JobStats> {
    job_stats(&mut Decoder::new(bytes)).ok()
}

/// A named value (`remote_typed_param`); numbers only, others are passed over.
fn typed_parameter(
    answer: &mut Decoder<'_>,
) -> std::result::Result<(String, Option<u64>), Malformed> {
    let name = answer.string()?;
    let value = match answer.u32()? {
        1 => u64::try_from(answer.i32()?).ok(),
        2 | 6 => Some(answer.u32()?.into()),
        3 | 4 => Some(answer.u64()?),
        5 => {
            answer.u64()?;
            None
        }
        7 => {
            answer.string()?;
            None
        }
        _ => return Err(Malformed),
    };
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::Encoder;

    #[test]
    fn typed_parameters() {
        let bytes = Encoder::default()
            .u32(3)
            .string("operation")
            .u32(1)
            .i32(9)
            .string("word")
            .u32(7)
            .string("x")
            .string("disk_temp_used")
            .u32(4)
            .u32(1)
            .u32(0)
            .into_bytes();
        let values = Decoder::new(&bytes).list(typed_parameter);
        let expected = [
            ("operation".to_owned(), Some(9)),
            ("word".to_owned(), None),
            ("disk_temp_used".to_owned(), Some(1 << 32)),
        ];
        assert_eq!(values, Ok(expected.to_vec()));
    }
}
