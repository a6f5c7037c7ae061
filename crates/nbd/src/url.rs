//! NBD URLs.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::proto::MAX_STRING;

/// The port of NBD.
const DEFAULT_PORT: u16 = 10809;

/// What is escaped when a URL is written.
const ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'?').add(b'#').add(b'%').add(b'&').add(b'"').add(b'<').add(b'>');

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdServer {
    /// A host name or address, and a port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A socket in the file system.
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

/// An export of an NBD server.
///
/// `nbd://HOST[:PORT]/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`; with TLS `nbds://` and
/// `nbds+unix://`. Parameters:
///
/// - `socket=PATH`: the server's socket
/// - `dirty-bitmap=NAME`: what the server's `qemu:dirty-bitmap:NAME` marks is what changed
/// - `tls-certificates=DIR`: `DIR/ca-cert.pem` is whom to trust (otherwise the public
///   authorities); `DIR/client-cert.pem` and `DIR/client-key.pem`, if there, are shown to the
///   server
/// - `tls-hostname=NAME`: the name in the server's certificate (otherwise the host; `localhost`
///   for a socket)
///
/// Any other parameter is an error rather than ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUrl {
    /// Where.
    pub server: NbdServer,
    /// The export's name; may be empty.
    pub export: String,
    /// The dirty bitmap to ask for.
    pub dirty_bitmap: Option<String>,
    /// Whether, and how, the connection is encrypted.
    pub tls: Option<NbdTls>,
}

/// Why a text is not a URL of an export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not the URL of an NBD export: {reason}")]
pub struct UrlError {
    /// What was given.
    pub url: String,
    /// What is wrong with it.
    pub reason: String,
}

/// How an encrypted connection is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdTls {
    /// The folder of the certificates.
    pub certificates: Option<PathBuf>,
    /// The name the server's certificate must have.
    pub hostname: String,
}

impl NbdUrl {
    /// The export `name` behind the socket at `path`, without encryption.
    pub fn unix(path: impl AsRef<Path>, name: &str) -> Self {
        Self {
            server: NbdServer::Unix { path: path.as_ref().to_owned() },
            export: name.to_owned(),
            dirty_bitmap: None,
            tls: None,
        }
    }
}

/// The query of a URL.
#[derive(Default)]
struct Parameters {
    socket: Option<String>,
    dirty_bitmap: Option<String>,
    certificates: Option<String>,
    hostname: Option<String>,
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| format!("{text:?} is not UTF-8 when decoded"))?;
    if decoded.contains('\0') || decoded.len() > MAX_STRING {
        return Err(format!("a part is longer than {MAX_STRING} bytes or contains a zero byte"));
    }
    Ok(decoded.into_owned())
}

impl Parameters {
    fn parse(query: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(format!("{pair:?} has no value"))?;
            let slot = match name {
                "socket" => &mut found.socket,
                "dirty-bitmap" => &mut found.dirty_bitmap,
                "tls-certificates" => &mut found.certificates,
                "tls-hostname" => &mut found.hostname,
                _ => return Err(format!("the parameter {name:?} is not known")),
            };
            let value = decode(value)?;
            if value.is_empty() {
                return Err(format!("the parameter {name} is empty"));
            }
            if slot.replace(value).is_some() {
                return Err(format!("the parameter {name} is given twice"));
            }
        }
        Ok(found)
    }
}

fn tcp_server(authority: &str) -> Result<NbdServer, String> {
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("a bracket is not closed")?;
        (host, port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or("bad port")?)
    } else {
        address.rsplit_once(':').unwrap_or((address, ""))
    };
    let port = match port {
        "" => DEFAULT_PORT,
        port => port.parse().map_err(|_| format!("{port:?} is not a port"))?,
    };
    let host = decode(host)?;
    if host.contains(':') && !address.starts_with('[') {
        return Err("an IPv6 address is written in brackets".to_owned());
    }
    Ok(NbdServer::Tcp { host: if host.is_empty() { "localhost".to_owned() } else { host }, port })
}

fn parse(text: &str) -> Result<NbdUrl, String> {
    let (scheme, rest) = text.split_once("://").ok_or("it is not a URL")?;
    let (encrypted, unix) = match scheme {
        "nbd" => (false, false),
        "nbds" => (true, false),
        "nbd+unix" => (false, true),
        "nbds+unix" => (true, true),
        _ => {
            return Err("the known URLs are nbd://, nbds://, nbd+unix:// and nbds+unix://".into());
        }
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let parameters = Parameters::parse(query)?;
    let (authority, export) = place.split_once('/').unwrap_or((place, ""));
    let server = match (unix, parameters.socket) {
        (true, Some(path)) if authority.is_empty() => NbdServer::Unix { path: path.into() },
        (true, Some(_)) => return Err("a URL with a socket has no host: write three /".into()),
        (true, None) => return Err("the parameter socket=PATH is missing".into()),
        (false, None) => tcp_server(authority)?,
        (false, Some(_)) => return Err("socket=PATH goes with nbd+unix:// or nbds+unix://".into()),
    };
    let host = match &server {
        NbdServer::Tcp { host, .. } => host.clone(),
        NbdServer::Unix { .. } => "localhost".to_owned(),
    };
    if !encrypted && (parameters.certificates.is_some() || parameters.hostname.is_some()) {
        return Err("tls- parameters go with nbds:// or nbds+unix://".into());
    }
    Ok(NbdUrl {
        server,
        export: decode(export)?,
        dirty_bitmap: parameters.dirty_bitmap,
        tls: encrypted.then(|| NbdTls {
            certificates: parameters.certificates.map(PathBuf::from),
            hostname: parameters.hostname.unwrap_or(host),
        }),
    })
}

impl FromStr for NbdUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        parse(text).map_err(|reason| UrlError { url: text.to_owned(), reason })
    }
}

impl fmt::Display for NbdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tls.is_some() { "s" } else { "" };
        let export = utf8_percent_encode(&self.export, ESCAPED);
        match &self.server {
            NbdServer::Tcp { host, port } => {
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "nbd{s}://{open}{host}{close}")?;
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")
            }
            NbdServer::Unix { path } => {
                let path = path.to_string_lossy();
                write!(f, "nbd{s}+unix:///{export}?socket={}", utf8_percent_encode(&path, ESCAPED))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> NbdUrl {
        text.parse().expect("parses")
    }

    fn tcp(text: &str) -> (String, u16) {
        match url(text).server {
            NbdServer::Tcp { host, port } => (host, port),
            NbdServer::Unix { path } => panic!("{}", path.display()),
        }
    }

    #[test]
    fn servers() {
        assert_eq!(tcp("nbd://h"), ("h".to_owned(), 10809));
        assert_eq!(tcp("nbd://user@h:1/x"), ("h".to_owned(), 1));
        assert_eq!(tcp("nbd://[::1]:2/x"), ("::1".to_owned(), 2));
        assert_eq!(tcp("nbd:///x"), ("localhost".to_owned(), 10809));
        let unix = url("nbd+unix:///disk%20a?socket=/run/a%3Fb&dirty-bitmap=b0");
        assert_eq!(unix.server, NbdServer::Unix { path: "/run/a?b".into() });
        assert_eq!((unix.export.as_str(), unix.dirty_bitmap.as_deref()), ("disk a", Some("b0")));
        let export = NbdUrl::unix("/run/a?b", "disk a");
        assert_eq!(unix, NbdUrl { dirty_bitmap: Some("b0".to_owned()), ..export });
    }

    #[test]
    fn tls() {
        let tls = url("nbds://h/x?tls-certificates=/pki").tls.expect("encrypted");
        assert_eq!((tls.hostname.as_str(), tls.certificates), ("h", Some("/pki".into())));
        let tls = url("nbds+unix:///?socket=s&tls-hostname=n").tls.expect("encrypted");
        assert_eq!((tls.hostname.as_str(), tls.certificates), ("n", None));
    }

    #[test]
    fn refused() {
        for text in [
            "nbd://h:99999/x",
            "nbd://h:x/",
            "nbd://::1/x",
            "nbd://[::1/x",
            "nbd://h/x?socket=/s",
            "nbd+unix:///x",
            "nbd+unix://h/x?socket=/s",
            "nbd://h/x?colour=red",
            "nbd://h/x?dirty-bitmap=a&dirty-bitmap=b",
            "nbd://h/x?tls-hostname=n",
            "nbd://h/%ff",
            "nbd://h/%00",
        ] {
            assert!(text.parse::<NbdUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn written_as_parsed() {
        for text in ["nbds://h:1/a%20b", "nbd://[::1]/", "nbd+unix:///x?socket=/a%20b"] {
            assert_eq!(url(text).to_string(), text);
        }
        assert_eq!(url("nbd://secret@h/x").to_string(), "nbd://h/x");
    }
}
