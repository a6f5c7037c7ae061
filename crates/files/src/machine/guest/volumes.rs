//! What is on the machine's disks: partitions, arrays, logical volumes, and the devices by which the kernel has them.
//!
//! Names and numbers are those that the process that reads gives the same volumes: both look with the same
//! code. What it cannot put together, the kernel and `lvm` do here.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::mount::{MountFlags, mount};

use super::{
    arrays::{self, Array},
    drivers::{Drivers, driver},
    mounted::{MOUNT, Mounted, fault},
};
use crate::{
    child::{Volumes, no_volume},
    md::{self, MEMBER},
    probe::probe,
    secret::{Secret, Unlocked},
    source::{ReadAt, check_within, length},
    survey::{Volume, survey},
    tree::{Fault, Tree},
};

const LVM: &str = "/sbin/lvm";
/// What `lvm` calls a part of a group.
const PHYSICAL: &str = "LVM2_member";
const PERSONALITIES: [&str; 7] =
    ["md_mod", "linear", "md_linear", "raid0", "raid1", "raid10", "raid456"];
const TARGETS: [&str; 10] = [
    "dm_mod",
    "dm_thin_pool",
    "dm_cache",
    "dm_cache_smq",
    "dm_raid",
    "dm_mirror",
    "dm_snapshot",
    "dm_writecache",
    "dm_integrity",
    "dm_vdo",
];

/// Whether a machine may read a volume that the process refuses: Linux has a driver for it, or puts it
/// together. Whether the kernel of this host has the driver is seen there.
pub fn machine_may_read(volume: &Volume) -> bool {
    let kind = volume.file_system.as_deref();
    let is_known = kind.is_some_and(|it| matches!(it, PHYSICAL | MEMBER) || driver(it).is_some());
    volume.refusal.is_some() && (is_known || (kind.is_none() && volume.logical.is_some()))
}

/// A device of the machine.
struct Device {
    name: String,
    file: File,
    size: u64,
}

impl Device {
    fn open(name: &str) -> io::Result<Arc<Self>> {
        let mut file = File::open(Path::new("/dev").join(name))?;
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Arc::new(Self { name: name.to_owned(), file, size }))
    }
}

impl ReadAt for Device {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size, offset, length(buf))?;
        self.file.read_exact_at(buf, offset)
    }
}

/// The names of the machine's disks, in the order in which they were given; none until all are there.
pub(super) fn disks(count: usize) -> io::Result<Option<Vec<String>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        let number =
            serial.trim().strip_prefix('d').and_then(|number| number.parse::<usize>().ok());
        if let (Some(number), Ok(name)) = (number, entry.file_name().into_string()) {
            found.insert(number, name);
        }
    }
    Ok((found.len() >= count).then(|| found.into_values().collect()))
}

/// The disks that are attached, and what is on them.
pub(super) struct Attached {
    disks: Vec<String>,
    drivers: Drivers,
    arrays: Option<Vec<Array>>,
    /// Volumes, with the names of their devices.
    found: Vec<(Volume, Option<String>)>,
}

impl Attached {
    pub(super) fn new(disks: Vec<String>, drivers: Drivers) -> Self {
        Self { disks, drivers, arrays: None, found: Vec::new() }
    }

    /// Opens the disks and looks what is on them; after the first time also on arrays.
    fn look(&mut self) -> io::Result<Vec<(Volume, Option<String>)>> {
        let disks: Vec<_> =
            self.disks.iter().map(|name| Device::open(name)).collect::<io::Result<_>>()?;
        let as_disks = |all: &[Arc<Device>]| -> Vec<Arc<dyn ReadAt>> {
            all.iter().map(|it| -> Arc<dyn ReadAt> { Arc::<Device>::clone(it) }).collect()
        };
        if self.arrays.is_none() {
            let volumes = survey(&as_disks(&disks));
            let named = volumes.iter().map(|it| (it.volume.clone(), name_of(&it.volume, &disks)));
            self.arrays = Some(assemble(&named.collect::<Vec<_>>(), &mut self.drivers));
        }
        let arrays = self.arrays.as_deref().unwrap_or_default();
        let whole = arrays.iter().filter(|array| array.failed.is_none());
        let mut all = disks;
        let count = all.len();
        let mut names = Vec::new();
        for array in whole {
            if let Ok(device) = Device::open(&array.device) {
                all.push(device);
                names.push(array.name.clone());
            }
        }
        let volumes: Vec<Volume> =
            survey(&as_disks(&all)).into_iter().map(|it| it.volume).collect();
        let mut found = Vec::new();
        for mut volume in volumes {
            let device = name_of(&volume, &all);
            let index = volume.disk.and_then(|disk| usize::try_from(disk).ok());
            let array =
                index.and_then(|index| index.checked_sub(count)).and_then(|it| names.get(it));
            if let Some(name) = array {
                let number =
                    volume.partition.map_or_else(String::new, |number| format!("p{number}"));
                volume.logical = Some(format!("{name}{number}"));
                (volume.disk, volume.partition, volume.offset) = (None, None, None);
            }
            found.push((volume, device));
        }
        Ok(found)
    }

    /// Takes the volume groups into use.
    fn activate(&mut self) -> Option<String> {
        TARGETS.iter().for_each(|target| self.drivers.load(target));
        if !Path::new(LVM).exists() {
            return Some("it needs the program lvm on this host (package lvm2)".to_owned());
        }
        let check = if Path::new("/sbin/thin_check").exists() { "/sbin/thin_check" } else { "" };
        let config = format!(
            "devices {{ dir=\"/dev\" scan=[\"/dev\"] use_devicesfile=0 obtain_device_list_from_udev=0 \
             external_device_info_source=\"none\" write_cache_state=0 }} \
             global {{ thin_check_executable=\"{check}\" cache_check_executable=\"\" locking_dir=\"/run/lvm\" \
             use_lvmpolld=0 use_lvmlockd=0 event_activation=0 }} \
             activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
             backup {{ backup=0 archive=0 }} log {{ file=\"\" syslog=0 }}"
        );
        let output = Command::new(LVM)
            .args(["vgchange", "--activate", "y", "--config", &config])
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
                Some(last.unwrap_or("lvm failed").to_owned())
            }
            Err(error) => Some(format!("lvm: {error}")),
        }
    }

    /// Whether the kernel reads a volume, and what is on one that only the kernel could put together.
    fn judge(&mut self, volume: &mut Volume, device: &mut Option<String>, why_not: Option<&str>) {
        volume.notes.clear();
        let mapped = volume.logical.as_deref().filter(|_| device.is_none()).map(mapper);
        if let Some(mapped) = mapped {
            let Ok(opened) = Device::open(&mapped) else {
                let reason = why_not.unwrap_or("it is no volume that is used by itself");
                volume.refusal = Some(Fault::unsupported(reason));
                return;
            };
            let there = probe(&*opened);
            volume.file_system = there.as_ref().map(|found| found.kind.to_owned());
            volume.label = there.as_ref().and_then(|found| found.label.clone());
            volume.uuid = there.as_ref().and_then(|found| found.uuid.clone());
            volume.size = opened.size;
            volume.refusal = match there {
                Some(found) => found.reader.err(),
                None => Some(Fault::unsupported("nothing that is known here is on it")),
            };
            *device = Some(mapped);
        }
        let Some(kind) = volume.file_system.as_deref() else { return };
        let Some(driver) = driver(kind) else { return };
        volume.refusal = if device.is_none() {
            Some(Fault::unsupported("the machine's kernel does not find this partition"))
        } else if self.drivers.has(&driver) {
            None
        } else {
            let reason = format!("the machine's kernel has no driver for {kind}");
            Some(Fault::unsupported(reason))
        };
    }
}

/// Assembles the arrays whose members are among these volumes.
fn assemble(volumes: &[(Volume, Option<String>)], drivers: &mut Drivers) -> Vec<Array> {
    let mut members = Vec::new();
    for (index, (volume, name)) in volumes.iter().enumerate() {
        let Some(name) = name.as_deref().filter(|_| volume.logical.is_none()) else { continue };
        let Ok(device) = Device::open(name) else { continue };
        if let Some(member) = md::member(&*device) {
            members.push((index, name.to_owned(), member));
        }
    }
    if members.is_empty() {
        return Vec::new();
    }
    PERSONALITIES.iter().for_each(|module| drivers.load(module));
    arrays::assemble(&members)
}

/// The name of the device that the kernel has for a volume of these disks.
fn name_of(volume: &Volume, disks: &[Arc<Device>]) -> Option<String> {
    let disk = disks.get(usize::try_from(volume.disk?).ok()?)?;
    let Some(partition) = volume.partition else { return Some(disk.name.clone()) };
    for entry in fs::read_dir(format!("/sys/block/{}", disk.name)).ok()?.flatten() {
        let number = |file: &str| -> Option<u64> {
            fs::read_to_string(entry.path().join(file)).ok()?.trim().parse().ok()
        };
        let offset = number("start").and_then(|start| start.checked_mul(512));
        if number("partition") == Some(u64::from(partition)) && offset == volume.offset {
            return entry.file_name().into_string().ok();
        }
    }
    None
}

/// The name of the device of `GROUP/NAME`: hyphens of both are doubled.
fn mapper(logical: &str) -> String {
    let (group, name) = logical.split_once('/').unwrap_or((logical, ""));
    format!("mapper/{}-{}", group.replace('-', "--"), name.replace('-', "--"))
}

impl Volumes for Attached {
    fn survey(&mut self) -> Vec<Volume> {
        let mut found = self.look().unwrap_or_default();
        let is_physical = |it: &(Volume, _)| it.0.file_system.as_deref() == Some(PHYSICAL);
        let why_not = if found.iter().any(is_physical) { self.activate() } else { None };
        for (volume, device) in &mut found {
            self.judge(volume, device, why_not.as_deref());
        }
        for array in self.arrays.iter().flatten() {
            for member in &array.members {
                let Some((volume, _)) = found.get_mut(*member) else { continue };
                volume.file_system = Some(MEMBER.to_owned());
                volume.refusal = Some(Fault::unsupported(match &array.failed {
                    None => format!("its files are those of the array, volume {}", array.name),
                    Some(reason) => format!("the array {} does not start: {reason}", array.name),
                }));
            }
        }
        for (index, (volume, _)) in (0..).zip(&mut found) {
            volume.index = index;
        }
        self.found = found;
        self.found.iter().map(|(volume, _)| volume.clone()).collect()
    }

    fn open(&mut self, volume: u32) -> Result<Box<dyn Tree>, Fault> {
        let index = usize::try_from(volume).ok();
        let (volume, device) = index.and_then(|it| self.found.get(it)).ok_or_else(no_volume)?;
        let none = || Fault::unsupported("nothing that is known here is on it");
        if let Some(refusal) = &volume.refusal {
            return Err(refusal.clone());
        }
        let kind = volume.file_system.as_deref().ok_or_else(none)?;
        let (driver, device) = (driver(kind).ok_or_else(none)?, device.as_ref().ok_or_else(none)?);
        let mut options = driver.options.to_owned();
        if kind == "btrfs" {
            let is_one = |it: &&(Volume, Option<String>)| {
                it.0.uuid == volume.uuid && it.0.file_system.as_deref() == Some(kind)
            };
            for other in self.found.iter().filter(is_one).filter_map(|it| it.1.as_ref()) {
                options.extend([",device=/dev/", other]);
            }
        }
        let flags =
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let options = CString::new(options).map_err(|_| none())?;
        self.drivers.said();
        let source = format!("/dev/{device}");
        let mounted = mount(&*source, MOUNT, driver.file_system(), flags, &*options);
        let said = self.drivers.said();
        if let Err(error) = mounted {
            let mut fault = fault(error);
            // A driver refuses what it does not read with one of several numbers.
            fault.kind = match error {
                rustix::io::Errno::IO | rustix::io::Errno::UCLEAN => {
                    crate::tree::FaultKind::Damaged
                }
                _ => crate::tree::FaultKind::Unsupported,
            };
            fault.reason = format!("it cannot be mounted: {}; {said}", fault.reason);
            return Err(fault);
        }
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let note = format!("read in a micro-VM by the driver {} of Linux {release}", driver.name);
        let tree = Mounted::new(driver.has_owners, vec![note])?;
        Ok(Box::new(tree))
    }

    fn unlock(&mut self, _: &[Secret]) -> Result<Vec<Unlocked>, Fault> {
        Err(Fault::unsupported("the machine opens no encrypted volumes"))
    }

    fn keys(&mut self, _: &[Unlocked]) -> Result<(), Fault> {
        Err(Fault::unsupported("the machine opens no encrypted volumes"))
    }
}
