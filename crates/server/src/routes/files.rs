//! Files of recovery points: listed, and sent as streams.
//!
//! Names come from strangers. In a header they are letters of ASCII, or escaped; what is sent is never of a type that
//! a browser would show.

use std::{fmt::Write as _, io};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use strongroom_api::{
    ArchiveFormat, ErrorAnswer, FileLine, FileListing, FileReport, OfVolume, PointVolumes,
};
use strongroom_base::message;
use strongroom_control::FileDownload;
use strongroom_orders::{ByteAsk, FileAsk, FileHead, FileStream, ListAsk, Part};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Done, Failure, REQUEST},
    extract::{Names, NoParams, Params, Who},
    state::App,
};

/// Files of a page, if nothing else is said, and at most.
const PAGE: u16 = 1000;
const PAGE_MAX: u16 = 10_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_point_volumes))
        .routes(routes!(list_files))
        .routes(routes!(read_file))
        .routes(routes!(archive_files))
        .routes(routes!(list_file_tree))
        .routes(routes!(get_file_report))
}

/// List the file systems of a recovery point
///
/// The answer names disks without partitions, partitions and logical volumes, and whether their files can be read.
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}/volumes", tag = "files",
    responses((status = 200, description = "The file systems.", body = PointVolumes)),
    extensions(("x-operation" = json!("item.read_files"))))]
async fn list_point_volumes(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    _: Params<NoParams>,
) -> Done<Json<PointVolumes>> {
    Ok(Json(app.control.point_volumes(&caller, &item, &point).await?))
}

/// Which files, and which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// The disk; not needed if only one file system can be read.
    disk: Option<String>,
    /// The number of the partition.
    partition: Option<u32>,
    /// `GROUP/NAME` of a logical volume (LVM).
    volume: Option<String>,
    /// The path; `/` if not given.
    path: Option<String>,
    /// The bytes of a path that is not UTF-8, in hexadecimal digits; instead of `path`.
    #[param(pattern = "^([0-9a-f]{2})+$")]
    path_hex: Option<String>,
    /// Whether with extended attributes, access control lists among them.
    xattrs: Option<bool>,
    /// Maximum number of files on a page: 1 to 10000; 1000 if not given.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u16>,
    /// The `next_page_token` of the page before.
    #[param(pattern = "^([0-9a-f]{2})+$")]
    page_token: Option<String>,
}

/// List a folder of a recovery point, or a file
///
/// Files are listed by name. Links in the path are followed inside of the file system, the path's last part is not.
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}/files", tag = "files",
    params(ListParams),
    responses((status = 200, description = "One page of the folder.", body = FileListing)),
    extensions(("x-operation" = json!("item.read_files"))))]
async fn list_files(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    Params(params): Params<ListParams>,
) -> Done<Json<FileListing>> {
    let ListParams { disk, partition, volume, path, path_hex, .. } = params;
    let file = file((disk, partition, volume), path, path_hex)?;
    let limit = match params.limit.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => usize::from(limit),
        _ => return Err(Failure::invalid("the parameters: limit is not 1 to 10000")),
    };
    let wrong = || {
        Failure::new(&strongroom_base::codes::REQUEST_PAGE_TOKEN, "the token is not of this list")
    };
    let after = params.page_token.map(|token| bytes(&token).ok_or_else(wrong)).transpose()?;
    let ask = ListAsk { after, limit, xattrs: params.xattrs.unwrap_or(false) };
    Ok(Json(app.control.list_files(&caller, &item, &point, file, ask).await?))
}

/// Which files.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FileParams {
    /// The disk; not needed if only one file system can be read.
    disk: Option<String>,
    /// The number of the partition.
    partition: Option<u32>,
    /// `GROUP/NAME` of a logical volume (LVM).
    volume: Option<String>,
    /// The path; `/` if not given.
    path: Option<String>,
    /// The bytes of a path that is not UTF-8, in hexadecimal digits; instead of `path`.
    #[param(pattern = "^([0-9a-f]{2})+$")]
    path_hex: Option<String>,
}

impl FileParams {
    fn file(self) -> Done<FileAsk> {
        file((self.disk, self.partition, self.volume), self.path, self.path_hex)
    }
}

/// Download a file of a recovery point
///
/// A link is followed inside of the file system. A `Range` of bytes (`bytes=FIRST-LAST`, `bytes=FIRST-`, `bytes=-COUNT` for
/// the end of the file) is honoured; several ranges, other units and what is no range are ignored, and so is a range with
/// `If-Range`. If the file cannot be read to its end, the answer is cut off before the length that it names.
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}/files/content", tag = "files",
    params(FileParams),
    responses(
        (status = 200, description = "The bytes of the file.", content_type = "application/octet-stream", body = String),
        (status = 206, description = "The part of the file that `Range` names.", content_type = "application/octet-stream", body = String),
        (status = 416, description = "The file has none of the bytes that `Range` names: `Content-Range` has its size.", body = ErrorAnswer)),
    extensions(("x-operation" = json!("item.read_files"))))]
async fn read_file(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    Params(params): Params<FileParams>,
    method: Method,
    headers: HeaderMap,
) -> Done<Response> {
    let what = FileStream::Content { range: range(&method, &headers) };
    let download = begin(&app, &caller, (&item, &point), params.file()?, what).await?;
    Ok(answer(download, "application/octet-stream"))
}

/// Which files, and how they are packed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ArchiveParams {
    /// The disk; not needed if only one file system can be read.
    disk: Option<String>,
    /// The number of the partition.
    partition: Option<u32>,
    /// `GROUP/NAME` of a logical volume (LVM).
    volume: Option<String>,
    /// The path; `/` if not given.
    path: Option<String>,
    /// The bytes of a path that is not UTF-8, in hexadecimal digits; instead of `path`.
    #[param(pattern = "^([0-9a-f]{2})+$")]
    path_hex: Option<String>,
    /// The form of the archive; `tar` if not given.
    format: Option<ArchiveFormat>,
}

/// Download a folder of a recovery point with all that is in it, or a file, as an archive
///
/// Files that cannot be read are left out: `/v1/file-reports/{request}` lists them once the answer has ended, and a zip
/// archive lists them in itself. If the archive cannot be written to its end, the answer is cut off: over HTTP/1.1
/// without the last chunk, over HTTP/2 with a reset of the stream.
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}/files/archive", tag = "files",
    params(ArchiveParams),
    responses((status = 200, description = "The archive.",
        content((String = "application/x-tar"), (String = "application/zip")))),
    extensions(("x-operation" = json!("item.read_files"))))]
async fn archive_files(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    Params(params): Params<ArchiveParams>,
) -> Done<Response> {
    let ArchiveParams { disk, partition, volume, path, path_hex, format } = params;
    let file = file((disk, partition, volume), path, path_hex)?;
    let format = format.unwrap_or(ArchiveFormat::Tar);
    let what = FileStream::Archive(format);
    let download = begin(&app, &caller, (&item, &point), file, what).await?;
    Ok(answer(
        download,
        match format {
            ArchiveFormat::Tar => "application/x-tar",
            ArchiveFormat::Zip => "application/zip",
        },
    ))
}

/// List all files below a path of a recovery point
///
/// One JSON object (`FileLine`) per line, a folder before what is in it. If the tree cannot be read to its end, the
/// answer is cut off.
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}/files/tree", tag = "files",
    params(FileParams),
    responses((status = 200, description = "The files, one JSON object per line.", content_type = "application/x-ndjson",
        body = FileLine)),
    extensions(("x-operation" = json!("item.read_files"))))]
async fn list_file_tree(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    Params(params): Params<FileParams>,
) -> Done<Response> {
    let tree = FileStream::Tree;
    let download = begin(&app, &caller, (&item, &point), params.file()?, tree).await?;
    Ok(answer(download, "application/x-ndjson"))
}

/// Show what became of a download of files
///
/// For 15 minutes after its end, to the user who asked for it; until the server stops.
#[utoipa::path(get, path = "/file-reports/{request}", tag = "files",
    responses((status = 200, description = "The report.", body = FileReport)))]
async fn get_file_report(
    State(app): State<App>,
    Who(caller): Who,
    Names(request): Names<String>,
    _: Params<NoParams>,
) -> Done<Json<FileReport>> {
    Ok(Json(app.control.file_report(&caller, &request)?))
}

/// The file that is meant.
fn file(
    (disk, partition, volume): (Option<String>, Option<u32>, Option<String>),
    path: Option<String>,
    path_hex: Option<String>,
) -> Done<FileAsk> {
    let wrong = |words| Err(Failure::invalid(words));
    let path = match (path, path_hex) {
        (Some(_), Some(_)) => return wrong("the parameters: path and path_hex exclude each other"),
        (None, None) => b"/".to_vec(),
        (Some(path), None) => path.into_bytes(),
        (None, Some(hex)) => match bytes(&hex) {
            Some(path) => path,
            None => return wrong("the parameters: path_hex is not pairs of hexadecimal digits"),
        },
    };
    if path.is_empty() {
        return wrong("the parameters: the path is empty; the uppermost folder is /");
    }
    if partition.is_some() && volume.is_some() {
        return wrong("the parameters: partition and volume exclude each other");
    }
    Ok(FileAsk { of: OfVolume { disk, partition, volume }, path })
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

/// The part that is asked for (RFC 9110, 14.2): one range of bytes. Several, those of other units, what is no range, and one
/// that is to hold for a version only (`If-Range`; files have none here) are not asked for.
fn range(method: &Method, headers: &HeaderMap) -> Option<ByteAsk> {
    if method != Method::GET || headers.contains_key(header::IF_RANGE) {
        return None;
    }
    let mut values = headers.get_all(header::RANGE).iter();
    let (text, more) = (values.next()?.to_str().ok()?, values.next());
    let (unit, text) = text.split_once('=').filter(|_| more.is_none())?;
    let (first, last) = text.trim_matches([' ', '\t']).split_once('-')?;
    // A number that is too large lies beyond every end.
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let ask = match (first, last) {
        ("", last) => ByteAsk::Last(number(last)?),
        (first, "") => ByteAsk::From { first: number(first)?, last: None },
        (first, last) => ByteAsk::From { first: number(first)?, last: Some(number(last)?) },
    };
    let is_backwards = matches!(ask, ByteAsk::From { first, last: Some(last) } if last < first);
    (unit.eq_ignore_ascii_case("bytes") && !is_backwards).then_some(ask)
}

async fn begin(
    app: &App,
    caller: &strongroom_control::rights::Caller,
    of: (&str, &str),
    file: FileAsk,
    what: FileStream,
) -> Done<FileDownload> {
    let request = REQUEST.try_with(ToString::to_string).unwrap_or_default();
    let tasks = app.tasks.clone();
    // The server waits for the record of its end.
    let start = |work| drop(tasks.spawn(work));
    Ok(app.control.send_files(caller, of, file, what, request, start).await?)
}

/// What is sent, as an answer.
fn answer(download: FileDownload, kind: &'static str) -> Response {
    let FileHead { name, size, part } = download.head.clone();
    if part == Part::Nothing {
        return unsatisfiable(size.unwrap_or_default());
    }
    let body = stream::unfold(download, |mut download| async move {
        let part = download.next().await?;
        let part: io::Result<Bytes> = part.map(Bytes::from);
        if let Err(error) = &part {
            tracing::warn!(%error, "a download broke off");
        }
        Some((part, download))
    });
    let mut answer = Body::from_stream(body).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    insert(headers, header::CONTENT_DISPOSITION, &disposition(&name, kind));
    if let Some(size) = size {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let mut length = size;
        if let Part::Bytes(first, end) = part {
            length = end.saturating_sub(first);
            let last = end.saturating_sub(1);
            insert(headers, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        if part != Part::Whole {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
    }
    answer
}

/// A header whose value is made here, and so has only letters that one may have.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// The answer when a file of this size has none of the bytes that are asked for.
fn unsatisfiable(size: u64) -> Response {
    let message = message!(
        REQUEST_RANGE,
        "the file has {size_bytes} bytes, and none of those that are asked for",
        size_bytes = size
    );
    let mut answer = Failure::from(message).into_response();
    insert(answer.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{size}"));
    answer
}

/// Under which name a browser keeps it: one of letters for old clients, and the real one, escaped.
fn disposition(name: &[u8], kind: &str) -> String {
    let text = String::from_utf8_lossy(name);
    let is_archive = matches!(kind, "application/x-tar" | "application/zip");
    // An archive of the uppermost folder has only its ending.
    let text = match text.as_ref() {
        "" => "files".to_owned(),
        ending if is_archive && ending.starts_with('.') && ending.matches('.').count() == 1 => {
            format!("files{ending}")
        }
        text => text.to_owned(),
    };
    let safe = |c: char| !c.is_control() && !matches!(c, '/' | '\\');
    let text: String = text.chars().map(|c| if safe(c) { c } else { '_' }).take(200).collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ');
    let old: String = text.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").ok();
        }
    }
    format!("attachment; filename=\"{old}\"; filename*=UTF-8''{escaped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_understood_and_all_else_is_not_asked_for() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::try_from(text).expect("a value"));
            range(&Method::GET, &headers)
        };
        let from = |first, last| Some(ByteAsk::From { first, last });
        assert_eq!(of("bytes=0-0"), from(0, Some(0)));
        assert_eq!(of("bytes=100-"), from(100, None));
        assert_eq!(of("BYTES= 5-9\t"), from(5, Some(9)));
        assert_eq!(of("bytes=-500"), Some(ByteAsk::Last(500)));
        assert_eq!(of("bytes=-0"), Some(ByteAsk::Last(0)));
        assert_eq!(of("bytes=99999999999999999999-"), from(u64::MAX, None));
        assert_eq!(of("bytes=1-99999999999999999999"), from(1, Some(u64::MAX)));
        for other in [
            "bytes=0-1,3-4",
            "bytes=0-1,",
            "bytes=-5,0-1",
            "bytes=-",
            "bytes=",
            "bytes",
            "",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=--5",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=1 - 2",
            "items=0-1",
            "0-1",
            "bytes=0x1-2",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(range(&Method::HEAD, &headers), None);
        headers.append(header::RANGE, HeaderValue::from_static("bytes=2-3"));
        assert_eq!(range(&Method::GET, &headers), None);
        headers.remove(header::RANGE);
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"x\""));
        assert_eq!(range(&Method::GET, &headers), None);
    }

    #[test]
    fn names_in_headers_are_harmless() {
        let of = |name: &[u8]| disposition(name, "application/octet-stream");
        assert_eq!(of(b"a.txt"), "attachment; filename=\"a.txt\"; filename*=UTF-8''a.txt");
        assert_eq!(
            of(b"a\"; x=\"\r\nSet-Cookie: b"),
            "attachment; filename=\"a__ x____Set-Cookie_ b\"; filename*=UTF-8''a%22%3B%20x%3D%22__Set-Cookie%3A%20b"
        );
        assert_eq!(
            of("\u{e9}/..\\".as_bytes()),
            "attachment; filename=\"__.._\"; filename*=UTF-8''%C3%A9_.._"
        );
        assert_eq!(of(b""), "attachment; filename=\"files\"; filename*=UTF-8''files");
        let tar = disposition(b".tar", "application/x-tar");
        assert_eq!(tar, "attachment; filename=\"files.tar\"; filename*=UTF-8''files.tar");
    }

    #[test]
    fn bytes_of_digits() {
        assert_eq!(bytes("2fff"), Some(vec![0x2f, 0xff]));
        assert_eq!((bytes("2f0"), bytes("zz"), bytes("")), (None, None, Some(vec![])));
    }
}
