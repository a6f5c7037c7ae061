//! What every HTTP face of the service needs: it listens, encrypts, bounds connections and bodies, ends in
//! order, and knows who asks through a proxy.
//!
//! ```text
//!  listener ─▶ a place for the connection ─▶ TLS ─▶ HTTP/1 or 2 ─▶ the face's router
//!                 strangers make room          certificate, renewed     Guest: who is at the other end
//! ```
//!
//! A face gives a router ([`Serving`]) and says who has shown a good token ([`Guest::mark_known`]). Nothing here
//! knows what is asked for, who may ask, or how an error is reported.

mod body;
mod certificate;
mod connections;
mod error;
mod files;
mod proxies;

pub use body::{BodyError, read_body};
pub use certificate::{
    CertificateFacts, CertificateFiles, Shown, encryption, encryption_for_known, ensure,
    ensure_with_authority, names,
};
pub use connections::{Guest, Patience, Serving, listen, serve};
pub use error::HttpError;
pub use proxies::Proxies;
