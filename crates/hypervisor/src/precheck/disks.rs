//! Obstacles to backups of each disk.

use super::Check;
use crate::{
    BackupKind, Disk, ImageInfo,
    Level::{self, Amber, Info, Red},
    SkipReason, Source,
};

impl<'a> Check<'a> {
    /// The disks that are to be backed up.
    pub(super) fn protected(&self) -> impl Iterator<Item = &'a Disk> {
        let left_out = &self.facts.left_out;
        self.machine.disks.iter().filter(move |disk| {
            disk.backup_kind() == BackupKind::Protect && !left_out.contains(&disk.target)
        })
    }

    pub(super) fn disks(&mut self) {
        for disk in &self.machine.disks {
            if !self.facts.left_out.contains(&disk.target)
                && let BackupKind::Skip(reason) = disk.backup_kind()
            {
                self.skipped(disk, reason);
            }
        }
        let protected: Vec<&Disk> = self.protected().collect();
        if protected.is_empty() {
            let what = "it has no disk that is to be backed up";
            self.find(Red, "disk.none", what, "choose at least one of its disks");
        }
        for disk in protected {
            self.description(disk);
            let chain = self.facts.disks.get(&disk.target).map(|facts| facts.chain.as_slice());
            let chain = chain.unwrap_or_default();
            match chain.first() {
                Some(top) => self.image(disk, top),
                None => self.format(disk, disk.driver.format.as_deref().unwrap_or("raw")),
            }
            for image in chain {
                self.damage(disk, image);
            }
        }
    }

    fn of(
        &mut self,
        level: Level,
        id: &'static str,
        disk: &Disk,
        what: &str,
        what_to_do: impl Into<String>,
    ) {
        self.find(level, id, format!("disk {} ({}) {what}", disk.target, disk.source), what_to_do);
    }

    fn skipped(&mut self, disk: &Disk, reason: SkipReason) {
        let level = match reason {
            // Nobody expects them in a backup.
            SkipReason::Cdrom | SkipReason::Empty => return,
            SkipReason::Floppy if disk.source == Source::None => return,
            SkipReason::ReadOnly | SkipReason::Floppy => Info,
            SkipReason::Transient => {
                let what = "is not in the backup: the guest's writes to it are lost when the machine stops";
                let what_to_do =
                    "make it permanent (remove <transient/>), or back up its file by path";
                return self.of(Amber, "disk.transient", disk, what, what_to_do);
            }
            SkipReason::Passthrough
            | SkipReason::Absent
            | SkipReason::Vhost
            | SkipReason::Folder
            | SkipReason::Unknown => Amber,
        };
        let what = format!("is not in the backup: it is {reason}");
        let what_to_do = "back it up from inside the guest, or where it is kept";
        self.of(level, "disk.skipped", disk, &what, what_to_do);
    }

    /// What its description tells.
    fn description(&mut self, disk: &Disk) {
        if disk.shareable {
            let what = "is shared: other machines may write to it during the backup";
            let what_to_do = "back it up where the cluster keeps it, or leave it out";
            self.of(Amber, "disk.shared", disk, what, what_to_do);
        }
        if disk.mirror.is_some() || self.facts.block_jobs.contains(&disk.target) {
            let what = "is being copied, committed or pulled by a block job";
            let what_to_do = format!(
                "wait until it has ended (virsh blockjob DOMAIN {} --info), then try again",
                disk.target
            );
            self.of(Red, "disk.block_job", disk, what, what_to_do);
        }
        if disk.encryption.is_some() {
            let what = "is encrypted on the host; the backup has what the guest sees";
            let what_to_do = "the vault encrypts with its own keys, and restored machines' disks are encrypted as before; backup --encrypted-disks ciphertext keeps the image as it is, while the machine is off";
            self.of(Info, "disk.encrypted", disk, what, what_to_do);
        }
    }

    fn image(&mut self, disk: &Disk, top: &ImageInfo) {
        self.format(disk, &top.format);
        if top.qcow2_version == Some(2) {
            let what = "is of version 2 of qcow2, which has no bitmaps: each backup reads all";
            let what_to_do = format!(
                "while the machine is off: qemu-img amend -f qcow2 -o compat=1.1 {}",
                quoted(&top.filename)
            );
            self.of(Amber, "disk.qcow2_v2", disk, what, what_to_do);
        }
        // While a machine runs, QEMU has the true bitmaps, and those in the file are all so marked.
        let is_off = !self.facts.state.is_active();
        let broken = top.bitmaps.iter().filter(|bitmap| bitmap.in_use && is_off);
        let names: Vec<&str> = broken.map(|bitmap| bitmap.name.as_str()).collect();
        if !names.is_empty() {
            let what = format!(
                "has bitmaps that a crash left unfinished ({}): the next backup reads all of it",
                names.join(", ")
            );
            let what_to_do = "nothing: the backup begins new ones; those of other programs are \
                 removed by qemu-img bitmap --remove";
            self.of(Amber, "disk.bitmap_inconsistent", disk, &what, what_to_do);
        }
        if !top.snapshots.is_empty() && self.facts.snapshots.is_empty() {
            let what = format!("has snapshots in its image: {}", top.snapshots.join(", "));
            let what_to_do = "they are in no backup; delete them if they are not needed \
                 (qemu-img snapshot -d)";
            self.of(Info, "disk.snapshots", disk, &what, what_to_do);
        }
    }

    fn format(&mut self, disk: &Disk, format: &str) {
        if format == "qcow2" {
            return;
        }
        let what = format!(
            "is {format}, which has no bitmaps: each backup reads all of it and keeps what differs"
        );
        let path = quoted(disk.source.path().unwrap_or("OLD"));
        let what_to_do = format!(
            "nothing, if its size allows that; or convert it while the machine is off: qemu-img \
             convert -p -O qcow2 {path} NEW.qcow2, then name NEW.qcow2 and type='qcow2' in its \
             description"
        );
        self.of(Amber, "disk.no_bitmaps", disk, &what, what_to_do);
    }

    fn damage(&mut self, disk: &Disk, image: &ImageInfo) {
        let path = quoted(&image.filename);
        if image.is_corrupt {
            let what = format!("has the image {path}, which QEMU has found damaged");
            let what_to_do = format!("while the machine is off: qemu-img check -r all {path}");
            self.of(Red, "disk.corrupt", disk, &what, what_to_do);
        } else if image.is_dirty && !self.facts.state.is_active() {
            let what = format!("has the image {path}, which was not closed properly");
            let what_to_do = format!("start the machine once, or qemu-img check -r all {path}");
            self.of(Amber, "disk.dirty", disk, &what, what_to_do);
        }
    }
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@".contains(&byte);
    if path.bytes().all(plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}
