//! A vault with items, and the bytes that each of their recovery points must have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    sync::Arc,
};

use super::Chance;
use crate::harness::{Lab, Run};

/// The items that are backed up, and the sizes of their disks in KiB.
pub(super) const ITEMS: [(&str, u64); 2] = [("web", 2048), ("db", 768)];

/// A recovery point: its item and its id.
pub(super) type Point = (String, String);

pub(super) struct World {
    pub(super) lab: Lab,
    pub(super) mirrored: bool,
    /// What each item's disk holds now.
    disks: BTreeMap<String, Arc<Vec<u8>>>,
    /// What each recovery point must hold.
    pub(super) points: BTreeMap<Point, Arc<Vec<u8>>>,
    /// Points that somebody began to delete.
    given_up: BTreeSet<Point>,
    /// How many restores were compared with what they must be.
    pub(super) restores: u64,
}

impl World {
    /// A new vault in a folder, or in two.
    pub(super) fn new(chance: &mut Chance, mirrored: bool) -> Self {
        let lab = Lab::empty();
        lab.ok("vault key generate key");
        let world = Self::around(lab, chance, mirrored);
        world.lab.ok(if mirrored { "vault create --mirror copy" } else { "vault create" });
        world
    }

    /// A vault that does not exist yet, in a folder that does.
    pub(super) fn around(lab: Lab, chance: &mut Chance, mirrored: bool) -> Self {
        let mut world = Self {
            lab,
            mirrored,
            disks: BTreeMap::new(),
            points: BTreeMap::new(),
            given_up: BTreeSet::new(),
            restores: 0,
        };
        for (item, kib) in ITEMS {
            let mut bytes = chance.bytes(kib << 9);
            bytes.resize(usize::try_from(kib << 10).expect("fits"), 0);
            world.set_disk(item, bytes);
        }
        world
    }

    fn set_disk(&mut self, item: &str, bytes: Vec<u8>) {
        fs::write(self.lab.path(&format!("{item}.img")), &bytes).expect("room for a disk");
        self.disks.insert(item.to_owned(), Arc::new(bytes));
    }

    /// Overwrites some of an item's disk.
    pub(super) fn change(&mut self, item: &str, chance: &mut Chance) {
        let mut bytes = self.disks[item].as_ref().clone();
        let length = 1 + chance.below(200_000);
        let new = chance.bytes(length);
        let start = chance.index(bytes.len() - new.len());
        bytes[start..start + new.len()].copy_from_slice(&new);
        self.set_disk(item, bytes);
    }

    /// The command that backs an item up.
    pub(super) fn backup(item: &str) -> String {
        format!("backup --item {item} --disk root=raw:{item}.img")
    }

    /// The command that deletes a point.
    pub(super) fn delete((item, id): &Point) -> String {
        format!("recoverypoint delete --item {item} --recovery-point {id} --yes")
    }

    /// Changes an item's disk and backs it up.
    pub(super) fn backed_up(&mut self, item: &str, chance: &mut Chance) {
        self.change(item, chance);
        self.lab.ok(&Self::backup(item));
        self.look();
    }

    /// Notes that a point may be deleted from now on, at any moment.
    pub(super) fn give_up(&mut self, point: &Point) {
        self.given_up.insert(point.clone());
    }

    /// An item's oldest point that nobody has given up, if it has more than so many.
    pub(super) fn oldest_of_many(&self, item: &str, many: usize) -> Option<Point> {
        let mut points =
            self.points.keys().filter(|point| point.0 == item && !self.given_up.contains(*point));
        let oldest = points.next().cloned();
        if points.count() >= many { oldest } else { None }
    }

    /// Some point that nobody has given up.
    pub(super) fn some_point(&self, chance: &mut Chance) -> Option<Point> {
        let kept: Vec<_> =
            self.points.keys().filter(|point| !self.given_up.contains(*point)).collect();
        if kept.is_empty() { None } else { Some((*chance.one_of(&kept)).clone()) }
    }

    /// The points that a list shows.
    fn listed(&self) -> BTreeSet<Point> {
        let list = self.lab.json("recoverypoint list");
        let points = list["recovery_points"].as_array().expect("an array");
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        points.iter().map(|point| (text(&point["item"]), text(&point["id"]))).collect()
    }

    /// Lists the points: all that must be there are, and a new one has what its item's disk has now.
    /// Returns how many are new.
    pub(super) fn look(&mut self) -> usize {
        let listed = self.listed();
        self.points.retain(|point, _| {
            let there = listed.contains(point);
            assert!(there || self.given_up.contains(point), "{point:?} is lost");
            there
        });
        let new: Vec<_> =
            listed.into_iter().filter(|point| !self.points.contains_key(point)).collect();
        for point in &new {
            assert!(!self.given_up.contains(point), "{point:?} has come back");
            self.points.insert(point.clone(), Arc::clone(&self.disks[&point.0]));
        }
        new.len()
    }

    /// Restores a point to a new file; what it is like.
    pub(super) fn restored(&self, point: &Point, options: &str) -> (Run, Option<Vec<u8>>) {
        let out = self.lab.path("out.raw");
        fs::remove_file(&out).ok();
        fs::remove_file(self.lab.path("out.raw.partial")).ok();
        let (item, id) = point;
        let to = format!("--item {item} --recovery-point {id} --to root=out.raw {options}");
        let run = self.lab.run(&format!("restore disks {to}"));
        (run, fs::read(&out).ok())
    }

    /// Every point is restored, and is what it must be.
    pub(super) fn restore_all(&mut self, options: &str) {
        for (point, bytes) in &self.points {
            let (run, restored) = self.restored(point, options);
            assert_eq!(run.code, 0, "{point:?}: {}", run.stderr);
            assert!(restored.as_ref() == Some(bytes.as_ref()), "{point:?} is restored wrong");
            self.restores += 1;
        }
    }

    /// The folders of the vault's copies.
    pub(super) fn copies(&self) -> &'static [&'static str] {
        if self.mirrored { &["vault", "copy"] } else { &["vault"] }
    }

    /// Keeps the vault as it is under another name.
    pub(super) fn keep(&self) {
        for copy in self.copies() {
            copied(&self.lab, copy, &format!("{copy}.kept"));
        }
    }

    /// Makes the vault what it was when it was kept.
    pub(super) fn put_back(&self) {
        for copy in self.copies() {
            copied(&self.lab, &format!("{copy}.kept"), copy);
        }
    }
}

/// Copies a folder, over one that is there.
fn copied(lab: &Lab, from: &str, to: &str) {
    fs::remove_dir_all(lab.path(to)).ok();
    let status = Command::new("cp").arg("-a").args([lab.path(from), lab.path(to)]).status();
    assert!(status.expect("cp runs").success(), "cp {from} {to}");
}
