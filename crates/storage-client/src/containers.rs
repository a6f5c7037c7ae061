//! Operations on containers.

use std::vec;

use strongroom_azure::{
    ContainerEntry, ContainerList, ContainerName, ContainerProperties, Headers, Metadata, Method,
    Resource, Stamp,
};

use crate::{
    Client, StorageClientError,
    http::{Received, Sent},
};

/// Containers of an account by their names, a page at a time. It ends after the first error.
#[derive(Debug)]
pub struct Containers<'a> {
    client: &'a Client,
    prefix: Option<String>,
    page: vec::IntoIter<ContainerEntry>,
    next: Next,
}

/// Where a list continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At its beginning.
    Begin,
    /// At a marker.
    Marker(String),
    /// Nowhere.
    Nothing,
}

impl Next {
    /// Where the next request begins; `None` if there is none to be sent. It is not sent twice.
    pub(crate) fn take(&mut self) -> Option<Self> {
        let next = std::mem::replace(self, Self::Nothing);
        (next != Self::Nothing).then_some(next)
    }

    pub(crate) fn marker(&self) -> Option<&str> {
        match self {
            Self::Marker(marker) => Some(marker),
            Self::Begin | Self::Nothing => None,
        }
    }

    /// What an answer says, if its marker is not that of the request: such a list would not end.
    pub(crate) fn after(asked: Option<&str>, answered: Option<String>) -> Option<Self> {
        match answered.filter(|marker| !marker.is_empty()) {
            None => Some(Self::Nothing),
            Some(marker) if Some(marker.as_str()) == asked => None,
            Some(marker) => Some(Self::Marker(marker)),
        }
    }
}

impl Iterator for Containers<'_> {
    type Item = Result<ContainerEntry, StorageClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                return Some(Ok(entry));
            }
            let next = self.next.take()?;
            if let Err(error) = self.load(next.marker()) {
                return Some(Err(error));
            }
        }
    }
}

impl Containers<'_> {
    fn load(&mut self, marker: Option<&str>) -> Result<(), StorageClientError> {
        let sent = Sent::new("list the containers of", Method::Get, &Resource::Account)
            .query("comp", "list")
            .query("include", "metadata")
            .maybe_query("prefix", self.prefix.as_deref())
            .maybe_query("marker", marker);
        let received = self.client.send(&sent)?;
        let list = ContainerList::parse(&received.body);
        let list = list.map_err(|refusal| self.client.bad_answer(&refusal))?;
        self.next = Next::after(marker, list.next_marker)
            .ok_or_else(|| self.client.senseless("the list of containers does not end"))?;
        self.page = list.entries.into_iter();
        Ok(())
    }
}

impl Client {
    /// Creates a container.
    pub fn create_container(
        &self,
        name: &ContainerName,
        metadata: &Metadata,
    ) -> Result<(), StorageClientError> {
        let resource = Resource::Container(name.clone());
        let sent = Sent::new("create the container", Method::Put, &resource)
            .query("restype", "container")
            .headers(metadata.to_headers())
            .once();
        self.send(&sent).map(|_| ())
    }

    /// The containers whose names begin with a prefix, with their metadata.
    pub fn containers(&self, prefix: Option<&str>) -> Containers<'_> {
        Containers {
            client: self,
            prefix: prefix.map(str::to_owned),
            page: Vec::new().into_iter(),
            next: Next::Begin,
        }
    }

    /// What is known of a container.
    pub fn container(
        &self,
        name: &ContainerName,
    ) -> Result<ContainerProperties, StorageClientError> {
        let resource = Resource::Container(name.clone());
        // GET, as its failures have a message, and the answer has no body either.
        let sent =
            Sent::new("read the container", Method::Get, &resource).query("restype", "container");
        let Received { headers, .. } = self.send(&sent)?;
        ContainerProperties::parse(&headers).map_err(|refusal| self.bad_answer(&refusal))
    }

    /// Deletes a container with everything in it.
    pub fn delete_container(&self, name: &ContainerName) -> Result<(), StorageClientError> {
        let resource = Resource::Container(name.clone());
        let sent = Sent::new("delete the container", Method::Delete, &resource)
            .query("restype", "container")
            .once();
        self.send(&sent).map(|_| ())
    }

    pub(crate) fn stamp(&self, headers: &Headers) -> Result<Stamp, StorageClientError> {
        Stamp::parse(headers).map_err(|refusal| self.bad_answer(&refusal))
    }
}
