//! The backup job of a running machine.
//!
//! One QEMU transaction fixes the content of all disks at one instant and begins the new
//! checkpoint's bitmaps. QEMU then serves that content over NBD until the job ends; before the
//! guest overwrites a block, QEMU copies it to a scratch file.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_base::{ByteRange, RangeSet};
use strongroom_disk::{
    DiskError, DiskSource, DiskSpec, Extent, NbdConnections, NbdUrl, OpenOptions, open_source,
};
use strongroom_hypervisor::{Connection, Scope, ScratchImages};

use crate::{MachineError, error::Result, image};

/// The name under which QEMU exports what has changed.
const CHANGED: &str = "changed";

/// The most connections to QEMU's server at once. libvirt lets it take 100; those beyond wait without
/// a word.
pub(crate) const CONNECTIONS: usize = 80;

/// The user and group as which a host's QEMU runs, if that is another than we are.
pub(crate) fn qemu_user(connection: &Connection) -> Option<(u32, u32)> {
    if connection.uri().scope != Scope::System {
        return None;
    }
    let xml = connection.capabilities_xml().ok()?;
    let document = roxmltree::Document::parse(&xml).ok()?;
    let model = document.descendants().find(|node| {
        node.has_tag_name("secmodel")
            && node
                .children()
                .any(|child| child.has_tag_name("model") && child.text() == Some("dac"))
    })?;
    let label = model.children().find(|child| child.has_tag_name("baselabel"))?.text()?;
    let mut numbers = label.split(':').map(|part| part.trim_start_matches('+').parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// One disk of a running machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveDisk {
    /// Its name in the machine.
    pub(crate) target: String,
    /// Whether it is backed up.
    pub(crate) chosen: bool,
    /// Whether it can have a bitmap.
    pub(crate) tracks: bool,
    /// The checkpoint since which its changes are asked for.
    pub(crate) since: Option<String>,
}

/// The files of a backup job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobFiles {
    /// Folder of the socket.
    pub(crate) run: PathBuf,
    /// Folder of the scratch files.
    pub(crate) scratch: PathBuf,
}

impl JobFiles {
    /// The files of a job; nothing is made yet.
    pub(crate) fn of(run: &Path, scratch: &Path, id: &str) -> Self {
        Self {
            run: run.join(format!("job-{id}")),
            scratch: scratch.join(format!(".strongroom-scratch-{id}")),
        }
    }

    /// Makes the folders; QEMU must be able to write to them.
    pub(crate) fn create(&self, qemu: Option<(u32, u32)>) -> Result<()> {
        for folder in [&self.run, &self.scratch] {
            let failed = |source| MachineError::Local {
                action: "make the folder",
                path: folder.display().to_string(),
                source,
            };
            fs::create_dir_all(folder).map_err(failed)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
            if let Some((user, group)) = qemu {
                chown(folder, Some(user), Some(group)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// QEMU's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("nbd")
    }

    /// Both folders.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        vec![self.run.clone(), self.scratch.clone()]
    }

    /// Makes the scratch images of disks of these sizes, for QEMU's user to write to. It does not matter
    /// if that fails: then there are none, and libvirt makes them while the guest is frozen.
    pub(crate) fn make_scratch(
        &self,
        sizes: &[(&str, u64)],
        qemu: Option<(u32, u32)>,
    ) -> ScratchImages {
        let path = |&(target, size): &(&str, u64)| (self.scratch.join(target), size);
        let images: Vec<_> = sizes.iter().map(path).collect();
        let give = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            qemu.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
        };
        if image::create(&images) && images.iter().all(|(path, _)| give(path).is_ok()) {
            return ScratchImages::AreThere;
        }
        self.remove_scratch();
        ScratchImages::Made
    }

    /// Removes scratch images, so that libvirt makes others.
    pub(crate) fn remove_scratch(&self) {
        for file in fs::read_dir(&self.scratch).into_iter().flatten().flatten() {
            fs::remove_file(file.path()).ok();
        }
    }

    /// Removes the folders.
    pub(crate) fn remove(&self) {
        for folder in [&self.run, &self.scratch] {
            if let Err(error) = fs::remove_dir_all(folder) {
                tracing::debug!(%error, folder = %folder.display(), "not removed");
            }
        }
    }

    /// The job's description for libvirt (formatbackup).
    pub(crate) fn backup_xml(&self, disks: &[LiveDisk]) -> String {
        let mut list = String::new();
        for disk in disks {
            let target = escape(&disk.target);
            if !disk.chosen {
                write!(list, "<disk name='{target}' backup='no'/>").ok();
                continue;
            }
            let mode = match &disk.since {
                Some(since) => format!(
                    " backupmode='incremental' incremental='{}' exportbitmap='{CHANGED}'",
                    escape(since)
                ),
                None => " backupmode='full'".to_owned(),
            };
            let scratch = self.scratch.join(&disk.target);
            let scratch = escape(&scratch.display().to_string());
            write!(
                list,
                "<disk name='{target}' backup='yes' type='file'{mode} exportname='{target}'>\
                 <driver type='qcow2'/><scratch file='{scratch}'/></disk>"
            )
            .ok();
        }
        let socket = escape(&self.socket().display().to_string());
        format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{socket}'/>\
             <disks>{list}</disks></domainbackup>"
        )
    }

    /// Opens what QEMU serves of a disk, whose own format is `format`.
    pub(crate) fn open(
        &self,
        disk: &LiveDisk,
        format: &str,
        connections: &NbdConnections,
    ) -> Result<Arc<dyn DiskSource>> {
        let mut url = NbdUrl::unix(self.socket(), &disk.target);
        url.dirty_bitmap = disk.since.as_ref().map(|_| CHANGED.to_owned());
        let options =
            OpenOptions { connections: Some(connections.clone()), ..OpenOptions::default() };
        let export = open_source(&DiskSpec::Nbd(url), &options)?;
        Ok(Arc::new(Served { export, format: format.to_owned() }))
    }
}

/// A disk that QEMU serves: for people it is what it is on the host, not an export.
struct Served {
    export: Box<dyn DiskSource>,
    format: String,
}

impl DiskSource for Served {
    fn size(&self) -> u64 {
        self.export.size()
    }

    fn extents(&self, range: ByteRange) -> std::result::Result<Vec<Extent>, DiskError> {
        self.export.extents(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<(), DiskError> {
        self.export.read_at(offset, buf)
    }

    fn changed(&self) -> Option<&RangeSet> {
        self.export.changed()
    }

    fn format(&self) -> &str {
        &self.format
    }
}

/// A checkpoint's description for libvirt (formatcheckpoint); none if no disk can have a bitmap.
pub(crate) fn checkpoint_xml(name: &str, description: &str, disks: &[LiveDisk]) -> Option<String> {
    if !disks.iter().any(|disk| disk.chosen && disk.tracks) {
        return None;
    }
    let mut list = String::new();
    for disk in disks {
        let kind = if disk.chosen && disk.tracks { "bitmap" } else { "no" };
        write!(list, "<disk name='{}' checkpoint='{kind}'/>", escape(&disk.target)).ok();
    }
    Some(format!(
        "<domaincheckpoint><name>{}</name><description>{}</description>\
         <disks>{list}</disks></domaincheckpoint>",
        escape(name),
        escape(description)
    ))
}

/// Text as it stands in XML.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(target: &str, chosen: bool, tracks: bool, since: Option<&str>) -> LiveDisk {
        LiveDisk { target: target.to_owned(), chosen, tracks, since: since.map(ToOwned::to_owned) }
    }

    #[test]
    fn descriptions_say_something_of_every_disk() {
        let files = JobFiles { run: "/run/a&b".into(), scratch: "/s".into() };
        let disks = [
            disk("vda", true, true, Some("c0")),
            disk("vdb", true, false, None),
            disk("sda", false, false, None),
        ];
        let xml = files.backup_xml(&disks);
        let document = roxmltree::Document::parse(&xml).expect("XML");
        let server = document.descendants().find(|node| node.has_tag_name("server"));
        assert_eq!(server.and_then(|node| node.attribute("socket")), Some("/run/a&b/nbd"));
        let rows: Vec<_> = document
            .descendants()
            .filter(|node| node.has_tag_name("disk"))
            .map(|node| ["name", "backup", "backupmode", "incremental"].map(|a| node.attribute(a)))
            .collect();
        assert_eq!(
            rows,
            [
                [Some("vda"), Some("yes"), Some("incremental"), Some("c0")],
                [Some("vdb"), Some("yes"), Some("full"), None],
                [Some("sda"), Some("no"), None, None],
            ]
        );
        let checkpoint = checkpoint_xml("c1", "<x>", &disks).expect("one");
        let document = roxmltree::Document::parse(&checkpoint).expect("XML");
        let kinds: Vec<_> =
            document.descendants().filter_map(|node| node.attribute("checkpoint")).collect();
        assert_eq!(kinds, ["bitmap", "no", "no"]);
        assert_eq!(checkpoint_xml("c1", "", &disks[1..]), None);
    }
}
