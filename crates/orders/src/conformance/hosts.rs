//! Hosts: what an [`Agent`](crate::Agent) must do with disks by path.

use strongroom_api::{
    BlobPlace, ConsistencyProved, Restore, RestoreDisks, Source, TaskName, Verdict,
};
use strongroom_base::{PointId, codes};

use super::{Checked, Heard, ITEM, Suite};
use crate::{
    BackupOrder, CheckOrder, IncrementalOrder, ORDERS_VERSION, RestoreOrder, Tier, TransferOrder,
    VaultAccess, Watch,
};

/// The parts of an order, in the order in which they end.
const BACKUP: [TaskName; 2] = [TaskName::Snapshot, TaskName::Transfer];

impl Suite<'_> {
    /// A host says what it is, and what can be backed up.
    pub(super) fn hosts(&self) -> Checked {
        let hello = self.agent().hello()?;
        self.same(&hello.orders, &ORDERS_VERSION, "the version of orders")?;
        self.same(&self.agent().hello()?, &hello, "asked again, it is the same")?;
        self.agent().discover(&Watch::silent())?;
        let disks = |path: String| Source::Disks { disks: [("a".to_owned(), path)].into() };
        let check = |source| self.agent().check(&CheckOrder { order: Self::once(), source });
        let good = check(disks(self.world.disk("a", 1)))?;
        self.same(&good.verdict, &Verdict::Green, "a disk that is there")?;
        let bad = check(disks(self.world.missing_disk()))?;
        self.same(&bad.verdict, &Verdict::Red, "a disk that is not there")
    }

    /// A job makes one point, however often it asks.
    pub(super) fn backups(&self) -> Checked {
        let vault = self.vault("backups")?;
        let order = self.backup_order(&vault, 1);
        let heard = Heard::default();
        let watch = heard.watch();
        let done = self.agent().backup(&order, &watch)?;
        self.same(&heard.completed()?, &BACKUP.as_slice(), "parts of a backup")?;
        let progress = watch.progress.snapshot();
        self.holds(progress.done_bytes > 0, "how far it came was counted")?;
        self.holds(progress.total_bytes >= progress.done_bytes, "no more than there is")?;
        let point = &done.point;
        self.same(&point.item.as_str(), &ITEM, "the item's name")?;
        let of_job = Some(order.job.to_string());
        self.same(&point.tags.get("job").cloned(), &of_job, "the point names its job")?;
        self.holds(point.tags.contains_key("why"), "the point bears the order's tags")?;
        self.same(&point.consistency, &ConsistencyProved::Crash, "disks are as they are")?;
        let names: Vec<_> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
        self.same(&names, &vec!["a"], "the point's disks")?;
        self.holds(point.disks.iter().all(|disk| disk.size_bytes > 0), "their sizes")?;

        let again = self.agent().backup(&order, &heard.watch())?;
        self.same(&again.point, &done.point, "given again, it is the same point")?;
        self.same(&heard.completed()?, &BACKUP.as_slice(), "parts of a backup given again")?;
        self.same(&self.listed(&vault)?.len(), &1, "given again, there is one point")?;

        // A line was cut: the order is given again while the first is still at work.
        let order = self.backup_order(&vault, 2);
        let agent = self.agent();
        let both: [_; 2] = std::thread::scope(|scope| {
            [(), ()]
                .map(|()| scope.spawn(|| agent.backup(&order, &Watch::silent())))
                .map(std::thread::ScopedJoinHandle::join)
        });
        let mut points: Vec<PointId> = Vec::new();
        for done in both {
            let done = done.map_err(|_| super::Failure("a backup panicked".to_owned()))?;
            points.push(done?.point.id);
        }
        self.same(&points.first(), &points.last(), "given twice at once, it is one point")?;
        self.same(&self.listed(&vault)?.len(), &2, "another job makes another point")?;

        let near = BackupOrder { tier: Tier::Snapshot, ..self.backup_order(&vault, 3) };
        self.agent().backup(&near, &heard.watch())?;
        self.same(&heard.completed()?, &[TaskName::Snapshot].as_slice(), "parts near the source")
    }

    /// What cannot be backed up has its code, and leaves no point.
    pub(super) fn refused_backups(&self) -> Checked {
        let vault = self.vault("refused")?;
        let good = self.backup_order(&vault, 1);
        let backup = |order: &BackupOrder| self.agent().backup(order, &Watch::silent());
        let disks = [("a".to_owned(), self.world.missing_disk())].into();
        let gone = BackupOrder { source: Source::Disks { disks }, ..good.clone() };
        self.fails(backup(&gone), &codes::SOURCE_MISSING, "a disk that is not there")?;
        let url = self.world.place("nowhere");
        let nowhere = VaultAccess { url, ..vault.clone() };
        let order = BackupOrder { vault: nowhere, ..good.clone() };
        self.fails(backup(&order), &codes::VAULT_NOT_FOUND, "a vault that is not there")?;
        let other = self.vault("refused-other")?;
        let wrong = VaultAccess { key: other.key, ..vault.clone() };
        let order = BackupOrder { vault: wrong, ..good.clone() };
        self.fails(backup(&order), &codes::KEY_WRONG, "the key of another vault")?;
        let stopped = self.agent().backup(&good, &Self::cancelled());
        self.fails(stopped, &codes::INTERRUPTED, "a backup that was cancelled")?;
        self.same(&self.listed(&vault)?.len(), &0, "none of them left a point")?;
        // None of this hinders the order when it is given again.
        backup(&good)?;
        self.same(&self.listed(&vault)?.len(), &1, "the order was carried out")
    }

    /// Page blobs are backed up as disks are: a job makes one point, and what is gone is missing.
    pub(super) fn blobs(&self) -> Checked {
        let Some(source) = self.world.blobs(1) else { return Ok(()) };
        let check = |source| self.agent().check(&CheckOrder { order: Self::once(), source });
        self.same(&check(source.clone())?.verdict, &Verdict::Green, "blobs that are there")?;
        let vault = self.vault("blobs")?;
        let backup = |order: &BackupOrder| self.agent().backup(order, &Watch::silent());
        let order = BackupOrder { source: source.clone(), ..self.backup_order(&vault, 1) };
        let done = backup(&order)?;
        self.same(&done.point.consistency, &ConsistencyProved::Crash, "blobs of one moment")?;
        self.same(&backup(&order)?.point, &done.point, "given again, it is the same point")?;
        self.world.blobs(2);
        let order = BackupOrder { source: source.clone(), ..self.backup_order(&vault, 1) };
        backup(&order)?;
        self.same(&self.listed(&vault)?.len(), &2, "another job makes another point")?;
        let Source::Blobs { disks, access } = source else {
            return Err(super::Failure("the world has no blobs".to_owned()));
        };
        let missing = disks.into_keys().map(|name| (name, self.world.missing_blob())).collect();
        let gone = Source::Blobs { disks: missing, access };
        self.same(&check(gone.clone())?.verdict, &Verdict::Red, "blobs that are not there")?;
        let order = BackupOrder { source: gone, ..self.backup_order(&vault, 1) };
        self.fails(backup(&order), &codes::SOURCE_MISSING, "a blob that is not there")?;
        self.same(&self.listed(&vault)?.len(), &2, "it left no point")
    }

    /// An order backs a blob up to another one once.
    pub(super) fn incremental_backups(&self) -> Checked {
        let Some([from, to]) = self.world.incremental_backup() else { return Ok(()) };
        let check = |source| self.agent().check(&CheckOrder { order: Self::once(), source });
        let source = Source::IncrementalBackup { from: from.clone(), to: to.clone(), keep: 2 };
        self.same(&check(source)?.verdict, &Verdict::Green, "a blob that is there")?;
        let order = || IncrementalOrder {
            order: Self::once(),
            from: from.clone(),
            to: to.clone(),
            keep: 2,
            limit_rate: None,
        };
        let heard = Heard::default();
        let first = order();
        let done = self.agent().incremental_backup(&first, &heard.watch())?;
        self.same(
            &heard.completed()?,
            &[TaskName::Transfer].as_slice(),
            "parts of an incremental backup",
        )?;
        let again = self.agent().incremental_backup(&first, &Watch::silent())?;
        self.same(&again.time, &done.time, "given again, it is the same backup")?;
        let later = self.agent().incremental_backup(&order(), &Watch::silent())?;
        self.holds(later.time >= done.time, "another order makes another backup")?;
        let missing = BlobPlace { blob: self.world.missing_blob(), ..from.clone() };
        let gone = IncrementalOrder { from: missing, ..order() };
        let made = self.agent().incremental_backup(&gone, &Watch::silent());
        self.fails(made, &codes::SOURCE_MISSING, "a blob that is not there")?;
        let stopped = self.agent().incremental_backup(&order(), &Self::cancelled());
        self.fails(stopped, &codes::INTERRUPTED, "an incremental backup that was cancelled")
    }

    /// A point is transferred once.
    pub(super) fn transfers(&self) -> Checked {
        let (near, vault) = (self.vault("near")?, self.vault("transfers")?);
        let order = BackupOrder { tier: Tier::Snapshot, ..self.backup_order(&near, 1) };
        let point = self.agent().backup(&order, &Watch::silent())?.point;
        let order = TransferOrder {
            order: Self::once(),
            from: near.clone(),
            from_item: ITEM.to_owned(),
            point: point.id,
            to: vault.clone(),
            to_item: ITEM.to_owned(),
            locked_until: None,
            limit_rate: None,
        };
        let stopped = self.agent().transfer(&order, &Self::cancelled());
        self.fails(stopped, &codes::INTERRUPTED, "a transfer that was cancelled")?;
        let heard = Heard::default();
        let sent = self.agent().transfer(&order, &heard.watch())?;
        self.same(&heard.completed()?, &[TaskName::Transfer].as_slice(), "parts of a transfer")?;
        self.same(&sent.point.time, &point.time, "the copy is of the same moment")?;
        let copy_of = Some(point.id.to_string());
        self.same(&sent.point.tags.get("copy_of").cloned(), &copy_of, "it says of what it is")?;
        for order in [order.clone(), TransferOrder { order: Self::once(), ..order.clone() }] {
            let again = self.agent().transfer(&order, &Watch::silent())?;
            self.same(&again.point, &sent.point, "given again, it is the same copy")?;
        }
        self.same(&self.listed(&vault)?.len(), &1, "there is one copy")?;

        let transfer = |order: TransferOrder| self.agent().transfer(&order, &Watch::silent());
        let missing = TransferOrder { point: Self::stranger(), ..order.clone() };
        self.fails(transfer(missing), &codes::POINT_NOT_FOUND, "a point that is not there")?;
        let nowhere = VaultAccess { url: self.world.place("nowhere"), ..near.clone() };
        let away = TransferOrder { from: nowhere.clone(), ..order.clone() };
        transfer(away).map_err(super::Failure::from)?;
        let away = TransferOrder { from: nowhere, point: Self::stranger(), ..order.clone() };
        self.fails(transfer(away), &codes::VAULT_NOT_FOUND, "a source vault that is not there")?;
        let nowhere = VaultAccess { url: self.world.place("nowhere"), ..vault };
        let lost = TransferOrder { to: nowhere, ..order };
        self.fails(transfer(lost), &codes::VAULT_NOT_FOUND, "a target vault that is not there")
    }

    /// Disks are restored, and a restore that was done is done.
    pub(super) fn restores(&self) -> Checked {
        let vault = self.vault("restores")?;
        let point = self.backup(&vault, 1)?.point;
        let order = |folder: &str| RestoreOrder {
            job: Self::job(),
            vault: vault.clone(),
            item: ITEM.to_owned(),
            point: point.id,
            source: Source::Disks { disks: [].into() },
            restore: Restore::Disks(RestoreDisks {
                folder: Some(self.world.target(folder)),
                ..RestoreDisks::default()
            }),
            limit_rate: None,
        };
        let restore = |order: &RestoreOrder| self.agent().restore(order, &Watch::silent());
        let stopped = self.agent().restore(&order("stopped"), &Self::cancelled());
        self.fails(stopped, &codes::INTERRUPTED, "a restore that was cancelled")?;
        let wanted = order("restored");
        let heard = Heard::default();
        for _ in 0..2 {
            let done = self.agent().restore(&wanted, &heard.watch())?;
            self.same(&done.safety_point, &None, "nothing was replaced")?;
            let parts = heard.completed()?;
            self.same(
                &parts,
                &[TaskName::Prepare, TaskName::Restore].as_slice(),
                "parts of a restore",
            )?;
        }
        let missing = RestoreOrder { point: Self::stranger(), ..order("missing") };
        self.fails(restore(&missing), &codes::POINT_NOT_FOUND, "a point that is not there")?;
        let other = RestoreOrder { item: "nobody".to_owned(), ..order("other") };
        self.fails(restore(&other), &codes::POINT_NOT_FOUND, "a point of another item")?;
        let nowhere = VaultAccess { url: self.world.place("nowhere"), ..vault.clone() };
        let lost = RestoreOrder { vault: nowhere, ..order("lost") };
        self.fails(restore(&lost), &codes::VAULT_NOT_FOUND, "a vault that is not there")
    }
}
