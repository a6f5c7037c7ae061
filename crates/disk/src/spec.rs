//! What a user writes to name a disk: a path, `FORMAT:PATH`, or an NBD URL.
//!
//! This module owns the notation. It opens nothing and must not know whether the disk is there.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{DiskError, nbd::NbdUrl};

/// How a disk is laid out in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// The disk's bytes as they are; also any block device.
    Raw,
    /// QEMU's qcow2, version 2 or 3.
    Qcow2,
    /// Virtual PC's, Hyper-V's and Azure's VHD: fixed or dynamic.
    Vhd,
    /// Hyper-V's VHDX.
    Vhdx,
    /// VMDK, the disks of other hypervisors.
    Vmdk,
}

impl ImageFormat {
    const ALL: [Self; 5] = [Self::Raw, Self::Qcow2, Self::Vhd, Self::Vhdx, Self::Vmdk];

    /// Its name, which is also its prefix in a spec and its usual file extension.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The format that a file's extension promises.
    pub fn from_extension(path: &Path) -> Option<Self> {
        Self::from_name(&path.extension()?.to_str()?.to_ascii_lowercase())
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A disk as a user names it, parsed but not looked at.
///
/// - `PATH`: a file or block device; [`crate::open_source`] says how its format is found
/// - `raw:PATH`, `qcow2:PATH`, `vhd:PATH`, `vhdx:PATH`, `vmdk:PATH`: this format and no other
/// - `nbd://`, `nbds://`, `nbd+unix://`, `nbds+unix://`: see [`NbdUrl`]
///
/// A path that itself starts with such a prefix is written `./raw:x` or `raw:raw:x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSpec {
    /// A file or block device.
    File {
        /// Where.
        path: PathBuf,
        /// The format, if the user said it.
        format: Option<ImageFormat>,
    },
    /// An export of an NBD server.
    Nbd(NbdUrl),
}

impl DiskSpec {
    /// The file or block device at `path`, its format to be found out.
    pub fn from_path(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), format: None }
    }

    /// Where it is, for the record: it still means something to who reads it elsewhere.
    pub fn location(&self) -> String {
        match self {
            Self::File { path, .. } => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                absolute.display().to_string()
            }
            Self::Nbd(url) => url.to_string(),
        }
    }
}

impl FromStr for DiskSpec {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, DiskError> {
        let wrong =
            |reason: &str| DiskError::Spec { disk: text.to_owned(), reason: reason.to_owned() };
        if text.contains('\0') {
            return Err(wrong("it contains a zero byte"));
        }
        if let Some((scheme, _)) = text.split_once("://")
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
        {
            let url = text.parse::<NbdUrl>().map_err(|error| wrong(&error.reason))?;
            return Ok(Self::Nbd(url));
        }
        let (path, format) = match text.split_once(':') {
            Some((prefix, path)) if ImageFormat::from_name(prefix).is_some() => {
                (path, ImageFormat::from_name(prefix))
            }
            _ => (text, None),
        };
        if path.is_empty() {
            return Err(wrong("there is no path"));
        }
        Ok(Self::File { path: PathBuf::from(path), format })
    }
}

impl fmt::Display for DiskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Nbd(url) => write!(f, "{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(text: &str) -> (String, Option<ImageFormat>) {
        match text.parse::<DiskSpec>().expect("parses") {
            DiskSpec::File { path, format } => (path.to_str().expect("text").to_owned(), format),
            DiskSpec::Nbd(url) => panic!("{url} is not a file"),
        }
    }

    #[test]
    fn files() {
        assert_eq!(file("/a/b.qcow2"), ("/a/b.qcow2".to_owned(), None));
        assert_eq!(file("qcow2:b"), ("b".to_owned(), Some(ImageFormat::Qcow2)));
        assert_eq!(file("raw:raw:x"), ("raw:x".to_owned(), Some(ImageFormat::Raw)));
        assert_eq!(file("./raw:x"), ("./raw:x".to_owned(), None));
        assert_eq!(file("odd:name"), ("odd:name".to_owned(), None));
    }

    #[test]
    fn not_disks() {
        for text in ["", "raw:", "http://host/x", "nbd+vsock://1/x", "a\0b"] {
            assert!(matches!(text.parse::<DiskSpec>(), Err(DiskError::Spec { .. })), "{text:?}");
        }
    }

    #[test]
    fn extensions() {
        let of = |name: &str| ImageFormat::from_extension(Path::new(name));
        assert_eq!(of("a.QCOW2"), Some(ImageFormat::Qcow2));
        assert_eq!(of("a.img"), None);
        assert_eq!(of("vhd"), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            drop(text.parse::<DiskSpec>());
        }

        #[test]
        fn never_panics_on_urls(scheme in "nbds?(\\+unix)?", rest in "[a-z%\\[\\]:/@?=&0-9-]{0,60}") {
            drop(format!("{scheme}://{rest}").parse::<DiskSpec>());
        }
    }
}
