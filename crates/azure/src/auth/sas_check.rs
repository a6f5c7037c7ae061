//! Evaluating a shared access signature: its signature first, then every constraint, each with its own code.

use jiff::Timestamp;

use super::{AccountKey, Caller, Grant, Overrides, Sas, SasKind, sas::AddressRange};
use crate::{Code, Needs, Permission, Refusal, Request, StoredPolicy, time::iso_date};

impl Sas {
    pub(super) fn authorize(
        &self,
        request: &Request,
        keys: &[AccountKey],
        policy: Option<&StoredPolicy>,
        caller: &Caller,
    ) -> Result<Grant, Refusal> {
        self.verify(request, keys)?;
        let terms = self.terms(policy)?;
        terms.check_time(caller.moment)?;
        self.check_peer(caller)?;
        let needs = request.operation.needs();
        self.check_reach(&needs)?;
        let has = |permission: &Permission| terms.permissions.contains(permission.letter());
        if !needs.any_of.iter().any(has) {
            return Err(Code::AuthorizationPermissionMismatch.into());
        }
        let overrides = match &self.kind {
            SasKind::Service(service) => service.overrides.clone(),
            SasKind::Account(_) => Overrides::default(),
        };
        let may_overwrite = !needs.may_overwrite || has(&Permission::Write);
        Ok(Grant::Sas { may_overwrite, overrides })
    }

    fn verify(&self, request: &Request, keys: &[AccountKey]) -> Result<(), Refusal> {
        let snapshot = request.query.parsed("snapshot", |value| value.parse().ok())?;
        let text =
            self.text(&request.address.account, request.resource(), snapshot).ok_or_else(|| {
                Refusal::authentication(
                    "The signed resource (sr) does not fit what the request addresses.",
                )
            })?;
        if keys.iter().any(|key| key.verifies(&text, &self.signature)) {
            return Ok(());
        }
        let shown = text.escape_debug();
        Err(Refusal::authentication(format!(
            "Signature did not match. String to sign used was {shown}"
        )))
    }

    /// Times and permissions, of the SAS or of the stored policy: never of both.
    fn terms(&self, policy: Option<&StoredPolicy>) -> Result<Terms, Refusal> {
        let start = self.start_moment()?;
        let expiry = self.expiry_moment()?;
        let own = Terms { start, expiry, permissions: self.permissions.clone() };
        let Some(id) = self.policy_id() else { return Ok(own) };
        let policy = policy.filter(|policy| policy.id == id).ok_or_else(|| {
            Refusal::authentication("The stored access policy of the signature does not exist.")
        })?;
        let twice = (own.start.is_some() && policy.start.is_some())
            || (own.expiry.is_some() && policy.expiry.is_some())
            || (!own.permissions.is_empty() && policy.permissions.is_some());
        if twice {
            return Err(Refusal::parameter(
                "si",
                id,
                "A field is both in the signature and in its stored policy.",
            ));
        }
        let permissions = policy.permissions.clone().unwrap_or(own.permissions);
        Ok(Terms {
            start: own.start.or(policy.start),
            expiry: own.expiry.or(policy.expiry),
            permissions,
        })
    }

    fn check_peer(&self, caller: &Caller) -> Result<(), Refusal> {
        match self.protocol.as_deref() {
            None | Some("https,http" | "http,https") => {}
            Some("https") if caller.is_https => {}
            Some("https") => return Err(Code::AuthorizationProtocolMismatch.into()),
            Some(other) => {
                return Err(Refusal::parameter("spr", other, "It is https, or https,http."));
            }
        }
        let Some(range) = self.address.as_deref() else { return Ok(()) };
        let range = AddressRange::parse(range).ok_or_else(|| {
            Refusal::parameter("sip", range, "It is neither an address nor a range of them.")
        })?;
        if caller.address.is_some_and(|address| range.has(address)) {
            return Ok(());
        }
        let shown = caller.address.map(|address| address.to_string()).unwrap_or_default();
        Err(Refusal::new(Code::AuthorizationSourceIPMismatch).with("SourceIP", shown))
    }

    /// Whether a SAS of this kind can permit the operation at all.
    fn check_reach(&self, needs: &Needs) -> Result<(), Refusal> {
        match &self.kind {
            SasKind::Service(_) if !needs.by_service_sas => {
                Err(Code::AuthorizationPermissionMismatch.into())
            }
            SasKind::Service(_) => Ok(()),
            SasKind::Account(sas) if !sas.services.contains('b') => {
                Err(Code::AuthorizationServiceMismatch.into())
            }
            SasKind::Account(sas) => match needs.level {
                Some(level) if !sas.resource_types.contains(level.letter()) => {
                    Err(Code::AuthorizationResourceTypeMismatch.into())
                }
                _ if needs.any_of.is_empty() => Err(Code::AuthorizationFailure.into()),
                _ => Ok(()),
            },
        }
    }
}

/// What a SAS and its stored policy say together.
struct Terms {
    start: Option<Timestamp>,
    expiry: Option<Timestamp>,
    permissions: String,
}

impl Terms {
    fn check_time(&self, moment: Timestamp) -> Result<(), Refusal> {
        let Some(expiry) = self.expiry else {
            return Err(Refusal::authentication(
                "Signed expiry time must be specified in the signature or its policy.",
            ));
        };
        if moment < expiry && self.start.is_none_or(|start| moment >= start) {
            return Ok(());
        }
        let start = self.start.map(iso_date).unwrap_or_default();
        Err(Refusal::authentication(format!(
            "Signature not valid in the specified time frame: Start [{start}] - Expiry [{}] - Current [{}]",
            iso_date(expiry),
            iso_date(moment),
        )))
    }
}
