//! The firmware of a machine: BIOS or UEFI; and a kernel from the host's files.

use roxmltree::Node;

use crate::xml::{attribute, attribute_of, child, children, text, text_of, yes};

/// What a machine starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Whether it is UEFI; BIOS if not.
    pub is_uefi: bool,
    /// Whether libvirt chooses a suitable one (`firmware='efi'`).
    pub is_chosen_by_libvirt: bool,
    /// Whether it only starts what is signed.
    pub secure_boot: bool,
    /// Its code.
    pub loader: Option<Loader>,
    /// Where it keeps its variables, such as boot entries and keys. They are in no disk.
    pub nvram: Option<Nvram>,
}

/// A firmware's code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loader {
    /// The file.
    pub path: Option<String>,
    /// How the guest sees it: `rom` or `pflash`.
    pub kind: Option<String>,
    /// Whether the guest cannot write to it.
    pub readonly: bool,
    /// Whether it demands that the guest cannot forge what protects it.
    pub secure: bool,
}

/// A firmware's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nvram {
    /// The file; none yet if the machine never ran, or if they are on a server.
    pub path: Option<String>,
    /// What the file is first made from.
    pub template: Option<String>,
    /// Its format, if it is not `raw`.
    pub format: Option<String>,
}

/// A kernel that lies on the host, not in a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectBoot {
    /// The kernel.
    pub kernel: Option<String>,
    /// Its first file system.
    pub initrd: Option<String>,
    /// Its device tree.
    pub dtb: Option<String>,
}

impl DirectBoot {
    /// All its files.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        [&self.kernel, &self.initrd, &self.dtb].into_iter().filter_map(Option::as_deref)
    }
}

pub(super) fn parse(root: Node<'_, '_>) -> Firmware {
    let Some(os) = child(root, "os") else { return Firmware::default() };
    let loader = child(os, "loader").map(loader);
    let flash = loader.as_ref().is_some_and(|loader| loader.kind.as_deref() == Some("pflash"));
    let chosen = attribute(os, "firmware");
    let secure_feature = child(os, "firmware").is_some_and(|firmware| {
        children(firmware, "feature").any(|feature| {
            attribute(feature, "name").as_deref() == Some("secure-boot") && yes(feature, "enabled")
        })
    });
    let secure_loader = loader.as_ref().is_some_and(|loader| loader.secure);
    Firmware {
        is_uefi: chosen.as_deref() == Some("efi") || flash,
        is_chosen_by_libvirt: chosen.is_some(),
        secure_boot: secure_feature || secure_loader,
        loader,
        nvram: child(os, "nvram").map(nvram),
    }
}

fn loader(node: Node<'_, '_>) -> Loader {
    Loader {
        path: text(node),
        kind: attribute(node, "type"),
        readonly: yes(node, "readonly"),
        secure: yes(node, "secure"),
    }
}

fn nvram(node: Node<'_, '_>) -> Nvram {
    Nvram {
        // Since libvirt 8.5 it can have a source like a disk's.
        path: text(node)
            .or_else(|| attribute_of(node, "source", "file"))
            .or_else(|| attribute_of(node, "source", "dev")),
        template: attribute(node, "template"),
        format: attribute(node, "format").filter(|format| format != "raw"),
    }
}

pub(super) fn direct_boot(root: Node<'_, '_>) -> Option<DirectBoot> {
    let os = child(root, "os")?;
    let boot = DirectBoot {
        kernel: text_of(os, "kernel"),
        initrd: text_of(os, "initrd"),
        dtb: text_of(os, "dtb"),
    };
    (boot != DirectBoot::default()).then_some(boot)
}
