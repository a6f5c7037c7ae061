//! Machines that resume saved memory: their disks must be unchanged.

use std::path::PathBuf;

use strongroom_hypervisor::{Connection, Form, Machine, State};

use crate::{MachineError, error::Result};

/// Refuses to write to the disks of a machine whose memory is saved: its next start would continue with
/// the old memory above other disks.
pub fn refuse_saved_memory(connection: &Connection, targets: &[PathBuf]) -> Result<()> {
    let targets: Vec<PathBuf> =
        targets.iter().filter_map(|path| path.canonicalize().ok()).collect();
    for domain in connection.domains()? {
        if targets.is_empty() || !connection.has_saved_memory(&domain).unwrap_or(false) {
            continue;
        }
        let mut machine = Machine::parse(&connection.domain_xml(&domain, Form::Inactive)?)?;
        connection.resolve_volumes(&mut machine);
        let mut paths = machine.disks.iter().filter_map(|disk| disk.source.path());
        let is_target = |path: &str| {
            PathBuf::from(path).canonicalize().is_ok_and(|path| targets.contains(&path))
        };
        if let Some(path) = paths.find(|path| is_target(path)) {
            return Err(MachineError::State {
                machine: domain.name,
                state: State::Off.name(),
                reason: format!(
                    "its memory is saved on the host, and its next start would resume that memory above another content of {path}: start it and shut it down first, or discard the memory (virsh managedsave-remove)"
                ),
            });
        }
    }
    Ok(())
}
