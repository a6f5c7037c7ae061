//! Errors of images and their nodes.

use strongroom_base::{Code, Coded, Digest, Params, codes, params};

use crate::SizeError;

/// Why an image could not be read or built. `E` is the error of the [`NodeReader`](crate::NodeReader)
/// and of the receiver of new nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// A node could not be read, or a new one could not be handed on.
    #[error(transparent)]
    Store(E),
    /// A node that was read cannot belong where the tree has it: it has nothing in it, or something
    /// beyond the disk's end.
    #[error(
        "tree node {digest} does not fit its place: node {index} of level {level} of a disk of {size} bytes"
    )]
    Damaged {
        /// The node.
        digest: Digest,
        /// Its level; 1 is a leaf.
        level: u8,
        /// Its index among the nodes of its level.
        index: u64,
        /// The disk's size in bytes.
        size: u64,
    },
    /// The new image's size is none of a disk.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// A leaf was set that does not come after the one set before: a defect of the caller.
    #[error("leaf {index} was set where leaf {next} or a later one must follow")]
    OutOfOrder {
        /// The leaf.
        index: u64,
        /// The first leaf that may be set.
        next: u64,
    },
    /// A leaf or block beyond the disk's end was set: a defect of the caller.
    #[error("block {block} was set in an image of {blocks} blocks")]
    BeyondEnd {
        /// The first block of the leaf, or the last block that was set in it.
        block: u64,
        /// Blocks in the image.
        blocks: u64,
    },
}

impl<E: Coded + 'static> Coded for Error<E> {
    fn code(&self) -> &'static Code {
        match self {
            Self::Store(error) => error.code(),
            Self::Damaged { .. } => &codes::STORE_CORRUPT,
            Self::Size(error) => error.code(),
            Self::OutOfOrder { .. } | Self::BeyondEnd { .. } => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Store(error) => error.params(),
            Self::Damaged { digest, level, index, size } => {
                params!(STORE_CORRUPT: digest, level, index, size)
            }
            Self::Size(error) => error.params(),
            Self::OutOfOrder { index, next } => params!(BUG: index, next),
            Self::BeyondEnd { block, blocks } => params!(BUG: block, blocks),
        }
    }
}
