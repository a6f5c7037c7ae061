//! Image files: qcow2, VHD, VHDX, VMDK.
//!
//! QEMU knows these formats; a child `qemu-nbd` reads them for us. But an image can be hostile:
//! one that names `/etc/shadow` as its backing file would make QEMU read that. So before QEMU sees
//! an image, our own small parsers look at its header; every file that it refers to must lie in a
//! folder that the caller allowed, and is looked at in turn; and QEMU gets exactly the files
//! to open in which formats, so that it follows no name by itself.
//!
//! ```text
//!  path ─▶ parser (qcow2, vhd, vhdx, vmdk) ─▶ references ─▶ allowed? ─▶ again, to the chain's end
//!                                                                │
//!                               NbdDisk ◀── qemu-nbd ◀── node tree (JSON)
//! ```
//!
//! Between our look and QEMU's opening, somebody who may write to the image can change it; QEMU's
//! locks keep other machines out, not an attacker with the right to write. A file that such a
//! person owns is no safer than that person.
//!
//! This part owns what may be opened at all. It must not know what the disk is for, and interprets no data of the guest.

mod bytes;
mod chain;
mod qcow2;
mod serve;
mod target;
mod vhd;
mod vhdx;
mod vmdk;

#[cfg(test)]
mod tests;

pub(crate) use chain::look;
pub(crate) use serve::ImageSource;
pub(crate) use target::open_qcow2;

/// Takes `bytes` for a whole image file of every format. For fuzzing.
pub(crate) fn fuzz(bytes: &[u8]) {
    qcow2::inspect(&bytes).ok();
    vhd::inspect(&bytes).ok();
    vhdx::inspect(&bytes).ok();
    vmdk::inspect(&bytes).ok();
}
