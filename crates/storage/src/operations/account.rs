//! Operations on the account.

use azure::{
    AccountOperation, Answer, Code, ContainerEntry, ContainerList, ContainerListHead,
    ListContainers, Refusal, ServiceProperties,
};
use strongroom_azure as azure;

use super::{bad_marker, unsupported};
use crate::{
    bodies::Incoming,
    face::{Reply, Work},
    map::{self, Subject},
    numbers::size,
};

/// Entries of a list if the client does not say.
pub(super) const LIST: u32 = 5000;

impl Work<'_> {
    /// Carries out an operation on the account.
    pub(crate) async fn account(
        &self,
        operation: &AccountOperation,
        incoming: &mut Incoming,
    ) -> Result<Reply, Refusal> {
        let answer = match operation {
            AccountOperation::GetProperties => ServiceProperties::initial().answer(),
            AccountOperation::SetProperties(body) => {
                let (content, _) = incoming.read(body).await?;
                set_properties(&content)?
            }
            AccountOperation::GetStats => {
                let stats = self.storage.secondary_stats();
                stats.ok_or(Code::SecondaryReadDisabled)?.answer()
            }
            AccountOperation::ListContainers(list) => self.list_containers(list).await?,
            AccountOperation::Batch(body) => self.batch(body, incoming).await?,
            AccountOperation::GetInformation => map::information(&self.account).answer(),
        };
        Ok(answer.into())
    }

    async fn list_containers(&self, list: &ListContainers) -> Result<Answer, Refusal> {
        let account = self.request.address.account.as_str().to_owned();
        let prefix = list.prefix.clone().unwrap_or_default();
        if let Some(marker) = list.marker.as_deref().filter(|marker| !marker.is_empty()) {
            azure::ContainerName::new(marker).map_err(|_| bad_marker(marker))?;
        }
        let marker = list.marker.clone().filter(|marker| !marker.is_empty());
        let max = size(u64::from(list.max_results.unwrap_or(LIST)));
        let found = self
            .storage
            .look(move |view| view.containers(&account, &prefix, marker.as_deref(), max))
            .await
            .map_err(|failure| map::failure(&failure, Subject::Container))?;
        let now = self.now();
        let entries = found.items.iter().map(|(name, container)| ContainerEntry {
            name: name.clone(),
            properties: map::container_properties(container, now),
        });
        let answer = ContainerList {
            entries: entries.collect(),
            next_marker: found.next.map(|marker| marker.name),
        };
        let head = ContainerListHead {
            endpoint: self.endpoint(),
            prefix: list.prefix.clone(),
            marker: list.marker.clone(),
            max_results: list.max_results,
        };
        Ok(answer.answer(&head, list.include_metadata))
    }
}

/// Service properties are about what this service does not have; only those that say so can be set.
fn set_properties(content: &[u8]) -> Result<Answer, Refusal> {
    let asked = ServiceProperties::parse(content)?;
    let initial = ServiceProperties::initial();
    if initial.clone().changed_by(asked) == initial {
        return Ok(Answer::properties_set());
    }
    Err(unsupported(
        Code::UnsupportedXmlNode,
        "Logs, metrics, rules of origins, soft deletion, static websites and a default version are not supported.",
    ))
}
