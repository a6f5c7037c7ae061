//! Hints of ransomware on real disks: what is measured, which point is suspect, and what it names.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails says so by panicking"
)]

mod common;

use std::{fmt::Write as _, fs, os::unix::fs::FileExt as _, sync::Arc};

use common::{Place, noise};
use strongroom_base::{Cancel, JumpKind, NewContent, PointId};
use strongroom_engine::{BackupReport, CopyRequest, Progress, copy_point};
use strongroom_vault::Vault;

const MIB: u64 = 1 << 20;

/// A disk of which the first 80 MiB have text that differs everywhere.
fn make_text_disk(place: &Place) {
    let mut text = String::new();
    for line in 0_u64.. {
        writeln!(text, "{line} wrote order {} of {line}", line * 7919).expect("written");
        if text.len() >= 80 << 20 {
            break;
        }
    }
    let file = fs::File::create(place.path("vda.raw")).expect("create");
    file.set_len(128 * MIB).expect("size");
    file.write_all_at(&text.as_bytes()[..80 << 20], 0).expect("write");
}

fn write(place: &Place, offset: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(place.path("vda.raw")).expect("open");
    file.write_all_at(bytes, offset).expect("write");
}

fn backup(place: &Place, vault: &Arc<Vault>) -> BackupReport {
    place.backup(vault, &[("vda", None)])
}

/// A first backup, and seven days on which some text and a little noise are new.
fn week(place: &Place, vault: &Arc<Vault>) -> BackupReport {
    make_text_disk(place);
    let mut last = backup(place, vault);
    assert_eq!(last.disks[0].new_content(), None, "all of it is new");
    for day in 0..7_u64 {
        write(place, day * 10 * MIB, format!("day {day}\n").repeat(20_000).as_bytes());
        write(place, (day * 10 + 5) * MIB, &noise(day, 65536));
        last = backup(place, vault);
        let new = last.disks[0].new_content().expect("measured");
        assert_eq!((new.incompressible_bytes, &last.suspicion), (65536, &None), "day {day}");
    }
    last
}

#[test]
fn a_disk_that_is_encrypted_makes_its_point_suspect() {
    let place = Place::new();
    let vault = place.open();
    let last = week(&place, &vault);
    // What it has is encrypted, block by block, where it is.
    write(&place, 0, &noise(1000, 70 << 20));
    let point = backup(&place, &vault);
    let new = NewContent { bytes: 70 * MIB, incompressible_bytes: 70 * MIB };
    assert_eq!(point.disks[0].new_content(), Some(new));
    let report = point.suspicion.expect("suspect");
    assert_eq!(report.code, "point.suspect");
    assert!(report.message.contains(&last.recovery_point.to_string()), "{}", report.message);
    let suspicion = report.suspicion;
    assert_eq!(suspicion.last_before.id, last.recovery_point);
    assert_eq!(suspicion.last_before.time, last.time);
    let jump = &suspicion.jumps[0];
    assert_eq!((jump.kind, jump.bytes), (JumpKind::Incompressible, 70 * MIB));
    assert_eq!((jump.usual_bytes, jump.most_bytes, jump.points), (65536, 65536, 7));
    let kept = vault.point("web01", point.recovery_point).expect("the point");
    assert_eq!((kept.suspicion, kept.disks[0].new_content), (Some(suspicion), Some(new)));
    // The next night changes nothing more, and is not suspect itself.
    assert_eq!(backup(&place, &vault).suspicion, None);
}

#[test]
fn as_much_new_text_is_not_suspect() {
    let place = Place::new();
    let vault = place.open();
    week(&place, &vault);
    let mut text = String::new();
    for line in 0_u64.. {
        writeln!(text, "{line} is a new line {}", line * 104_729).expect("written");
        if text.len() >= 70 << 20 {
            break;
        }
    }
    write(&place, 0, &text.as_bytes()[..70 << 20]);
    let point = backup(&place, &vault);
    let new = point.disks[0].new_content().expect("measured");
    assert_eq!((new.bytes, new.incompressible_bytes), (70 * MIB, 0));
    assert_eq!(point.suspicion, None);
}

#[test]
fn a_point_that_is_copied_is_judged_by_the_copies_before() {
    let place = Place::new();
    let vault = place.open();
    let other = Place::new();
    let other = other.open();
    let copy = |point: PointId| {
        let request = CopyRequest {
            item: "web01".to_owned(),
            point,
            to_item: "web01".to_owned(),
            locked_until: None,
            threads: 2,
            limit_rate: None,
        };
        copy_point(&vault, &other, &request, &Progress::new(), &Cancel::new()).expect("copied")
    };
    week(&place, &vault);
    let points = vault.points(Some("web01")).expect("points");
    let copies: Vec<_> = points.iter().map(|point| copy(point.id)).collect();
    let last = copies.last().expect("copies");
    write(&place, 0, &noise(1000, 70 << 20));
    let copied = copy(backup(&place, &vault).recovery_point).suspicion.expect("suspect");
    assert_eq!(copied.suspicion.last_before.id, last.recovery_point);
}
