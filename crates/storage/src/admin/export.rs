//! Exports over the socket of commands: the export lasts as long as the connection of the one who asked for it.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use strongroom_base::Cancel;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _},
    sync::watch,
};

use super::{
    RefusedKind, Reply,
    socket::{LINE, NAME, PATIENCE, short},
};
use crate::{ExportRequest, ExportShown, Storage, StorageError, exports::Export};

/// What the one who asked sends when the export is to end.
const END: &[u8] = b"end\n";
/// How often the one who asked looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// What the process that serves says of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ExportReply {
    /// Clients can connect.
    Exported(ExportShown),
    /// It has ended, and everything is stored.
    Ended,
    /// It cannot be, or something could not be stored.
    Refused {
        /// What kind of refusal it is.
        kind: RefusedKind,
        /// Why.
        message: String,
    },
}

impl From<Reply> for ExportReply {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Refused { kind, message } => Self::Refused { kind, message },
            _ => Self::Refused { kind: RefusedKind::Failed, message: "no export".to_owned() },
        }
    }
}

/// An export that the process that serves keeps for this one.
#[derive(Debug)]
pub struct OpenExport {
    /// What is exported, and where.
    pub shown: ExportShown,
    answers: BufReader<UnixStream>,
}

/// Asks the process that serves the accounts in a folder to export a blob. The export ends when what is returned is
/// dropped, and properly by [`OpenExport::wait`].
pub fn export(data_dir: &Path, request: &ExportRequest) -> Result<OpenExport, StorageError> {
    let failed = || StorageError::local("ask over", data_dir.join(NAME));
    let folder = fs::File::open(data_dir).map_err(failed())?;
    let not_served =
        |kind| matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
    let mut stream = match UnixStream::connect(short(&folder, NAME)) {
        Ok(stream) => stream,
        Err(error) if not_served(error.kind()) => {
            return Err(StorageError::NotServed { path: data_dir.to_owned() });
        }
        Err(error) => return Err(failed()(error)),
    };
    let mut line = serde_json::to_vec(&serde_json::json!({ "export": request }))
        .map_err(|_| StorageError::Bug("an export cannot be written as JSON"))?;
    line.push(b'\n');
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed())?;
    stream.write_all(&line).map_err(failed())?;
    let mut answers = BufReader::new(stream);
    match answer(&mut answers).map_err(failed())? {
        Some(ExportReply::Exported(shown)) => Ok(OpenExport { shown, answers }),
        Some(ExportReply::Refused { kind, message }) => {
            Err(StorageError::Refused { kind, message })
        }
        Some(ExportReply::Ended) | None => Err(StorageError::BadAnswer),
    }
}

/// A line from the other side; none if it is not one, or the other side is gone.
fn answer(answers: &mut BufReader<UnixStream>) -> io::Result<Option<ExportReply>> {
    let mut line = String::new();
    answers.take(LINE).read_line(&mut line)?;
    Ok(serde_json::from_str(&line).ok())
}

impl OpenExport {
    /// Waits until `cancel` is raised, ends the export, and returns when what clients have written is stored.
    ///
    /// # Errors
    ///
    /// If the process that serves ends before, or what was written since the last flush could not be stored.
    pub fn wait(mut self, cancel: &Cancel) -> Result<(), StorageError> {
        let broken = |_| StorageError::ExportBroken;
        self.answers.get_ref().set_read_timeout(Some(LOOK)).map_err(broken)?;
        while !cancel.is_cancelled() {
            match self.answers.fill_buf() {
                // The process that serves stops; its last words say whether all is stored.
                Ok(_) => break,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        // It may have said its last words already.
        self.answers.get_mut().write_all(END).ok();
        self.answers.get_ref().set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        match answer(&mut self.answers).map_err(broken)? {
            Some(ExportReply::Ended) => Ok(()),
            Some(ExportReply::Refused { kind, message }) => {
                Err(StorageError::Refused { kind, message })
            }
            Some(ExportReply::Exported(_)) | None => Err(StorageError::ExportBroken),
        }
    }
}

/// Serves one export until its client ends it or goes, or the process stops.
pub(super) async fn serve_export(
    request: ExportRequest,
    mut lines: impl tokio::io::AsyncBufRead + Unpin,
    mut write: impl tokio::io::AsyncWrite + Unpin,
    storage: Arc<Storage>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let started = tokio::task::spawn_blocking(move || Export::start(&storage, &request)).await;
    let export = match started.map_err(io::Error::other)? {
        Ok(export) => export,
        Err(refused) => return say(&mut write, &refused.into()).await,
    };
    let said = say(&mut write, &ExportReply::Exported(export.shown.clone())).await;
    if said.is_ok() {
        let mut line = String::new();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            // A line, its end, or a failure: in any case the client wants no more.
            _ = lines.read_line(&mut line) => {}
        }
    }
    let ended =
        tokio::task::spawn_blocking(move || export.end()).await.map_err(io::Error::other)?;
    let reply = match ended {
        Ok(()) => ExportReply::Ended,
        Err(refused) => refused.into(),
    };
    if let ExportReply::Refused { message, .. } = &reply {
        tracing::error!(message, "an export ended with a loss");
    }
    say(&mut write, &reply).await
}

async fn say(
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
    reply: &ExportReply,
) -> io::Result<()> {
    let mut answer = serde_json::to_vec(reply)?;
    answer.push(b'\n');
    write.write_all(&answer).await?;
    write.flush().await
}
