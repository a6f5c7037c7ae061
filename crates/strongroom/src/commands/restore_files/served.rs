//! The same through a server: its answers as the commands show them.

use std::io::{self, BufRead as _, BufReader, Read as _, Write};

use jiff::Timestamp;
use strongroom_api::{
    ArchiveFormat, FileLine, FileListing, FileReport, OfVolume, PointState, PointVolumes,
    RecoveryPoint,
};
use strongroom_base::{Cancel, PointId};
use strongroom_client::{Client, ClientError, Download, FileDownload, FileQuery};
use strongroom_files::{Attributes, Kind, Time};

use crate::{
    commands::service::{common::find_item, point::find_point},
    context::Context,
    error::{FaceError, Failure},
    values::Point,
};

use super::WhereArgs;

/// The longest line of a list of files.
const LINE_MAX: u64 = 1 << 20;

/// A recovery point at a server, and which volume of it is meant.
pub(super) struct Served {
    client: Client,
    item: String,
    point: String,
    of: OfVolume,
    cancel: Cancel,
}

/// A file of a list, or what could not be read and why.
pub(super) type Listed = Result<(Vec<u8>, Attributes), (Vec<u8>, String)>;

impl Served {
    /// The point that is named.
    pub(super) fn new(context: &Context, place: &WhereArgs) -> Result<Self, Failure> {
        let client = context.client()?;
        let item = find_item(&client, &place.point.item, place.point.of.vault())?;
        let point = find_point(&client, &item, place.point.recovery_point)?;
        let of = OfVolume {
            disk: place.disk.clone(),
            partition: place.partition,
            volume: place.volume.clone(),
        };
        Ok(Self { client, item, point, of, cancel: context.cancel.clone() })
    }

    /// The ids of the item's points that can be read, oldest first.
    pub(super) fn points(&self) -> Result<Vec<PointId>, Failure> {
        let restorable = Some(PointState::Restorable);
        let points: Vec<RecoveryPoint> = self.client.points(&self.item, restorable).all()?;
        let mut points: Vec<PointId> = points.iter().map(|point| point.id).collect();
        points.sort_unstable();
        Ok(points)
    }

    /// The id of the point that is named.
    pub(super) fn point(&self) -> Result<PointId, Failure> {
        Ok(self.client.point(&self.item, &self.point)?.id)
    }

    /// The id and the time of a point of the item.
    pub(super) fn moment(&self, point: &str) -> Result<(PointId, Timestamp), Failure> {
        let point = self.client.point(&self.item, point)?;
        Ok((point.id, point.time))
    }

    /// The name of another point of the item.
    pub(super) fn find(&self, point: Point) -> Result<String, Failure> {
        find_point(&self.client, &self.item, point)
    }

    /// What is on the disks.
    pub(super) fn volumes(&self) -> Result<PointVolumes, Failure> {
        Ok(self.client.point_volumes(&self.item, &self.point)?)
    }

    /// A folder, or a file.
    pub(super) fn list(&self, path: Vec<u8>, xattrs: bool) -> Result<FileListing, Failure> {
        Ok(self.client.list_files(&self.query(&self.point, path), xattrs)?)
    }

    fn query(&self, point: &str, path: Vec<u8>) -> FileQuery {
        FileQuery { item: self.item.clone(), point: point.to_owned(), of: self.of.clone(), path }
    }

    /// Begins an archive of all below a path.
    pub(super) fn archive(
        &self,
        path: Vec<u8>,
        format: ArchiveFormat,
    ) -> Result<Download<'_>, Failure> {
        let query = self.query(&self.point, path);
        Ok(self.client.download(&query, FileDownload::Archive(format), &self.cancel)?)
    }

    /// Gives each file below a path of a point.
    pub(super) fn tree(
        &self,
        point: &str,
        path: Vec<u8>,
        each: &mut dyn FnMut(Listed),
    ) -> Result<(), Failure> {
        let query = self.query(point, path);
        let download = self.client.download(&query, FileDownload::Tree, &self.cancel)?;
        let mut lines = BufReader::new(download);
        loop {
            let mut line = Vec::new();
            let read = lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
            if read.is_err() || line.is_empty() {
                break;
            }
            let Ok(line) = serde_json::from_slice::<FileLine>(&line) else {
                let server = self.client.server().to_owned();
                let reason = "a line of a list of files is none".to_owned();
                return Err(ClientError::Protocol { server, reason }.into());
            };
            each(listed(line));
        }
        // Why it ended.
        lines.into_inner().report()?;
        Ok(())
    }
}

/// Copies a download, and says what became of it.
pub(super) fn copy(
    mut download: Download<'_>,
    to: &mut dyn Write,
    place: &str,
) -> Result<FileReport, Failure> {
    let mut buf = vec![0; 256 << 10];
    loop {
        let len = match io::Read::read(&mut download, &mut buf) {
            Ok(0) | Err(_) => break,
            Ok(len) => len,
        };
        let failed = |source| FaceError::Local { path: place.into(), action: "write", source };
        to.write_all(buf.get(..len).unwrap_or_default()).map_err(failed)?;
    }
    let report = download.report()?;
    let failed = |source| FaceError::Local { path: place.into(), action: "write", source };
    to.flush().map_err(failed)?;
    Ok(report)
}

fn listed(line: FileLine) -> Listed {
    let path = line.path_hex.as_deref().and_then(bytes);
    let path = path.unwrap_or_else(|| line.path.clone().into_bytes());
    let Some(kind) = line.kind else {
        return Err((path, line.problem.unwrap_or_default()));
    };
    let kind = match kind {
        strongroom_api::FileKind::File => Kind::File,
        strongroom_api::FileKind::Folder => Kind::Folder,
        strongroom_api::FileKind::Link => Kind::Link,
        strongroom_api::FileKind::Pipe => Kind::Pipe,
        strongroom_api::FileKind::Socket => Kind::Socket,
        strongroom_api::FileKind::CharacterDevice => Kind::CharacterDevice,
        strongroom_api::FileKind::BlockDevice => Kind::BlockDevice,
        strongroom_api::FileKind::Subvolume => Kind::Subvolume,
    };
    let modified = line.modified.map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
    let attributes = Attributes {
        mode: line.mode,
        uid: line.uid,
        gid: line.gid,
        modified,
        device: line.device,
        ..Attributes::bare(kind, line.size_bytes.unwrap_or(0))
    };
    Ok((path, attributes))
}

/// The bytes of hexadecimal digits.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let pairs = hex.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some((digit(high)? << 4) | digit(low)?),
        _ => None,
    });
    pairs.collect()
}
