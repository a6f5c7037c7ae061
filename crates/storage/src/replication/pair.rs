//! What a server knows of the other one: where it is, and how they prove themselves to each other. It lies in a file
//! that only its owner can read; which part the server plays is in the store itself.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use strongroom_base::{Entropy, EntropyExt as _};
use strongroom_blobs::StoreId;
use strongroom_client::Fingerprint;

use super::wire::Begin;
use crate::StorageError;

/// The name of the file.
const NAME: &str = "replication.json";
/// What an invitation begins with.
const INVITATION: &str = "strongroom-invitation-1";
/// How long an invitation is valid.
const VALID: SignedDuration = SignedDuration::from_hours(1);

/// 32 random bytes in hexadecimal. They are not shown by `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Secret(String);

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.0
    }
}

impl TryFrom<String> for Secret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_one = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_one.then_some(Self(text)).ok_or("the secret is damaged")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let [high, low]: [u128; 2] = [entropy.array(), entropy.array()].map(u128::from_be_bytes);
        Self(format!("{high:032x}{low:032x}"))
    }

    /// Whether a text is this secret. The time that this takes says nothing about either.
    pub(crate) fn is(&self, text: &str) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), text.as_bytes()).is_ok()
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// The other server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) url: String,
    /// The fingerprint of its certificate: by an invitation, or as it has said itself.
    pub(crate) fingerprint: Option<String>,
    pub(crate) secret: Secret,
    /// Whether it has used the secret, so that it has it.
    pub(crate) is_known: bool,
    /// The epoch that it has acknowledged to be fenced by.
    #[serde(default)]
    pub(crate) fenced: u64,
}

/// An invitation that was given out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Invited {
    pub(crate) secret: Secret,
    pub(crate) expires: Timestamp,
}

/// What the file holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pair {
    /// Where the other server reaches this one.
    pub(crate) url: Option<String>,
    pub(crate) peer: Option<Peer>,
    pub(crate) invited: Option<Invited>,
    /// Where the epoch began to which this server was promoted.
    #[serde(default)]
    pub(crate) begin: Option<Begin>,
    /// Whether the operator gives up what this server has and the primary lacks.
    #[serde(default)]
    pub(crate) discard: bool,
    /// The epoch of a failover that was begun here: the primary is fenced by it, and this server is not promoted yet.
    #[serde(default)]
    pub(crate) failing_over: Option<u64>,
    /// Copies in the background that began at the other server have no memory here: they are to be ended.
    #[serde(default)]
    pub(crate) end_copies: bool,
}

impl Pair {
    /// Reads the file of a folder; nothing is known without one.
    pub(crate) fn load(data_dir: &Path) -> Result<Self, StorageError> {
        let path = data_dir.join(NAME);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            read => {
                let bytes = read.map_err(StorageError::local("read", &path))?;
                serde_json::from_slice(&bytes)
                    .map_err(io::Error::from)
                    .map_err(StorageError::local("read", &path))
            }
        }
    }

    /// Writes the file; it is durable then.
    pub(crate) fn keep(&self, data_dir: &Path) -> Result<(), StorageError> {
        let path = data_dir.join(NAME);
        let unfinished = path.with_extension("unfinished");
        let write = || {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&unfinished)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            fs::File::open(data_dir)?.sync_all()
        };
        write().map_err(StorageError::local("write", &path))
    }

    /// Deletes the file.
    pub(crate) fn forget(data_dir: &Path) -> Result<(), StorageError> {
        let path = data_dir.join(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(StorageError::local("delete", &path)),
        }
    }

    /// Gives an invitation out.
    pub(crate) fn invite(&mut self, url: &str, now: Timestamp, entropy: &dyn Entropy) -> Invited {
        let expires = now.checked_add(VALID).unwrap_or(now);
        let invited = Invited { secret: Secret::new(entropy), expires };
        self.url = Some(url.to_owned());
        self.invited = Some(invited.clone());
        invited
    }
}

/// An invitation, as one line of text: it has a secret.
pub(crate) struct Invitation {
    pub(crate) url: String,
    pub(crate) fingerprint: Option<String>,
    pub(crate) secret: Secret,
    pub(crate) store: StoreId,
}

impl Invitation {
    pub(crate) fn to_text(&self) -> String {
        let fingerprint = self.fingerprint.as_deref().unwrap_or("-");
        let store = String::from(self.store);
        format!("{INVITATION} {} {fingerprint} {} {store}", self.url, self.secret.text())
    }

    /// Reads an invitation. The reason of a refusal does not show the text.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut words = text.split_ascii_whitespace();
        if words.next() != Some(INVITATION) {
            return Err("the text is no invitation of `storage replication invite`");
        }
        let mut word = || words.next().ok_or("the invitation is not whole");
        let (url, fingerprint, secret, store) = (word()?, word()?, word()?, word()?);
        if words.next().is_some() {
            return Err("there is more than one invitation");
        }
        let secret =
            Secret::try_from(secret.to_owned()).map_err(|_| "the invitation is damaged")?;
        let store = store.to_owned().try_into().map_err(|_| "the invitation is damaged")?;
        let fingerprint = (fingerprint != "-").then(|| fingerprint.to_owned());
        if fingerprint.as_ref().is_some_and(|it| it.parse::<Fingerprint>().is_err()) {
            return Err("the invitation is damaged");
        }
        let url = check_url(url)?;
        if url.starts_with("https:") != fingerprint.is_some() {
            return Err("the invitation is damaged");
        }
        Ok(Self { url, fingerprint, secret, store })
    }
}

/// The URL of a server, checked: data and a secret are sent to it. Without a slash at its end.
pub(crate) fn check_url(text: &str) -> Result<String, &'static str> {
    let url = Url::parse(text).map_err(|_| "write the URL as https://HOST:PORT")?;
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.path() == "/";
    if !is_bare || text.len() > 1024 {
        return Err("the URL of a server is https://HOST:PORT and nothing else");
    }
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost"
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" if !host.is_empty() => {}
        "http" if is_here => {}
        "http" => {
            return Err(
                "without TLS everybody on the network could read all data: http:// is for a loopback address only",
            );
        }
        _ => return Err("write the URL as https://HOST:PORT"),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use strongroom_base::SystemEntropy;

    use super::*;

    fn invitation(url: &str, fingerprint: Option<String>) -> Invitation {
        let secret = Secret::new(&SystemEntropy);
        Invitation { url: url.to_owned(), fingerprint, secret, store: StoreId::default() }
    }

    #[test]
    fn an_invitation_is_one_line_and_is_read_again() {
        let good = invitation("https://a.example:10000", Some(vec!["AB"; 32].join(":"))).to_text();
        assert!(!good.contains('\n'));
        let read = Invitation::parse(&format!("  {good}\n")).expect("is one");
        assert_eq!(read.to_text(), good);
        assert!(Invitation::parse(&invitation("http://127.0.0.1:1", None).to_text()).is_ok());
        let plain = invitation("http://a.example:1", None).to_text();
        let unpinned = invitation("https://a.example:1", None).to_text();
        let twice = format!("{good} {good}");
        let short = good.rsplit_once(' ').expect("has words").0.to_owned();
        let damaged = good.replace("AB:", "ZZ:");
        for wrong in [&plain, &unpinned, &twice, &short, &damaged, "", "nonsense", "one two"] {
            assert!(Invitation::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn urls_without_tls_are_of_this_machine_only() {
        for good in
            ["https://a.example", "https://192.0.2.1:1", "http://localhost:1", "http://[::1]:1"]
        {
            assert_eq!(check_url(good).as_deref(), Ok(good));
            assert_eq!(check_url(&format!("{good}/")).as_deref(), Ok(good));
        }
        for wrong in [
            "http://a.example",
            "http://192.0.2.1:1",
            "ftp://localhost",
            "https://u@a.example",
            "https://a.example/x",
            "https://a.example?x",
            "https://a.example#x",
            "a.example",
            "",
        ] {
            assert!(check_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_compared_and_not_shown() {
        let secret = Secret::new(&SystemEntropy);
        assert!(secret.is(secret.text()) && !secret.is("") && !secret.is(&"0".repeat(64)));
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret.text().len(), 64);
    }

    #[test]
    fn the_file_is_for_its_owner_only_and_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        assert!(Pair::load(at).expect("none").peer.is_none());
        let mut pair = Pair::default();
        pair.invite("https://a.example", Timestamp::UNIX_EPOCH, &SystemEntropy);
        pair.keep(at).expect("kept");
        let mode = fs::metadata(at.join(NAME)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Pair::load(at).expect("is read");
        assert_eq!(read.url.as_deref(), Some("https://a.example"));
        fs::write(at.join(NAME), b"{").expect("written");
        assert!(Pair::load(at).is_err());
        Pair::forget(at).expect("forgotten");
        Pair::forget(at).expect("nothing is there");
    }
}
