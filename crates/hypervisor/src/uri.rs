//! Addresses of libvirt: the URIs that all its tools use.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::HypervisorError;

/// Which of a host's daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The host's own, for all users.
    System,
    /// That of one user.
    Session,
}

/// How the daemon is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A unix socket on this host; if no path is given, where libvirt has it.
    Local {
        /// The socket.
        socket: Option<PathBuf>,
    },
    /// Through `ssh` on another host.
    Ssh {
        /// User there, if not ours.
        user: Option<String>,
        /// The host.
        host: String,
        /// Port, if not 22.
        port: Option<u16>,
        /// The daemon's socket there, if not where libvirt has it.
        socket: Option<String>,
    },
}

/// A libvirt connection URI (<https://libvirt.org/uri.html>): `qemu:///system`,
/// `qemu:///session`, `qemu+unix:///system?socket=PATH`, `qemu+ssh://[USER@]HOST[:PORT]/system`,
/// also with `?socket=PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectUri {
    /// Which daemon.
    pub scope: Scope,
    /// How it is reached.
    pub route: Route,
}

impl ConnectUri {
    /// The host's own daemon.
    pub const SYSTEM: Self = Self { scope: Scope::System, route: Route::Local { socket: None } };

    /// Whether the daemon and its machines are on this host.
    pub const fn is_local(&self) -> bool {
        matches!(self.route, Route::Local { .. })
    }

    /// What the daemon itself is asked to open.
    pub(crate) const fn driver(&self) -> &'static str {
        match self.scope {
            Scope::System => "qemu:///system",
            Scope::Session => "qemu:///session",
        }
    }
}

impl FromStr for ConnectUri {
    type Err = HypervisorError;

    fn from_str(text: &str) -> Result<Self, HypervisorError> {
        let wrong =
            |reason: &str| HypervisorError::Uri { uri: text.to_owned(), reason: reason.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no ://"))?;
        let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, ""));
        if driver != "qemu" {
            return Err(wrong("only qemu: is known"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (server, path) = rest.split_once('/').ok_or_else(|| wrong("it has no path"))?;
        let scope = match path {
            "system" => Scope::System,
            "session" => Scope::Session,
            _ => return Err(wrong("its path is neither /system nor /session")),
        };
        let mut socket = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("socket", path)) => {
                    let path = percent_encoding::percent_decode_str(path).decode_utf8();
                    let path = path.map_err(|_| wrong("it is not UTF-8"))?;
                    if path.contains(['\'', '\n', '\0']) {
                        return Err(wrong("its socket has a quote or a line break in its name"));
                    }
                    socket = Some(path.into_owned());
                }
                _ => return Err(wrong("of its parameters only socket= is known")),
            }
        }
        let route = match (transport, server) {
            ("" | "unix", "") => Route::Local { socket: socket.map(PathBuf::from) },
            ("ssh", "") => return Err(wrong("it names no host")),
            ("ssh", server) => ssh(server, socket).map_err(wrong)?,
            ("", _) => return Err(wrong("write qemu+ssh:// for another host")),
            ("unix", _) => return Err(wrong("a unix socket is on this host")),
            _ => return Err(wrong("of transports, unix and ssh are known")),
        };
        Ok(Self { scope, route })
    }
}

/// Reads `[USER@]HOST[:PORT]`.
fn ssh(server: &str, socket: Option<String>) -> Result<Route, &'static str> {
    let (user, address) = match server.rsplit_once('@') {
        Some((user, address)) => (Some(user.to_owned()), address),
        None => (None, server),
    };
    let (host, port) = match address.rsplit_once(':') {
        // A colon inside brackets is part of an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => {
            (host, Some(port.parse().map_err(|_| "its port is not a number")?))
        }
        _ => (address, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // What begins with a dash would be an option of ssh.
    let is_word = |word: &str| !word.is_empty() && !word.starts_with('-');
    if !is_word(host) || !user.as_deref().is_none_or(is_word) {
        return Err("its host or user is not a name");
    }
    Ok(Route::Ssh { user, host: host.to_owned(), port, socket })
}

impl fmt::Display for ConnectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            Scope::System => "system",
            Scope::Session => "session",
        };
        match &self.route {
            Route::Local { socket: None } => write!(f, "qemu:///{scope}"),
            Route::Local { socket: Some(path) } => {
                write!(f, "qemu+unix:///{scope}?socket={}", path.display())
            }
            Route::Ssh { user, host, port, socket } => {
                let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let socket = socket.as_ref().map(|path| format!("?socket={path}"));
                write!(f, "qemu+ssh://{user}{host}{port}/{scope}{}", socket.unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_forms_come_back() {
        for text in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///session?socket=/run/x",
            "qemu+ssh://root@kvm1:2222/system",
            "qemu+ssh://[fe80::1]/system",
            "qemu+ssh://kvm1/session?socket=/run/x",
        ] {
            let uri: ConnectUri = text.parse().expect(text);
            assert_eq!(uri.to_string(), text);
            assert_eq!(uri.is_local(), !text.contains("ssh"));
        }
    }

    #[test]
    fn others_are_refused() {
        for text in [
            "",
            "qemu",
            "xen:///system",
            "qemu:///",
            "qemu://host/system",
            "qemu+tls://host/system",
            "qemu+ssh:///system",
            "qemu+ssh://-oProxyCommand=x/system",
            "qemu+ssh://-l@host/system",
            "qemu:///system?mode=direct",
            "qemu+ssh://kvm1/system?socket=/x%27;y",
        ] {
            assert!(text.parse::<ConnectUri>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(rest in "[a-z+@:/?=&\\[\\]%-]{0,40}") {
            drop(format!("qemu{rest}").parse::<ConnectUri>());
        }
    }
}
