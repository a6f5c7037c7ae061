//! Answers about an account: its properties, its kind, how far its secondary is.

use jiff::Timestamp;
use roxmltree::Node;

use super::Answer;
use crate::{
    Refusal, Version,
    time::{http_date, parse_http_date},
    xml::{self, MAX_PROPERTIES_XML, Writer, bad_value, child, child_text, children},
};

/// The most rules of origins.
const MAX_RULES: usize = 5;

/// For how many days something is kept; `None` if it is not.
pub type RetentionDays = Option<u32>;

/// What would be logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// Deletions.
    pub delete: bool,
    /// Reads.
    pub read: bool,
    /// Writes.
    pub write: bool,
    /// How long logs are kept.
    pub retention: RetentionDays,
}

/// What would be counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Whether it is.
    pub is_enabled: bool,
    /// Whether each operation is counted.
    pub includes_apis: bool,
    /// How long numbers are kept.
    pub retention: RetentionDays,
}

/// A rule of origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsRule {
    /// Origins, separated by commas.
    pub origins: String,
    /// Methods, separated by commas.
    pub methods: String,
    /// Headers of requests.
    pub allowed_headers: String,
    /// Headers of answers.
    pub exposed_headers: String,
    /// How long a browser keeps the rule.
    pub max_age_seconds: u32,
}

/// A site of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticWebsite {
    /// Whether there is one.
    pub is_enabled: bool,
    /// The file of a folder.
    pub index_document: Option<String>,
    /// The file that is answered when there is none.
    pub error_document: Option<String>,
}

/// The properties of an account's blob service. In a request to change them, those that are missing stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceProperties {
    /// Logs.
    pub logging: Option<Logging>,
    /// Numbers by the hour.
    pub hour_metrics: Option<Metrics>,
    /// Numbers by the minute.
    pub minute_metrics: Option<Metrics>,
    /// Rules of origins.
    pub cors: Option<Vec<CorsRule>>,
    /// The version of requests that name none.
    pub default_version: Option<Version>,
    /// How long deleted blobs are kept.
    pub delete_retention: Option<RetentionDays>,
    /// A site of files.
    pub static_website: Option<StaticWebsite>,
}

impl ServiceProperties {
    /// What an account has before anybody changes it: nothing is on.
    pub fn initial() -> Self {
        Self {
            logging: Some(Logging::default()),
            hour_metrics: Some(Metrics::default()),
            minute_metrics: Some(Metrics::default()),
            cors: Some(Vec::new()),
            default_version: None,
            delete_retention: Some(None),
            static_website: Some(StaticWebsite::default()),
        }
    }

    /// These properties with what a request changes.
    #[must_use]
    pub fn changed_by(self, change: Self) -> Self {
        Self {
            logging: change.logging.or(self.logging),
            hour_metrics: change.hour_metrics.or(self.hour_metrics),
            minute_metrics: change.minute_metrics.or(self.minute_metrics),
            cors: change.cors.or(self.cors),
            default_version: change.default_version.or(self.default_version),
            delete_retention: change.delete_retention.or(self.delete_retention),
            static_website: change.static_website.or(self.static_website),
        }
    }

    /// Refuses to switch on what a service does not do: logs, numbers, rules of origins, keeping deleted blobs, sites.
    pub fn refuse_switched_on(&self) -> Result<(), Refusal> {
        let logs = self.logging.as_ref().is_some_and(|on| on.delete || on.read || on.write);
        let counts = |metrics: &Option<Metrics>| metrics.as_ref().is_some_and(|on| on.is_enabled);
        let switched_on = [
            ("Logging", logs),
            ("HourMetrics", counts(&self.hour_metrics)),
            ("MinuteMetrics", counts(&self.minute_metrics)),
            ("Cors", self.cors.as_ref().is_some_and(|rules| !rules.is_empty())),
            ("DeleteRetentionPolicy", self.delete_retention.flatten().is_some()),
            ("StaticWebsite", self.static_website.as_ref().is_some_and(|site| site.is_enabled)),
        ];
        match switched_on.into_iter().find(|(_, on)| *on) {
            Some((name, _)) => Err(xml::unknown(name)),
            None => Ok(()),
        }
    }

    /// The answer of Get Blob Service Properties: 200.
    pub fn answer(&self) -> Answer {
        Answer::xml(200, self.to_xml())
    }

    /// The body of Get and Set Blob Service Properties.
    pub fn to_xml(&self) -> Vec<u8> {
        let flag = |on: bool| if on { "true" } else { "false" };
        let mut writer = Writer::new("StorageServiceProperties");
        if let Some(logging) = &self.logging {
            writer
                .open("Logging")
                .leaf("Version", "1.0")
                .leaf("Delete", flag(logging.delete))
                .leaf("Read", flag(logging.read))
                .leaf("Write", flag(logging.write));
            write_retention(&mut writer, "RetentionPolicy", logging.retention);
            writer.close();
        }
        for (name, metrics) in
            [("HourMetrics", &self.hour_metrics), ("MinuteMetrics", &self.minute_metrics)]
        {
            let Some(metrics) = metrics else { continue };
            writer.open(name).leaf("Version", "1.0").leaf("Enabled", flag(metrics.is_enabled));
            if metrics.is_enabled {
                writer.leaf("IncludeAPIs", flag(metrics.includes_apis));
            }
            write_retention(&mut writer, "RetentionPolicy", metrics.retention);
            writer.close();
        }
        if let Some(rules) = &self.cors {
            writer.open("Cors");
            for rule in rules {
                writer
                    .open("CorsRule")
                    .leaf("AllowedOrigins", &rule.origins)
                    .leaf("AllowedMethods", &rule.methods)
                    .leaf("MaxAgeInSeconds", &rule.max_age_seconds.to_string())
                    .leaf("ExposedHeaders", &rule.exposed_headers)
                    .leaf("AllowedHeaders", &rule.allowed_headers)
                    .close();
            }
            writer.close();
        }
        writer.maybe(
            "DefaultServiceVersion",
            self.default_version.map(|version| version.to_string()).as_deref(),
        );
        if let Some(retention) = self.delete_retention {
            write_retention(&mut writer, "DeleteRetentionPolicy", retention);
        }
        if let Some(site) = &self.static_website {
            writer
                .open("StaticWebsite")
                .leaf("Enabled", flag(site.is_enabled))
                .maybe("IndexDocument", site.index_document.as_deref())
                .maybe("ErrorDocument404Path", site.error_document.as_deref())
                .close();
        }
        writer.finish()
    }

    /// Reads the body of Set Blob Service Properties, or of an answer.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let limit = usize::try_from(MAX_PROPERTIES_XML).unwrap_or(usize::MAX);
        xml::parse(body, limit, |root| {
            if root.tag_name().name() != "StorageServiceProperties" {
                return Err(xml::unknown(root.tag_name().name()));
            }
            let mut properties = Self::default();
            for node in children(root) {
                match node.tag_name().name() {
                    "Logging" => properties.logging = Some(parse_logging(node)?),
                    // The first versions had one kind, by the hour.
                    "HourMetrics" | "Metrics" => {
                        properties.hour_metrics = Some(parse_metrics(node)?);
                    }
                    "MinuteMetrics" => properties.minute_metrics = Some(parse_metrics(node)?),
                    "Cors" => properties.cors = Some(parse_rules(node)?),
                    "DefaultServiceVersion" => {
                        let text = xml::text(node);
                        let version =
                            text.parse().map_err(|_| bad_value("DefaultServiceVersion", &text))?;
                        properties.default_version = Some(version);
                    }
                    "DeleteRetentionPolicy" => {
                        properties.delete_retention = Some(parse_retention(node)?);
                    }
                    "StaticWebsite" => {
                        properties.static_website = Some(StaticWebsite {
                            is_enabled: flag(node, "Enabled")?,
                            index_document: child_text(node, "IndexDocument"),
                            error_document: child_text(node, "ErrorDocument404Path"),
                        });
                    }
                    other => return Err(xml::unknown(other)),
                }
            }
            Ok(properties)
        })
    }
}

fn write_retention(writer: &mut Writer, name: &'static str, days: RetentionDays) {
    writer.open(name).leaf("Enabled", if days.is_some() { "true" } else { "false" });
    writer.maybe("Days", days.map(|days| days.to_string()).as_deref()).close();
}

/// A flag that must be there.
fn flag(node: Node<'_, '_>, name: &str) -> Result<bool, Refusal> {
    let text = child_text(node, name).ok_or_else(|| xml::missing(name))?;
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(bad_value(name, &text)),
    }
}

fn parse_retention(node: Node<'_, '_>) -> Result<RetentionDays, Refusal> {
    if !flag(node, "Enabled")? {
        return Ok(None);
    }
    let text = child_text(node, "Days").ok_or_else(|| xml::missing("Days"))?;
    let days = text.trim().parse().ok().filter(|days| (1..=365).contains(days));
    days.map(Some).ok_or_else(|| bad_value("Days", &text))
}

fn parse_kept(node: Node<'_, '_>) -> Result<RetentionDays, Refusal> {
    child(node, "RetentionPolicy").map_or(Ok(None), parse_retention)
}

fn parse_logging(node: Node<'_, '_>) -> Result<Logging, Refusal> {
    Ok(Logging {
        delete: flag(node, "Delete")?,
        read: flag(node, "Read")?,
        write: flag(node, "Write")?,
        retention: parse_kept(node)?,
    })
}

fn parse_metrics(node: Node<'_, '_>) -> Result<Metrics, Refusal> {
    let is_enabled = flag(node, "Enabled")?;
    Ok(Metrics {
        is_enabled,
        includes_apis: is_enabled && flag(node, "IncludeAPIs")?,
        retention: parse_kept(node)?,
    })
}

fn parse_rules(node: Node<'_, '_>) -> Result<Vec<CorsRule>, Refusal> {
    let rules = children(node)
        .map(|rule| {
            let required = |name: &str| child_text(rule, name).ok_or_else(|| xml::missing(name));
            let age = required("MaxAgeInSeconds")?;
            Ok(CorsRule {
                origins: required("AllowedOrigins")?,
                methods: required("AllowedMethods")?,
                allowed_headers: child_text(rule, "AllowedHeaders").unwrap_or_default(),
                exposed_headers: child_text(rule, "ExposedHeaders").unwrap_or_default(),
                max_age_seconds: age
                    .trim()
                    .parse()
                    .map_err(|_| bad_value("MaxAgeInSeconds", &age))?,
            })
        })
        .collect::<Result<Vec<_>, Refusal>>()?;
    if rules.len() > MAX_RULES {
        return Err(bad_value("Cors", &rules.len().to_string()));
    }
    Ok(rules)
}

/// How the secondary stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeoStatus {
    /// It follows.
    Live,
    /// It gets its first copy.
    Bootstrap,
    /// It cannot be reached.
    Unavailable,
}

impl GeoStatus {
    const ALL: [Self; 3] = [Self::Live, Self::Bootstrap, Self::Unavailable];

    /// As XML has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Bootstrap => "bootstrap",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The answer of Get Blob Service Stats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceStats {
    /// How the secondary stands.
    pub status: GeoStatus,
    /// All writes to the primary before this moment can be read; none if that is not known.
    pub last_sync: Option<Timestamp>,
}

impl ServiceStats {
    /// The answer: 200.
    pub fn answer(&self) -> Answer {
        let mut writer = Writer::new("StorageServiceStats");
        writer
            .open("GeoReplication")
            .leaf("Status", self.status.name())
            .leaf("LastSyncTime", &self.last_sync.map(http_date).unwrap_or_default());
        Answer::xml(200, writer.finish())
    }

    /// Reads an answer.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let limit = usize::try_from(MAX_PROPERTIES_XML).unwrap_or(usize::MAX);
        xml::parse(body, limit, |root| {
            let node =
                child(root, "GeoReplication").ok_or_else(|| xml::missing("GeoReplication"))?;
            let name = child_text(node, "Status").ok_or_else(|| xml::missing("Status"))?;
            let status = GeoStatus::ALL.into_iter().find(|status| status.name() == name);
            let last_sync = match child_text(node, "LastSyncTime") {
                Some(text) => {
                    Some(parse_http_date(&text).ok_or_else(|| bad_value("LastSyncTime", &text))?)
                }
                None => None,
            };
            Ok(Self { status: status.ok_or_else(|| bad_value("Status", &name))?, last_sync })
        })
    }
}

/// How often data is kept, and on which hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sku {
    /// Standard, in one place.
    StandardLrs,
    /// Standard, with a secondary.
    StandardGrs,
    /// Standard, with a secondary that can be read.
    StandardRagrs,
    /// Premium, in one place.
    PremiumLrs,
}

impl Sku {
    /// As headers have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StandardLrs => "Standard_LRS",
            Self::StandardGrs => "Standard_GRS",
            Self::StandardRagrs => "Standard_RAGRS",
            Self::PremiumLrs => "Premium_LRS",
        }
    }
}

/// A kind of account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountKind {
    /// `StorageV2`: every kind of blob.
    StorageV2,
    /// `Storage`: the older kind; premium page blobs are in such accounts.
    Storage,
}

impl AccountKind {
    /// As headers have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StorageV2 => "StorageV2",
            Self::Storage => "Storage",
        }
    }
}

/// The answer of Get Account Information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountInformation {
    /// How often data is kept.
    pub sku: Sku,
    /// The kind.
    pub kind: AccountKind,
}

impl AccountInformation {
    /// The answer: 200.
    pub fn answer(&self) -> Answer {
        Answer::new(200)
            .with("x-ms-sku-name", self.sku.name())
            .with("x-ms-account-kind", self.kind.name())
            .with("x-ms-is-hns-enabled", "false")
    }
}
