//! The layout of the disks of a machine that is off: its definition decides, as at its next start.

use std::path::{Path, PathBuf};

use strongroom_base::ByteRange;
use strongroom_disk::{DiskError, DiskSpec, ImageFormat, Layer, Layout, OpenOptions, Under};
use strongroom_hypervisor::{self as hypervisor, Disk, Slice, Source};

/// What opens a disk without a machine's QEMU; otherwise why only that can read it.
pub(crate) fn of(disk: &Disk) -> Result<(DiskSpec, Layout), String> {
    let path = path(&disk.source)?;
    let format = format(disk.driver.format.as_deref().unwrap_or("raw"))?;
    let mut under = if disk.chain_ends { Under::Nothing } else { Under::Header };
    for layer in disk.chain.iter().rev() {
        under = Under::Image(Box::new(layer_of(layer, under)?));
    }
    let data_file = disk.data_file.as_ref().map(self::path).transpose()?;
    let layout = Layout { slice: disk.slice.map(range), data_file, under };
    Ok((DiskSpec::File { path, format: Some(format) }, layout))
}

/// How such a disk is opened: everything that it refers to may be read, since QEMU opens the same at
/// every start, and a user who can change it runs here.
pub(crate) fn options(layout: Layout) -> OpenOptions {
    OpenOptions {
        allow_backing: vec![PathBuf::from("/")],
        layout: Some(layout),
        even_if_in_use: true,
        ..OpenOptions::default()
    }
}

/// Why only QEMU can read a disk, if that is so. What is wrong with it otherwise is found when it is
/// opened.
pub(crate) fn needs_qemu(disk: &Disk) -> Option<String> {
    match of(disk) {
        Err(reason) => Some(reason),
        Ok((spec, layout)) => match strongroom_disk::inspect_source(&spec, &options(layout)) {
            Err(DiskError::NeedsQemu { disk, reason }) => Some(format!("{disk}: {reason}")),
            _ => None,
        },
    }
}

fn layer_of(layer: &hypervisor::Layer, under: Under) -> Result<Layer, String> {
    let path = path(&layer.source)?;
    let name = layer.format.as_deref();
    let format = format(name.ok_or_else(|| {
        format!("the machine's description does not say the format of {}", layer.source)
    })?)?;
    let data_file = layer.data_file.as_ref().map(self::path).transpose()?;
    let layout = Layout { slice: layer.slice.map(range), data_file, under };
    Ok(Layer { path, format, layout })
}

fn path(source: &Source) -> Result<PathBuf, String> {
    let path = source.path().map(Path::new);
    path.map(Path::to_owned)
        .ok_or_else(|| format!("{source} can only be read while the machine runs"))
}

/// libvirt calls VHD by its maker.
fn format(name: &str) -> Result<ImageFormat, String> {
    match name {
        "vpc" => Ok(ImageFormat::Vhd),
        name => ImageFormat::from_name(name)
            .ok_or_else(|| format!("images of the format {name} are only read by QEMU")),
    }
}

fn range(slice: Slice) -> ByteRange {
    ByteRange::between(slice.offset, slice.offset.saturating_add(slice.size))
}

#[cfg(test)]
mod tests {
    use strongroom_hypervisor::Machine;

    use super::*;

    fn disk(xml: &str) -> Disk {
        let text = format!(
            "<domain type='kvm'><name>web</name><uuid>0a1b2c3d-0001-4fff-8000-00000000000f</uuid>\
             <memory>1024</memory><os><type>hvm</type></os><devices>{xml}</devices></domain>"
        );
        Machine::parse(&text).expect("a machine").disks.remove(0)
    }

    fn top(inner: &str, format: &str) -> Disk {
        disk(&format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>\
             <source file='/i/top'/>{inner}<target dev='vda'/></disk>"
        ))
    }

    fn under(disk: &Disk) -> Under {
        of(disk).expect("files").1.under
    }

    #[test]
    fn the_definition_says_what_is_under_an_image() {
        assert_eq!(under(&top("", "qcow2")), Under::Header);
        assert_eq!(under(&top("<backingStore/>", "qcow2")), Under::Nothing);
        let store = |inner: &str| {
            format!(
                "<backingStore type='file'><format type='raw'/><source file='/i/base'>\
                 <slices><slice type='storage' offset='4096' size='512'/></slices></source>{inner}\
                 </backingStore>"
            )
        };
        for (inner, end) in [("", Under::Header), ("<backingStore/>", Under::Nothing)] {
            let layout =
                Layout { slice: Some(ByteRange::between(4096, 4608)), under: end, data_file: None };
            let layer = Layer { path: "/i/base".into(), format: ImageFormat::Raw, layout };
            assert_eq!(under(&top(&store(inner), "qcow2")), Under::Image(Box::new(layer)));
        }
    }

    #[test]
    fn what_only_qemu_reads() {
        assert!(needs_qemu(&top("", "vdi")).is_some_and(|why| why.contains("vdi")));
        let (spec, _) = of(&top("", "vpc")).expect("a VHD");
        assert_eq!(spec, DiskSpec::File { path: "/i/top".into(), format: Some(ImageFormat::Vhd) });
        let network = "<backingStore type='network'><format type='raw'/>\
            <source protocol='nbd' name='x'><host name='h'/></source></backingStore>";
        assert!(needs_qemu(&top(network, "qcow2")).is_some_and(|why| why.contains("nbd:x")));
        // What is wrong otherwise is found when it is opened.
        assert_eq!(needs_qemu(&top("", "qcow2")), None);
    }
}
