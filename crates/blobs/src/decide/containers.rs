//! Changes of containers.

use redb::ReadableTable as _;

use super::{
    Decider, Decision, Undecided,
    blocks::{parse_staging, remove_all, staging_ops},
};
use crate::{
    change::{Access, ContainerChange, Done},
    extents::Staging,
    lease::{Lease, LeaseId},
    record::Op,
    refusal::Refusal,
    rows::{self, Account, Blob, Container, ContainerName, keys},
};

/// Stored access policies of a container.
const MAX_POLICIES: usize = 5;
/// Characters of a policy's id.
const MAX_POLICY_ID: usize = 64;

impl Decider<'_, '_, '_> {
    pub(super) fn container(
        &self,
        name: &ContainerName,
        access: &Access,
        change: &ContainerChange,
    ) -> Decision {
        let key = keys::container(name);
        let old: Option<Container> = self.row(&key)?;
        let etag = self.etag();
        let modified = self.moment.now.seconds();
        let mut lease_done = None;
        let container = match (change, old) {
            (ContainerChange::Create(metadata), None) => {
                self.row::<Account>(&keys::account(&name.account))?
                    .ok_or(Refusal::AccountNotFound)?;
                if !is_container_name(&name.container) {
                    return Err(Refusal::InvalidName.into());
                }
                Container {
                    id: self.moment.stamp,
                    etag,
                    modified,
                    metadata: metadata.clone(),
                    policies: Vec::new(),
                    lease: None,
                }
            }
            (ContainerChange::Create(_), Some(_)) => return Err(Refusal::ContainerExists.into()),
            (_, None) => return Err(Refusal::ContainerNotFound.into()),
            (ContainerChange::Lease(action), Some(old)) => {
                access.conditions.check(old.etag, old.modified)?;
                let new_id = || LeaseId(self.uuid());
                let (lease, done) =
                    Lease::act(old.lease.as_ref(), action, self.moment.now, new_id)?;
                lease_done = Some(done);
                Container { lease, ..old }
            }
            (ContainerChange::Delete, Some(old)) => {
                self.admit(access, old.lease.as_ref(), old.etag, old.modified)?;
                let doomed = Op::Put { key: keys::doomed(old.id), value: Vec::new() };
                return Ok((vec![Op::Remove { key }, doomed], Done::default()));
            }
            (ContainerChange::SetMetadata(metadata), Some(old)) => {
                self.admit_if_given(access, &old)?;
                Container { metadata: metadata.clone(), etag, modified, ..old }
            }
            (ContainerChange::SetPolicies(policies), Some(old)) => {
                self.admit_if_given(access, &old)?;
                let is_long = policies.iter().any(|policy| policy.id.len() > MAX_POLICY_ID);
                if policies.len() > MAX_POLICIES || is_long {
                    return Err(Refusal::InvalidPolicies.into());
                }
                Container { policies: policies.clone(), etag, modified, ..old }
            }
        };
        let done = Done {
            etag: container.etag,
            modified: container.modified,
            lease: lease_done,
            ..Done::default()
        };
        Ok((vec![Op::Put { key, value: rows::encode(&container) }], done))
    }

    /// What deletes some blobs of a container that is deleted itself, snapshots with them.
    pub(crate) fn some_of_container(
        &self,
        container: u64,
        limit: u32,
    ) -> Result<Vec<Op>, Undecided> {
        let first = keys::blobs(container, "");
        let end = keys::behind(&first);
        let mut ops = Vec::new();
        let rows = self.applier.tables.names.range(first.as_slice()..end.as_slice())?;
        for row in rows.take(crate::numbers::size(u64::from(limit))) {
            let (key, value) = row?;
            let blob: Blob = rows::decode(key.value(), value.value())?;
            let generation = blob.generation;
            let epoch = match blob.frozen {
                Some(frozen) => Some(frozen.epoch),
                None => self.applier.tables.generation(generation)?.map(|row| row.epoch),
            };
            ops.push(Op::Remove { key: key.value().to_vec() });
            ops.extend(epoch.map(|epoch| Op::End { generation, epoch }));
            if blob.frozen.is_none() && !blob.kind.is_page() {
                ops.push(remove_all(keys::of_generation(*b"u", generation)));
                let name = keys::parse_blob(key.value()).map(|(name, _)| name).unwrap_or_default();
                // It lies in the blob's generation, which ends.
                ops.push(Op::Remove { key: keys::staging(container, &name) });
            }
        }
        if !ops.is_empty() {
            return Ok(ops);
        }
        // Blocks that wait without a blob come last.
        let first = keys::staging(container, "");
        let end = keys::behind(&first);
        let rows = self.applier.tables.names.range(first.as_slice()..end.as_slice())?;
        for row in rows.take(crate::numbers::size(u64::from(limit))) {
            let (key, value) = row?;
            let staging: Staging = rows::decode(key.value(), value.value())?;
            let (_, name) = parse_staging(key.value()).unwrap_or_default();
            ops.extend(staging_ops(container, &name, &staging, true));
        }
        Ok(ops)
    }

    /// The lease of a container protects it only from deletion; an id that is given must be right all the same.
    fn admit_if_given(&self, access: &Access, container: &Container) -> Result<(), Refusal> {
        let lease = container.lease.as_ref().filter(|_| access.lease.is_some());
        self.admit(access, lease, container.etag, container.modified)
    }
}

fn is_container_name(name: &str) -> bool {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_plain = (3..=63).contains(&name.len())
        && name.chars().all(is_good)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    is_plain || matches!(name, "$root" | "$web" | "$logs")
}
