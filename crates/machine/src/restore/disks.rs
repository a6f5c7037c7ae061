//! Restore of disks to files, devices or servers, with a description that makes a machine of them.

use std::{collections::BTreeMap, fs::File, path::PathBuf, sync::Arc};

use strongroom_base::Cancel;
use strongroom_disk::{DiskSpec, ImageFormat, Within};
use strongroom_engine::{Progress, RestoreRequest};
use strongroom_format::{DiskRecord, Manifest};
use strongroom_reports::DisksReport;
use strongroom_vault::Vault;

use super::{
    ciphertext::{Container, container},
    configuration,
    files::{self, Targets, Unfinished, Wanted},
    template::{Template, TemplateDisk, template},
};
use crate::{Configuration, error::Result};

/// A restore of disks.
#[derive(Clone, Debug)]
pub struct DisksRestore {
    /// The folder for all disks that are not named; each becomes a file of its name. It is made.
    pub folder: Option<PathBuf>,
    /// Where single disks go, by name.
    pub named: BTreeMap<String, DiskSpec>,
    /// The disks; all if empty.
    pub disks: Vec<String>,
    /// The format of files in the folder, and of targets whose name does not tell; raw if not given.
    pub format: Option<ImageFormat>,
    /// Whether existing targets are overwritten where they differ.
    pub in_place: bool,
    /// Folders that no link may lead out of; none: all may be written to.
    pub within: Option<Within>,
    /// Whether a description of a machine with these disks is written to the folder, if the point is
    /// of a machine; and where libvirt keeps the state of emulated TPMs, which it names.
    pub template: Option<PathBuf>,
    /// Threads for decompressing.
    pub threads: usize,
    /// Bytes a second to write at most.
    pub limit_rate: Option<u64>,
}

/// A restore of disks whose targets are open. It continues the files of an earlier, interrupted
/// restore.
pub struct PreparedDisks<'a> {
    vault: &'a Arc<Vault>,
    point: &'a Manifest,
    /// The folder, and what holds it.
    folder: Option<(PathBuf, File)>,
    /// The configuration, and where the state of TPMs is, if a description is written.
    describes: Option<(Configuration, PathBuf)>,
    request: RestoreRequest,
    unfinished: Vec<Unfinished>,
    template: Vec<TemplateDisk>,
}

/// Decides where the disks of a point go, and opens the targets. Nothing is overwritten yet.
pub fn prepare_disks<'a>(
    vault: &'a Arc<Vault>,
    point: &'a Manifest,
    wanted: DisksRestore,
) -> Result<PreparedDisks<'a>> {
    let DisksRestore { folder, named, disks, format, in_place, within, template, .. } = wanted;
    // Read first: a point that is damaged there is better known now.
    let describes = template.filter(|_| folder.is_some());
    let has_containers = point.disks.iter().any(|disk| disk.source.format.ends_with("luks"));
    let configuration = match point.configuration {
        Some(_) if describes.is_some() || has_containers => Some(configuration(vault, point)?),
        _ => None,
    };
    let containers = configuration.as_ref().map(|configuration| containers(point, configuration));
    let files = Wanted {
        folder: folder.as_deref(),
        named: &named,
        disks: &disks,
        format,
        in_place,
        within: within.as_ref(),
        containers: containers.unwrap_or_default(),
    };
    let Targets { disks, unfinished, template } = files.open(point)?;
    let request = RestoreRequest {
        item: point.item.clone(),
        point: point.id,
        disks,
        threads: wanted.threads,
        limit_rate: wanted.limit_rate,
    };
    let describes = configuration.zip(describes);
    let folder = match folder.filter(|_| describes.is_some()) {
        Some(folder) => {
            let opened = files::open_folder(&folder, within.as_ref())?;
            Some((folder, opened))
        }
        None => None,
    };
    Ok(PreparedDisks { vault, point, folder, describes, request, unfinished, template })
}

impl PreparedDisks<'_> {
    /// How many disks are restored.
    pub fn count(&self) -> usize {
        self.request.disks.len()
    }

    /// Restores them.
    pub fn run(self, progress: &Progress, cancel: &Cancel) -> Result<DisksReport> {
        let restored = strongroom_engine::restore(self.vault, &self.request, progress, cancel)?;
        drop(self.request);
        files::finish(&self.unfinished)?;
        let mut report = DisksReport {
            restored,
            template: None,
            template_uuid: None,
            nvram: None,
            tpm: None,
            notes: Vec::new(),
        };
        if let (Some((configuration, swtpm)), Some(folder)) = (&self.describes, &self.folder) {
            let (path, opened) = folder;
            let place = (path.as_path(), opened);
            let entropy = &**self.vault.entropy();
            let written =
                template(configuration, self.point, place, &self.template, swtpm, entropy)?;
            add(&mut report, written, &self.point.item);
        }
        Ok(report)
    }
}

/// The disks that the point has as the encrypted images that they were.
fn containers(point: &Manifest, configuration: &Configuration) -> BTreeMap<String, Container> {
    let found =
        |disk: &DiskRecord| Some((disk.name.clone(), container(configuration, &disk.name)?));
    point.disks.iter().filter_map(found).collect()
}

/// Adds the description that was written to the report.
fn add(report: &mut DisksReport, template: Option<Template>, item: &str) {
    let Some(template) = template else {
        report.notes.push(format!(
            "{item}.xml exists already, so the machine's description was not written"
        ));
        return;
    };
    report.template = Some(template.description);
    report.template_uuid = Some(template.uuid);
    report.nvram = template.nvram;
    report.tpm = template.tpm;
    report.notes = template.notes;
}
