//! Who asks through a reverse proxy.
//!
//! Only a proxy that the operator has named is believed, and only what it has added itself: the last
//! entry of `X-Forwarded-For`. What stands before it was sent by the client. `Forwarded` is always
//! ignored: a proxy that does not know it passes on what a stranger has written there.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

/// The header that proxies add to.
const HEADER: &str = "x-forwarded-for";

/// The proxies that are believed.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Vec<IpAddr>);

impl Proxies {
    /// These.
    pub fn new(addresses: &[IpAddr]) -> Self {
        Self(addresses.iter().map(IpAddr::to_canonical).collect())
    }

    /// Whether connections from an address are those of a proxy.
    pub fn has(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Who sent a request that came over a connection from `peer`: the peer itself, or who the proxies say
    /// it was. If they say nothing that can be understood, the nearest of them.
    pub fn origin(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut origin = peer.to_canonical();
        // Each entry was added by the proxy that the one after it names; the last by the peer.
        let lines = headers.get_all(HEADER).iter().rev();
        let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        for hop in hops {
            match address(hop.trim()) {
                Some(address) if self.has(origin) => origin = address,
                _ => break,
            }
        }
        origin
    }
}

/// The address of an entry, which may have a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let found = bare.parse().ok();
    let found = found.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    found.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn origin(trusted: &[&str], peer: &str, lines: &[&str]) -> String {
        let parse = |text: &&str| text.parse::<IpAddr>().expect("an address");
        let trusted: Vec<_> = trusted.iter().map(parse).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HEADER, HeaderValue::from_str(line).expect("a value"));
        }
        // Nobody is asked what this says.
        headers.append("forwarded", HeaderValue::from_static("for=203.0.113.9"));
        Proxies::new(&trusted).origin(parse(&peer), &headers).to_string()
    }

    #[test]
    fn only_what_a_named_proxy_has_added_is_believed() {
        let one = &["127.0.0.1"][..];
        for (trusted, peer, lines, expected) in [
            // Nobody is named, or somebody else.
            (&[][..], "127.0.0.1", &["192.0.2.1"][..], "127.0.0.1"),
            (one, "192.0.2.7", &["192.0.2.1"], "192.0.2.7"),
            (one, "127.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            // What the client has sent stands before.
            (one, "127.0.0.1", &["10.0.0.1, 192.0.2.1"], "192.0.2.1"),
            (one, "127.0.0.1", &["10.0.0.1", "127.0.0.1,192.0.2.1"], "192.0.2.1"),
            (one, "127.0.0.1", &["10.0.0.1,192.0.2.1", "192.0.2.2"], "192.0.2.2"),
            // Nothing, or nothing that can be understood.
            (one, "127.0.0.1", &[], "127.0.0.1"),
            (one, "127.0.0.1", &["192.0.2.1, unknown"], "127.0.0.1"),
            (one, "127.0.0.1", &["192.0.2.1,"], "127.0.0.1"),
            (one, "::ffff:127.0.0.1", &["192.0.2.1:4711"], "192.0.2.1"),
            (&["::1"], "::1", &["2001:db8::1"], "2001:db8::1"),
            (&["::1"], "::1", &["[2001:db8::1]"], "2001:db8::1"),
            (&["::1"], "::1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["::1"], "::1", &["::ffff:192.0.2.1"], "192.0.2.1"),
            // A proxy behind a proxy, both named, and not.
            (&["127.0.0.1", "10.0.0.2"], "127.0.0.1", &["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (one, "127.0.0.1", &["192.0.2.1, 10.0.0.2"], "10.0.0.2"),
        ] {
            let found = origin(trusted, peer, lines);
            assert_eq!(found, expected, "{trusted:?} {peer} {lines:?}");
        }
    }
}
