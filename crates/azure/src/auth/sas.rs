//! Shared access signatures: reading them from a query, what they sign, and making them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;

use super::{AccountKey, key::parse_signature};
use crate::{
    AccountName, Code, Query, Refusal, Resource, SnapshotId, Version,
    query::percent_encode,
    time::{iso_date, parse_iso_date},
};

/// The longest value of a field.
const MAX_FIELD: usize = 1024;

/// The versions that changed what is signed.
const WITH_OVERRIDES: Version = Version::new(2013, 8, 15);
const WITH_SERVICE: Version = Version::new(2015, 2, 21);
const WITH_ADDRESS: Version = Version::new(2015, 4, 5);
const WITH_RESOURCE: Version = Version::new(2018, 11, 9);
const WITH_SCOPE: Version = Version::new(2020, 12, 6);

/// Headers of the answer of a read that a SAS sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `rscc`: `Cache-Control`.
    pub cache_control: Option<String>,
    /// `rscd`: `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `rsce`: `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `rscl`: `Content-Language`.
    pub content_language: Option<String>,
    /// `rsct`: `Content-Type`.
    pub content_type: Option<String>,
}

impl Overrides {
    fn fields(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("rscc", self.cache_control.as_deref()),
            ("rscd", self.content_disposition.as_deref()),
            ("rsce", self.content_encoding.as_deref()),
            ("rscl", self.content_language.as_deref()),
            ("rsct", self.content_type.as_deref()),
        ]
    }
}

/// The addresses that may use a SAS: `sip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The first.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
}

impl AddressRange {
    /// Reads `A.B.C.D` or `A.B.C.D-E.F.G.H`.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(Self { first: first.parse().ok()?, last: last.parse().ok()? })
    }

    /// Whether an address is within.
    pub fn has(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => (self.first..=self.last).contains(&address),
            IpAddr::V6(_) => false,
        }
    }
}

/// What a service SAS is about: `sr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SasResource {
    /// `c`: a container with its blobs.
    Container,
    /// `b`: a blob.
    Blob,
    /// `bs`: a snapshot of a blob.
    Snapshot,
}

impl SasResource {
    const fn name(self) -> &'static str {
        match self {
            Self::Container => "c",
            Self::Blob => "b",
            Self::Snapshot => "bs",
        }
    }
}

/// A SAS of a container or a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSas {
    /// `sr`.
    pub resource: SasResource,
    /// `si`: the id of a stored access policy of the container, which has the fields that the SAS lacks.
    pub policy: Option<String>,
    /// `rscc` to `rsct`.
    pub overrides: Overrides,
}

/// A SAS of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSas {
    /// `ss`: letters of services; `b` is ours.
    pub services: String,
    /// `srt`: letters of levels.
    pub resource_types: String,
}

/// The two kinds of SAS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SasKind {
    /// Of a container or a blob.
    Service(ServiceSas),
    /// Of an account.
    Account(AccountSas),
}

/// A shared access signature. Times and other fields are kept as they were written, because that is what is signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Sas {
    /// `sv`; missing in signatures of the first versions.
    pub version: Option<Version>,
    /// `sp`: letters of permissions; empty if a policy has them.
    pub permissions: String,
    /// `st`: since when it is valid.
    pub start: Option<String>,
    /// `se`: until when it is valid.
    pub expiry: Option<String>,
    /// `sip`.
    pub address: Option<String>,
    /// `spr`: `https`, or `https,http`.
    pub protocol: Option<String>,
    /// What it is about.
    pub kind: SasKind,
    /// `sig`; empty in one that is not signed yet.
    pub(super) signature: Vec<u8>,
}

/// Without the signature.
impl fmt::Debug for Sas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sas")
            .field("kind", &self.kind)
            .field("permissions", &self.permissions)
            .field("expiry", &self.expiry)
            .finish_non_exhaustive()
    }
}

impl Sas {
    /// A SAS for [`Sas::sign`], valid until `expiry`.
    pub fn new(kind: SasKind, permissions: &str, expiry: Timestamp) -> Self {
        Self {
            version: Some(Version::new(2020, 12, 6)),
            permissions: permissions.to_owned(),
            start: None,
            expiry: Some(iso_date(expiry)),
            address: None,
            protocol: None,
            kind,
            signature: Vec::new(),
        }
    }

    /// Reads the SAS in a query; none if it has no signature. Kinds that this service cannot verify are refused.
    pub fn parse(query: &Query) -> Result<Option<Self>, Refusal> {
        let Some(signature) = query.get("sig") else { return Ok(None) };
        if let Some((name, value)) = query.iter().find(|(_, value)| value.len() > MAX_FIELD) {
            let is_field = FIELDS.contains(&name);
            if is_field {
                return Err(Refusal::parameter(name, value, "The value is too long."));
            }
        }
        for (name, what) in UNSUPPORTED {
            if query.get(name).is_some() {
                return Err(Refusal::authentication(format!("{what} is not supported.")));
            }
        }
        if query.get("ses").is_some() {
            return Err(
                Refusal::new(Code::UnsupportedQueryParameter).with("QueryParameterName", "ses")
            );
        }
        // A plus sign that was not escaped has become a blank.
        let signature = parse_signature(&signature.replace(' ', "+"))
            .ok_or_else(|| Refusal::authentication("The signature is not 32 bytes in base64."))?;
        let text = |name: &str| query.get(name).map(str::to_owned);
        let version = query.get("sv").map(|value| Version::from_query("sv", value)).transpose()?;
        let kind = match (query.get("ss"), query.get("srt")) {
            (None, None) => SasKind::Service(ServiceSas {
                resource: resource(query)?,
                policy: text("si"),
                overrides: Overrides {
                    cache_control: text("rscc"),
                    content_disposition: text("rscd"),
                    content_encoding: text("rsce"),
                    content_language: text("rscl"),
                    content_type: text("rsct"),
                },
            }),
            (services, types) => SasKind::Account(AccountSas {
                services: services.unwrap_or_default().to_owned(),
                resource_types: types.unwrap_or_default().to_owned(),
            }),
        };
        Ok(Some(Self {
            version,
            permissions: text("sp").unwrap_or_default(),
            start: text("st"),
            expiry: text("se"),
            address: text("sip"),
            protocol: text("spr"),
            kind,
            signature,
        }))
    }

    /// The id of the stored access policy that it needs.
    pub fn policy_id(&self) -> Option<&str> {
        match &self.kind {
            SasKind::Service(service) => service.policy.as_deref(),
            SasKind::Account(_) => None,
        }
    }

    /// What is signed. A service SAS covers the container, the blob or the snapshot that is addressed; `None` if that
    /// cannot be covered by it.
    pub(super) fn text(
        &self,
        account: &AccountName,
        resource: &Resource,
        snapshot: Option<SnapshotId>,
    ) -> Option<String> {
        match &self.kind {
            SasKind::Account(sas) => Some(self.account_text(account, sas)),
            SasKind::Service(sas) => self.service_text(account, sas, resource, snapshot),
        }
    }

    fn account_text(&self, account: &AccountName, sas: &AccountSas) -> String {
        let version = self.version.map(|version| version.to_string()).unwrap_or_default();
        let mut lines = vec![
            account.as_str(),
            &self.permissions,
            &sas.services,
            &sas.resource_types,
            self.start.as_deref().unwrap_or_default(),
            self.expiry.as_deref().unwrap_or_default(),
            self.address.as_deref().unwrap_or_default(),
            self.protocol.as_deref().unwrap_or_default(),
            &version,
        ];
        if self.version >= Some(WITH_SCOPE) {
            lines.push("");
        }
        lines.push("");
        lines.join("\n")
    }

    fn service_text(
        &self,
        account: &AccountName,
        sas: &ServiceSas,
        resource: &Resource,
        snapshot: Option<SnapshotId>,
    ) -> Option<String> {
        let covered = match (sas.resource, resource) {
            (SasResource::Container, Resource::Container(_))
            | (SasResource::Blob | SasResource::Snapshot, Resource::Blob(_)) => resource.clone(),
            (SasResource::Container, Resource::Blob(blob)) => {
                Resource::Container(blob.container.clone())
            }
            (_, Resource::Account)
            | (SasResource::Blob | SasResource::Snapshot, Resource::Container(_)) => return None,
        };
        let snapshot = match (sas.resource, snapshot) {
            (SasResource::Snapshot, None) => return None,
            (SasResource::Snapshot, Some(id)) => id.to_string(),
            (SasResource::Container | SasResource::Blob, _) => String::new(),
        };
        let version = self.version;
        let prefix = if version >= Some(WITH_SERVICE) { "/blob" } else { "" };
        let path = format!("{prefix}/{account}{}", covered.canonical());
        let version_text = version.map(|version| version.to_string()).unwrap_or_default();
        let mut lines = vec![
            self.permissions.as_str(),
            self.start.as_deref().unwrap_or_default(),
            self.expiry.as_deref().unwrap_or_default(),
            &path,
            sas.policy.as_deref().unwrap_or_default(),
        ];
        if version >= Some(WITH_ADDRESS) {
            lines.push(self.address.as_deref().unwrap_or_default());
            lines.push(self.protocol.as_deref().unwrap_or_default());
        }
        if version.is_some() {
            lines.push(&version_text);
        }
        if version >= Some(WITH_RESOURCE) {
            lines.push(sas.resource.name());
            lines.push(&snapshot);
        }
        if version >= Some(WITH_SCOPE) {
            lines.push("");
        }
        if version >= Some(WITH_OVERRIDES) {
            lines.extend(sas.overrides.fields().map(|(_, value)| value.unwrap_or_default()));
        }
        Some(lines.join("\n"))
    }

    /// Signs it for a resource; the query of URLs with it, without a question mark. A SAS of an account is for every
    /// resource. `None` if the kind does not fit the resource.
    pub fn sign(
        &self,
        account: &AccountName,
        key: &AccountKey,
        resource: &Resource,
        snapshot: Option<SnapshotId>,
    ) -> Option<String> {
        let signature = key.sign(&self.text(account, resource, snapshot)?);
        Some(self.query(&signature))
    }

    /// The query of a SAS that was read, as it can be sent again.
    pub fn to_query(&self) -> String {
        self.query(&STANDARD.encode(&self.signature))
    }

    fn query(&self, signature: &str) -> String {
        let version = self.version.map(|version| version.to_string());
        let mut fields = vec![("sv", version.as_deref())];
        match &self.kind {
            SasKind::Account(sas) => {
                fields.extend([
                    ("ss", Some(sas.services.as_str())),
                    ("srt", Some(&sas.resource_types)),
                ]);
            }
            SasKind::Service(sas) => {
                fields.extend([("sr", Some(sas.resource.name())), ("si", sas.policy.as_deref())]);
                fields.extend(sas.overrides.fields());
            }
        }
        fields.extend([
            ("st", self.start.as_deref()),
            ("se", self.expiry.as_deref()),
            ("sp", Some(self.permissions.as_str()).filter(|letters| !letters.is_empty())),
            ("sip", self.address.as_deref()),
            ("spr", self.protocol.as_deref()),
            ("sig", Some(signature)),
        ]);
        let pairs = fields
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", percent_encode(value?, ""))));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// When it begins to be valid, if it says so.
    pub(super) fn start_moment(&self) -> Result<Option<Timestamp>, Refusal> {
        moment("st", self.start.as_deref())
    }

    /// When it expires, if it says so.
    pub(super) fn expiry_moment(&self) -> Result<Option<Timestamp>, Refusal> {
        moment("se", self.expiry.as_deref())
    }
}

fn moment(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let refused = || Refusal::authentication(format!("{name} is not a time: {text}"));
    parse_iso_date(text).map(Some).ok_or_else(refused)
}

fn resource(query: &Query) -> Result<SasResource, Refusal> {
    match query
        .required("sr")
        .map_err(|_| Refusal::authentication("sr is mandatory. Cannot be empty"))?
    {
        "c" => Ok(SasResource::Container),
        "b" => Ok(SasResource::Blob),
        "bs" => Ok(SasResource::Snapshot),
        other => {
            Err(Refusal::authentication(format!("Signatures with sr={other} are not supported.")))
        }
    }
}

/// Every field of a SAS.
const FIELDS: [&str; 17] = [
    "sv", "ss", "srt", "sr", "si", "sp", "st", "se", "sip", "spr", "sig", "rscc", "rscd", "rsce",
    "rscl", "rsct", "ses",
];

/// Fields of kinds of SAS that need an identity service or folders.
const UNSUPPORTED: [(&str, &str); 9] = [
    ("skoid", "A user delegation signature"),
    ("sktid", "A user delegation signature"),
    ("sduoid", "A user delegation signature"),
    ("skdutid", "A user delegation signature"),
    ("saoid", "A signature with an authorized user"),
    ("suoid", "A signature with an unauthorized user"),
    ("sdd", "A signature of a directory"),
    ("srh", "A signature with signed headers"),
    ("srq", "A signature with signed query parameters"),
];
