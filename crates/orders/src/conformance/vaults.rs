//! Vaults: what a [`Keeper`](crate::Keeper) must do.

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{KeyReference, TaskName};
use strongroom_base::{PointId, codes};

use super::{Checked, Failure, Heard, ITEM, Suite};
use crate::{
    Absence, BackupOrder, HeldPoint, ReclaimDone, ReclaimOrder, Result, RotateOrder, ValidateOrder,
    VaultAccess, VaultFacts, VerifyDepth, VerifyOrder, Watch,
};

fn hours(from: Timestamp, hours: i64) -> Timestamp {
    from.checked_add(SignedDuration::from_hours(hours)).unwrap_or(from)
}

impl Suite<'_> {
    /// A vault is made once, and taken over by a service that has its key.
    pub(super) fn vaults(&self) -> Checked {
        let made = self.make("made")?;
        self.holds(!made.existed, "a vault that is made was not there before")?;
        let again = self.make("made")?;
        self.holds(again.existed, "a vault that is made again was there before")?;
        self.same(&(again.id, again.key_changed), &(made.id, made.key_changed), "the same vault")?;
        let access = self.access("made");
        let facts = self.keeper().facts(&access)?;
        self.same(&(facts.id, facts.existed), &(made.id, true), "its facts")?;
        let other = self.vault("other")?;
        self.holds(self.keeper().facts(&other)?.id != made.id, "two vaults have two ids")?;
        let wrong = VaultAccess { key: other.key.clone(), ..access.clone() };
        self.fails(self.keeper().facts(&wrong), &codes::KEY_WRONG, "the key of another vault")?;
        self.fails(self.keeper().points(&wrong, None), &codes::KEY_WRONG, "points with it")?;
        let path = self.world.key("made");
        self.keeper().make_key_file(path.as_ref())?;
        self.keeper().facts(&access)?;
        self.same(&self.listed(&access)?, &Vec::<PointId>::new(), "a new vault has no points")?;
        let (all, damaged) = self.keeper().points(&access, None)?;
        self.same(&(all.len(), damaged.len()), &(0, 0), "a new vault has no points at all")
    }

    fn validate_order(vault: &VaultAccess, point: PointId) -> ValidateOrder {
        let item = ITEM.to_owned();
        ValidateOrder { order: Self::once(), vault: vault.clone(), item, point }
    }

    /// Points are listed, validated, missed and deleted.
    pub(super) fn points(&self) -> Checked {
        let vault = self.vault("points")?;
        let first = self.backup(&vault, 1)?.point;
        let second = self.backup(&vault, 2)?.point;
        self.same(&self.listed(&vault)?, &vec![first.id, second.id], "oldest first")?;
        let (of_other, _) = self.keeper().points(&vault, Some("nobody"))?;
        self.same(&of_other.len(), &0, "an item that is not there has no points")?;

        let heard = Heard::default();
        let order = Self::validate_order(&vault, first.id);
        for _ in 0..2 {
            self.keeper().validate(&order, &heard.watch())?;
            self.same(
                &heard.completed()?,
                &[TaskName::Validate].as_slice(),
                "parts of a validation",
            )?;
        }
        let stopped = self.keeper().validate(&order, &Self::cancelled());
        self.fails(stopped, &codes::INTERRUPTED, "a validation that was cancelled")?;
        let stranger = Self::stranger();
        let order = Self::validate_order(&vault, stranger);
        let nothing = self.keeper().validate(&order, &Watch::silent());
        self.fails(nothing, &codes::POINT_NOT_FOUND, "validating what is not there")?;

        let expected = [(ITEM.to_owned(), first.id), (ITEM.to_owned(), stranger)];
        for item in [None, Some(ITEM)] {
            let absent = self.keeper().absent(&vault, item, &expected)?;
            let have: Vec<_> = absent.iter().map(|absent| (absent.point, absent.how)).collect();
            self.same(&have, &vec![(stranger, Absence::Missing)], "who is absent")?;
        }
        for _ in 0..2 {
            let ids = [first.id, stranger];
            let left = self.keeper().delete_points(&vault, ITEM, &ids, self.world.now())?;
            self.same(&left.len(), &0, "nothing is locked")?;
        }
        self.same(&self.listed(&vault)?, &vec![second.id], "what was deleted is not listed")?;
        let gone =
            self.keeper().validate(&Self::validate_order(&vault, first.id), &Watch::silent());
        self.fails(gone, &codes::POINT_NOT_FOUND, "validating what was deleted")?;
        let absent = self.keeper().absent(&vault, None, &expected[..1])?;
        let how = absent.first().map(|absent| absent.how);
        self.same(&how, &Some(Absence::Hidden), "what was deleted is hidden")
    }

    fn reclaim(&self, vault: &VaultAccess, given_up: &[PointId]) -> Result<ReclaimDone> {
        let order = self.reclaim_order(vault, given_up);
        self.keeper().reclaim(&order, &Watch::silent())
    }

    fn reclaim_order(&self, vault: &VaultAccess, given_up: &[PointId]) -> ReclaimOrder {
        let given_up = given_up.iter().map(|point| (ITEM.to_owned(), *point)).collect();
        let (order, now) = (Self::once(), self.world.now());
        ReclaimOrder { order, vault: vault.clone(), given_up, now, recompress: false }
    }

    /// Locks hold, and only what was given up is freed.
    pub(super) fn locks_and_reclaim(&self) -> Checked {
        let vault = self.vault("locks")?;
        let now = self.world.now();
        let (day, week) = (hours(now, 24), hours(now, 24 * 7));
        let order = BackupOrder { locked_until: Some(day), ..self.backup_order(&vault, 1) };
        let locked = self.agent().backup(&order, &Watch::silent())?.point;
        self.same(&locked.locked_until, &Some(day), "the point says until when it is locked")?;
        let free = self.backup(&vault, 2)?.point;
        let delete = |now| self.keeper().delete_points(&vault, ITEM, &[locked.id], now);
        let held: Vec<_> = delete(now)?.into_iter().map(|(point, _)| point).collect();
        self.same(&held, &vec![locked.id], "a lock holds")?;
        for until in [week, day] {
            let stranger = (Self::stranger(), until);
            let locks = [(locked.id, until), stranger];
            let now_locked = self.keeper().lock_points(&vault, ITEM, &locks)?;
            let ids: Vec<_> = now_locked.iter().map(|(point, _)| *point).collect();
            self.same(&ids, &vec![locked.id], "what is gone is left out")?;
            self.holds(
                now_locked.iter().all(|(_, until)| *until >= week),
                "no lock becomes shorter",
            )?;
        }
        self.same(&delete(hours(now, 48))?.len(), &1, "a longer lock holds")?;

        let left = self.keeper().delete_points(&vault, ITEM, &[free.id], now)?;
        self.same(&left.len(), &0, "what was never locked goes")?;
        let stopped = self.keeper().reclaim(&self.reclaim_order(&vault, &[]), &Self::cancelled());
        self.fails(stopped, &codes::INTERRUPTED, "a reclaim that was cancelled")?;
        let done = self.reclaim(&vault, &[])?;
        let held = HeldPoint { item: Some(ITEM.to_owned()), point: free.id, locked: false };
        self.same(&done.held, &vec![held], "what nobody gave up is held")?;
        let order = self.reclaim_order(&vault, &[free.id]);
        for _ in 0..2 {
            let done = self.keeper().reclaim(&order, &Watch::silent())?;
            self.same(&(done.complete, done.held.len()), &(true, 0), "what was given up is freed")?;
        }
        let expected = [(ITEM.to_owned(), free.id)];
        let absent = self.keeper().absent(&vault, None, &expected)?;
        let how = absent.first().map(|absent| absent.how);
        self.same(&how, &Some(Absence::Missing), "what was freed is missing")?;
        self.same(&self.listed(&vault)?, &vec![locked.id], "what is locked stays")?;

        for depth in [VerifyDepth::Structure, VerifyDepth::All] {
            let order = VerifyOrder { order: Self::once(), vault: vault.clone(), depth };
            let facts = self.keeper().verify(&order, &Watch::silent())?;
            self.same(&(facts.damaged_objects, facts.damaged_points), &(0, 0), "it is whole")?;
            let all = depth == VerifyDepth::All;
            self.holds(!all || facts.is_whole, "all of it was read")?;
            let stopped = self.keeper().verify(&order, &Self::cancelled());
            self.fails(stopped, &codes::INTERRUPTED, "a verification that was cancelled")?;
        }
        let usage = self.keeper().usage(&vault, &Watch::silent())?;
        let items: Vec<_> = usage.items.iter().map(|item| item.name.as_str()).collect();
        self.same(&(usage.recovery_points, items), &(1, vec![ITEM]), "what the vault holds")?;
        let stopped = self.keeper().usage(&vault, &Self::cancelled());
        self.fails(stopped, &codes::INTERRUPTED, "a measurement that was cancelled")
    }

    /// What the service keeps in a vault.
    pub(super) fn kept_objects(&self) -> Checked {
        let vault = self.vault("kept")?;
        let keeper = self.keeper();
        self.fails(keeper.load(&vault, "x"), &codes::VAULT_NOTHING_KEPT, "nothing is kept")?;
        self.same(&keeper.saved(&vault)?.len(), &0, "nothing is kept yet")?;
        keeper.save(&vault, "x", b"one")?;
        keeper.save(&vault, "x", b"two")?;
        self.same(&keeper.load(&vault, "x")?, b"two".as_slice(), "the last that was kept")?;
        let names: Vec<_> = keeper.saved(&vault)?.into_iter().map(|kept| kept.name).collect();
        self.same(&names, &["x"].as_slice(), "what is kept")?;
        keeper.unsave(&vault, "x")?;
        keeper.unsave(&vault, "x")?;
        self.fails(keeper.load(&vault, "x"), &codes::VAULT_NOTHING_KEPT, "it is removed")
    }

    /// Keys change, and what is kept stays.
    pub(super) fn keys(&self) -> Checked {
        let old = self.vault("keys")?;
        let before = self.keeper().facts(&old)?;
        self.keeper().save(&old, "x", b"one")?;
        let rotate = |new: Option<KeyReference>| -> Result<VaultFacts> {
            let order = RotateOrder { order: Self::once(), vault: old.clone(), new };
            self.keeper().rotate_key(&order)
        };
        let master = rotate(None)?;
        self.same(&master.id, &before.id, "it is the same vault")?;
        self.holds(master.key_changed >= before.key_changed, "its key is newer")?;
        let path = self.world.key("new");
        self.keeper().make_key_file(path.as_ref())?;
        let new = VaultAccess { key: KeyReference::File(path), ..old.clone() };
        let changed = rotate(Some(new.key.clone()))?;
        let again = rotate(Some(new.key.clone()))?;
        self.same(&again.key_changed, &changed.key_changed, "given again, it is done")?;
        self.same(&self.keeper().load(&new, "x")?, b"one".as_slice(), "what was kept is there")?;
        self.fails(self.keeper().load(&old, "x"), &codes::KEY_WRONG, "the old key")?;
        self.fails(self.keeper().facts(&old), &codes::KEY_WRONG, "facts with the old key")
    }

    /// A vault that is not there is `vault.not_found`, whatever is asked of it.
    pub(super) fn unknown_vaults(&self) -> Checked {
        let vault = self.vault("nowhere-key")?;
        let vault = VaultAccess { url: self.world.place("nowhere"), ..vault };
        let (keeper, watch) = (self.keeper(), Watch::silent());
        let point = Self::stranger();
        let rotate = RotateOrder { order: Self::once(), vault: vault.clone(), new: None };
        let verify = VerifyOrder {
            order: Self::once(),
            vault: vault.clone(),
            depth: VerifyDepth::Structure,
        };
        let expected = [(ITEM.to_owned(), point)];
        let answers: [(&str, Result<()>); 14] = [
            ("facts", keeper.facts(&vault).map(drop)),
            ("points", keeper.points(&vault, None).map(drop)),
            ("validate", keeper.validate(&Self::validate_order(&vault, point), &watch).map(drop)),
            (
                "delete_points",
                keeper.delete_points(&vault, ITEM, &[point], self.world.now()).map(drop),
            ),
            (
                "lock_points",
                keeper.lock_points(&vault, ITEM, &[(point, self.world.now())]).map(drop),
            ),
            ("absent", keeper.absent(&vault, None, &expected).map(drop)),
            ("reclaim", self.reclaim(&vault, &[]).map(drop)),
            ("verify", keeper.verify(&verify, &watch).map(drop)),
            ("usage", keeper.usage(&vault, &watch).map(drop)),
            ("rotate_key", keeper.rotate_key(&rotate).map(drop)),
            ("save", keeper.save(&vault, "x", b"")),
            ("saved", keeper.saved(&vault).map(drop)),
            ("load", keeper.load(&vault, "x").map(drop)),
            ("unsave", keeper.unsave(&vault, "x")),
        ];
        for (what, answer) in answers {
            self.fails(answer, &codes::VAULT_NOT_FOUND, what)?;
        }
        self.make("nowhere-key").map_err(Failure::from).map(drop)
    }
}
