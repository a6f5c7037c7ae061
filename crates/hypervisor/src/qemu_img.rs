//! The output of `qemu-img info --output=json`.
//!
//! Source: QEMU's `qapi/block-core.json` (`ImageInfo`).

use serde::Deserialize;

use crate::{error::Result, xml::wrong};

/// Bytes. An image can have 65,535 bitmaps, with names of up to 1 KiB, but none does.
const MAX_TEXT: usize = 8 << 20;

/// Layers; QEMU itself allows 200.
const MAX_CHAIN: usize = 250;

const WHAT: &str = "an image by qemu-img";

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one of QEMU's flags")]
pub struct ImageInfo {
    /// Its path, as it was given or as the image above names it.
    pub filename: String,
    /// Its format.
    pub format: String,
    /// What a guest sees, bytes.
    pub virtual_size: u64,
    /// What it takes on the host, bytes.
    pub actual_size: Option<u64>,
    /// The grain of its allocation, bytes.
    pub cluster_size: Option<u64>,
    /// Its version, if it is a qcow2: 2 or 3.
    pub qcow2_version: Option<u8>,
    /// Whether clusters have parts of their own.
    pub extended_l2: bool,
    /// Whether it was not closed properly, so that it must be checked.
    pub is_dirty: bool,
    /// Whether QEMU has found it damaged.
    pub is_corrupt: bool,
    /// Whether it is encrypted.
    pub is_encrypted: bool,
    /// The file that its bytes are in, if that is another.
    pub data_file: Option<String>,
    /// Whether that file alone is a good raw image.
    pub data_file_raw: bool,
    /// The image under it, as a path that can be opened.
    pub backing: Option<String>,
    /// The format of that image.
    pub backing_format: Option<String>,
    /// Its bitmaps.
    pub bitmaps: Vec<Bitmap>,
    /// Names of the snapshots in it.
    pub snapshots: Vec<String>,
}

/// A bitmap of changes, in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes for each bit.
    pub granularity: u64,
    /// Whether the copy in the file is out of date: that is so while a machine runs; in an image
    /// that nobody has open, the machine was killed, and the bitmap can only be removed.
    pub in_use: bool,
    /// Whether it records.
    pub auto: bool,
}

impl ImageInfo {
    /// Reads what `qemu-img info --output=json` printed, with `--backing-chain` (the top first) or
    /// without.
    pub fn parse_chain(text: &str) -> Result<Vec<Self>> {
        if text.len() > MAX_TEXT {
            return Err(wrong(WHAT, format!("it is longer than {MAX_TEXT} bytes")));
        }
        // The messages of the reader quote what it read, which may name secrets.
        let unclear =
            |error: serde_json::Error| wrong(WHAT, format!("line {} is not valid", error.line()));
        let chain: Vec<Raw> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text).map_err(unclear)?
        } else {
            vec![serde_json::from_str(text).map_err(unclear)?]
        };
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(wrong(WHAT, format!("it has {} layers", chain.len())));
        }
        Ok(chain.into_iter().map(Self::from_raw).collect())
    }

    fn from_raw(raw: Raw) -> Self {
        let Specific { kind, data } = raw.format_specific.unwrap_or_default();
        let data = if kind == "qcow2" { data } else { Qcow2::default() };
        let version = match data.compat.as_deref() {
            Some("0.10") => Some(2),
            Some(_) => Some(3),
            None => None,
        };
        Self {
            filename: raw.filename,
            format: raw.format,
            virtual_size: raw.virtual_size,
            actual_size: raw.actual_size,
            cluster_size: raw.cluster_size,
            qcow2_version: version,
            extended_l2: data.extended_l2,
            is_dirty: raw.dirty_flag,
            is_corrupt: data.corrupt,
            is_encrypted: raw.encrypted,
            data_file: data.data_file,
            data_file_raw: data.data_file_raw,
            backing: raw.full_backing_filename.or(raw.backing_filename),
            backing_format: raw.backing_filename_format,
            bitmaps: data.bitmaps.into_iter().map(Bitmap::from_raw).collect(),
            snapshots: raw.snapshots.into_iter().map(|snapshot| snapshot.name).collect(),
        }
    }
}

impl Bitmap {
    fn from_raw(raw: RawBitmap) -> Self {
        let has = |flag: &str| raw.flags.iter().any(|other| other == flag);
        let (in_use, auto) = (has("in-use"), has("auto"));
        Self { name: raw.name, granularity: raw.granularity, in_use, auto }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    filename: String,
    format: String,
    virtual_size: u64,
    actual_size: Option<u64>,
    cluster_size: Option<u64>,
    #[serde(default)]
    dirty_flag: bool,
    #[serde(default)]
    encrypted: bool,
    full_backing_filename: Option<String>,
    backing_filename: Option<String>,
    backing_filename_format: Option<String>,
    #[serde(default)]
    snapshots: Vec<RawSnapshot>,
    format_specific: Option<Specific>,
}

#[derive(Deserialize)]
struct RawSnapshot {
    name: String,
}

#[derive(Default, Deserialize)]
struct Specific {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: Qcow2,
}

/// What is said of a qcow2; other formats have other things here, or the same of another kind.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Qcow2 {
    #[serde(deserialize_with = "lenient")]
    compat: Option<String>,
    #[serde(deserialize_with = "lenient")]
    corrupt: bool,
    #[serde(deserialize_with = "lenient")]
    extended_l2: bool,
    #[serde(deserialize_with = "lenient")]
    data_file: Option<String>,
    #[serde(deserialize_with = "lenient")]
    data_file_raw: bool,
    #[serde(deserialize_with = "lenient")]
    bitmaps: Vec<RawBitmap>,
}

#[derive(Deserialize)]
struct RawBitmap {
    name: String,
    granularity: u64,
    #[serde(default)]
    flags: Vec<String>,
}

/// Takes what is of another kind for absent.
fn lenient<'de, D, T>(reader: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned + Default,
{
    let value = serde_json::Value::deserialize(reader)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHAIN: &str = include_str!("../tests/qemu-img/chain.json");

    #[test]
    fn a_chain_with_a_bitmap() {
        let chain = ImageInfo::parse_chain(CHAIN).expect("a chain");
        let [top, base] = chain.as_slice() else { panic!("two layers") };
        assert_eq!((top.format.as_str(), top.qcow2_version), ("qcow2", Some(3)));
        assert_eq!((top.virtual_size, top.cluster_size), (16 << 20, Some(65_536)));
        assert_eq!(
            (top.backing.as_deref(), top.backing_format.as_deref()),
            (Some("/srv/base.qcow2"), Some("qcow2"))
        );
        let bitmap =
            Bitmap { name: "cp0".to_owned(), granularity: 65_536, in_use: true, auto: true };
        assert_eq!(top.bitmaps, [bitmap]);
        assert_eq!((base.bitmaps.len(), &base.backing), (0, &None));
    }

    #[test]
    fn one_image_of_another_format() {
        let text = r#"{"virtual-size": 5, "filename": "a", "format": "vmdk", "dirty-flag": false,
            "format-specific": {"type": "vmdk", "data": {"compat": 7, "bitmaps": "x", "cid": 1}}}"#;
        let [image] = ImageInfo::parse_chain(text).expect("an image").try_into().expect("one");
        let (filename, format) = ("a".to_owned(), "vmdk".to_owned());
        assert_eq!(image, ImageInfo { filename, format, virtual_size: 5, ..ImageInfo::default() });
    }

    #[test]
    fn old_qcow2_with_snapshots_and_a_data_file() {
        let text = r#"[{"virtual-size": 5, "filename": "a", "format": "qcow2", "encrypted": true,
            "snapshots": [{"id": "1", "name": "before", "vm-state-size": 0}],
            "format-specific": {"type": "qcow2", "data": {"compat": "0.10", "data-file": "/b.raw",
            "data-file-raw": true, "corrupt": true}}}]"#;
        let [image] = ImageInfo::parse_chain(text).expect("an image").try_into().expect("one");
        assert_eq!((image.qcow2_version, image.snapshots), (Some(2), vec!["before".to_owned()]));
        assert_eq!((image.data_file.as_deref(), image.data_file_raw), (Some("/b.raw"), true));
        assert!(image.is_encrypted && image.is_corrupt);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_not_quoted() {
        for text in ["", "[]", "7", "{}", r#"{"filename": "hunter2", "virtual-size": "hunter2"}"#] {
            let error = ImageInfo::parse_chain(text).expect_err(text).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(ImageInfo::parse_chain(&"[".repeat(100_000)).is_err());
        assert!(ImageInfo::parse_chain(&" ".repeat(MAX_TEXT + 1)).is_err());
    }

    proptest! {
        #[test]
        fn damaged_answers_never_panic(at in 0..CHAIN.len(), new in "[\\[\\]{}\",:0-9a-z-]{0,3}") {
            let (before, after) = CHAIN.split_at(at);
            drop(ImageInfo::parse_chain(&format!("{before}{new}{}", after.get(1..).unwrap_or(""))));
        }
    }
}
