//! The source of a disk's bytes.

use std::fmt;

use roxmltree::Node;

use crate::{
    Uuid,
    xml::{attribute, attribute_of, child, children, yes},
};

/// Where a disk's bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: an empty drive.
    #[default]
    None,
    /// In a file.
    File {
        /// Its path.
        path: String,
    },
    /// On a device of the host.
    Block {
        /// Its path.
        path: String,
    },
    /// On a server.
    Network(NetworkSource),
    /// In a volume of a storage pool.
    Volume {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
        /// The file or device that it is, once libvirt was asked.
        path: Option<String>,
    },
    /// A folder, shown as a disk.
    Dir {
        /// Its path.
        path: String,
    },
    /// A whole `NVMe` drive or namespace, driven by QEMU itself.
    Nvme {
        /// Its PCI address and namespace.
        address: String,
    },
    /// Another process serves the guest; QEMU never sees the bytes.
    VhostUser {
        /// Its socket.
        path: String,
    },
    /// A device serves the guest; QEMU never sees the bytes.
    VhostVdpa {
        /// The device.
        path: String,
    },
    /// Something newer than this program.
    Other {
        /// What libvirt calls it.
        kind: String,
    },
}

/// A disk on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSource {
    /// `rbd`, `iscsi`, `nbd`, `https`, ...
    pub protocol: String,
    /// Pool and image, target and unit, or path.
    pub name: String,
    /// The servers.
    pub hosts: Vec<NetworkHost>,
    /// A snapshot of it.
    pub snapshot: Option<String>,
    /// The secret that it is opened with.
    pub auth: Option<SecretRef>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkHost {
    /// Its name, or the path of a unix socket.
    pub name: String,
    /// Its port, if it is not the usual one.
    pub port: Option<u16>,
    /// `tcp`, `unix` or `rdma`, if it is said.
    pub transport: Option<String>,
}

/// Which of libvirt's secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// By its identity.
    Uuid(Uuid),
    /// By what it is for.
    Usage {
        /// The kind: `passphrase`, `ceph`, `iscsi`, ...
        kind: String,
        /// The name.
        name: String,
    },
}

impl Source {
    /// The path on the host, if it is one thing there.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::File { path } | Self::Block { path } => Some(path),
            Self::Volume { path, .. } => path.as_deref(),
            _ => None,
        }
    }

    /// Whether people would call it by this name.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        match self {
            Self::None | Self::Other { .. } => false,
            Self::Network(network) => network.name == name || self.to_string() == name,
            Self::Dir { path } | Self::VhostUser { path } | Self::VhostVdpa { path } => {
                path == name
            }
            _ => self.path() == Some(name) || self.to_string() == name,
        }
    }

    /// Reads the `<source>` in `parent`, whose attribute `type` says of what kind it is.
    pub(super) fn parse(parent: Node<'_, '_>) -> Self {
        let Some(node) = child(parent, "source") else { return Self::None };
        Self::read(parent, node).unwrap_or_default()
    }

    fn read(parent: Node<'_, '_>, node: Node<'_, '_>) -> Option<Self> {
        let kind = attribute(parent, "type").unwrap_or_else(|| "file".to_owned());
        Some(match kind.as_str() {
            "file" => Self::File { path: attribute(node, "file")? },
            "block" => Self::Block { path: attribute(node, "dev")? },
            "network" => Self::Network(NetworkSource::parse(parent, node)?),
            "volume" => {
                let (pool, volume) = (attribute(node, "pool")?, attribute(node, "volume")?);
                Self::Volume { pool, volume, path: None }
            }
            "dir" => Self::Dir { path: attribute(node, "dir")? },
            "nvme" => Self::Nvme { address: nvme_address(node) },
            "vhostuser" => Self::VhostUser { path: attribute(node, "path").unwrap_or_default() },
            "vhostvdpa" => Self::VhostVdpa { path: attribute(node, "dev").unwrap_or_default() },
            _ => Self::Other { kind },
        })
    }
}

/// `0000:01:00.0/1`: the PCI address and the namespace.
fn nvme_address(node: Node<'_, '_>) -> String {
    let part = |name: &str, width: usize| {
        let text = attribute_of(node, "address", name).unwrap_or_default();
        let number = u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_default();
        format!("{number:0width$x}")
    };
    let namespace = attribute(node, "namespace").unwrap_or_else(|| "1".to_owned());
    let (domain, bus, slot) = (part("domain", 4), part("bus", 2), part("slot", 2));
    format!("{domain}:{bus}:{slot}.{}/{namespace}", part("function", 1))
}

impl NetworkSource {
    fn parse(parent: Node<'_, '_>, node: Node<'_, '_>) -> Option<Self> {
        let hosts = children(node, "host").map(|host| NetworkHost {
            name: attribute(host, "name").or_else(|| attribute(host, "socket")).unwrap_or_default(),
            port: crate::xml::parsed(host, "port"),
            transport: attribute(host, "transport"),
        });
        // Its place was below the disk before it was below the source.
        let auth = child(node, "auth").or_else(|| child(parent, "auth"));
        Some(Self {
            protocol: attribute(node, "protocol")?,
            name: attribute(node, "name").unwrap_or_default(),
            hosts: hosts.collect(),
            snapshot: attribute_of(node, "snapshot", "name"),
            auth: auth.and_then(SecretRef::parse),
            tls: yes(node, "tls"),
        })
    }
}

impl SecretRef {
    /// Reads the `<secret>` in `parent`.
    pub(super) fn parse(parent: Node<'_, '_>) -> Option<Self> {
        let node = child(parent, "secret")?;
        if let Some(uuid) = attribute(node, "uuid").and_then(|text| text.parse().ok()) {
            return Some(Self::Uuid(uuid));
        }
        let kind = attribute(node, "type").unwrap_or_default();
        Some(Self::Usage { kind, name: attribute(node, "usage")? })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nothing"),
            Self::File { path } | Self::Block { path } => f.write_str(path),
            Self::Network(network) => {
                write!(f, "{}:{}", network.protocol, network.name)?;
                network.snapshot.iter().try_for_each(|snapshot| write!(f, "@{snapshot}"))
            }
            Self::Volume { pool, volume, .. } => write!(f, "{pool}/{volume}"),
            Self::Dir { path } => write!(f, "folder {path}"),
            Self::Nvme { address } => write!(f, "NVMe {address}"),
            Self::VhostUser { path } => write!(f, "vhost-user {path}"),
            Self::VhostVdpa { path } => write!(f, "vDPA {path}"),
            Self::Other { kind } => write!(f, "type {kind}"),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Usage { kind, name } => write!(f, "{name} ({kind})"),
        }
    }
}
