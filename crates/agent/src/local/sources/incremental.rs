//! Page blobs that are backed up to other page blobs: what stands in the way.

use strongroom_api::{BlobPlace, Check, ConsistencyWanted, ErrorBody, Verdict};
use strongroom_base::{Cancel, Code, Message, codes, message};
use strongroom_orders::{BackupOrder, Result};
use strongroom_storage_client::BlobQuery;

use super::{
    Kind, Work,
    blobs::{obstacle, red},
};
use crate::{
    error::body,
    local::{LocalAgent, backup::Made},
};

/// A page blob that is backed up to another one.
pub(super) struct IncrementalBackup<'a> {
    /// The blob that is backed up.
    pub(super) from: &'a BlobPlace,
    /// The blob that has the backups.
    pub(super) to: &'a BlobPlace,
}

impl IncrementalBackup<'_> {
    /// What stands in the way of reading the source, and of writing the target.
    fn obstacles(&self, agent: &LocalAgent) -> Vec<ErrorBody> {
        let source = obstacle(&agent.accounts(self.from.access.as_ref()), &self.from.blob);
        let accounts = agent.accounts(self.to.access.as_ref());
        let target = accounts.open(&self.to.blob, &Cancel::new()).and_then(|(client, path)| {
            let query =
                BlobQuery { prefix: Some(path.name.as_str().to_owned()), ..BlobQuery::default() };
            client.blobs(&path.container, query).next().transpose().map(drop).map_err(body)
        });
        [source, target].into_iter().filter_map(Result::err).map(|error| *error).collect()
    }
}

impl Kind for IncrementalBackup<'_> {
    fn check(&self, agent: &LocalAgent) -> Result<Check> {
        let obstacles = self.obstacles(agent);
        let verdict = if obstacles.is_empty() { Verdict::Green } else { Verdict::Red };
        let findings = obstacles.iter().map(|error| red(error, None)).collect();
        Ok(Check { name: self.from.blob.clone(), verdict, findings })
    }

    fn back_up(&self, _: &Work<'_>) -> Result<Made> {
        let message = "a page blob that is backed up to another one makes no recovery point";
        Err(Box::new(ErrorBody::new(&codes::BUG, message)))
    }

    fn best(&self, _: &BackupOrder) -> ConsistencyWanted {
        ConsistencyWanted::Crash
    }

    fn gone(&self, _: &Code) -> Message {
        message!(SOURCE_MISSING: blob, "a blob of the item is not there any more")
    }

    fn machine(&self) -> Result<&str> {
        let message = "a page blob that is backed up to another one has no recovery points";
        Err(Box::new(ErrorBody::new(&codes::REQUEST_INVALID, message)))
    }
}
