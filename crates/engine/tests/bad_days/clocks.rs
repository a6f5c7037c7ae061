//! Clocks that jump: no data is lost, and the newest point is the one that was made last.

use std::{sync::Arc, time::Duration};

use strongroom_base::Cancel;
use strongroom_engine::{PointSelector, select_point};
use strongroom_objects::ObjectStore;
use strongroom_vault::{ReclaimOptions, Vault, VaultOptions, reclaim};

use crate::{
    common::{Place, noise, request},
    tools::{Disk, Shifted, back_up, ranges, restored, source, try_backup},
};

fn open(place: &Place, clock: &Shifted) -> Arc<Vault> {
    let store: Arc<dyn ObjectStore> = Arc::new(place.folder());
    let options = VaultOptions { clock: Arc::new(clock.clone()), ..place.options() };
    Arc::new(Vault::open(store, &place.key(), options).expect("opens"))
}

#[test]
fn a_clock_that_jumps_loses_nothing_and_confuses_nobody() {
    let place = Place::new();
    let clock = Shifted::default();
    let mut disk = Disk::with_noise(1, 24);
    let mut points = vec![];
    // A year ahead, back to now, a day back, an hour ahead, fifty years back.
    for (step, hours) in (0..).zip([0, 24 * 365, 0, -24, 1, -24 * 365 * 50, 0]) {
        clock.set(hours);
        let vault = open(&place, &clock);
        disk.set_block(step, noise(500 + step, 65536));
        disk.block_mut(12)[..8].copy_from_slice(&(step + 1).to_le_bytes());
        // Changed ranges refer to the backup before, whatever the clock said then.
        let mut part = source("vda", &Arc::new(disk.copy()));
        part.changed = Some(ranges(&[step, 12]));
        let report = try_backup(&vault, &request("web01", vec![part])).expect("backup");
        assert_eq!(report.parent, points.last().map(|(point, _)| *point));
        points.push((report.recovery_point, disk.copy()));
        let latest = vault.latest("web01").expect("a list").expect("a point");
        assert_eq!(latest.id, report.recovery_point);
        assert_eq!(vault.points(Some("web01")).expect("a list").len(), points.len());
        for (point, wanted) in &points {
            restored(&vault, *point, wanted).expect("every point");
        }
    }
    // By time, each is found by what the clock said.
    let vault = open(&place, &clock);
    let last = points.last().expect("points").0;
    let latest = select_point(&vault, "web01", PointSelector::Latest).expect("one").id;
    assert_eq!(latest, last);

    // Reclaim at any of these times leaves what is needed.
    let deleted = points.remove(0);
    vault.delete_point("web01", deleted.0, "here").expect("delete");
    for hours in [24 * 365, -24 * 365, 0] {
        clock.set(hours);
        let vault = open(&place, &clock);
        reclaim(&vault, &ReclaimOptions::default(), &Cancel::new()).expect("reclaim");
        for (point, wanted) in &points {
            restored(&vault, *point, wanted).expect("every point");
        }
    }
}

#[test]
fn a_clock_that_is_off_gives_up_nobodys_backup() {
    for hours in [-48, 48] {
        let place = Place::new();
        let disk = Arc::new(Disk::with_noise(1, 24));
        let kept = back_up(&place.open(), &disk).expect("backup").recovery_point;
        let writer_vault = place.open();
        let writer =
            strongroom_vault::Writer::begin(&writer_vault, "other", "there").expect("writer");
        // By this host's clock the writer has been silent for two days, or writes in the future. By
        // the store's it lives.
        let vault = open(&place, &Shifted::by_hours(hours));
        vault.delete_point("web01", kept, "here").expect("delete");
        let options = ReclaimOptions { wait: Duration::ZERO, ..ReclaimOptions::default() };
        let report = reclaim(&vault, &options, &Cancel::new()).expect("reclaim");
        assert_eq!((report.writers_expired, report.packs_removed), (0, 0), "{report:?}");
        assert_eq!(report.waiting_for.len(), 1, "{report:?}");
        let ahead = report.clock_ahead_seconds.expect("it is said");
        assert!((ahead - hours * 3600).abs() < 60, "{ahead}");
        // A backup that begins under the same clock gives nobody up either.
        back_up(&vault, &disk).expect("backup");
        drop(writer);
        let report = back_up(&place.open(), &disk).expect("backup");
        restored(&place.open(), report.recovery_point, &disk).expect("whole");
    }
}
