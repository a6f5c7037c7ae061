//! Arrays of Linux RAID, assembled by the kernel, which is asked by files of sysfs. Which member is newer, and whether there
//! are enough, is the kernel's to decide; [`md`](crate::md) knows which belong together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use crate::md::Member;

/// An array of the machine.
pub(super) struct Array {
    /// The name of its device.
    pub(super) device: String,
    /// What it is called: `md/NAME`.
    pub(super) name: String,
    /// Why it is not there.
    pub(super) failed: Option<String>,
    /// Its members, by their place among those that were looked at.
    pub(super) members: Vec<usize>,
}

/// Assembles the arrays of these members. Nothing is synchronised, and nothing is written before a file system is.
pub(super) fn assemble(members: &[(usize, String, Member)]) -> Vec<Array> {
    let mut arrays: BTreeMap<[u8; 16], Vec<&(usize, String, Member)>> = BTreeMap::new();
    for member in members {
        arrays.entry(member.2.id).or_default().push(member);
    }
    // What a driver writes marks the array as written to, and all of it would be synchronised.
    for file in ["speed_limit_min", "speed_limit_max"] {
        fs::write(format!("/proc/sys/dev/raid/{file}"), "1").ok();
    }
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for (number, members) in arrays.into_values().enumerate() {
        let device = format!("md{number}");
        let named = members.iter().find_map(|(_, _, member)| member.name.clone());
        let named = named.filter(|name| !name.contains('/') && names.insert(name.clone()));
        let name = format!("md/{}", named.unwrap_or_else(|| device.clone()));
        let failed = begin(&device, &members).err().map(|error| error.to_string());
        let members = members.iter().map(|(index, ..)| *index).collect();
        found.push(Array { device, name, failed, members });
    }
    found
}

fn begin(device: &str, members: &[&(usize, String, Member)]) -> io::Result<()> {
    fs::write("/sys/module/md_mod/parameters/new_array", device)?;
    let folder = format!("/sys/block/{device}/md");
    let version = members.first().map_or("1.2", |(_, _, member)| member.version);
    fs::write(format!("{folder}/metadata_version"), version)?;
    let mut failed = None;
    for (_, name, _) in members {
        let number = fs::read_to_string(format!("/sys/class/block/{name}/dev"))?;
        if let Err(error) = fs::write(format!("{folder}/new_dev"), number.trim()) {
            failed = Some(error);
        }
    }
    // It is set to reading, and becomes writable with the first write.
    fs::write(format!("{folder}/array_state"), "read-auto")
        .map_err(|error| failed.unwrap_or(error))?;
    // Not every level has it.
    fs::write(format!("{folder}/sync_action"), "frozen").ok();
    Ok(())
}
