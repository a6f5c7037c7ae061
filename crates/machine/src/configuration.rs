//! The archive in a recovery point with everything besides disks that rebuilding a machine needs.
//!
//! It is a tar archive, which standard tools can read:
//!
//! | file | what |
//! |---|---|
//! | `machine.json` | [`MachineRecord`] |
//! | `domain.xml` | libvirt's description as it ran, with passwords |
//! | `domain-inactive.xml` | the same as after its next start |
//! | `checkpoint.xml` | the checkpoint, to make it known again where libvirt has forgotten it |
//! | `nvram.fd` | variables of UEFI |
//! | `tpm/...` | the state of the emulated TPM |
//! | `secrets/UUID.xml`, `secrets/UUID.value` | keys of encrypted disks |
//! | `snapshots/NUMBER.xml` | what libvirt knows of snapshots; their data is not in the point |
//!
//! The same configuration makes the same bytes, so an unchanged one costs nothing in the next
//! point.

use std::io::Read as _;

use serde::{Deserialize, Serialize};
use strongroom_base::{BLOCK_SIZE_U64, ByteRange, RangeSet};
use strongroom_hypervisor::Uuid;

/// The most bytes of one file.
const MAX_FILE: u64 = 32 << 20;

/// Who a disk is, beyond its name: another disk under the same name must not be taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// Its name in the machine: `vda`.
    pub target: String,
    /// Its file, device or address, without secrets.
    pub source: String,
    /// Format on the host.
    pub format: String,
    /// Size, bytes.
    pub size: u64,
    /// Device and inode of its file, if it is one on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<(u64, u64)>,
    /// The images under it and the file of its data, with what changes if somebody writes to them:
    /// no bitmap records that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub under: Vec<String>,
    /// Serial number, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World wide name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Whether the point's checkpoint has a bitmap of it.
    #[serde(default)]
    pub tracked: bool,
    /// Where it had already changed since that checkpoint, if that is of an earlier point: offset
    /// and length, rounded outwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed_since: Vec<(u64, u64)>,
    /// Backups since all of it was read and compared.
    #[serde(default)]
    pub runs_since_full: u32,
    /// What `qemu-img info` says of its image, to make the same kind of image again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<serde_json::Value>,
    /// If the point has its encrypted image as it lies on the host, and not what the guest sees: the
    /// length of that image, bytes. The disk in the point is longer by less than a sector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext: Option<u64>,
}

/// The most ranges that are noted of what had changed.
const MAX_RANGES: usize = 512;

impl DiskIdentity {
    /// Notes what had changed since the checkpoint, so roughly that it is not much to note.
    pub(crate) fn set_changed_since(&mut self, changed: &RangeSet) {
        let (mut unit, mut rough) = (BLOCK_SIZE_U64, changed.align_outwards(BLOCK_SIZE_U64));
        while rough.count() > MAX_RANGES {
            unit = unit.saturating_mul(2);
            rough = rough.align_outwards(unit);
        }
        self.changed_since = rough.iter().map(|range| (range.offset(), range.len())).collect();
    }

    /// What the bitmap of the checkpoint need not tell: if the image was rolled back since the point
    /// was made, its bitmap was as well, and does not know what the point has.
    pub(crate) fn also_changed(&self) -> RangeSet {
        let ranges = self.changed_since.iter();
        let ranges = ranges.filter_map(|(offset, length)| ByteRange::new(*offset, *length).ok());
        RangeSet::from_unsorted(ranges.collect())
    }

    /// Whether both are the same disk, perhaps resized.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.target == other.target
            && self.source == other.source
            && self.format == other.format
            && self.file == other.file
            && self.serial == other.serial
            && self.wwn == other.wwn
    }
}

/// What Strongroom itself notes of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Version of this structure: 1.
    pub format: u16,
    /// The machine's name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Which libvirt had it.
    pub connection: String,
    /// What it was doing.
    pub state: String,
    /// Whether libvirt keeps its definition when it is off.
    pub persistent: bool,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// The checkpoint of this point, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// The disks in the point.
    pub disks: Vec<DiskIdentity>,
    /// What could not be saved, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl MachineRecord {
    /// The version that this program writes.
    pub const FORMAT: u16 = 1;
}

/// A secret of libvirt.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedSecret {
    /// Its identity.
    pub uuid: Uuid,
    /// libvirt's description.
    pub xml: String,
    /// Its value, if libvirt gave it.
    pub value: Option<Vec<u8>>,
}

impl std::fmt::Debug for SavedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedSecret").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

/// A machine's configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Strongroom's notes.
    pub record: MachineRecord,
    /// libvirt's description as it ran. It holds passwords.
    pub present: String,
    /// The same as after its next start.
    pub inactive: String,
    /// The checkpoint's description.
    pub checkpoint: Option<String>,
    /// UEFI's variables.
    pub nvram: Option<Vec<u8>>,
    /// Files of the TPM: path and content.
    pub tpm: Vec<(String, Vec<u8>)>,
    /// Secrets.
    pub secrets: Vec<SavedSecret>,
    /// Descriptions of snapshots.
    pub snapshots: Vec<String>,
}

impl Configuration {
    /// The archive.
    pub fn to_archive(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
            header.set_mode(0o600);
            header.set_mtime(0);
            header.set_cksum();
            archive.append_data(&mut header, name, content)
        };
        add("machine.json", &serde_json::to_vec_pretty(&self.record)?)?;
        add("domain.xml", self.present.as_bytes())?;
        add("domain-inactive.xml", self.inactive.as_bytes())?;
        if let Some(xml) = &self.checkpoint {
            add("checkpoint.xml", xml.as_bytes())?;
        }
        if let Some(nvram) = &self.nvram {
            add("nvram.fd", nvram)?;
        }
        for (path, content) in &self.tpm {
            add(&format!("tpm/{path}"), content)?;
        }
        for secret in &self.secrets {
            add(&format!("secrets/{}.xml", secret.uuid), secret.xml.as_bytes())?;
            if let Some(value) = &secret.value {
                add(&format!("secrets/{}.value", secret.uuid), value)?;
            }
        }
        for (number, xml) in self.snapshots.iter().enumerate() {
            add(&format!("snapshots/{number}.xml"), xml.as_bytes())?;
        }
        archive.into_inner()
    }

    /// Reads an archive; the error says what is wrong with it.
    pub fn from_archive(bytes: &[u8]) -> Result<Self, String> {
        let mut found = Parts::default();
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().map_err(|error| error.to_string())?;
        for entry in entries {
            let mut entry = entry.map_err(|error| error.to_string())?;
            let path = entry.path().map_err(|error| error.to_string())?;
            let path = path.to_str().ok_or("a name in it is not UTF-8")?.to_owned();
            let mut content = Vec::new();
            let read = entry.by_ref().take(MAX_FILE.saturating_add(1)).read_to_end(&mut content);
            read.map_err(|error| error.to_string())?;
            if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_FILE {
                return Err(format!("{path} is longer than {MAX_FILE} bytes"));
            }
            found.take(&path, content)?;
        }
        found.finish()
    }

    /// The checkpoint that the point is of, if any.
    pub(crate) fn disk(&self, target: &str) -> Option<&DiskIdentity> {
        self.record.disks.iter().find(|disk| disk.target == target)
    }
}

/// What was found in an archive so far.
#[derive(Default)]
struct Parts {
    record: Option<MachineRecord>,
    present: Option<String>,
    inactive: Option<String>,
    checkpoint: Option<String>,
    nvram: Option<Vec<u8>>,
    tpm: Vec<(String, Vec<u8>)>,
    secrets: Vec<SavedSecret>,
    snapshots: Vec<String>,
}

impl Parts {
    fn take(&mut self, path: &str, content: Vec<u8>) -> Result<(), String> {
        let text = |content: Vec<u8>| {
            String::from_utf8(content).map_err(|_| format!("{path} is not UTF-8"))
        };
        match path.split_once('/') {
            None => match path {
                "machine.json" => {
                    let record: MachineRecord = serde_json::from_slice(&content)
                        .map_err(|error| format!("{path}: {error}"))?;
                    if record.format != MachineRecord::FORMAT {
                        return Err(format!("{path} is of version {}", record.format));
                    }
                    self.record = Some(record);
                }
                "domain.xml" => self.present = Some(text(content)?),
                "domain-inactive.xml" => self.inactive = Some(text(content)?),
                "checkpoint.xml" => self.checkpoint = Some(text(content)?),
                "nvram.fd" => self.nvram = Some(content),
                // Of a later version.
                _ => {}
            },
            Some(("tpm", rest)) => {
                // It becomes a path on the host that restores.
                if rest
                    .split('/')
                    .any(|part| part.is_empty() || part.starts_with('.') && part.len() < 3)
                {
                    return Err(format!("{path} is no path that a TPM has"));
                }
                self.tpm.push((rest.to_owned(), content));
            }
            Some(("secrets", rest)) => self.take_secret(path, rest, content)?,
            Some(("snapshots", _)) => self.snapshots.push(text(content)?),
            Some(_) => {}
        }
        Ok(())
    }

    /// A secret's description comes before its value.
    fn take_secret(&mut self, path: &str, name: &str, content: Vec<u8>) -> Result<(), String> {
        let (uuid, kind) = name.split_once('.').ok_or_else(|| format!("{path} is unknown"))?;
        let uuid: Uuid = uuid.parse().map_err(|_| format!("{path} has no UUID"))?;
        match kind {
            "xml" => {
                let xml = String::from_utf8(content).map_err(|_| format!("{path} is not UTF-8"))?;
                self.secrets.push(SavedSecret { uuid, xml, value: None });
            }
            "value" => {
                let secret = self.secrets.iter_mut().find(|secret| secret.uuid == uuid);
                secret.ok_or_else(|| format!("{path} has no description"))?.value = Some(content);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Configuration, String> {
        let lacks = |name: &str| format!("it has no {name}");
        Ok(Configuration {
            record: self.record.ok_or_else(|| lacks("machine.json"))?,
            present: self.present.ok_or_else(|| lacks("domain.xml"))?,
            inactive: self.inactive.ok_or_else(|| lacks("domain-inactive.xml"))?,
            checkpoint: self.checkpoint,
            nvram: self.nvram,
            tpm: self.tpm,
            secrets: self.secrets,
            snapshots: self.snapshots,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn example() -> Configuration {
        let identity = DiskIdentity {
            target: "vda".to_owned(),
            source: "/images/web.qcow2".to_owned(),
            format: "qcow2".to_owned(),
            size: 1 << 30,
            file: Some((1, 2)),
            under: vec!["/images/base.qcow2".to_owned()],
            serial: None,
            wwn: None,
            tracked: true,
            changed_since: vec![(0, 65536)],
            runs_since_full: 3,
            image: Some(serde_json::json!({"cluster-size": 65536})),
            ciphertext: None,
        };
        let uuid: Uuid = "0a1b2c3d-0001-4fff-8000-00000000000f".parse().expect("a UUID");
        Configuration {
            record: MachineRecord {
                format: MachineRecord::FORMAT,
                name: "web".to_owned(),
                uuid: uuid.to_string(),
                connection: "qemu:///system".to_owned(),
                state: "running".to_owned(),
                persistent: true,
                autostart: false,
                checkpoint: Some("strongroom-x".to_owned()),
                disks: vec![identity],
                missing: Vec::new(),
            },
            present: "<domain id='1'/>".to_owned(),
            inactive: "<domain/>".to_owned(),
            checkpoint: Some("<domaincheckpoint/>".to_owned()),
            nvram: Some(vec![0xff; 1000]),
            tpm: vec![("tpm2/tpm2-00.permall".to_owned(), vec![1, 2, 3])],
            secrets: vec![SavedSecret {
                uuid,
                xml: "<secret/>".to_owned(),
                value: Some(b"hush".to_vec()),
            }],
            snapshots: vec!["<domainsnapshot/>".to_owned()],
        }
    }

    #[test]
    fn what_is_saved_comes_back_and_is_always_the_same() {
        let archive = example().to_archive().expect("an archive");
        assert_eq!(archive, example().to_archive().expect("an archive"));
        assert!(Configuration::from_archive(&archive).as_ref() == Ok(&example()));
    }

    /// What was written once must be read for ever.
    #[test]
    fn golden_archive() {
        let golden = include_bytes!("../tests/golden/configuration-v1.tar");
        assert!(Configuration::from_archive(golden).as_ref() == Ok(&example()));
        assert_eq!(example().to_archive().expect("an archive"), golden);
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", example().secrets).contains("hush"));
    }

    /// An archive with one more file, of a name that tar would not write.
    fn with_file(name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        let field = &mut header.as_gnu_mut().expect("GNU").name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(0);
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, &[][..]).expect("appended");
        let one = archive.into_inner().expect("an archive");
        [&one[..512], &example().to_archive().expect("an archive")].concat()
    }

    #[test]
    fn hostile_archives() {
        assert!(Configuration::from_archive(&with_file("tpm/a/b")).is_ok());
        for name in ["tpm/../x", "tpm//etc/x", "tpm/a/./x", "tpm/"] {
            let error = Configuration::from_archive(&with_file(name)).err();
            assert!(error.is_some_and(|error| error.contains("no path")), "{name}");
        }
        assert!(Configuration::from_archive(b"").is_err());
        assert!(Configuration::from_archive(&[7; 2000]).is_err());
    }

    proptest! {
        #[test]
        fn damaged_archives_never_panic(at in 0_usize..4096, byte in any::<u8>()) {
            let mut archive = example().to_archive().expect("an archive");
            if let Some(place) = archive.get_mut(at) {
                *place = byte;
            }
            drop(Configuration::from_archive(&archive));
        }
    }
}
