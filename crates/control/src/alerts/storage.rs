//! Alerts about the storage accounts of this server: their store takes no changes, a copy lacks some, blocks are damaged,
//! the second server is lost or behind.
//!
//! A reconciler, like that of promises: it compares how the accounts stand with the alerts that hold.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{
    ErrorBody, StorageCopy, StorageCopyState, StoragePairState, StorageReplication, StorageRole,
    StorageStatus,
};
use strongroom_base::words;
use strongroom_catalog::{Filter, Query};

use super::{Happening, Rule, raise, resolve_key};
use crate::{accounts::StorageFigures, error::Result, model::AlertDoc, service::Control};

/// What the alerts about the whole store are about.
const SUBJECT: &str = "storage accounts";
/// The rules of this part.
const RULES: [Rule; 6] = [
    Rule::StorageFenced,
    Rule::StorageStopped,
    Rule::StorageDamaged,
    Rule::StorageCopyLost,
    Rule::StoragePeerLost,
    Rule::StorageBehind,
];

/// Something that is not as it should be.
struct Finding {
    rule: Rule,
    subject: String,
    title: String,
    error: Option<ErrorBody>,
}

impl Finding {
    fn of_store(rule: Rule, title: String) -> Self {
        Self { rule, subject: SUBJECT.to_owned(), title, error: None }
    }

    fn happening(&self) -> Happening<'_> {
        Happening {
            rule: self.rule,
            title: self.title.clone(),
            error: self.error.clone(),
            subject: &self.subject,
            vault: None,
            item: None,
            job: None,
        }
    }
}

impl Control {
    /// Raises an alert for whatever of the storage accounts is not as it should be, and resolves those of which that is
    /// so no more.
    pub(crate) async fn alert_of_storage(&self) -> Result<()> {
        let now = self.now();
        let wanted = match self.storage_figures().await {
            None => Vec::new(),
            Some(Ok(figures)) => self.found(&figures, now),
            Some(Err(error)) => {
                let title = "the storage accounts are not served".to_owned();
                let error = Some(error.body());
                vec![Finding { error, ..Finding::of_store(Rule::StorageStopped, title) }]
            }
        };
        let wanted: BTreeMap<String, Finding> =
            wanted.into_iter().map(|found| (found.happening().key(), found)).collect();
        let holding = in_read!(self, tx => {
            let rules = Filter::all().one_of("rule", RULES.map(Rule::name)).not_null("key");
            let page = tx.list::<AlertDoc>(&Query::new(rules).limit(500)).await?;
            let keys = page.items.into_iter().filter_map(|stored| stored.doc.key);
            Ok(keys.collect::<Vec<String>>())
        })?;
        let is_right = |key: &String| wanted.contains_key(key);
        if holding.iter().all(is_right) && holding.len() == wanted.len() {
            return Ok(());
        }
        in_write!(self, tx => {
            for key in holding.iter().filter(|key| !is_right(key)) {
                resolve_key(tx, key, now).await?;
            }
            for (key, found) in &wanted {
                if !holding.contains(key) {
                    raise(self, tx, found.happening(), now).await?;
                }
            }
            Ok(())
        })
    }

    fn found(&self, figures: &StorageFigures, now: Timestamp) -> Vec<Finding> {
        let StorageFigures { status, replication } = figures;
        let mut found = of_store(status);
        found.extend(status.copies.iter().filter_map(of_copy));
        let longest = SignedDuration::from_secs(self.settings.storage_lag_seconds.into());
        found.extend(of_pair(replication, self.started, longest, now));
        found
    }
}

fn of_store(status: &StorageStatus) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(failure) = &status.failure {
        let title = format!("the store of the storage accounts takes no changes: {failure}");
        found.push(Finding::of_store(Rule::StorageStopped, title));
    }
    if status.damaged > 0 {
        let pieces = words::count(status.damaged, "piece");
        let title =
            format!("{pieces} of 4 KiB of the storage accounts are damaged in a copy, unrepaired");
        found.push(Finding::of_store(Rule::StorageDamaged, title));
    }
    found
}

fn of_copy(copy: &StorageCopy) -> Option<Finding> {
    let because = copy.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    let how = match copy.state {
        StorageCopyState::Leading | StorageCopyState::Healthy => return None,
        StorageCopyState::Rebuilding => {
            "is being made again, and lacks changes until then".to_owned()
        }
        StorageCopyState::LeftOut => format!("lacks changes{because}"),
        StorageCopyState::Missing => format!("is missing{because}"),
    };
    let title = format!("the copy of the storage accounts at {} {how}", copy.path);
    Some(Finding { rule: Rule::StorageCopyLost, subject: copy.path.clone(), title, error: None })
}

fn of_pair(
    pair: &StorageReplication,
    started: Timestamp,
    longest: SignedDuration,
    now: Timestamp,
) -> Option<Finding> {
    let is_long = |since: Timestamp| now.duration_since(since) > longest;
    let because = pair.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    match (pair.role, pair.state) {
        (StorageRole::Alone, _) => None,
        (StorageRole::Fenced, _) => {
            let title = format!("this server takes no changes of storage accounts: it is fenced{because}");
            Some(Finding::of_store(Rule::StorageFenced, title))
        }
        (StorageRole::Waiting, _) => is_long(pair.peer_seen.unwrap_or(started)).then(|| {
            let title = format!(
                "this server takes no changes of storage accounts: it waits for the other server{because}"
            );
            Finding::of_store(Rule::StorageFenced, title)
        }),
        (_, StoragePairState::Removed) => {
            let title = format!("the other server of the storage accounts has ended the pair{because}");
            Some(Finding::of_store(Rule::StoragePeerLost, title))
        }
        (_, StoragePairState::Unavailable) => {
            is_long(pair.peer_seen.unwrap_or(started)).then(|| {
                let title =
                    format!("the other server of the storage accounts is not in contact{because}");
                Finding::of_store(Rule::StoragePeerLost, title)
            })
        }
        (_, StoragePairState::Ahead) => {
            let title = "the primary of the storage accounts lacks changes that this server has";
            Some(Finding::of_store(Rule::StorageBehind, title.to_owned()))
        }
        _ => {
            let seconds = pair.lag_seconds.filter(|_| pair.lag_records != Some(0))?;
            let limit = u64::try_from(longest.as_secs()).unwrap_or(0);
            (seconds > limit).then(|| {
                let title = format!(
                    "the secondary of the storage accounts is {} behind",
                    words::span(seconds)
                );
                Finding::of_store(Rule::StorageBehind, title)
            })
        }
    }
}
