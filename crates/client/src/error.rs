//! Errors between a client and a server.

use strongroom_api::ErrorBody;
use strongroom_base::{Code, Coded, Params, codes, params};

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's URL cannot be one.
    #[error("{url:?} is not the URL of a server: {reason}")]
    Url {
        /// What was given, without secrets.
        url: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file or setting of the client is wrong.
    #[error("{0}")]
    Settings(String),
    /// The token cannot be sent.
    #[error("the token has invalid characters")]
    Token,
    /// The server does not answer.
    #[error("{server} does not answer")]
    Unavailable {
        /// Its URL.
        server: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server's certificate is not one that is trusted.
    #[error("{server} is not trusted: {reason}")]
    Untrusted {
        /// Its URL.
        server: String,
        /// Why not; names the fingerprint that was presented, if there was one.
        reason: String,
    },
    /// The answer is not valid.
    #[error("{server} sent an answer that is not valid: {reason}")]
    Protocol {
        /// Its URL.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server says that it failed.
    #[error("{}", .0.message)]
    Answer(Box<ErrorBody>),
    /// The caller asked to stop.
    #[error("stopped waiting on request")]
    Interrupted,
}

impl ClientError {
    /// What the server said, if it did.
    pub fn answer(&self) -> Option<&ErrorBody> {
        match self {
            Self::Answer(body) => Some(body),
            _ => None,
        }
    }

    /// Whether the server says this.
    pub fn is(&self, code: &Code) -> bool {
        self.answer().is_some_and(|body| body.code == *code)
    }
}

impl Coded for ClientError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Url { .. } | Self::Settings(_) | Self::Token => &codes::USAGE_INVALID,
            Self::Unavailable { .. } => &codes::SERVER_UNAVAILABLE,
            Self::Untrusted { .. } => &codes::SERVER_UNTRUSTED,
            Self::Protocol { .. } => &codes::SERVER_PROTOCOL,
            Self::Answer(body) => body.known(),
            Self::Interrupted => &codes::INTERRUPTED,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Url { url, reason } => params!(USAGE_INVALID: url, reason),
            Self::Settings(reason) => params!(USAGE_INVALID: reason),
            Self::Unavailable { server, source: _ } => params!(SERVER_UNAVAILABLE: server),
            Self::Untrusted { server, reason } => params!(SERVER_UNTRUSTED: server, reason),
            Self::Protocol { server, reason } => params!(SERVER_PROTOCOL: server, reason),
            Self::Answer(body) => body.params.clone(),
            Self::Token | Self::Interrupted => Params::none(),
        }
    }
}
