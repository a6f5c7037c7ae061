//! Commands over a socket in the folder of the data: one line of JSON in, one line out.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{Command, Reply, execute_any, export::serve_export};
use crate::{ExportRequest, Storage, StorageError};

/// What a line asks for.
#[derive(Deserialize)]
#[serde(untagged)]
enum Asked {
    Command(Command),
    Export { export: ExportRequest },
}

/// The name of the socket.
pub(super) const NAME: &str = "admin.sock";
/// The longest line, in bytes.
pub(super) const LINE: u64 = 1 << 20;
/// How long either side waits for a line.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The socket of a process that serves. It is gone when this is dropped.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    conversations: JoinSet<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

/// A socket's path that fits into its address, however long the folder's is.
pub(super) fn short(folder: &fs::File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

impl Socket {
    /// Makes the socket in the folder of a storage's data. Only the owner of the process can use it, at any moment.
    pub fn bind(storage: &Storage) -> Result<Self, StorageError> {
        let path = storage.folder().join(NAME);
        let private = storage.folder().join(".admin");
        let bind = || {
            fs::remove_dir_all(&private).or_else(|error| {
                if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
            })?;
            fs::DirBuilder::new().mode(0o700).create(&private)?;
            let folder = fs::File::open(&private)?;
            let listener = UnixListener::bind(short(&folder, NAME))?;
            let made = private.join(NAME);
            fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
            // A socket of a process that was killed is replaced: only one process has the store.
            fs::rename(&made, &path)?;
            fs::remove_dir(&private)?;
            Ok(listener)
        };
        let listener = bind().map_err(StorageError::local("make", &path))?;
        Ok(Self { listener, path, conversations: JoinSet::new() })
    }

    /// Serves commands until it is stopped.
    pub async fn serve(mut self, storage: Arc<Storage>, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let storage = Arc::clone(&storage);
                    let stop = stop.clone();
                    self.conversations.spawn(async move {
                        if let Err(error) = one(stream, storage, stop).await {
                            tracing::warn!(%error, "a command over the socket broke off");
                        }
                    });
                    // What has ended is forgotten.
                    while self.conversations.try_join_next().is_some() {}
                }
                Err(error) => {
                    tracing::warn!(%error, "a command cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // Exports store what their clients wrote.
        while self.conversations.join_next().await.is_some() {}
    }
}

async fn one(
    stream: tokio::net::UnixStream,
    storage: Arc<Storage>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(read.take(LINE));
    let mut line = String::new();
    timeout(PATIENCE, lines.read_line(&mut line)).await??;
    let command = match serde_json::from_str(&line)? {
        Asked::Command(command) => command,
        Asked::Export { export } => {
            return serve_export(export, lines, write, storage, stop).await;
        }
    };
    let reply = execute_any(&storage, command).await.map_err(io::Error::other)?;
    let mut answer = serde_json::to_vec(&reply)?;
    answer.push(b'\n');
    timeout(PATIENCE, write.write_all(&answer)).await??;
    write.shutdown().await
}

/// Asks the process that serves; none if nobody listens.
pub(super) fn ask(data_dir: &Path, command: &Command) -> Result<Option<Reply>, StorageError> {
    let failed = || StorageError::local("ask over", data_dir.join(NAME));
    let folder = match fs::File::open(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        folder => folder.map_err(failed())?,
    };
    let mut stream = match UnixStream::connect(short(&folder, NAME)) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed()(error)),
    };
    let mut talk = || {
        stream.set_read_timeout(Some(command.patience()))?;
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new((&mut stream).take(LINE)).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = talk().map_err(failed())?;
    serde_json::from_str(&answer).map(Some).map_err(|_| StorageError::BadAnswer)
}
