//! Copying a disk of a running machine to another image, to which the machine then changes.
//!
//! Source: libvirt's `virDomainBlockCopy` and `virDomainBlockJobAbort` (`src/libvirt-domain.c`). A copy follows what
//! the guest writes. When it has caught up, the machine changes to the image, in libvirt's description as well.

use std::time::Duration;

use crate::{
    Connection, Domain,
    connection::arguments,
    error::{Result, number},
    rpc::Procedure,
    xml::{escape, wrong},
};

/// Beginning and ending wait for what the guest is writing.
const PATIENCE: Duration = Duration::from_mins(5);

/// `VIR_DOMAIN_BLOCK_COPY_SHALLOW`: only what the image of the disk itself has, not what is under it.
const SHALLOW: u32 = 1;
/// `VIR_DOMAIN_BLOCK_COPY_REUSE_EXT`: the destination is there.
const REUSE_EXTERNAL: u32 = 2;
/// `VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB`: also of a machine that is persistent; the job ends with it.
const TRANSIENT_JOB: u32 = 4;
/// `VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT`.
const PIVOT: u32 = 2;

impl Connection {
    /// Begins to copy what the image of a disk (by target) itself has into another image, which has what is under
    /// that one already.
    pub fn begin_shallow_copy(
        &self,
        of: &Domain,
        target: &str,
        to: &str,
        format: &str,
    ) -> Result<()> {
        let (Some(to), Some(format)) = (escape(to), escape(format)) else {
            return Err(wrong(
                "the image to copy to",
                "its path has characters that XML cannot hold",
            ));
        };
        let description =
            format!("<disk type='file'><source file='{to}'/><driver type='{format}'/></disk>");
        let flags = SHALLOW | REUSE_EXTERNAL | TRANSIENT_JOB;
        // No parameters: no limit.
        let arguments = arguments(of).string(target).string(&description).u32(0).u32(flags);
        let procedure = Procedure::DomainBlockCopy;
        self.call_within(PATIENCE, "starting to copy a disk", procedure, arguments, |_| Ok(()))
    }

    /// Changes a disk (by target) over to the image that it is copied to, which ends the copy. The copy must have
    /// caught up.
    pub fn pivot(&self, of: &Domain, target: &str) -> Result<()> {
        let arguments = arguments(of).string(target).u32(PIVOT);
        let procedure = Procedure::DomainBlockJobAbort;
        self.call_within(PATIENCE, "changing a disk over", procedure, arguments, |_| Ok(()))
    }

    /// Ends a copy of a disk (by target), which stays on the image that it has.
    pub fn end_copy(&self, of: &Domain, target: &str) -> Result<()> {
        let arguments = arguments(of).string(target).u32(0);
        let procedure = Procedure::DomainBlockJobAbort;
        match self
            .call_within(PATIENCE, "ending the copy of a disk", procedure, arguments, |_| Ok(()))
        {
            // There is none (any more).
            Err(error) if error.number() == Some(number::OPERATION_INVALID) => Ok(()),
            other => other,
        }
    }
}
