//! Signatures of other implementations: made by azure-storage-blob 12.31.1 for Python, or by HMAC alone from the
//! strings that Azure's documentation says are signed.

use proptest::prelude::*;

use super::*;
use crate::{AccountName, Method, SnapshotId, Suffixes, iso_date};

const DATE: &str = "Sat, 28 Nov 2026 16:17:00 GMT";
const VERSION: (&str, &str) = ("x-ms-version", "2026-10-06");

fn key() -> AccountKey {
    AccountKey::from_bytes(&(0..64).collect::<Vec<u8>>())
}

fn other_key() -> AccountKey {
    AccountKey::from_bytes(&[7; 64])
}

fn account() -> AccountName {
    AccountName::new("acct").expect("is a name")
}

fn caller() -> Caller {
    let moment = "2026-11-28T16:18:00Z".parse().expect("is a moment");
    Caller { moment, address: Some(IpAddr::from([10, 0, 0, 5])), is_https: true }
}

fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Request, Refusal> {
    let headers = Headers::of(headers.iter().copied())?;
    Request::parse(method, url, headers, &Suffixes::new(["core.windows.net"]))
}

fn outcome(request: Result<Request, Refusal>, caller: &Caller) -> Result<Grant, Code> {
    request
        .and_then(|request| request.authorize(&[other_key(), key()], None, caller))
        .map_err(|refusal| refusal.code())
}

fn shared(
    method: &str,
    url: &str,
    signature: &str,
    headers: &[(&str, &str)],
) -> Result<Grant, Code> {
    let authorization = format!("SharedKey acct:{signature}");
    let mut all = vec![VERSION, ("x-ms-date", DATE), ("authorization", authorization.as_str())];
    all.extend_from_slice(headers);
    outcome(request(method, url, &all), &caller())
}

#[test]
fn requests_that_python_signs_are_let_in() {
    let page = [
        ("x-ms-page-write", "update"),
        ("x-ms-range", "bytes=0-511"),
        ("content-length", "512"),
        ("content-type", "application/octet-stream"),
        ("if-match", "\"0x8D\""),
        ("x-ms-client-request-id", "c1"),
    ];
    let path_style = "http://127.0.0.1:10000/acct/con/disk.vhd?comp=page";
    let signature = "h+59w3H5GsHmc5BMklO6uWjw7li/zqbdpYy3SC+hRoQ=";
    assert_eq!(shared("PUT", path_style, signature, &page), Ok(Grant::Owner));
    let mut changed = page;
    changed[1].1 = "bytes=512-1023";
    assert_eq!(shared("PUT", path_style, signature, &changed), Err(Code::AuthenticationFailed));

    let diff = "https://acct.blob.core.windows.net/con/disk.vhd?prevsnapshot=2026-11-28T16%3A17%3A00.0000000Z\
                &comp=pagelist&snapshot=2026-11-28T16%3A18%3A00.0000000Z";
    let signature = "rQFQMT+sYR8+O43ozYycPNa5HGsGoO0Ck1G0aPGFD6c=";
    assert_eq!(shared("GET", diff, signature, &[("if-modified-since", DATE)]), Ok(Grant::Owner));

    let stats = "https://acct-secondary.blob.core.windows.net/?restype=service&comp=stats";
    let signature = "MDp8QILtpIctF8LQ5xX3BxkNzroEqKYoGWrYrcfVIY8=";
    assert_eq!(shared("GET", stats, signature, &[]), Ok(Grant::Owner));
}

#[test]
fn headers_may_be_sorted_by_culture() {
    let names = ["x-ms-meta-a-b", "x-ms-meta-ab", "x-ms-meta-a_c", "x-ms-meta-a1"];
    let mut sorted = names;
    sorted.sort_by(|a, b| shared_key::culture_order(a, b));
    // Python sorts these four so.
    assert_eq!(sorted, ["x-ms-meta-a_c", "x-ms-meta-a1", "x-ms-meta-ab", "x-ms-meta-a-b"]);
    assert_eq!(shared_key::culture_order("x-ms-date", "x-ms-date"), std::cmp::Ordering::Equal);
    // Names with hyphens are no metadata, but the names in this pair are: bytes say 1, _ and culture says _, 1.
    let text = format!(
        "PUT{}x-ms-date:{DATE}\nx-ms-meta-a_c:3\nx-ms-meta-a1:4\nx-ms-version:2026-10-06\n\
         /acct/con/a%20b.vhd\ncomp:snapshot",
        "\n".repeat(12)
    );
    let by_bytes =
        text.replace("x-ms-meta-a_c:3\nx-ms-meta-a1:4", "x-ms-meta-a1:4\nx-ms-meta-a_c:3");
    let url = "https://acct.blob.core.windows.net/con/a%20b.vhd?comp=snapshot";
    let headers = [("content-length", "0"), ("x-ms-meta-a_c", "3"), ("x-ms-meta-a1", "4")];
    for text in [text, by_bytes] {
        assert_eq!(shared("PUT", url, &key().sign(&text), &headers), Ok(Grant::Owner));
    }
}

#[test]
fn the_secondary_may_be_signed_by_each_of_its_names() {
    let url = "/acct-secondary/con/disk.vhd";
    for signature in [
        "Kr5GcqLMHGgq4DZs5hZfR4lbx8W8iy09TrHSlV8dJlg=",
        "GOIlI9K9QET/R4yRvjyUUr5T/LnAvPvRGBubMlpV1N8=",
        "4CDk6r+nJLotH2ScY3HyngdT452K+6KXh+r1aJe5yvk=",
    ] {
        assert_eq!(shared("GET", url, signature, &[]), Ok(Grant::Owner), "{signature}");
        assert_eq!(
            shared("GET", "/acct-secondary/con/other", signature, &[]),
            Err(Code::AuthenticationFailed)
        );
    }
}

#[test]
fn the_lite_form_signs_less() {
    let authorization = "SharedKeyLite acct:wlslOww0GFnxoMML/rwtgRi3yoaY50slp0n/tdb3fkg=";
    let headers = [
        VERSION,
        ("x-ms-date", DATE),
        ("authorization", authorization),
        ("content-type", "text/plain"),
        ("content-length", "0"),
        ("x-ms-client-request-id", ""),
    ];
    let url = "https://acct.blob.core.windows.net/con/disk.vhd?comp=metadata";
    let without_id: Vec<_> = headers[..5].to_vec();
    assert_eq!(outcome(request("PUT", url, &without_id), &caller()), Ok(Grant::Owner));
    let other = "https://acct.blob.core.windows.net/con/disk.vhd?comp=snapshot";
    assert_eq!(
        outcome(request("PUT", other, &without_id), &caller()),
        Err(Code::AuthenticationFailed)
    );
}

#[test]
fn a_signature_needs_its_account_and_a_recent_date() {
    let url = "https://acct-secondary.blob.core.windows.net/?restype=service&comp=stats";
    let authorization = "SharedKey acct:MDp8QILtpIctF8LQ5xX3BxkNzroEqKYoGWrYrcfVIY8=";
    let headers = [VERSION, ("x-ms-date", DATE), ("authorization", authorization)];
    let at = |moment: &str| {
        let caller = Caller { moment: moment.parse().expect("is a moment"), ..caller() };
        outcome(request("GET", url, &headers), &caller)
    };
    assert_eq!(at("2026-11-28T16:32:00Z"), Ok(Grant::Owner));
    assert_eq!(at("2026-11-28T16:02:00Z"), Ok(Grant::Owner));
    assert_eq!(at("2026-11-28T16:32:01Z"), Err(Code::AuthenticationFailed));
    assert_eq!(at("2026-11-28T16:01:59Z"), Err(Code::AuthenticationFailed));
    let other = url.replace("acct-", "acc2-");
    assert_eq!(
        outcome(request("GET", &other, &headers), &caller()),
        Err(Code::AuthenticationFailed)
    );
    let undated = [VERSION, ("authorization", authorization)];
    assert_eq!(outcome(request("GET", url, &undated), &caller()), Err(Code::AuthenticationFailed));
}

#[test]
fn bad_credentials_have_their_codes() {
    let with = |value: &str| {
        outcome(request("GET", "/acct/con/b", &[("authorization", value)]), &caller())
    };
    assert_eq!(with("Bearer abc"), Err(Code::TokenNotAccepted));
    for bad in
        ["Basic abc", "SharedKey", "SharedKey acct", "SharedKey acct:x", "SharedKey acct:AAAA"]
    {
        assert_eq!(with(bad), Err(Code::InvalidAuthenticationInfo), "{bad}");
    }
    assert_eq!(outcome(request("GET", "/acct/con/b", &[]), &caller()), Ok(Grant::Anonymous));
    let both = request("GET", "/acct/con/b?sig=x&sr=b", &[("authorization", "SharedKey a:b")]);
    assert!(both.is_err());
}

#[test]
fn what_our_client_signs_is_verified() {
    let headers = [VERSION, ("x-ms-date", DATE), ("x-ms-meta-a_c", "3"), ("x-ms-meta-a1", "4")];
    let target = "/acct/con/a%20b.vhd?comp=snapshot&timeout=30";
    let sent = Headers::of(headers).expect("headers");
    let authorization =
        sign_request(&account(), &key(), Method::Put, target, &sent).expect("is signed");
    let mut all = headers.to_vec();
    all.push(("authorization", authorization.as_str()));
    assert_eq!(outcome(request("PUT", target, &all), &caller()), Ok(Grant::Owner));
    let python = "SharedKey acct:rQFQMT+sYR8+O43ozYycPNa5HGsGoO0Ck1G0aPGFD6c=";
    let target = "/con/disk.vhd?prevsnapshot=2026-11-28T16%3A17%3A00.0000000Z&comp=pagelist\
                  &snapshot=2026-11-28T16%3A18%3A00.0000000Z";
    let headers =
        Headers::of([VERSION, ("x-ms-date", DATE), ("if-modified-since", DATE)]).expect("headers");
    assert_eq!(
        sign_request(&account(), &key(), Method::Get, target, &headers).as_deref(),
        Ok(python)
    );
}

fn by_sas(method: &str, path: &str, sas: &str, headers: &[(&str, &str)]) -> Result<Grant, Code> {
    let separator = if path.contains('?') { '&' } else { '?' };
    outcome(request(method, &format!("/acct/{path}{separator}{sas}"), headers), &caller())
}

const BLOB: &str = "st=2026-11-01T00%3A00%3A00Z&se=2026-12-01T00%3A00%3A00Z&sp=rw&sip=10.0.0.1-10.0.0.9&spr=https\
                    &sv=2026-10-06&sr=b&sig=E55Jix9jp9x/SgCmanltM%2Bqt0WR4kOV4a0PXGS/MBlI%3D";
const SNAPSHOT: &str = "se=2026-12-01T00%3A00%3A00Z&sp=r&sv=2026-10-06&sr=bs&rsct=a/b\
                        &sig=3dtZdMBBYdTcXIvUByvMwUyAvsjnJylIPO9cTv951n8%3D";
const CONTAINER: &str = "se=2026-12-01T00%3A00%3A00Z&sp=rl&sv=2026-10-06&sr=c\
                         &sig=gZhM0rNY0ieP28m0%2B4Mo/UtGB0CvtyIcBbbZhtTJ3RQ%3D";
const ACCOUNT: &str = "se=2026-12-01T00%3A00%3A00Z&sp=rwdlac&sv=2026-10-06&ss=b&srt=sco\
                       &sig=ovWrJu8C8OS35ebIjfaZM5HV%2BWPxysdiOQyA8V4l6GQ%3D";

fn grant() -> Grant {
    Grant::Sas { may_overwrite: true, overrides: Overrides::default() }
}

#[test]
fn signatures_that_python_makes_are_let_in() {
    assert_eq!(by_sas("GET", "con/a%20b%2F%C3%BC.vhd", BLOB, &[]), Ok(grant()));
    let snapshot = "con/disk.vhd?snapshot=2026-11-28T16%3A17%3A00.0000000Z";
    let overrides = Overrides { content_type: Some("a/b".to_owned()), ..Overrides::default() };
    assert_eq!(
        by_sas("GET", snapshot, SNAPSHOT, &[]),
        Ok(Grant::Sas { may_overwrite: true, overrides })
    );
    assert_eq!(by_sas("GET", "con/disk.vhd", CONTAINER, &[]), Ok(grant()));
    assert_eq!(by_sas("GET", "con?restype=container&comp=list", CONTAINER, &[]), Ok(grant()));
    assert_eq!(by_sas("GET", "?comp=list", ACCOUNT, &[]), Ok(grant()));
    assert_eq!(by_sas("DELETE", "con/disk.vhd", ACCOUNT, &[]), Ok(grant()));
}

#[test]
fn a_sas_is_for_its_resource_only() {
    assert_eq!(by_sas("GET", "con/other", BLOB, &[]), Err(Code::AuthenticationFailed));
    assert_eq!(by_sas("GET", "con/disk.vhd", SNAPSHOT, &[]), Err(Code::AuthenticationFailed));
    let other = "con/disk.vhd?snapshot=2026-11-28T16%3A17%3A00.0000001Z";
    assert_eq!(by_sas("GET", other, SNAPSHOT, &[]), Err(Code::AuthenticationFailed));
    assert_eq!(by_sas("GET", "co2/disk.vhd", CONTAINER, &[]), Err(Code::AuthenticationFailed));
    assert_eq!(by_sas("GET", "?comp=list", CONTAINER, &[]), Err(Code::AuthenticationFailed));
    let properties = by_sas("GET", "con?restype=container", CONTAINER, &[]);
    assert_eq!(properties, Err(Code::AuthorizationPermissionMismatch));
    let snapshot_of_blob = "con/a%20b%2F%C3%BC.vhd?snapshot=2026-11-28T16%3A17%3A00.0000000Z";
    assert_eq!(by_sas("GET", snapshot_of_blob, BLOB, &[]), Ok(grant()), "sr=b covers snapshots");
    let acl = by_sas("GET", "con?restype=container&comp=acl", ACCOUNT, &[]);
    assert_eq!(acl, Err(Code::AuthorizationFailure));
}

/// Strings that are signed changed with `sv`; these signatures are HMACs of what the documentation says.
#[test]
fn every_version_signs_its_own_fields() {
    let expiry = "se=2026-12-01T00%3A00%3A00Z&sp=r";
    for (fields, signature) in [
        ("sr=b&sv=2018-11-09", "32usYorMNc0iiYVTWO678qyz/OCbHp7Co3d45NN1gSA="),
        ("sr=b&sv=2015-04-05", "xp/X5xyJea7zU6MA8pmoqemv5NyGXQbo57UPv9Kj484="),
        ("sr=b&sv=2013-08-15", "Z0Ighjp2qmauVSrSU0v6nRXojSVYyrKIOC5vLw43ICs="),
        ("sr=b&sv=2012-02-12", "O2BBNXe3EaZXnlhjBhqktADpp0rPiuL/SsU13nqcX+c="),
        ("sr=b", "8s+nb2HLpcJGUdod2Kyz8PtR/ktt/3X9fWpdlO7guIE="),
        ("ss=b&srt=o&sv=2018-03-28", "sjX7i/U3ns/AxjA/6MIAbngi2+H0p73ZcKAb/E3Ujrk="),
    ] {
        let escaped = signature.replace('+', "%2B");
        let sas = format!("{expiry}&{fields}&sig={escaped}");
        assert_eq!(by_sas("GET", "con/disk.vhd", &sas, &[]), Ok(grant()), "{fields}");
        // Many tools do not escape the plus sign.
        let sas = format!("{expiry}&{fields}&sig={signature}");
        assert_eq!(by_sas("GET", "con/disk.vhd", &sas, &[]), Ok(grant()), "{fields}");
    }
}

fn made(change: impl FnOnce(&mut Sas)) -> String {
    let kind =
        SasKind::Account(AccountSas { services: "b".to_owned(), resource_types: "sco".to_owned() });
    let mut sas = Sas::new(kind, "rwl", "2026-12-01T00:00:00Z".parse().expect("is a moment"));
    change(&mut sas);
    sas.sign(&account(), &key(), &Resource::Account, None).expect("fits")
}

use crate::Resource;

#[test]
fn each_constraint_has_its_code() {
    let get = |sas: String| by_sas("GET", "con/disk.vhd", &sas, &[]);
    assert_eq!(get(made(|_| ())), Ok(grant()));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        get(made(|sas| sas.expiry = text("2026-11-28T16:18:00Z"))),
        Err(Code::AuthenticationFailed)
    );
    assert_eq!(get(made(|sas| sas.expiry = None)), Err(Code::AuthenticationFailed));
    assert_eq!(get(made(|sas| sas.expiry = text("tomorrow"))), Err(Code::AuthenticationFailed));
    assert_eq!(
        get(made(|sas| sas.start = text("2026-11-28T16:18:01Z"))),
        Err(Code::AuthenticationFailed)
    );
    assert_eq!(get(made(|sas| sas.start = text("2026-11-28"))), Ok(grant()));
    assert_eq!(
        get(made(|sas| sas.permissions = "wl".to_owned())),
        Err(Code::AuthorizationPermissionMismatch)
    );
    assert_eq!(
        get(made(|sas| sas.address = text("10.0.0.6"))),
        Err(Code::AuthorizationSourceIPMismatch)
    );
    assert_eq!(get(made(|sas| sas.address = text("10.0.0.5"))), Ok(grant()));
    assert_eq!(get(made(|sas| sas.address = text("here"))), Err(Code::InvalidQueryParameterValue));
    assert_eq!(get(made(|sas| sas.protocol = text("https,http"))), Ok(grant()));
    let kind = |services: &str, resource_types: &str| {
        let (services, resource_types) = (services.to_owned(), resource_types.to_owned());
        made(|sas| sas.kind = SasKind::Account(AccountSas { services, resource_types }))
    };
    assert_eq!(get(kind("qt", "sco")), Err(Code::AuthorizationServiceMismatch));
    assert_eq!(get(kind("bq", "sc")), Err(Code::AuthorizationResourceTypeMismatch));
    let https = made(|sas| sas.protocol = text("https"));
    let plain = Caller { is_https: false, ..caller() };
    let by_http = outcome(request("GET", &format!("/acct/con/disk.vhd?{https}"), &[]), &plain);
    assert_eq!(by_http, Err(Code::AuthorizationProtocolMismatch));
    let broken = made(|_| ()).replace("sp=rwl", "sp=rwld");
    assert_eq!(get(broken), Err(Code::AuthenticationFailed));
}

#[test]
fn to_create_is_not_to_overwrite() {
    let create = made(|sas| sas.permissions = "c".to_owned());
    let headers = [("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", "512")];
    let grant = by_sas("PUT", "con/disk.vhd", &create, &headers).expect("may create");
    assert_eq!(grant.check_overwrite(false), Ok(()));
    assert_eq!(grant.check_overwrite(true), Err(Code::UnauthorizedBlobOverwrite.into()));
    let write = made(|sas| sas.permissions = "w".to_owned());
    let grant = by_sas("PUT", "con/disk.vhd", &write, &headers).expect("may write");
    assert_eq!(grant.check_overwrite(true), Ok(()));
    let page = [("x-ms-page-write", "clear"), ("x-ms-range", "bytes=0-511")];
    let clear = by_sas("PUT", "con/disk.vhd?comp=page", &create, &page);
    assert_eq!(clear, Err(Code::AuthorizationPermissionMismatch));
}

#[test]
fn a_stored_policy_has_what_the_sas_leaves_open() {
    const POLICY: &str =
        "sv=2026-10-06&si=pol&sr=c&sig=4P97ZtHo2e7IqqdCrNQ1WCtroc4LwVSbk%2BvGxRZ8eao%3D";
    let policy = StoredPolicy {
        id: "pol".to_owned(),
        start: None,
        expiry: Some("2026-12-01T00:00:00Z".parse().expect("is a moment")),
        permissions: Some("r".to_owned()),
    };
    let check = |sas: &str, policy: Option<&StoredPolicy>| {
        let request =
            request("GET", &format!("/acct/con/disk.vhd?{sas}"), &[]).expect("is a request");
        assert_eq!(request.policy_id(), Some("pol"));
        request.authorize(&[key()], policy, &caller()).map_err(|refusal| refusal.code())
    };
    assert_eq!(check(POLICY, Some(&policy)), Ok(grant()));
    assert_eq!(check(POLICY, None), Err(Code::AuthenticationFailed));
    let expired = StoredPolicy { expiry: Some(caller().moment), ..policy.clone() };
    assert_eq!(check(POLICY, Some(&expired)), Err(Code::AuthenticationFailed));
    let writes = StoredPolicy { permissions: Some("w".to_owned()), ..policy.clone() };
    assert_eq!(check(POLICY, Some(&writes)), Err(Code::AuthorizationPermissionMismatch));

    let service = ServiceSas {
        resource: SasResource::Container,
        policy: Some("pol".to_owned()),
        overrides: Overrides::default(),
    };
    let twice = Sas::new(
        SasKind::Service(service),
        "r",
        "2026-12-01T00:00:00Z".parse().expect("is a moment"),
    );
    let container = Resource::Container(crate::ContainerName::new("con").expect("is a name"));
    let twice = twice.sign(&account(), &key(), &container, None).expect("fits");
    assert_eq!(check(&twice, Some(&policy)), Err(Code::InvalidQueryParameterValue));
}

#[test]
fn kinds_that_cannot_be_verified_are_refused() {
    for field in ["skoid=1", "sdd=2", "srh=a", "sduoid=1"] {
        let sas = format!("{CONTAINER}&{field}");
        assert_eq!(
            by_sas("GET", "con/disk.vhd", &sas, &[]),
            Err(Code::AuthenticationFailed),
            "{field}"
        );
    }
    let scope = format!("{CONTAINER}&ses=scope");
    assert_eq!(by_sas("GET", "con/disk.vhd", &scope, &[]), Err(Code::UnsupportedQueryParameter));
    for resource in ["d", "bv", "x"] {
        let sas = CONTAINER.replace("sr=c", &format!("sr={resource}"));
        assert_eq!(by_sas("GET", "con/disk.vhd", &sas, &[]), Err(Code::AuthenticationFailed));
    }
}

#[test]
fn the_secondary_refuses_writes() {
    let url = format!("/acct-secondary/con/disk.vhd?{ACCOUNT}");
    assert_eq!(
        outcome(request("DELETE", &url, &[]), &caller()),
        Err(Code::SecondaryWriteNotAllowed)
    );
    assert_eq!(outcome(request("GET", &url, &[]), &caller()), Ok(grant()));
}

proptest! {
    #[test]
    fn a_sas_that_is_made_is_read_and_verified(
        permissions in "[rwdlac]{1,6}",
        types in "[sco]{1,3}",
        days in 1_i64..1000,
        snapshot in proptest::option::of(0_u64..1 << 60),
        name in "[^\0]{1,20}",
    ) {
        let expiry = caller().moment + jiff::SignedDuration::from_hours(24 * days);
        let blob = crate::BlobPath {
            container: crate::ContainerName::new("con").expect("is a name"),
            name: crate::BlobName::new(&name).expect("is a name"),
        };
        let resource = Resource::Blob(blob);
        let kind = match snapshot {
            Some(_) => SasKind::Service(ServiceSas {
                resource: SasResource::Snapshot,
                policy: None,
                overrides: Overrides { content_type: Some(name.clone()), ..Overrides::default() },
            }),
            None => SasKind::Account(AccountSas { services: "b".to_owned(), resource_types: types.clone() }),
        };
        let snapshot = snapshot.and_then(SnapshotId::from_ticks);
        let sas = Sas::new(kind, &permissions, expiry);
        let query = sas.sign(&account(), &key(), &resource, snapshot).expect("fits");
        let parsed = Sas::parse(&Query::parse(&query).expect("is a query")).expect("is a SAS").expect("is there");
        prop_assert_eq!(Query::parse(&parsed.to_query()), Query::parse(&query));
        prop_assert_eq!(parsed.expiry, Some(iso_date(expiry)));
        let part = snapshot.map(|id| format!("snapshot={id}&")).unwrap_or_default();
        let found = outcome(request("GET", &format!("/acct{}?{part}{query}", resource.to_path()), &[]), &caller());
        let reaches = snapshot.is_some() || types.contains('o');
        prop_assert_eq!(found.is_ok(), permissions.contains('r') && reaches, "{:?}", found);
    }
}
