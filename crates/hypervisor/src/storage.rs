//! Objects of the host that machines use: secrets, networks, storage pools.

use crate::{
    Connection, Machine, Source, Uuid,
    error::{Result, number},
    rpc::{Decoder, Encoder, Malformed, Procedure, xdr},
};

/// What a secret is for (`virSecretUsageType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretUse {
    /// A volume's encryption.
    Volume,
    /// Ceph.
    Ceph,
    /// iSCSI.
    Iscsi,
    /// A TLS key.
    Tls,
    /// A TPM's state.
    Vtpm,
}

impl SecretUse {
    const fn number(self) -> i32 {
        match self {
            Self::Volume => 1,
            Self::Ceph => 2,
            Self::Iscsi => 3,
            Self::Tls => 4,
            Self::Vtpm => 5,
        }
    }
}

/// A secret that libvirt keeps, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its identity.
    pub uuid: Uuid,
    kind: i32,
    usage: String,
}

/// A network or storage pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
}

fn secret(answer: &mut Decoder<'_>) -> std::result::Result<Secret, Malformed> {
    Ok(Secret { uuid: Uuid(answer.fixed()?), kind: answer.i32()?, usage: answer.string()? })
}

pub(crate) fn named(answer: &mut Decoder<'_>) -> std::result::Result<Named, Malformed> {
    Ok(Named { name: answer.string()?, uuid: Uuid(answer.fixed()?) })
}

fn arguments(of: &Secret) -> Encoder {
    Encoder::default().fixed(&of.uuid.0).i32(of.kind).string(&of.usage)
}

pub(crate) fn arguments_named(of: &Named) -> Encoder {
    Encoder::default().string(&of.name).fixed(&of.uuid.0)
}

impl Connection {
    /// The secret with this UUID, if there is one.
    pub fn secret(&self, uuid: Uuid) -> Result<Option<Secret>> {
        let arguments = Encoder::default().fixed(&uuid.0);
        let procedure = Procedure::SecretLookupByUuid;
        match self.call("looking for a secret", procedure, arguments, secret) {
            Err(error) if error.is_missing() => Ok(None),
            other => other.map(Some),
        }
    }

    /// The secret of this use and name, if there is one.
    pub fn secret_of(&self, usage: SecretUse, name: &str) -> Result<Option<Secret>> {
        let arguments = Encoder::default().i32(usage.number()).string(name);
        let procedure = Procedure::SecretLookupByUsage;
        match self.call("looking for a secret", procedure, arguments, secret) {
            Err(error) if error.is_missing() => Ok(None),
            other => other.map(Some),
        }
    }

    /// A secret's description, which does not hold its value.
    pub fn secret_xml(&self, of: &Secret) -> Result<String> {
        let arguments = arguments(of).u32(0);
        let procedure = Procedure::SecretGetXmlDesc;
        self.call("reading a secret's description", procedure, arguments, xdr::text)
    }

    /// A secret's value. libvirt refuses it for secrets that are private.
    pub fn secret_value(&self, of: &Secret) -> Result<Vec<u8>> {
        let read = |answer: &mut Decoder<'_>| Ok(answer.opaque()?.to_vec());
        let arguments = arguments(of).u32(0);
        self.call("reading a secret", Procedure::SecretGetValue, arguments, read)
    }

    /// Makes a secret known, without a value.
    pub fn define_secret(&self, xml: &str) -> Result<Secret> {
        let arguments = Encoder::default().string(xml).u32(0);
        self.call("defining a secret", Procedure::SecretDefineXml, arguments, secret)
    }

    /// Gives a secret its value.
    pub fn set_secret_value(&self, of: &Secret, value: &[u8]) -> Result<()> {
        let arguments = arguments(of).opaque(value).u32(0);
        self.call("setting a secret", Procedure::SecretSetValue, arguments, |_| Ok(()))
    }

    /// Removes a secret.
    pub fn remove_secret(&self, of: &Secret) -> Result<()> {
        self.call("removing a secret", Procedure::SecretUndefine, arguments(of), |_| Ok(()))
    }

    /// All networks.
    pub fn networks(&self) -> Result<Vec<Named>> {
        let arguments = Encoder::default().i32(1).u32(0);
        let read = |answer: &mut Decoder<'_>| answer.list(named);
        self.call("listing networks", Procedure::ConnectListAllNetworks, arguments, read)
    }

    /// All storage pools.
    pub fn pools(&self) -> Result<Vec<Named>> {
        let arguments = Encoder::default().i32(1).u32(0);
        let read = |answer: &mut Decoder<'_>| answer.list(named);
        self.call("listing storage pools", Procedure::ConnectListAllStoragePools, arguments, read)
    }

    /// A storage pool's description.
    pub fn pool_xml(&self, of: &Named) -> Result<String> {
        let arguments = arguments_named(of).u32(0);
        let procedure = Procedure::StoragePoolGetXmlDesc;
        self.call("reading a pool's description", procedure, arguments, xdr::text)
    }

    /// The file or device that a volume is; none if there is no such volume, or if it is on a server.
    pub fn volume_path(&self, pool: &str, volume: &str) -> Result<Option<String>> {
        const FILE: i32 = 0;
        const BLOCK: i32 = 1;
        const ACTION: &str = "looking for a storage volume";
        let missing =
            |number| matches!(number, Some(number::NO_STORAGE_POOL | number::NO_STORAGE_VOL));
        let arguments = Encoder::default().string(pool);
        let procedure = Procedure::StoragePoolLookupByName;
        let pool = match self.call(ACTION, procedure, arguments, named) {
            Err(error) if missing(error.number()) => return Ok(None),
            other => other?,
        };
        let volume_of = |answer: &mut Decoder<'_>| {
            let parts = (answer.string()?, answer.string()?, answer.string()?);
            Ok(Encoder::default().string(&parts.0).string(&parts.1).string(&parts.2))
        };
        let look = || {
            let arguments = arguments_named(&pool).string(volume);
            self.call(ACTION, Procedure::StorageVolLookupByName, arguments, volume_of)
        };
        let found = match look() {
            // What was put there since libvirt looked.
            Err(error) if missing(error.number()) => {
                self.refresh_pool(&pool)?;
                match look() {
                    Err(error) if missing(error.number()) => return Ok(None),
                    other => other?,
                }
            }
            other => other?,
        };
        let kind = self.call(ACTION, Procedure::StorageVolGetInfo, found.clone(), xdr::number)?;
        if !matches!(kind, FILE | BLOCK) {
            return Ok(None);
        }
        self.call(ACTION, Procedure::StorageVolGetPath, found, xdr::text).map(Some)
    }

    /// Asks which files and devices the volumes are that a machine has as disks. Of one that cannot be
    /// found, nothing is known then.
    pub fn resolve_volumes(&self, machine: &mut Machine) {
        for disk in &mut machine.disks {
            let layers = disk.chain.iter_mut().map(|layer| &mut layer.source);
            for source in std::iter::once(&mut disk.source).chain(layers) {
                let Source::Volume { pool, volume, path } = source else { continue };
                match self.volume_path(pool, volume) {
                    Ok(found) => *path = found,
                    Err(error) => tracing::debug!(%error, pool, volume, "no path"),
                }
            }
        }
    }

    /// Lets libvirt look which volumes a pool has.
    pub fn refresh_pool(&self, of: &Named) -> Result<()> {
        let arguments = arguments_named(of).u32(0);
        self.call("refreshing a storage pool", Procedure::StoragePoolRefresh, arguments, |_| Ok(()))
    }
}
