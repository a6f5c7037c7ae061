//! The choice of a machine's disks to back up.

use std::fmt;

use crate::{BackupKind, Disk, HypervisorError, Machine, SkipReason, error::Result};

/// What was asked for. A disk is named by its target, serial number or source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DiskChoice {
    /// All that can be.
    #[default]
    All,
    /// Only the disk that the machine starts from.
    OsOnly,
    /// Only these.
    Include(Vec<String>),
    /// All but these.
    Exclude(Vec<String>),
}

/// Why a disk is not in the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It cannot or need not be.
    Skipped(SkipReason),
    /// It was not asked for.
    NotChosen,
}

/// What that comes to for one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Those that are backed up.
    pub chosen: Vec<&'a Disk>,
    /// All others.
    pub left_out: Vec<(&'a Disk, LeftOut)>,
}

impl DiskChoice {
    /// Chooses from the disks of `machine`. A name that it does not have is an error, so that
    /// nobody believes a disk protected that is not; so is a choice of none, and one by name of a
    /// disk that cannot be backed up.
    pub fn select<'a>(&self, machine: &'a Machine) -> Result<Selection<'a>> {
        let named = match self {
            Self::All | Self::OsOnly => Vec::new(),
            Self::Include(names) | Self::Exclude(names) => named(machine, names)?,
        };
        let is_named = |disk: &Disk| named.iter().any(|other| other.target == disk.target);
        let os = machine.os_disk().map(|disk| disk.target.as_str());
        let mut selection = Selection { chosen: Vec::new(), left_out: Vec::new() };
        for disk in &machine.disks {
            let wanted = match self {
                Self::All => true,
                Self::OsOnly => os == Some(disk.target.as_str()),
                Self::Include(_) => is_named(disk),
                Self::Exclude(_) => !is_named(disk),
            };
            match (disk.backup_kind(), wanted) {
                (BackupKind::Protect, true) => selection.chosen.push(disk),
                (BackupKind::Skip(reason), true) if matches!(self, Self::Include(_)) => {
                    return Err(no_choice(machine, &disk.target, &reason.to_string()));
                }
                (BackupKind::Protect, false) => {
                    selection.left_out.push((disk, LeftOut::NotChosen));
                }
                (BackupKind::Skip(reason), _) => {
                    selection.left_out.push((disk, LeftOut::Skipped(reason)));
                }
            }
        }
        if selection.chosen.is_empty() {
            return Err(HypervisorError::NoDisks { machine: machine.name.clone() });
        }
        Ok(selection)
    }
}

/// The disks of these names.
fn named<'a>(machine: &'a Machine, names: &[String]) -> Result<Vec<&'a Disk>> {
    let find = |name: &String| {
        machine.find_disk(name).ok_or_else(|| HypervisorError::no_disk(machine, name))
    };
    names.iter().map(find).collect()
}

fn no_choice(machine: &Machine, disk: &str, reason: &str) -> HypervisorError {
    HypervisorError::DiskNotProtected {
        machine: machine.name.clone(),
        disk: disk.to_owned(),
        reason: reason.to_owned(),
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(reason) => reason.fmt(f),
            Self::NotChosen => f.write_str("not chosen"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(text: &str) -> Machine {
        Machine::parse(text).expect("a machine")
    }

    fn names(choice: &DiskChoice, machine: &Machine) -> (Vec<String>, Vec<String>) {
        let selection = choice.select(machine).expect("a choice");
        let chosen = selection.chosen.iter().map(|disk| disk.target.clone()).collect();
        let left_out = selection.left_out.iter();
        (chosen, left_out.map(|(disk, why)| format!("{}: {why}", disk.target)).collect())
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn every_disk_is_accounted_for() {
        let windows = machine(include_str!("../tests/xml/windows11.xml"));
        let cd = "sda: a CD or DVD drive";
        for (choice, chosen, left_out) in [
            (DiskChoice::All, &["sdb", "sdc"][..], &[cd][..]),
            (DiskChoice::OsOnly, &["sdb"], &[cd, "sdc: not chosen"]),
            (DiskChoice::Include(words(&["WIN11-DATA"])), &["sdc"], &[cd, "sdb: not chosen"]),
            (DiskChoice::Exclude(words(&["sdc", "sda"])), &["sdb"], &[cd, "sdc: not chosen"]),
        ] {
            assert_eq!(names(&choice, &windows), (words(chosen), words(left_out)), "{choice:?}");
        }
    }

    #[test]
    fn wrong_choices_are_refused_with_what_there_is() {
        let tiny = machine(include_str!("../tests/xml/direct-kernel.xml"));
        let error = DiskChoice::Include(words(&["vdz"])).select(&tiny).expect_err("no vdz");
        let message = error.to_string();
        assert!(message.contains("vda (/srv/lab/a.qcow2), vdb (/srv/lab/b.raw)"), "{message}");
        let all = DiskChoice::Exclude(words(&["/srv/lab/a.qcow2", "vdb"]));
        assert!(matches!(all.select(&tiny), Err(HypervisorError::NoDisks { .. })));
        let windows = machine(include_str!("../tests/xml/windows11.xml"));
        let cd = DiskChoice::Include(words(&["sda"])).select(&windows);
        assert!(matches!(cd, Err(HypervisorError::DiskNotProtected { .. })));
    }
}
