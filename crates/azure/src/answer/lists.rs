//! Lists of containers and of blobs, in both directions.

use jiff::Timestamp;
use roxmltree::Node;

use super::{Answer, BlobProperties, ContainerProperties, CopyState, CopyStatus, Stamp};
use crate::{
    BlobHeaders, Checksum, ETag, Include, LeaseState, Metadata, Refusal, SnapshotId,
    checksum::parse_md5_text,
    time::{http_date, parse_http_date},
    xml::{self, MAX_ANSWER_XML, Writer, bad_value, child, child_name, child_text, children},
};

/// What a list of containers repeats of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerListHead {
    /// The URL of the account, with a slash at its end.
    pub endpoint: String,
    /// What the names begin with.
    pub prefix: Option<String>,
    /// Where an earlier answer ended.
    pub marker: Option<String>,
    /// The most entries.
    pub max_results: Option<u32>,
}

/// A container in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEntry {
    /// Its name.
    pub name: String,
    /// Its properties.
    pub properties: ContainerProperties,
}

/// The answer of List Containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerList {
    /// Containers, sorted by name.
    pub entries: Vec<ContainerEntry>,
    /// Where the next answer begins.
    pub next_marker: Option<String>,
}

impl ContainerList {
    /// The answer: 200.
    pub fn answer(&self, head: &ContainerListHead, include_metadata: bool) -> Answer {
        let mut writer =
            Writer::with_attributes("EnumerationResults", &[("ServiceEndpoint", &head.endpoint)]);
        write_head(&mut writer, head.prefix.as_deref(), head.marker.as_deref(), head.max_results);
        writer.open("Containers");
        for entry in &self.entries {
            let properties = &entry.properties;
            writer.open("Container").leaf("Name", &entry.name).open("Properties");
            write_stamp(&mut writer, &properties.stamp);
            write_lease(&mut writer, properties.lease);
            writer
                .maybe("PublicAccess", properties.public_access.map(crate::PublicAccess::name))
                .leaf("HasImmutabilityPolicy", "false")
                .leaf("HasLegalHold", "false")
                .close();
            if include_metadata {
                write_metadata(&mut writer, &properties.metadata);
            }
            writer.close();
        }
        writer.close().leaf("NextMarker", self.next_marker.as_deref().unwrap_or_default());
        Answer::xml(200, writer.finish())
    }

    /// Reads an answer.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        xml::parse(body, MAX_ANSWER_XML, |root| {
            let node = child(root, "Containers").ok_or_else(|| xml::missing("Containers"))?;
            let entries = children(node).map(parse_container).collect::<Result<_, _>>()?;
            Ok(Self { entries, next_marker: child_text(root, "NextMarker") })
        })
    }
}

fn parse_container(node: Node<'_, '_>) -> Result<ContainerEntry, Refusal> {
    let name = child_text(node, "Name").ok_or_else(|| xml::missing("Name"))?;
    let properties = child(node, "Properties").ok_or_else(|| xml::missing("Properties"))?;
    Ok(ContainerEntry {
        name,
        properties: ContainerProperties {
            stamp: parse_stamp(properties)?,
            metadata: parse_metadata(node),
            lease: parse_lease(properties).unwrap_or_default(),
            public_access: child_text(properties, "PublicAccess")
                .and_then(|text| text.parse().ok()),
        },
    })
}

/// What a list of blobs repeats of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobListHead {
    /// The URL of the account, with a slash at its end.
    pub endpoint: String,
    /// The container.
    pub container: String,
    /// What the names begin with.
    pub prefix: Option<String>,
    /// Where an earlier answer ended.
    pub marker: Option<String>,
    /// The most entries.
    pub max_results: Option<u32>,
    /// What ends the names of prefixes.
    pub delimiter: Option<String>,
}

/// A blob or a snapshot in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBlob {
    /// Its name.
    pub name: String,
    /// The snapshot; none for the blob itself.
    pub snapshot: Option<SnapshotId>,
    /// Its properties.
    pub properties: BlobProperties,
}

/// An entry in a list of blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobEntry {
    /// A blob or a snapshot.
    Blob(Box<ListedBlob>),
    /// The beginning of names, up to and with the delimiter.
    Prefix(String),
}

/// The answer of List Blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobList {
    /// Entries, sorted by name; snapshots before their blob, the oldest first.
    pub entries: Vec<BlobEntry>,
    /// Where the next answer begins.
    pub next_marker: Option<String>,
}

impl BlobList {
    /// The answer: 200.
    pub fn answer(&self, head: &BlobListHead, include: Include) -> Answer {
        let attributes = [
            ("ServiceEndpoint", head.endpoint.as_str()),
            ("ContainerName", head.container.as_str()),
        ];
        let mut writer = Writer::with_attributes("EnumerationResults", &attributes);
        write_head(&mut writer, head.prefix.as_deref(), head.marker.as_deref(), head.max_results);
        if let Some(delimiter) = &head.delimiter {
            writer.name("Delimiter", delimiter);
        }
        writer.open("Blobs");
        for entry in &self.entries {
            match entry {
                BlobEntry::Prefix(name) => {
                    writer.open("BlobPrefix").name("Name", name).close();
                }
                BlobEntry::Blob(blob) => write_blob(&mut writer, blob, include),
            }
        }
        writer.close().leaf("NextMarker", self.next_marker.as_deref().unwrap_or_default());
        Answer::xml(200, writer.finish())
    }

    /// Reads an answer.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        xml::parse(body, MAX_ANSWER_XML, |root| {
            let node = child(root, "Blobs").ok_or_else(|| xml::missing("Blobs"))?;
            let mut list =
                Self { entries: Vec::new(), next_marker: child_text(root, "NextMarker") };
            for node in children(node) {
                let name = child_name(node, "Name").ok_or_else(|| xml::missing("Name"))?;
                list.entries.push(match node.tag_name().name() {
                    "BlobPrefix" => BlobEntry::Prefix(name),
                    "Blob" => BlobEntry::Blob(Box::new(parse_blob(node, name)?)),
                    other => return Err(xml::unknown(other)),
                });
            }
            Ok(list)
        })
    }
}

fn write_head(
    writer: &mut Writer,
    prefix: Option<&str>,
    marker: Option<&str>,
    max_results: Option<u32>,
) {
    if let Some(prefix) = prefix {
        writer.name("Prefix", prefix);
    }
    writer
        .maybe("Marker", marker)
        .maybe("MaxResults", max_results.map(|number| number.to_string()).as_deref());
}

fn write_stamp(writer: &mut Writer, stamp: &Stamp) {
    writer.leaf("Last-Modified", &http_date(stamp.last_modified)).leaf("Etag", stamp.etag.as_str());
}

fn write_lease(writer: &mut Writer, lease: LeaseState) {
    writer
        .leaf("LeaseStatus", lease.status())
        .leaf("LeaseState", lease.name())
        .maybe("LeaseDuration", lease.duration());
}

fn write_metadata(writer: &mut Writer, metadata: &Metadata) {
    writer.open("Metadata");
    for (name, value) in metadata.iter() {
        writer.leaf(name, value);
    }
    writer.close();
}

fn write_blob(writer: &mut Writer, blob: &ListedBlob, include: Include) {
    let properties = &blob.properties;
    let headers = &properties.headers;
    writer.open("Blob").name("Name", &blob.name);
    writer.maybe("Snapshot", blob.snapshot.map(|id| id.to_string()).as_deref());
    writer.open("Properties").leaf("Creation-Time", &http_date(properties.created));
    write_stamp(writer, &properties.stamp);
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    let content_type = headers.content_type.as_deref().unwrap_or(BlobHeaders::DEFAULT_TYPE);
    let md5 = headers.content_md5.map(|md5| Checksum::Md5(md5).to_header().1);
    writer
        .leaf("Content-Length", &properties.length.to_string())
        .leaf("Content-Type", content_type)
        .leaf("Content-Encoding", &or_empty(&headers.content_encoding))
        .leaf("Content-Language", &or_empty(&headers.content_language))
        .leaf("Content-MD5", &md5.unwrap_or_default())
        .leaf("Cache-Control", &or_empty(&headers.cache_control))
        .leaf("Content-Disposition", &or_empty(&headers.content_disposition))
        .maybe(
            "x-ms-blob-sequence-number",
            properties.sequence_number.map(|n| n.to_string()).as_deref(),
        )
        .leaf("BlobType", properties.kind.name());
    if let Some((tier, is_inferred)) = properties.tier {
        writer.leaf("AccessTier", &tier.name());
        writer.maybe("AccessTierInferred", is_inferred.then_some("true"));
    }
    if let Some(lease) = properties.lease {
        write_lease(writer, lease);
    }
    if let Some(copy) = properties.copy.as_ref().filter(|_| include.copy) {
        let snapshot = copy.destination_snapshot.map(|id| id.to_string());
        writer
            .leaf("CopyId", &copy.id)
            .leaf("CopySource", &copy.source)
            .leaf("CopyStatus", copy.status.name())
            .leaf("CopyProgress", &copy.progress())
            .maybe("CopyCompletionTime", copy.completed.map(http_date).as_deref())
            .maybe("CopyStatusDescription", copy.description.as_deref())
            .maybe("CopyDestinationSnapshot", snapshot.as_deref());
    }
    writer.leaf("ServerEncrypted", "false");
    writer.maybe("IncrementalCopy", properties.is_incremental_copy.then_some("true"));
    writer.close();
    if include.metadata {
        write_metadata(writer, &properties.metadata);
    }
    writer.close();
}

fn parse_date(node: Node<'_, '_>, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = child_text(node, name) else { return Ok(None) };
    parse_http_date(&text).map(Some).ok_or_else(|| bad_value(name, &text))
}

fn parse_stamp(node: Node<'_, '_>) -> Result<Stamp, Refusal> {
    let last_modified =
        parse_date(node, "Last-Modified")?.ok_or_else(|| xml::missing("Last-Modified"))?;
    let text = child_text(node, "Etag").ok_or_else(|| xml::missing("Etag"))?;
    let etag = ETag::parse(&text).ok_or_else(|| bad_value("Etag", &text))?;
    Ok(Stamp { etag, last_modified })
}

fn parse_lease(node: Node<'_, '_>) -> Option<LeaseState> {
    LeaseState::from_names(
        &child_text(node, "LeaseState")?,
        child_text(node, "LeaseDuration").as_deref(),
    )
}

/// Metadata that another server lists; what breaks our rules of names is left out.
fn parse_metadata(node: Node<'_, '_>) -> Metadata {
    let pairs: Vec<_> = child(node, "Metadata")
        .map(|node| {
            children(node)
                .map(|pair| (pair.tag_name().name().to_owned(), xml::text(pair)))
                .collect()
        })
        .unwrap_or_default();
    Metadata::of_valid(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

fn parse_copy(node: Node<'_, '_>) -> Result<Option<CopyState>, Refusal> {
    let Some(id) = child_text(node, "CopyId") else { return Ok(None) };
    let status = child_text(node, "CopyStatus").unwrap_or_default();
    let progress = child_text(node, "CopyProgress").unwrap_or_default();
    let (done, total) = progress.split_once('/').unwrap_or(("0", "0"));
    let number = |text: &str| text.parse().map_err(|_| bad_value("CopyProgress", text));
    Ok(Some(CopyState {
        id,
        status: CopyStatus::ALL
            .into_iter()
            .find(|known| known.name() == status)
            .ok_or_else(|| bad_value("CopyStatus", &status))?,
        source: child_text(node, "CopySource").unwrap_or_default(),
        done_bytes: number(done)?,
        total_bytes: number(total)?,
        completed: parse_date(node, "CopyCompletionTime")?,
        description: child_text(node, "CopyStatusDescription"),
        destination_snapshot: child_text(node, "CopyDestinationSnapshot")
            .and_then(|id| id.parse().ok()),
    }))
}

fn parse_blob(node: Node<'_, '_>, name: String) -> Result<ListedBlob, Refusal> {
    let parsed = |text: Option<String>, name: &str| {
        let Some(text) = text else { return Ok(None) };
        text.parse::<u64>().map(Some).map_err(|_| bad_value(name, &text))
    };
    let properties = child(node, "Properties").ok_or_else(|| xml::missing("Properties"))?;
    let text = |name: &str| child_text(properties, name);
    let stamp = parse_stamp(properties)?;
    let kind = text("BlobType").ok_or_else(|| xml::missing("BlobType"))?;
    let snapshot = child_text(node, "Snapshot");
    let is_true = |name: &str| text(name).as_deref() == Some("true");
    Ok(ListedBlob {
        name,
        snapshot: match snapshot {
            Some(text) => Some(text.parse().map_err(|_| bad_value("Snapshot", &text))?),
            None => None,
        },
        properties: BlobProperties {
            created: parse_date(properties, "Creation-Time")?.unwrap_or(stamp.last_modified),
            stamp,
            kind: kind.parse().map_err(|_| bad_value("BlobType", &kind))?,
            length: parsed(text("Content-Length"), "Content-Length")?.unwrap_or(0),
            headers: BlobHeaders {
                content_type: text("Content-Type"),
                content_encoding: text("Content-Encoding"),
                content_language: text("Content-Language"),
                content_disposition: text("Content-Disposition"),
                cache_control: text("Cache-Control"),
                content_md5: text("Content-MD5").and_then(|text| parse_md5_text(&text)),
            },
            metadata: parse_metadata(node),
            lease: parse_lease(properties),
            sequence_number: parsed(
                text("x-ms-blob-sequence-number"),
                "x-ms-blob-sequence-number",
            )?,
            block_count: None,
            tier: text("AccessTier")
                .and_then(|tier| Some((tier.parse().ok()?, is_true("AccessTierInferred")))),
            copy: parse_copy(properties)?,
            is_incremental_copy: is_true("IncrementalCopy"),
        },
    })
}
