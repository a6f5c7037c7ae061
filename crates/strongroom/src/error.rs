//! Failures: how they are shown and which exit code they give.
//!
//! Library errors name their place in the catalog; this is the one place that turns any of them
//! into words, JSON and an exit code.

use std::{borrow::Cow, error::Error, fmt::Write as _, io, path::PathBuf};

use console::style;
use serde::Serialize;
use strongroom_base::{Code, Coded, Kind, Message, Params, PointId, codes, params};
use strongroom_client::ClientError;

use crate::{context::Asked, human::printable};

/// What went wrong on this side of the libraries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FaceError {
    /// The command line contradicts itself or lacks something.
    #[error("{0}")]
    Usage(String),
    /// The configuration file is wrong.
    #[error("{}: {reason}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// No vault was named.
    #[error("no vault was given")]
    NoVault,
    /// No key was named.
    #[error("no key was given")]
    NoKey,
    /// A local file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The verb.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Clients cannot connect where they should.
    #[error("cannot listen at {at}")]
    Endpoint {
        /// The socket or address.
        at: String,
        /// The cause.
        source: io::Error,
    },
    /// What clients wrote last is lost.
    #[error("what was written since the last flush could not be stored")]
    ExportLost(#[source] io::Error),
    /// The result cannot be written to standard output.
    #[error("the result cannot be written")]
    Output(#[source] io::Error),
    /// A backup left parts out.
    #[error("{0} could not be read and were recorded as zeros")]
    Skipped(String),
    /// Files were delivered, but not all, or not with all that they have.
    #[error("not everything could be delivered: {0}")]
    FilesIncomplete(String),
    /// A machine did not boot as far as expected.
    #[error("{item} does not boot as expected from recovery point {point}: {reason}")]
    Boot {
        /// The item.
        item: String,
        /// The recovery point.
        point: PointId,
        /// Why.
        reason: String,
    },
    /// No recovery point of an item is known to boot.
    #[error("no recovery point of {item} is known to boot")]
    NoneBooted {
        /// The item.
        item: String,
    },
    /// Machines of a drill did not work, or not in time.
    #[error("the drill failed: {}", machines.join(", "))]
    Drill {
        /// Which.
        machines: Vec<String>,
    },
    /// A recovery point was never booted to verify it.
    #[error("recovery point {point} of {item} was never booted to verify it")]
    NoBoot {
        /// The item.
        item: String,
        /// The recovery point.
        point: PointId,
    },
    /// A vault is not sound.
    #[error("the vault is not sound: {0}")]
    Damaged(String),
    /// Recovery points that are left out of a result.
    #[error("{} cannot be read: {}", crate::human::count(objects.len().try_into().unwrap_or(u64::MAX), "recovery point"), objects.join(", "))]
    PointsDamaged {
        /// Their manifests.
        objects: Vec<String>,
    },
    /// No context has this name.
    #[error("there is no context {0:?}")]
    NoContext(String),
    /// No error code has this name.
    #[error("there is no error code {0:?}")]
    NoCode(String),
    /// No recovery point has an id that begins so.
    #[error("{item} has no recovery point whose id begins with {prefix}")]
    NoPoint {
        /// The item.
        item: String,
        /// The beginning.
        prefix: String,
    },
    /// Machines that cannot be backed up as they are.
    #[error("cannot be backed up now: {0}")]
    NotReady(String),
    /// What a server needs is not there.
    #[error("the machine is not ready for a server: {0}")]
    ServerNotReady(String),
    /// Alerts do not arrive.
    #[error("alerts do not arrive by {0}")]
    AlertsUndelivered(String),
    /// A reclaim could not wait for backups to end.
    #[error("nothing was removed yet: backups are running ({0})")]
    BackupsRunning(String),
    /// No server was named.
    #[error("no server was named")]
    NoServer,
    /// What a server says: of a job that failed, of the audit log.
    #[error("{}", .0.message)]
    Answered(Box<strongroom_api::ErrorBody>),
    /// A job ended, but not as well as it should have.
    #[error("{0}")]
    JobWarnings(String),
    /// A question before something is taken away was answered with no.
    #[error("not confirmed")]
    Declined,
    /// A copy of a blob by its service did not succeed.
    #[error("the copy to {blob} did not succeed: {reason}")]
    CopyFailed {
        /// The blob that was to be made.
        blob: String,
        /// What the service says.
        reason: String,
    },
    /// Something that cannot happen.
    #[error("{0}")]
    Bug(String),
}

impl Coded for FaceError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Usage(_) => &codes::USAGE_INVALID,
            Self::Config { .. } => &codes::CONFIG_INVALID,
            Self::NoVault => &codes::VAULT_NOT_GIVEN,
            Self::NoKey => &codes::KEY_MISSING,
            Self::Local { .. } | Self::Output(_) => &codes::LOCAL_IO,
            Self::Endpoint { .. } => &codes::EXPORT_ENDPOINT,
            Self::ExportLost(_) => &codes::EXPORT_LOST,
            Self::Skipped(_) => &codes::BACKUP_SKIPPED,
            Self::FilesIncomplete(_) => &codes::FILES_INCOMPLETE,
            Self::Boot { .. } => &codes::BOOT_FAILED,
            Self::Drill { .. } => &codes::DRILL_FAILED,
            Self::NoBoot { .. } | Self::NoneBooted { .. } => &codes::BOOT_NOT_FOUND,
            Self::Damaged(_) => &codes::VERIFY_DAMAGED,
            Self::PointsDamaged { .. } => &codes::POINT_DAMAGED,
            Self::NoContext(_) => &codes::CONTEXT_NOT_FOUND,
            Self::NoCode(_) => &codes::CODE_NOT_FOUND,
            Self::NoPoint { .. } => &codes::POINT_NOT_FOUND,
            Self::NotReady(_) => &codes::VM_NOT_READY,
            Self::ServerNotReady(_) => &codes::SERVER_NOT_READY,
            Self::AlertsUndelivered(_) => &codes::ALERT_UNDELIVERED,
            Self::BackupsRunning(_) => &codes::RECLAIM_WAITING,
            Self::NoServer => &codes::SERVER_NEEDED,
            Self::Answered(body) => body.known(),
            Self::JobWarnings(_) => &codes::JOB_WARNINGS,
            Self::Declined => &codes::INTERRUPTED,
            Self::CopyFailed { .. } => &codes::BLOB_COPY_FAILED,
            Self::Bug(_) => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Usage(reason) => params!(USAGE_INVALID: reason),
            Self::Config { file, reason } => params!(CONFIG_INVALID: file, reason),
            Self::Local { path, action, source: _ } => params!(LOCAL_IO: path, action),
            Self::Endpoint { at, source: _ } => params!(EXPORT_ENDPOINT: at),
            Self::Output(_) | Self::ExportLost(_) => Params::none(),
            Self::Skipped(parts) => params!(BACKUP_SKIPPED: parts),
            Self::FilesIncomplete(parts) => params!(FILES_INCOMPLETE: parts),
            Self::Boot { item, point, reason } => params!(BOOT_FAILED: item, point, reason),
            Self::Drill { machines } => params!(DRILL_FAILED: machines),
            Self::NoneBooted { item } => params!(BOOT_NOT_FOUND: item),
            Self::NoBoot { item, point } => params!(BOOT_NOT_FOUND: item, point),
            Self::Damaged(reason) => params!(VERIFY_DAMAGED: reason),
            Self::PointsDamaged { objects } => params!(POINT_DAMAGED: objects),
            Self::NoContext(name) => params!(CONTEXT_NOT_FOUND: name),
            Self::NoCode(name) => params!(CODE_NOT_FOUND: name),
            Self::NoPoint { item, prefix } => params!(POINT_NOT_FOUND: item, prefix),
            Self::NotReady(reason) => params!(VM_NOT_READY: reason),
            Self::ServerNotReady(reason) => params!(SERVER_NOT_READY: reason),
            Self::AlertsUndelivered(channel) => params!(ALERT_UNDELIVERED: channel),
            Self::BackupsRunning(who) => params!(RECLAIM_WAITING: who),
            Self::Answered(body) => body.params.clone(),
            Self::JobWarnings(reason) => params!(JOB_WARNINGS: reason),
            Self::CopyFailed { blob, reason } => params!(BLOB_COPY_FAILED: blob, reason),
            Self::Bug(reason) => params!(BUG: reason),
            Self::NoVault | Self::NoKey | Self::NoServer | Self::Declined => Params::none(),
        }
    }
}

/// A command that failed: any error of the catalog, perhaps with a better hint than the
/// catalog's.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Box<dyn Coded + Send + Sync>,
    hint: Option<String>,
}

impl<E: Coded + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: Box::new(error), hint: None }
    }
}

/// A failure as JSON; see `docs/use/json.md`.
#[derive(Serialize)]
struct Envelope<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    kind: Kind,
    message: String,
    #[serde(skip_serializing_if = "Params::is_empty")]
    params: Params,
    causes: Vec<String>,
    hint: Cow<'a, str>,
    /// Only of errors that a server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl Failure {
    /// A usage error.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        FaceError::Usage(message.into()).into()
    }

    /// Says what to do better than the catalog can.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says which server was asked, for commands that could have worked without one.
    pub(crate) fn of_server(self, asked: Option<&Asked>) -> Self {
        let Some(Asked { server, instead }) = asked else { return self };
        let hint = format!("{} (The server {server} answered. {instead})", self.hint());
        self.with_hint(hint)
    }

    /// Its place in the catalog.
    pub(crate) fn code(&self) -> &'static Code {
        self.error.code()
    }

    /// What a server said, if it was one that failed.
    fn answered(&self) -> Option<&strongroom_api::ErrorBody> {
        let error: &(dyn Error + 'static) = &*self.error;
        match error.downcast_ref::<FaceError>() {
            Some(FaceError::Answered(body)) => Some(body),
            _ => error.downcast_ref::<ClientError>().and_then(ClientError::answer),
        }
    }

    /// What happened, in one sentence.
    pub(crate) fn message(&self) -> String {
        self.error.to_string()
    }

    /// The code's name; a server may have one that this program does not know.
    pub(crate) fn name(&self) -> &str {
        self.answered().map_or(self.code().name, |body| body.code.as_str())
    }

    fn hint(&self) -> Cow<'_, str> {
        if let Some(hint) = &self.hint {
            return Cow::Borrowed(hint);
        }
        match (self.answered(), crate::hints::of_cause(&*self.error)) {
            (Some(body), _) => Cow::Borrowed(&body.hint),
            (None, Some(hint)) => Cow::Owned(hint),
            (None, None) => Cow::Borrowed(self.code().hint),
        }
    }

    /// The errors below the first one, outermost first, without repetitions.
    fn causes(&self) -> Vec<String> {
        let mut last = self.error.to_string();
        let mut causes = self.answered().map(|body| body.causes.clone()).unwrap_or_default();
        let mut next = self.error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries print their source as part of themselves, some print nothing else.
            if !last.ends_with(&text) {
                causes.push(text.clone());
                last = text;
            }
            next = cause.source();
        }
        causes
    }

    /// Its values stand in its message, and its code's page names them. A newer server may have others.
    fn check_params(&self) {
        let faults = |error: &dyn Coded| Message::of(error).faults();
        debug_assert!(self.answered().is_some() || faults(&*self.error).is_empty(), "{self:?}");
    }

    /// As words for people, in several lines.
    pub(crate) fn to_text(&self) -> String {
        self.check_params();
        let mut text = String::new();
        let mut line = |label: &str, words: &str| {
            // Further lines (a parser that points at its place) keep their columns.
            let words = printable(words);
            writeln!(text, "{label} {words}").ok();
        };
        let label = |label| style(label).for_stderr().bold();
        line(&label("Error:").red().to_string(), &self.error.to_string());
        for cause in self.causes() {
            line(&label("Caused by:").to_string(), &cause);
        }
        line(&label("Hint:").cyan().to_string(), &self.hint());
        line(&label("Code:").to_string(), self.name());
        text
    }

    /// As one JSON object.
    pub(crate) fn to_json(&self) -> String {
        self.check_params();
        let error = ErrorBody {
            code: self.name(),
            kind: self.code().kind,
            message: self.error.to_string(),
            params: self.error.params(),
            causes: self.causes(),
            hint: self.hint(),
            link: self.answered().and_then(|body| body.link.as_deref()),
            request_id: self.answered().and_then(|body| body.request_id.as_deref()),
        };
        let text = serde_json::to_string_pretty(&Envelope { error });
        text.unwrap_or_else(|error| {
            format!("{{\"error\":{{\"message\":{:?}}}}}", error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        let source = io::Error::other("no such luck\x1b[2J");
        FaceError::Local { path: "/x".into(), action: "read", source }.into()
    }

    #[test]
    fn what_an_export_has_lost_has_a_code() {
        let lost = FaceError::ExportLost(io::Error::other("no room"));
        assert_eq!(lost.code().name, "export.lost");
    }

    #[test]
    fn words() {
        assert_eq!(
            console::strip_ansi_codes(&failure().to_text()),
            "Error: cannot read /x\nCaused by: no such luck?[2J\nHint: Check the named path, its \
             permissions and its free space.\nCode: local.io\n"
        );
        let hinted = failure().with_hint("Pray.").to_text();
        assert!(hinted.contains("Pray."));
    }

    #[test]
    fn a_copy_that_does_not_succeed_has_a_code() {
        let (blob, reason) = ("vms/a".to_owned(), "the source is gone".to_owned());
        let failed = Failure::from(FaceError::CopyFailed { blob, reason });
        assert_eq!(failed.name(), "blob.copy_failed");
        assert!(failed.to_text().contains("the copy to vms/a did not succeed"));
    }

    #[test]
    fn json() {
        let json: serde_json::Value = serde_json::from_str(&failure().to_json()).expect("json");
        assert_eq!(json["error"]["code"], "local.io");
        assert_eq!(json["error"]["kind"], "unavailable");
        assert_eq!(json["error"]["causes"].as_array().map(Vec::len), Some(1));
    }
}
