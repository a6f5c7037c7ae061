//! Accept and undo: the decision about the old disks of a machine after a replacement.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use strongroom_base::{Entropy, PointId};
use strongroom_hypervisor::{Changes, Connection, Domain, Form, Machine};
use strongroom_reports::{Decided, FinishReport, FinishedDisk};

use super::{
    image,
    place::local,
    state::{Kept, ReplacedDisk, Stage, State},
};
use crate::{MachineError, Places, error::Result, image::chain, lock::Lock};

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The restored state stays: what differs is written into the old images.
    Accept,
    /// The old state comes back.
    Undo,
}

/// A replacement of a machine's disks that nobody has accepted or undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The item that its disks are of.
    pub item: String,
    /// The recovery point.
    pub recovery_point: PointId,
    /// The disks' names in the machine.
    pub disks: Vec<String>,
    /// Whether the machine has the restored disks; if not, the restore was interrupted before.
    pub is_done: bool,
}

/// What is to be decided about a machine's disks, if anything is. Nothing is changed.
pub fn undecided(machine: &Machine) -> Result<Option<Undecided>> {
    Ok(State::find(machine)?.map(|(_, state)| Undecided {
        item: state.item,
        recovery_point: state.point,
        disks: state.disks.into_iter().map(|disk| disk.name).collect(),
        is_done: state.stage != Stage::Preparing,
    }))
}

/// What is to be decided about the disks of the machine of this name or UUID; an error if nothing is.
pub fn to_decide(connection: &Connection, machine: &str) -> Result<(String, Undecided)> {
    super::check_local(connection)?;
    let domain = connection.domain(machine)?;
    let mut machine = Machine::parse(&connection.domain_xml(&domain, Form::Inactive)?)?;
    connection.resolve_volumes(&mut machine);
    match undecided(&machine)? {
        Some(undecided) => Ok((machine.name, undecided)),
        None => Err(MachineError::NotReplaced { machine: machine.name }),
    }
}

/// Ends a replacement in one way or the other. The machine must be off.
pub fn finish(
    connection: &Connection,
    places: &Places,
    machine: &str,
    decision: Decision,
    entropy: &dyn Entropy,
) -> Result<FinishReport> {
    super::check_local(connection)?;
    let domain = connection.domain(machine)?;
    let _lock = Lock::take(&places.run, &domain, connection.clock())?;
    let xml = connection.domain_xml(&domain, Form::Inactive)?;
    let mut machine = Machine::parse(&xml)?;
    connection.resolve_volumes(&mut machine);
    let Some((path, state)) = State::find(&machine)? else {
        return Err(MachineError::NotReplaced { machine: machine.name });
    };
    let now = connection.state(&domain)?;
    if now.is_active() || connection.has_saved_memory(&domain)? {
        return Err(MachineError::State {
            machine: machine.name,
            state: now.name(),
            reason: "it must be off, without saved memory".to_owned(),
        });
    }
    let work = Work { connection, entropy, domain, xml, machine, path, state };
    match decision {
        Decision::Accept => work.accept(),
        Decision::Undo => work.undo(),
    }
}

struct Work<'a> {
    connection: &'a Connection,
    entropy: &'a dyn Entropy,
    domain: Domain,
    xml: String,
    machine: Machine,
    path: PathBuf,
    state: State,
}

impl Work<'_> {
    fn refuse(&self, reason: String) -> MachineError {
        MachineError::Unfinished {
            machine: self.machine.name.clone(),
            reason,
            note: self.path.display().to_string(),
        }
    }

    /// The disks that the machine has from the restore; the others it has as before.
    fn replaced(&self) -> Result<Vec<&ReplacedDisk>> {
        let mut replaced = Vec::new();
        for disk in &self.state.disks {
            match disk.is_in(&self.machine) {
                Some(true) => replaced.push(disk),
                Some(false) => {}
                None => {
                    return Err(self.refuse(format!(
                        "its disk {} is neither {} nor {} any more: first remove later layers, such as a snapshot",
                        disk.name,
                        disk.overlay.display(),
                        disk.old.display()
                    )));
                }
            }
        }
        Ok(replaced)
    }

    fn accept(mut self) -> Result<FinishReport> {
        match self.state.stage {
            Stage::Replaced | Stage::Accepting => {}
            Stage::Preparing => {
                return Err(self.refuse(
                    "the restore of its disks was not finished: run it again, or undo it"
                        .to_owned(),
                ));
            }
            Stage::Undoing => {
                return Err(self.refuse("it is being undone: run undo again".to_owned()));
            }
        }
        let replaced: Vec<ReplacedDisk> = self.replaced()?.into_iter().cloned().collect();
        self.state.stage = Stage::Accepting;
        self.state.write(&self.path)?;
        // Those that the machine has as old ones were written before the machine got them, and it
        // may have changed them since.
        for disk in &replaced {
            commit(disk)?;
        }
        self.give_old_ones()?;
        for kept in [&self.state.nvram, &self.state.tpm].into_iter().flatten() {
            if let Some(aside) = &kept.kept {
                remove(aside)?;
            }
        }
        self.end(Decided::Accepted)
    }

    fn undo(mut self) -> Result<FinishReport> {
        if self.state.stage == Stage::Accepting {
            return Err(self.refuse(
                "an accept is unfinished, so its old disks have changed already: run accept again"
                    .to_owned(),
            ));
        }
        self.replaced()?;
        self.state.stage = Stage::Undoing;
        self.state.write(&self.path)?;
        for kept in [&self.state.nvram, &self.state.tpm].into_iter().flatten() {
            bring_back(kept)?;
        }
        self.give_old_ones()?;
        self.end(Decided::Undone)
    }

    /// The machine gets the old images.
    fn give_old_ones(&self) -> Result<()> {
        let replaced = self.replaced()?;
        if replaced.is_empty() {
            return Ok(());
        }
        let changes = Changes {
            // The guest is set back once more.
            new_generation: self.state.stage == Stage::Undoing,
            disks: replaced.iter().map(|disk| (disk.name.clone(), disk.to_old())).collect(),
            ..Changes::default()
        };
        let xml = Machine::rewrite(&self.xml, &changes, self.entropy)?;
        self.connection.define(&xml)?;
        Ok(())
    }

    fn end(self, decision: Decided) -> Result<FinishReport> {
        for disk in &self.state.disks {
            remove(&disk.overlay)?;
        }
        remove(&self.path)?;
        let disks = self.state.disks.iter().map(|disk| FinishedDisk {
            name: disk.name.clone(),
            path: disk.old.display().to_string(),
        });
        Ok(FinishReport {
            machine: self.machine.name.clone(),
            uuid: self.domain.uuid.to_string(),
            decision,
            recovery_point: self.state.point,
            item: self.state.item.clone(),
            disks: disks.collect(),
        })
    }
}

/// Writes what an image holds into the one under it. The image keeps it, so that this can be done
/// again after any end.
fn commit(disk: &ReplacedDisk) -> Result<()> {
    let overlay = disk.overlay.display().to_string();
    let words = ["commit", "-q", "-d", "-f", "qcow2", &overlay];
    image::qemu_img(&disk.overlay, &words.map(str::to_owned))?;
    // One that is too small has grown by itself.
    let old = chain(&disk.old, &disk.old_format);
    if disk.is_device || old.first().is_none_or(|old| old.virtual_size <= disk.size) {
        return Ok(());
    }
    let (old, size) = (disk.old.display().to_string(), disk.size.to_string());
    let words = ["resize", "-q", "--shrink", "-f", &disk.old_format, &old, &size];
    image::qemu_img(&disk.old, &words.map(str::to_owned))
}

/// Brings a file or folder back that was put aside.
fn bring_back(kept: &Kept) -> Result<()> {
    match &kept.kept {
        // If it is not there, an earlier attempt has brought it back, or it was never put aside.
        Some(aside) if !aside.exists() => Ok(()),
        Some(aside) => {
            if aside.is_dir() {
                remove(&kept.path)?;
            }
            fs::rename(aside, &kept.path).map_err(|source| local("move", aside, source))
        }
        None => remove(&kept.path),
    }
}

/// Removes a file or folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| local("remove", path, source)),
    }
}
