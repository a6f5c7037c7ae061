//! Copies of recovery points in another vault: the same bytes, at a cost that follows what changed.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::result_large_err,
    reason = "a test fails by panicking"
)]

mod common;

use std::{collections::BTreeMap, fs, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use common::{Place, make_disk, noise, request};
use strongroom_base::{ByteRange, Cancel, Coded as _, PointId, RangeSet};
use strongroom_disk::{DiskError, DiskSource, Extent, ExtentKind};
use strongroom_engine::{
    BackupDisk, BackupReport, COPY_OF, CopyRequest, Ending, EngineError, Progress, backup_with,
    copy_point, find_copy, read_configuration,
};
use strongroom_format::Consistency;
use strongroom_vault::Vault;

const SIZE: u64 = 70 * 1024 * 1024 + 512;

fn copy_request(point: PointId) -> CopyRequest {
    CopyRequest {
        item: "web01".to_owned(),
        point,
        to_item: "web01".to_owned(),
        locked_until: None,
        threads: 2,
        limit_rate: None,
    }
}

fn copy(from: &Arc<Vault>, to: &Arc<Vault>, point: PointId) -> BackupReport {
    let request = copy_request(point);
    copy_point(from, to, &request, &Progress::new(), &Cancel::new()).expect("copies")
}

/// Restores the disk of a point, and compares it with what it was.
fn check(place: &Place, vault: &Arc<Vault>, point: PointId, was: &Path) {
    let to = place.path(&format!("{point}.restored"));
    Place::restore(vault, point, "d", &to, false);
    let same = fs::read(&to).expect("reads") == fs::read(was).expect("reads");
    assert!(same, "{point} differs from {}", was.display());
    fs::remove_file(to).expect("removes");
}

fn write(place: &Place, data: &[u8], at: u64) {
    let file = fs::OpenOptions::new().write(true).open(place.path("d.raw")).expect("opens");
    file.write_all_at(data, at).expect("writes");
}

fn keep(place: &Place, name: &str) -> std::path::PathBuf {
    let to = place.path(name);
    fs::copy(place.path("d.raw"), &to).expect("copies");
    to
}

#[test]
fn a_copy_is_the_same_moment_and_costs_what_changed() {
    let (near, far) = (Place::new(), Place::new());
    let (here, there) = (near.open(), far.open());
    make_disk(&near.path("d.raw"), SIZE);
    let first_was = keep(&near, "first");
    let mut wanted = request("web01", vec![near.disk("d", None)]);
    wanted.consistency = Consistency::Application;
    wanted.evidence = vec!["proved".to_owned()];
    wanted.best_consistency = Some(Consistency::FileSystem);
    wanted.tags = BTreeMap::from([("job".to_owned(), "J".to_owned())]);
    wanted.disks[0].checkpoint = Some("cp1".to_owned());
    wanted.disks[0].notes = vec!["a note".to_owned()];
    let ending = Ending { configuration: Some(noise(7, 100_000)), ..Ending::default() };
    let (progress, cancel) = (Progress::new(), Cancel::new());
    let first =
        backup_with(&here, &wanted, &progress, &cancel, |_| Ok::<_, EngineError>(ending.clone()));
    let first = first.expect("backup").recovery_point;
    assert!(find_copy(&there, "web01", first).expect("looks").is_none());
    let copied = copy(&here, &there, first);
    check(&far, &there, copied.recovery_point, &first_was);
    let (old, new) = (
        here.point("web01", first).expect("point"),
        there.point("web01", copied.recovery_point).expect("point"),
    );
    assert_ne!(old.id, new.id);
    assert_eq!((old.time, old.consistency), (new.time, new.consistency));
    assert_eq!((&old.evidence, &old.host), (&new.evidence, &new.host));
    let best = Some(Consistency::FileSystem);
    assert_eq!((old.best_consistency, new.best_consistency), (best, best));
    assert_eq!(new.disks[0].source.checkpoint.as_deref(), Some("cp1"));
    assert_eq!(new.disks[0].notes, ["a note"]);
    assert_eq!(new.tags["job"], "J");
    assert_eq!(new.tags[COPY_OF], first.to_string());
    let archive = read_configuration(&there, &new).expect("reads").expect("there is one");
    assert_eq!(archive, noise(7, 100_000));
    let found = find_copy(&there, "web01", first).expect("looks").expect("it is there");
    assert_eq!(found.id, new.id);

    // Another state: three blocks, one of them cleared, and the end of the disk.
    write(&near, &noise(1, 65_536), 10 << 20);
    write(&near, &noise(2, 10), 30 << 20);
    write(&near, &vec![0; 65_536], 0);
    write(&near, &noise(3, 512), SIZE - 512);
    let second_was = keep(&near, "second");
    let second = near.backup(&here, &[("d", None)]).recovery_point;
    let copied = copy(&here, &there, second);
    check(&far, &there, copied.recovery_point, &second_was);
    let disk = &copied.disks[0];
    assert_eq!((disk.changes_from.as_str(), copied.parent), ("ranges", Some(new.id)));
    assert_eq!(disk.read_bytes, 2 * 65_536 + 512, "{disk:?}");
    assert_eq!(disk.changed_bytes, 4 * 65_536);

    // Nothing changed; and the first point again is known by its label.
    let third = near.backup(&here, &[("d", None)]).recovery_point;
    let copied = copy(&here, &there, third);
    assert_eq!(copied.disks[0].read_bytes, 0);
    check(&far, &there, copied.recovery_point, &second_was);

    // What was copied last is gone here: everything is compared, and nothing is stored twice.
    write(&near, &noise(4, 65_536), 20 << 20);
    let fourth_was = keep(&near, "fourth");
    let fourth = near.backup(&here, &[("d", None)]).recovery_point;
    here.delete_point("web01", third, "here").expect("deletes");
    let copied = copy(&here, &there, fourth);
    assert_eq!(copied.disks[0].changes_from, "all");
    assert_eq!(copied.disks[0].changed_bytes, 65_536);
    check(&far, &there, copied.recovery_point, &fourth_was);
}

#[test]
fn a_resized_and_a_new_disk_are_copied_whole() {
    let (near, far) = (Place::new(), Place::new());
    let (here, there) = (near.open(), far.open());
    make_disk(&near.path("d.raw"), SIZE);
    copy(&here, &there, near.backup(&here, &[("d", None)]).recovery_point);
    for size in [SIZE + (40 << 20), SIZE - (9 << 20)] {
        let file = fs::OpenOptions::new().write(true).open(near.path("d.raw")).expect("opens");
        file.set_len(size).expect("sets");
        write(&near, &noise(size, 5000), size - 6000);
        make_disk(&near.path("e.raw"), 3 << 20);
        let was = keep(&near, "was");
        let point = near.backup(&here, &[("d", None), ("e", None)]).recovery_point;
        let copied = copy(&here, &there, point);
        check(&far, &there, copied.recovery_point, &was);
        let to = far.path("e.restored");
        Place::restore(&there, copied.recovery_point, "e", &to, false);
        assert!(fs::read(&to).expect("reads") == fs::read(near.path("e.raw")).expect("reads"));
        fs::remove_file(to).expect("removes");
    }
}

#[test]
fn a_cancelled_copy_leaves_nothing_and_is_not_lost() {
    let (near, far) = (Place::new(), Place::new());
    let (here, there) = (near.open(), far.open());
    make_disk(&near.path("d.raw"), SIZE);
    let was = keep(&near, "was");
    let point = near.backup(&here, &[("d", None)]).recovery_point;
    let cancel = Cancel::new();
    cancel.cancel();
    let refused = copy_point(&here, &there, &copy_request(point), &Progress::new(), &cancel);
    assert_eq!(refused.expect_err("stopped").code().name, "interrupted");
    assert!(there.points(None).expect("lists").is_empty());
    let copied = copy(&here, &there, point);
    check(&far, &there, copied.recovery_point, &was);
}

#[test]
fn damage_near_the_source_is_said_to_be_there() {
    let (near, far) = (Place::new(), Place::new());
    let (here, there) = (near.open(), far.open());
    make_disk(&near.path("d.raw"), SIZE);
    let point = near.backup(&here, &[("d", None)]).recovery_point;
    drop(here);
    // Every pack of data there loses a byte in its middle.
    let mut stack = vec![near.vault_path().join("packs")];
    let mut count = 0;
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).expect("lists") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                stack.push(path);
            } else {
                let mut bytes = fs::read(&path).expect("reads");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::remove_file(&path).expect("removes");
                fs::write(&path, bytes).expect("writes");
                count += 1;
            }
        }
    }
    assert!(count > 1);
    let here = near.open();
    let error = copy_point(&here, &there, &copy_request(point), &Progress::new(), &Cancel::new());
    let error = error.expect_err("it is damaged");
    assert_eq!(error.code().kind.name(), "corrupt", "{error:?}");
    assert!(there.points(None).expect("lists").is_empty());
}

/// A disk with sectors that cannot be read.
struct Bad {
    bytes: Vec<u8>,
    bad: ByteRange,
}

impl DiskSource for Bad {
    fn size(&self) -> u64 {
        self.bytes.len().try_into().expect("small")
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        Ok(vec![Extent { range, kind: ExtentKind::Data }])
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let end = offset + u64::try_from(buf.len()).expect("small");
        let lost = self.bad.intersect(ByteRange::between(offset, end));
        if !lost.is_empty() {
            let source = std::io::Error::other("a bad sector");
            return Err(DiskError::Read { disk: "d".to_owned(), range: lost, source });
        }
        buf.fill(0);
        let from = usize::try_from(offset).expect("small").min(self.bytes.len());
        let rest = &self.bytes[from..];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(())
    }

    fn changed(&self) -> Option<&RangeSet> {
        None
    }

    fn format(&self) -> &'static str {
        "raw"
    }
}

/// What could not be read is no zeros, in the copy either.
#[test]
fn what_could_not_be_read_is_said_of_the_copy_too() {
    let (near, far) = (Place::new(), Place::new());
    let (here, there) = (near.open(), far.open());
    let bad = ByteRange::new(3 * 65_536 + 512, 1024).expect("fits");
    let backup_of = |bad: ByteRange| {
        let source = Arc::new(Bad { bytes: noise(5, 40 * 65_536), bad });
        let mut wanted = request("web01", vec![BackupDisk::new("d", "d", source)]);
        wanted.skip_bad_blocks = true;
        let (progress, cancel) = (Progress::new(), Cancel::new());
        strongroom_engine::backup(&here, &wanted, &progress, &cancel)
            .expect("backup")
            .recovery_point
    };
    let mut was = noise(5, 40 * 65_536);
    was[3 * 65_536 + 512..3 * 65_536 + 1536].fill(0);
    fs::write(near.path("was"), &was).expect("writes");
    let first = copy(&here, &there, backup_of(bad));
    let copied = there.point("web01", first.recovery_point).expect("point");
    let skipped: Vec<_> = copied.disks[0].skipped.iter().map(|it| (it.offset, it.length)).collect();
    assert_eq!(skipped, [(bad.offset(), bad.len())]);
    check(&far, &there, first.recovery_point, &near.path("was"));
    // The next time it can be read: the copy has it then.
    let healed = copy(&here, &there, backup_of(ByteRange::between(0, 0)));
    assert!(
        there.point("web01", healed.recovery_point).expect("point").disks[0].skipped.is_empty()
    );
    fs::write(near.path("was"), noise(5, 40 * 65_536)).expect("writes");
    check(&far, &there, healed.recovery_point, &near.path("was"));
}
