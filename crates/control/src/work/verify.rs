//! Verification: every day the structure of a vault, and in rotation all of its packs.
//!
//! This module owns what is verified when, and the alerts that follow. What counts as damage is the matter of the
//! keeper's side.

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{ErrorBody, Vault, VaultState, Verified, VerifiedParts};
use strongroom_base::{JobId, VaultId, message};
use strongroom_catalog::{Query, ReadTx, Tx};
use strongroom_orders::{OrderId, VerifyDepth, VerifyFacts, VerifyOrder, Watch};

use super::outcome::{JobEvents, Outcome};
use crate::{
    alerts::{self, Happening, Rule},
    error::Result,
    jobs::Event,
    model::VaultDoc,
    service::Control,
};

/// A vault is verified too late after this multiple of the usual pause.
const LATE: u32 = 3;

fn setting_of(vault: VaultId) -> String {
    format!("verified/{vault}")
}

fn days(days: u32) -> SignedDuration {
    SignedDuration::from_hours(24_i64.saturating_mul(days.into()))
}

impl Control {
    /// How a vault was verified last.
    pub(crate) async fn verified(tx: &mut ReadTx, vault: VaultId) -> Result<Option<Verified>> {
        Self::setting(tx, &setting_of(vault)).await
    }

    pub(super) async fn do_verify(
        &self,
        job: JobId,
        vault: VaultId,
        all: bool,
        events: &JobEvents,
        watch: &Watch,
    ) -> Outcome {
        let doc = self.work_vault(vault).await?;
        // A manifest that is gone leaves no trace in the vault: only the catalog knows of it.
        self.compare_points(&doc, None).await?;
        let now = self.now();
        let before = in_read!(self, tx => { Self::verified(tx, vault).await })?.unwrap_or_default();
        let depths = if all {
            vec![VerifyDepth::All]
        } else if self.settings.verify_all_days == 0 {
            vec![VerifyDepth::Structure]
        } else {
            let of = self.times_left(before.round.unwrap_or(now), now);
            vec![VerifyDepth::Structure, VerifyDepth::Part { of }]
        };
        let mut found = VerifiedParts::default();
        let mut verified = before.clone();
        let mut damage: Option<VerifyFacts> = None;
        for depth in depths {
            let (name, part) = match depth {
                VerifyDepth::Structure => ("structure", &mut found.structure),
                VerifyDepth::Part { .. } => ("packs", &mut found.packs),
                VerifyDepth::All => ("all", &mut found.all),
            };
            let order = OrderId::of_job(job, format_args!("verify/{name}"));
            let order = VerifyOrder { order, vault: doc.access(), depth };
            let (keeper, follow) = (self.keeper.clone(), watch.clone());
            let facts = Self::blocking(move || keeper.verify(&order, &follow)).await?;
            *part = Some(facts.report.clone());
            verified = after(verified, depth, &facts, now);
            if facts.damaged_objects > 0 || facts.damaged_points > 0 {
                damage = Some(facts);
            }
        }
        let warning = damage.map(|facts| {
            let message = message!(
                VERIFY_DAMAGED,
                "{objects} objects and {points} recovery points are damaged: {damaged}",
                objects = facts.damaged_objects,
                points = facts.damaged_points,
                damaged = facts.damaged.join(", ")
            );
            ErrorBody::from(message)
        });
        in_write!(self, tx => {
            Self::set(tx, &setting_of(vault), &verified).await?;
            let of = Of { vault: &doc.vault, now };
            match &warning {
                Some(error) => of.raise(self, tx, Rule::VaultDamaged, error.clone()).await?,
                // Only what has read everything may say that all is well.
                None if verified.whole == Some(now) => of.resolve(tx, Rule::VaultDamaged).await?,
                None => {}
            }
            of.resolve(tx, Rule::VerifyLate).await
        })?;
        if let Some(warning) = warning {
            events.send(Event::Warning(warning));
        }
        Ok(Some(found.into()))
    }

    /// In how many times what is left of a round is to be read.
    fn times_left(&self, began: Timestamp, now: Timestamp) -> u32 {
        let end = days(self.settings.verify_all_days);
        let left = end.saturating_sub(now.duration_since(began)).as_hours().max(0);
        let each = i64::from(self.settings.verify_every_hours.max(1));
        u32::try_from(left.checked_div(each).unwrap_or(1)).unwrap_or(u32::MAX).max(1)
    }

    /// Raises an alert for each vault that was not verified for too long.
    pub(crate) async fn alert_of_verification(&self) -> Result<()> {
        let settings = &self.settings;
        if settings.verify_every_hours == 0 {
            return Ok(());
        }
        let now = self.now();
        let pause = SignedDuration::from_hours(settings.verify_every_hours.into());
        let limit = pause.saturating_mul(i32::try_from(LATE).unwrap_or(1));
        let all = Query::default().limit(1000);
        for VaultDoc { vault, .. } in
            self.catalog.list::<VaultDoc>(&all).await?.items.into_iter().map(|stored| stored.doc)
        {
            if vault.state != VaultState::Active {
                continue;
            }
            let last = in_read!(self, tx => { Self::verified(tx, vault.id).await })?;
            let last = last.unwrap_or_default();
            let structure = last.structure.unwrap_or(vault.created);
            let whole = last.whole.unwrap_or(vault.created);
            let round = days(settings.verify_all_days.saturating_mul(2));
            let (since, what) = if now.duration_since(structure) > limit {
                (structure, "its structure was")
            } else if settings.verify_all_days > 0 && now.duration_since(whole) > round {
                (whole, "all of its packs were")
            } else {
                continue;
            };
            let of = Of { vault: &vault, now };
            let key = of.happening(Rule::VerifyLate, None).key();
            if in_read!(self, tx => { alerts::holds(tx, &key).await })? {
                continue;
            }
            let message = message!(
                VERIFY_LATE,
                "{what} verified last at {since}, or never",
                what,
                since = format!("{:.0}", since)
            );
            let error = ErrorBody::from(message);
            in_write!(self, tx => { of.raise(self, tx, Rule::VerifyLate, error.clone()).await })?;
        }
        Ok(())
    }
}

/// What is known of a vault after a verify.
fn after(before: Verified, depth: VerifyDepth, facts: &VerifyFacts, now: Timestamp) -> Verified {
    let mut verified = before;
    if depth != VerifyDepth::Structure {
        // The next round follows one that has ended.
        verified.round = Some(if facts.is_whole { now } else { verified.round.unwrap_or(now) });
    }
    let is_whole = depth != VerifyDepth::Structure && facts.is_whole;
    if is_whole {
        verified.whole = Some(now);
    }
    if is_whole || depth == VerifyDepth::Structure {
        verified.structure = Some(now);
    }
    if is_whole {
        (verified.damaged_objects, verified.damaged_points) = (0, 0);
    }
    verified.damaged_objects = verified.damaged_objects.max(facts.damaged_objects);
    verified.damaged_points = verified.damaged_points.max(facts.damaged_points);
    verified
}

/// The vault that alerts are about, and when.
struct Of<'a> {
    vault: &'a Vault,
    now: Timestamp,
}

impl Of<'_> {
    fn happening(&self, rule: Rule, error: Option<ErrorBody>) -> Happening<'_> {
        let name = &self.vault.name;
        let title = match rule {
            Rule::VaultDamaged => format!("the vault {name} is damaged"),
            _ => format!("the vault {name} was not verified for too long"),
        };
        Happening {
            rule,
            title,
            error,
            subject: name,
            vault: Some(self.vault.id),
            item: None,
            job: None,
        }
    }

    async fn raise(
        &self,
        control: &Control,
        tx: &mut Tx,
        rule: Rule,
        why: ErrorBody,
    ) -> Result<()> {
        alerts::raise(control, tx, self.happening(rule, Some(why)), self.now).await
    }

    async fn resolve(&self, tx: &mut Tx, rule: Rule) -> Result<()> {
        alerts::resolve_key(tx, &self.happening(rule, None).key(), self.now).await
    }
}
