//! Files of recovery points: lists, and downloads as something to read from.

use std::{
    fmt::Write as _,
    io::{self, Read},
};

use reqwest::{Method, Response};
use strongroom_api::{ArchiveFormat, FileListing, FileReport, OfVolume, PointVolumes};
use strongroom_base::Cancel;

use crate::{Client, ClientError, http::Sent};

type Result<T> = std::result::Result<T, ClientError>;

/// Files of a page of a list.
const PAGE: usize = 10_000;

/// Which file of which recovery point.
#[derive(Clone, Debug)]
pub struct FileQuery {
    /// The item: its name or id.
    pub item: String,
    /// The recovery point: its id, or `latest`.
    pub point: String,
    /// The volume, as far as it is named.
    pub of: OfVolume,
    /// The path: bytes, as file systems have them.
    pub path: Vec<u8>,
}

/// What is downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileDownload {
    /// The bytes of a file.
    Content,
    /// An archive.
    Archive(ArchiveFormat),
    /// A line of JSON for each file.
    Tree,
}

/// A download, to be read from. What ends too early is an error, not an end.
#[derive(Debug)]
pub struct Download<'a> {
    client: &'a Client,
    response: Response,
    request: String,
    cancel: Cancel,
    /// Bytes that came and were not taken.
    left: Vec<u8>,
    taken: usize,
    failed: Option<ClientError>,
}

impl FileQuery {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let OfVolume { disk, partition, volume } = &self.of;
        let mut parameters = Vec::new();
        parameters.extend(disk.clone().map(|it| ("disk", it)));
        parameters.extend(partition.map(|it| ("partition", it.to_string())));
        parameters.extend(volume.clone().map(|it| ("volume", it)));
        parameters.push(match std::str::from_utf8(&self.path) {
            Ok(path) if !path.contains('\0') => ("path", path.to_owned()),
            _ => ("path_hex", hex(&self.path)),
        });
        parameters
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

impl Client {
    /// The file systems of a recovery point.
    pub fn point_volumes(&self, item: &str, point: &str) -> Result<PointVolumes> {
        self.get(&["items", item, "recovery-points", point, "volumes"], &[])
    }

    /// A folder of a recovery point with all that is in it, or a file.
    pub fn list_files(&self, file: &FileQuery, xattrs: bool) -> Result<FileListing> {
        let path = ["items", &file.item, "recovery-points", &file.point, "files"];
        let mut query = file.parameters();
        query.push(("limit", PAGE.to_string()));
        if xattrs {
            query.push(("xattrs", "true".to_owned()));
        }
        let mut whole: FileListing = self.get(&path, &query)?;
        while let Some(token) = whole.next_page_token.take() {
            let mut next = query.clone();
            next.push(("page_token", token));
            let page: FileListing = self.get(&path, &next)?;
            if page.entries.is_empty() && page.next_page_token.is_some() {
                return Err(self.senseless("a page of a list is empty".to_owned()));
            }
            whole.entries.extend(page.entries);
            whole.next_page_token = page.next_page_token;
        }
        Ok(whole)
    }

    /// Begins a download.
    pub fn download(
        &self,
        file: &FileQuery,
        what: FileDownload,
        cancel: &Cancel,
    ) -> Result<Download<'_>> {
        let last = match what {
            FileDownload::Content => "content",
            FileDownload::Archive(_) => "archive",
            FileDownload::Tree => "tree",
        };
        let path = ["items", &file.item, "recovery-points", &file.point, "files", last];
        let mut query = file.parameters();
        if let FileDownload::Archive(format) = what {
            query.push(("format", format.name().to_owned()));
        }
        let sent = Sent { method: Method::GET, path: &path, query: &query, body: None };
        let response = self.runtime.block_on(self.send(&sent))?;
        let request = response.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        let request = request.unwrap_or_default().to_owned();
        let (left, cancel) = (Vec::new(), cancel.clone());
        Ok(Download { client: self, response, request, cancel, left, taken: 0, failed: None })
    }
}

impl Download<'_> {
    /// What became of it: asked once all was read, or reading failed. If the server says why it failed, that is the
    /// error.
    pub fn report(self) -> Result<FileReport> {
        let Self { client, request, failed, .. } = self;
        if matches!(failed, Some(ClientError::Interrupted)) {
            return Err(ClientError::Interrupted);
        }
        let report: Result<FileReport> = client.get(&["file-reports", &request], &[]);
        match (report, failed) {
            (Ok(FileReport { error: Some(error), .. }), _) => {
                Err(ClientError::Answer(Box::new(error)))
            }
            (_, Some(failed)) => Err(failed),
            (Ok(report), None) if !report.complete => {
                Err(client.senseless("a download is not complete".to_owned()))
            }
            (report, None) => report,
        }
    }

    fn more(&mut self) -> Result<bool> {
        if self.cancel.is_cancelled() {
            return Err(ClientError::Interrupted);
        }
        let (client, response, cancel) = (self.client, &mut self.response, self.cancel.clone());
        let chunk = client.runtime.block_on(async {
            tokio::select! {
                chunk = response.chunk() => chunk.map_err(|error| client.unreached(error)),
                () = cancel.cancelled() => Err(ClientError::Interrupted),
            }
        })?;
        match chunk {
            Some(bytes) => {
                (self.left, self.taken) = (bytes.to_vec(), 0);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.taken >= self.left.len() {
            match self.more() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => {
                    let words = error.to_string();
                    self.failed = Some(error);
                    return Err(io::Error::other(words));
                }
            }
        }
        let rest = self.left.get(self.taken..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.taken = self.taken.saturating_add(len);
        Ok(len)
    }
}
