//! Machines and networks that exist only while they are used: nothing of them is defined.
//!
//! Source: libvirt's `virDomainCreateXML`, `virDomainScreenshot` and `virNetworkCreateXML`
//! (`src/libvirt-domain.c`, `src/libvirt-network.c`).

use std::time::Duration;

use crate::{
    Connection, Domain, HypervisorError, Named,
    connection::{arguments, domain},
    error::Result,
    rpc::{Encoder, Procedure, xdr},
    storage::{arguments_named, named},
    xml::{self, child, escape, wrong},
};

/// `VIR_DOMAIN_START_PAUSED`.
const PAUSED: u32 = 1;
/// `VIR_DOMAIN_START_AUTODESTROY`.
const AUTODESTROY: u32 = 2;
/// How often a picture is taken until it is whole, and the pause before the next.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// The longest picture of a screen: 4K with four bytes a pixel.
const PICTURE_MAX: usize = 40 << 20;

/// A picture of a machine's screen.
#[derive(Clone, PartialEq, Eq)]
pub struct Screenshot {
    /// Its format: `image/png`, or `image/x-portable-pixmap` of old versions.
    pub kind: String,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Screenshot {
    /// Whether the file has its end. Only PNG says where that is.
    fn is_whole(&self) -> bool {
        const END: &[u8] = b"IEND\xaeB`\x82";
        let is_png = self.bytes.starts_with(b"\x89PNG");
        !self.bytes.is_empty() && (!is_png || self.bytes.ends_with(END))
    }
}

impl std::fmt::Debug for Screenshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, bytes } = self;
        f.debug_struct("Screenshot").field("kind", kind).field("bytes", &bytes.len()).finish()
    }
}

impl Connection {
    /// Starts a machine of this description with its processors standing still. libvirt forgets it when it is off, and
    /// switches it off when this connection ends, whatever ends it.
    pub fn start_transient(&self, xml: &str) -> Result<Domain> {
        let arguments = Encoder::default().string(xml).u32(PAUSED | AUTODESTROY);
        let patience = Duration::from_mins(5);
        let procedure = Procedure::DomainCreateXml;
        self.call_within(patience, "starting the machine", procedure, arguments, domain)
    }

    /// A picture of a machine's first screen. A machine without a screen is an error.
    ///
    /// libvirt 9.0 now and then ends the stream before the picture; then it is taken again.
    pub fn screenshot(&self, of: &Domain) -> Result<Screenshot> {
        const ACTION: &str = "taking a picture of the screen";
        for _ in 0..ATTEMPTS {
            let arguments = arguments(of).u32(0).u32(0);
            let (procedure, read) = (Procedure::DomainScreenshot, xdr::optional_text);
            let (kind, bytes) =
                self.call_with_stream(ACTION, procedure, arguments, PICTURE_MAX, read)?;
            let picture = Screenshot { kind: kind.unwrap_or_default(), bytes };
            if picture.is_whole() {
                return Ok(picture);
            }
            tracing::debug!(bytes = picture.bytes.len(), "the picture is cut off");
            self.clock().sleep(PAUSE);
        }
        let reason = "the picture is cut off".to_owned();
        Err(HypervisorError::Protocol { action: ACTION, reason })
    }

    /// Makes a network for machines that reach each other and nothing else: the host has no address on it. libvirt
    /// forgets it when it is removed.
    pub fn create_closed_network(&self, name: &str) -> Result<Named> {
        let Some(name) = escape(name) else {
            return Err(wrong("a network", "its name has characters that XML cannot hold"));
        };
        let xml = format!("<network><name>{name}</name></network>");
        let arguments = Encoder::default().string(&xml);
        self.call("making a network", Procedure::NetworkCreateXml, arguments, named)
    }

    /// Removes a network that was made by [`Self::create_closed_network`].
    pub fn remove_network(&self, network: &Named) -> Result<()> {
        let arguments = arguments_named(network);
        self.call("removing a network", Procedure::NetworkDestroy, arguments, |_| Ok(()))
    }

    /// Whether nothing but machines is on a network: libvirt forwards nothing from it, and it has no bridge or device
    /// of the host. None if there is no such network.
    pub fn is_closed_network(&self, name: &str) -> Result<Option<bool>> {
        let found = self.networks()?.into_iter().find(|network| network.name == name);
        let Some(network) = found else { return Ok(None) };
        let arguments = arguments_named(&network).u32(0);
        let procedure = Procedure::NetworkGetXmlDesc;
        let xml = self.call("reading a network", procedure, arguments, xdr::text)?;
        is_closed(&xml).map(Some)
    }
}

fn is_closed(xml: &str) -> Result<bool> {
    let document = xml::parse(xml, "network", "a network")?;
    Ok(child(document.root_element(), "forward").is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_whole_with_its_end() {
        let picture =
            |bytes: &[u8]| Screenshot { kind: "image/png".to_owned(), bytes: bytes.into() };
        assert!(!picture(b"").is_whole() && !picture(b"\x89PNG\r\n\x1a\n").is_whole());
        assert!(picture(b"\x89PNG...\0\0\0\0IEND\xaeB`\x82").is_whole());
        assert!(picture(b"P6\n1 1\n255\nabc").is_whole());
    }

    #[test]
    fn a_network_that_forwards_is_not_closed() {
        let closed =
            "<network><name>a</name><bridge name='virbr7'/><ip address='10.9.9.1'/></network>";
        assert!(is_closed(closed).expect("a network"));
        for mode in ["nat", "route", "bridge", "open"] {
            let xml = format!("<network><name>a</name><forward mode='{mode}'/></network>");
            assert!(!is_closed(&xml).expect("a network"), "{mode}");
        }
        is_closed("<domain/>").expect_err("no network");
    }
}
