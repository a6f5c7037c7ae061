//! Stored access policies of a container, in XML in both directions.

use jiff::Timestamp;

use crate::{
    Refusal,
    time::{iso_date, parse_iso_date},
    xml::{self, MAX_ACL_XML, Writer, bad_value, child, child_text, children},
};

/// The most policies of a container.
pub const MAX_POLICIES: usize = 5;
/// The longest id of a policy.
const MAX_ID: usize = 64;

/// A stored access policy: what a service SAS leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPolicy {
    /// Its id, 1 to 64 characters.
    pub id: String,
    /// Since when signatures are valid.
    pub start: Option<Timestamp>,
    /// Until when signatures are valid.
    pub expiry: Option<Timestamp>,
    /// Letters of permissions.
    pub permissions: Option<String>,
}

impl StoredPolicy {
    /// Reads the body of Set Container ACL: at most five policies with different ids. An empty body has none.
    pub fn parse_list(body: &[u8]) -> Result<Vec<Self>, Refusal> {
        if body.is_empty() {
            return Ok(Vec::new());
        }
        let limit = usize::try_from(MAX_ACL_XML).unwrap_or(usize::MAX);
        xml::parse(body, limit, |root| {
            if root.tag_name().name() != "SignedIdentifiers" {
                return Err(xml::unknown(root.tag_name().name()));
            }
            let mut policies: Vec<Self> = Vec::new();
            for node in children(root) {
                if node.tag_name().name() != "SignedIdentifier" {
                    return Err(xml::unknown(node.tag_name().name()));
                }
                let policy = Self::parse(node)?;
                if policies.iter().any(|other| other.id == policy.id) {
                    return Err(bad_value("Id", &policy.id));
                }
                policies.push(policy);
            }
            if policies.len() > MAX_POLICIES {
                return Err(bad_value("SignedIdentifiers", &policies.len().to_string()));
            }
            Ok(policies)
        })
    }

    fn parse(node: roxmltree::Node<'_, '_>) -> Result<Self, Refusal> {
        let id = child_text(node, "Id").ok_or_else(|| xml::missing("Id"))?;
        if id.chars().count() > MAX_ID || id.chars().any(char::is_control) {
            return Err(bad_value("Id", &id));
        }
        let mut policy = Self { id, start: None, expiry: None, permissions: None };
        let Some(node) = child(node, "AccessPolicy") else { return Ok(policy) };
        let moment = |name: &str| {
            let Some(text) = child_text(node, name) else { return Ok(None) };
            parse_iso_date(&text).map(Some).ok_or_else(|| bad_value(name, &text))
        };
        policy.start = moment("Start")?;
        policy.expiry = moment("Expiry")?;
        policy.permissions = child_text(node, "Permission");
        if let Some(letters) = &policy.permissions
            && !letters.chars().all(|letter| "racwdxyltmeopif".contains(letter))
        {
            return Err(bad_value("Permission", letters));
        }
        Ok(policy)
    }

    /// The body of Get Container ACL, and of Set Container ACL.
    pub fn list_to_xml(policies: &[Self]) -> Vec<u8> {
        let mut writer = Writer::new("SignedIdentifiers");
        for policy in policies {
            writer.open("SignedIdentifier").leaf("Id", &policy.id);
            if policy.start.is_some() || policy.expiry.is_some() || policy.permissions.is_some() {
                let moment = |moment: Option<Timestamp>| {
                    moment.map(|moment| iso_date(moment).replace('Z', ".0000000Z"))
                };
                writer
                    .open("AccessPolicy")
                    .maybe("Start", moment(policy.start).as_deref())
                    .maybe("Expiry", moment(policy.expiry).as_deref())
                    .maybe("Permission", policy.permissions.as_deref())
                    .close();
            }
            writer.close();
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn policy(id: &str) -> StoredPolicy {
        let moment = |text: &str| Some(text.parse().expect("is a moment"));
        StoredPolicy {
            id: id.to_owned(),
            start: moment("2026-11-28T00:00:00Z"),
            expiry: moment("2026-12-28T00:00:00Z"),
            permissions: Some("rl".to_owned()),
        }
    }

    #[test]
    fn policies_survive() {
        let bare = StoredPolicy { start: None, expiry: None, permissions: None, ..policy("b<&") };
        let policies = vec![policy("a"), bare];
        assert_eq!(StoredPolicy::parse_list(&StoredPolicy::list_to_xml(&policies)), Ok(policies));
        assert_eq!(StoredPolicy::parse_list(b""), Ok(Vec::new()));
        assert_eq!(StoredPolicy::parse_list(b"<SignedIdentifiers />"), Ok(Vec::new()));
    }

    #[test]
    fn lists_that_break_a_rule_are_refused() {
        let code = |list: &[StoredPolicy]| {
            StoredPolicy::parse_list(&StoredPolicy::list_to_xml(list))
                .map_err(|refusal| refusal.code())
        };
        let six: Vec<_> = (0..6).map(|n| policy(&n.to_string())).collect();
        assert_eq!(code(&six), Err(Code::InvalidXmlNodeValue));
        assert_eq!(code(&[policy("a"), policy("a")]), Err(Code::InvalidXmlNodeValue));
        assert_eq!(code(&[policy(&"x".repeat(65))]), Err(Code::InvalidXmlNodeValue));
        assert_eq!(code(&[policy("")]), Err(Code::MissingRequiredXmlNode));
        let odd = StoredPolicy { permissions: Some("rq".to_owned()), ..policy("a") };
        assert_eq!(code(&[odd]), Err(Code::InvalidXmlNodeValue));
        assert!(StoredPolicy::parse_list(b"<Other />").is_err());
    }
}
