//! How the definition of a machine says that a disk is put together.
//!
//! These are plain facts that the caller has read from the definition. This module must not know machines or
//! hypervisors.

use std::path::PathBuf;

use strongroom_base::ByteRange;

use crate::ImageFormat;

/// What a machine's definition says of an image. It decides, as it does when the machine starts; of
/// what it leaves open, the image's header does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The part of its file that the image is; all of it if not given.
    pub slice: Option<ByteRange>,
    /// The file of its data, if its image only describes them.
    pub data_file: Option<PathBuf>,
    /// What is under it.
    pub under: Under,
}

/// What is under an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Under {
    /// What its header names.
    #[default]
    Header,
    /// Nothing, whatever its header names.
    Nothing,
    /// This, whatever its header names.
    Image(Box<Layer>),
}

/// An image under another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its file or block device.
    pub path: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// How it is put together itself.
    pub layout: Layout,
}
