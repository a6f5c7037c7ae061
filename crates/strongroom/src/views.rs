//! What commands print that no library reports: recovery points, vaults, key slots.
//!
//! Field names are a promise to scripts: docs/use/json.md lists them and a test holds them fast.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use strongroom_base::{LastBefore, PointId, SlotId, VaultId};
use strongroom_format::{
    Conditional, Consistency, DiskRecord, ExcludedDisk, Manifest, SkippedRange, VaultConfig,
};
use strongroom_keys::SlotInfo;
use strongroom_reports::{BootSummary, BootVerdict, Rung, SuspicionReport};
use strongroom_vault::DamagedManifest;

use crate::{
    columns::{Cell, Columns, row},
    commands::verify::in_words,
    error::{FaceError, Failure},
    human,
    out::Show,
    suspect,
};

/// A recovery point.
#[derive(Debug, Serialize)]
pub(crate) struct PointView {
    pub(crate) id: PointId,
    pub(crate) time: Timestamp,
    pub(crate) item: String,
    pub(crate) consistency: Consistency,
    pub(crate) parent: Option<PointId>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) size_bytes: u64,
    pub(crate) changed_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) completed: Timestamp,
    pub(crate) host: String,
    pub(crate) software: String,
    pub(crate) evidence: Vec<String>,
    pub(crate) locked_until: Option<Timestamp>,
    /// Bytes of the machine's configuration.
    pub(crate) configuration_bytes: Option<u64>,
    pub(crate) excluded: Vec<ExcludedDisk>,
    pub(crate) suspicion: Option<SuspicionReport>,
    pub(crate) disks: Vec<DiskView>,
    /// Its boot verification, if there was one.
    pub(crate) boot: Option<BootSummary>,
}

/// A disk of a recovery point.
#[derive(Debug, Serialize)]
pub(crate) struct DiskView {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) allocated_bytes: Option<u64>,
    pub(crate) changed_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) deduplicated_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) new_bytes: Option<u64>,
    pub(crate) incompressible_bytes: Option<u64>,
    pub(crate) seconds: f64,
    pub(crate) location: String,
    pub(crate) format: String,
    pub(crate) changes_from: String,
    pub(crate) checkpoint: Option<String>,
    pub(crate) skipped: Vec<SkippedRange>,
    pub(crate) unexpected_blocks: u64,
    pub(crate) notes: Vec<String>,
}

impl From<DiskRecord> for DiskView {
    fn from(disk: DiskRecord) -> Self {
        Self {
            name: disk.name,
            size_bytes: disk.size_bytes,
            allocated_bytes: disk.allocated_bytes,
            changed_bytes: disk.changed_bytes,
            read_bytes: disk.read_bytes,
            deduplicated_bytes: disk.deduplicated_bytes,
            stored_bytes: disk.stored_bytes,
            new_bytes: disk.new_content.map(|new| new.bytes),
            incompressible_bytes: disk.new_content.map(|new| new.incompressible_bytes),
            seconds: disk.seconds,
            location: disk.source.location,
            format: disk.source.format,
            changes_from: disk.source.changes_from,
            checkpoint: disk.source.checkpoint,
            skipped: disk.skipped,
            unexpected_blocks: disk.unexpected_blocks,
            notes: disk.notes,
        }
    }
}

impl From<Manifest> for PointView {
    fn from(point: Manifest) -> Self {
        let sum =
            |of: fn(&DiskRecord) -> u64| point.disks.iter().map(of).fold(0, u64::saturating_add);
        Self {
            suspicion: suspect::of(&point),
            id: point.id,
            time: point.time,
            consistency: point.consistency,
            parent: point.parent,
            size_bytes: sum(|disk| disk.size_bytes),
            changed_bytes: sum(|disk| disk.changed_bytes),
            stored_bytes: sum(|disk| disk.stored_bytes),
            completed: point.completed,
            locked_until: point.locked_until,
            item: point.item,
            tags: point.tags,
            host: point.host,
            software: point.software,
            evidence: point.evidence,
            configuration_bytes: point.configuration.map(|configuration| configuration.length),
            excluded: point.excluded,
            disks: point.disks.into_iter().map(DiskView::from).collect(),
            boot: None,
        }
    }
}

pub(crate) fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Application => "application",
        Consistency::FileSystem => "file system",
        Consistency::Crash => "crash",
        Consistency::Unknown => "unknown",
    }
}

fn tags(tags: &BTreeMap<String, String>) -> String {
    tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// A recovery point whose manifest is damaged.
#[derive(Debug, Serialize)]
pub(crate) struct DamagedPointView {
    pub(crate) id: PointId,
    pub(crate) item: Option<String>,
    pub(crate) object: String,
    pub(crate) reason: String,
}

impl From<DamagedManifest> for DamagedPointView {
    fn from(damaged: DamagedManifest) -> Self {
        let mut reason = damaged.error.to_string();
        if let Some(cause) = std::error::Error::source(&damaged.error) {
            reason = cause.to_string();
        }
        Self { id: damaged.point, item: damaged.item, object: damaged.object, reason }
    }
}

fn damaged_table(damaged: &[DamagedPointView]) -> String {
    if damaged.is_empty() {
        return String::new();
    }
    let rows = damaged.iter().map(|point| {
        let item = point.item.clone().unwrap_or_else(|| "?".to_owned());
        [item, point.id.to_string(), point.object.clone(), point.reason.clone()]
    });
    "\n".to_owned() + &human::table(["ITEM", "DAMAGED", "OBJECT", "WHAT IS WRONG"], &[], rows)
}

/// Those of the points that may hold what ransomware has encrypted.
fn suspect_table(points: &[PointView]) -> String {
    let suspects = points.iter().filter_map(|point| {
        let SuspicionReport { suspicion, .. } = point.suspicion.as_ref()?;
        let LastBefore { id, time } = suspicion.last_before;
        let before = format!("{id} of {}", human::time(time));
        let jumps = suspect::jumps(suspicion);
        Some([point.item.clone(), point.id.to_string(), before, jumps])
    });
    let rows: Vec<_> = suspects.collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["ITEM", "SUSPECT", "LAST BEFORE", "WHAT JUMPED"];
    "\n".to_owned() + &human::table(head, &[], rows)
}

/// That points are left out of a result because they are damaged, if any are: to be returned when
/// the result is printed.
pub(crate) fn all_readable(damaged: &[DamagedPointView]) -> Result<(), Failure> {
    if damaged.is_empty() {
        return Ok(());
    }
    let objects = damaged.iter().map(|point| point.object.clone()).collect();
    Err(FaceError::PointsDamaged { objects }.into())
}

/// `recoverypoint list`.
#[derive(Debug, Serialize)]
pub(crate) struct PointList {
    pub(crate) recovery_points: Vec<PointView>,
    pub(crate) damaged: Vec<DamagedPointView>,
}

impl From<strongroom_vault::PointList> for PointList {
    fn from(list: strongroom_vault::PointList) -> Self {
        Self {
            recovery_points: list.points.into_iter().map(PointView::from).collect(),
            damaged: list.damaged.into_iter().map(DamagedPointView::from).collect(),
        }
    }
}

/// What a list says of a boot verification.
pub(crate) fn boots(boot: &BootSummary) -> &'static str {
    match (boot.verdict, boot.reached) {
        (BootVerdict::Failed, _) => "no",
        (BootVerdict::Passed, reached) => reached.map_or("", Rung::name),
    }
}

impl PointList {
    fn table(&self) -> Columns {
        let rows = self.recovery_points.iter().map(|point| {
            let disks: Vec<_> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
            row![
                &point.item,
                point.time,
                Cell::id(point.id),
                consistency(point.consistency),
                Cell::Bytes(point.size_bytes),
                Cell::Bytes(point.changed_bytes),
                Cell::Bytes(point.stored_bytes),
                disks.join(","),
                point.boot.as_ref().map_or("", boots),
                tags(&point.tags),
            ]
        });
        let head = [
            "ITEM",
            "TIME",
            "ID",
            "CONSISTENCY",
            "SIZE",
            "CHANGED",
            "STORED",
            "DISKS",
            "BOOTS",
            "TAGS",
        ];
        Columns::new(head, rows)
    }
}

impl Show for PointList {
    fn show(&self) -> String {
        if self.recovery_points.is_empty() && self.damaged.is_empty() {
            return "The vault has no recovery points yet.\n".to_owned();
        }
        self.table().to_text()
            + &suspect_table(&self.recovery_points)
            + &damaged_table(&self.damaged)
    }

    fn columns(&self) -> Option<Columns> {
        Some(self.table())
    }
}

/// `recoverypoint show`.
#[derive(Debug, Serialize)]
pub(crate) struct PointShown {
    pub(crate) recovery_point: PointView,
}

impl Show for PointShown {
    fn show(&self) -> String {
        let point = &self.recovery_point;
        let mut facts = vec![
            ("Recovery point", point.id.to_string()),
            ("Item", point.item.clone()),
            ("Time", human::time(point.time)),
            ("Completed", human::time(point.completed)),
            ("Consistency", consistency(point.consistency).to_owned()),
            ("Parent", point.parent.map_or("none".to_owned(), |id| id.to_string())),
            ("Host", point.host.clone()),
            ("Written by", point.software.clone()),
        ];
        if !point.tags.is_empty() {
            facts.push(("Tags", tags(&point.tags)));
        }
        if let Some(until) = point.locked_until {
            facts.push(("Locked until", human::time(until)));
        }
        if let Some(boot) = &point.boot {
            facts.push(("Booted", in_words(boot)));
        }
        if let Some(suspicion) = &point.suspicion {
            facts.push(("Suspect", suspect::words(&suspicion.suspicion)));
        }
        facts.extend(point.evidence.iter().map(|step| ("Evidence", step.clone())));
        let skipped = point.disks.iter().flat_map(|disk| {
            disk.skipped.iter().map(|range| {
                let SkippedRange { offset, length } = range;
                let length = human::bytes(*length);
                ("Not readable", format!("{length} at offset {offset} of disk {}", disk.name))
            })
        });
        facts.extend(skipped);
        if let Some(bytes) = point.configuration_bytes {
            facts.push(("Configuration", human::bytes(bytes)));
        }
        let excluded = point.excluded.iter();
        facts.extend(excluded.map(|disk| ("Left out", format!("{}: {}", disk.name, disk.reason))));
        for disk in &point.disks {
            let of_disk = |text: &String| format!("disk {}: {text}", disk.name);
            facts.extend(disk.checkpoint.iter().map(|name| ("Checkpoint", of_disk(name))));
            facts.extend(disk.notes.iter().map(|note| ("Note", of_disk(note))));
        }
        let rows = point.disks.iter().map(|disk| {
            [
                disk.name.clone(),
                human::bytes(disk.size_bytes),
                human::bytes(disk.changed_bytes),
                human::bytes(disk.stored_bytes),
                disk.new_bytes.map(human::bytes).unwrap_or_default(),
                disk.incompressible_bytes.map(human::bytes).unwrap_or_default(),
                disk.changes_from.clone(),
                disk.format.clone(),
                disk.location.clone(),
            ]
        });
        let head = [
            "DISK",
            "SIZE",
            "CHANGED",
            "STORED",
            "NEW",
            "INCOMPRESSIBLE",
            "COMPARED",
            "FORMAT",
            "SOURCE",
        ];
        format!("{}\n{}", human::facts(&facts), human::table(head, &[1, 2, 3, 4, 5], rows))
    }
}

/// `recoverypoint delete`.
#[derive(Debug, Serialize)]
pub(crate) struct PointDeleted {
    pub(crate) item: String,
    pub(crate) deleted: PointId,
}

impl Show for PointDeleted {
    fn show(&self) -> String {
        format!("Deleted recovery point {} of {}\n", self.deleted, self.item)
    }
}

/// A key slot.
#[derive(Debug, Serialize)]
pub(crate) struct SlotView {
    pub(crate) id: SlotId,
    /// `key_file`, `passphrase`, `pkcs11`; `damaged` if the slot cannot be read.
    pub(crate) kind: &'static str,
    pub(crate) label: Option<String>,
    pub(crate) created: Option<Timestamp>,
}

impl From<SlotInfo> for SlotView {
    fn from(info: SlotInfo) -> Self {
        let head = info.head.as_ref();
        Self {
            id: info.slot,
            kind: head.map_or("damaged", |head| head.kek.name()),
            label: head.map(|head| head.label.clone()),
            created: head.map(|head| head.created),
        }
    }
}

/// `vault key list`.
#[derive(Debug, Serialize)]
pub(crate) struct SlotList {
    pub(crate) key_slots: Vec<SlotView>,
}

impl Show for SlotList {
    fn show(&self) -> String {
        self.columns().map(|table| table.to_text()).unwrap_or_default()
    }

    fn columns(&self) -> Option<Columns> {
        let rows = self
            .key_slots
            .iter()
            .map(|slot| row![Cell::id(slot.id), slot.kind, slot.created, slot.label.clone()]);
        Some(Columns::new(["SLOT", "KIND", "CREATED", "LABEL"], rows))
    }
}

/// `vault key add|remove|rotate|generate`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeyChanged {
    Added { slot: SlotId },
    Removed { slot: SlotId },
    Replaced { old_slot: SlotId, slot: SlotId },
    NewMasterKey { key: strongroom_base::KeyId },
    Generated { file: String },
}

impl Show for KeyChanged {
    fn show(&self) -> String {
        match self {
            Self::Added { slot } => format!("Added key slot {slot}\n"),
            Self::Removed { slot } => format!("Removed key slot {slot}\n"),
            Self::Replaced { old_slot, slot } => {
                format!("Replaced key slot {old_slot} by {slot}\n")
            }
            Self::NewMasterKey { key } => {
                format!("New data is sealed under master key {key} from now on\n")
            }
            Self::Generated { file } => format!("{file}\n"),
        }
    }
}

/// `vault create`, and the first part of `vault show`.
#[derive(Debug, Serialize)]
pub(crate) struct VaultView {
    pub(crate) vault: VaultId,
    pub(crate) store: String,
    pub(crate) created: Timestamp,
    pub(crate) format: u16,
    /// Whether several backups may write at once.
    pub(crate) several_writers: bool,
    pub(crate) mirrors: Vec<String>,
    pub(crate) key_slots: Vec<SlotView>,
}

impl VaultView {
    pub(crate) fn new(config: &VaultConfig, store: String, slots: Vec<SlotInfo>) -> Self {
        Self {
            vault: config.vault_id,
            store,
            created: config.created,
            format: config.format,
            several_writers: config.create_only_puts == Conditional::Honoured,
            mirrors: config.mirrors.clone(),
            key_slots: slots.into_iter().map(SlotView::from).collect(),
        }
    }
}

impl Show for VaultView {
    fn show(&self) -> String {
        let writers = if self.several_writers { "several at once" } else { "one at a time" };
        let mut facts = vec![
            ("Vault", self.vault.to_string()),
            ("Store", self.store.clone()),
            ("Created", human::time(self.created)),
            ("Format", self.format.to_string()),
            ("Writers", writers.to_owned()),
        ];
        facts.extend(self.mirrors.iter().map(|mirror| ("Mirror", mirror.clone())));
        facts.extend(self.key_slots.iter().map(|slot| {
            let label = slot.label.as_deref().unwrap_or_default();
            ("Key slot", format!("{} {} {label}", slot.id, slot.kind))
        }));
        human::facts(&facts)
    }
}

/// `vault show`.
#[derive(Debug, Serialize)]
pub(crate) struct VaultShown {
    #[serde(flatten)]
    pub(crate) vault: VaultView,
    pub(crate) items: Vec<ItemView>,
    pub(crate) damaged: Vec<DamagedPointView>,
}

/// An item of a vault.
#[derive(Debug, Serialize)]
pub(crate) struct ItemView {
    pub(crate) item: String,
    pub(crate) recovery_points: u64,
    pub(crate) oldest: Timestamp,
    pub(crate) newest: Timestamp,
    /// Size of all disks of the newest point.
    pub(crate) protected_bytes: u64,
    /// What the backups of all its points have added when they ran.
    pub(crate) added_bytes: u64,
}

impl ItemView {
    /// The items of points that are sorted by item and time.
    pub(crate) fn of(points: &[PointView]) -> Vec<Self> {
        let mut items: Vec<Self> = Vec::new();
        for point in points {
            match items.last_mut().filter(|item| item.item == point.item) {
                Some(item) => {
                    item.recovery_points = item.recovery_points.saturating_add(1);
                    item.newest = point.time;
                    item.protected_bytes = point.size_bytes;
                    item.added_bytes = item.added_bytes.saturating_add(point.stored_bytes);
                }
                None => items.push(Self {
                    item: point.item.clone(),
                    recovery_points: 1,
                    oldest: point.time,
                    newest: point.time,
                    protected_bytes: point.size_bytes,
                    added_bytes: point.stored_bytes,
                }),
            }
        }
        items
    }

    /// A table of items.
    pub(crate) fn table(items: &[Self]) -> String {
        let rows = items.iter().map(|item| {
            [
                item.item.clone(),
                item.recovery_points.to_string(),
                human::minute(item.oldest),
                human::minute(item.newest),
                human::bytes(item.protected_bytes),
                human::bytes(item.added_bytes),
            ]
        });
        human::table(["ITEM", "POINTS", "OLDEST", "NEWEST", "PROTECTED", "ADDED"], &[1, 4, 5], rows)
    }
}

impl Show for VaultShown {
    fn show(&self) -> String {
        let items = if self.items.is_empty() {
            "The vault has no recovery points yet.\n".to_owned()
        } else {
            ItemView::table(&self.items)
        };
        format!("{}\n{items}{}", self.vault.show(), damaged_table(&self.damaged))
    }
}
