//! Files of recovery points: who may read them, what is recorded, and what ends a reader.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use strongroom_api::{
    self as api, ErrorBody, FileListing, FileReport, OfVolume, PointVolumes, Role, Scope,
};
use strongroom_base::{UserId, codes};
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_control::{
    FileDownload,
    rights::{Caller, Grant},
};
use strongroom_orders::{
    FileAsk, FileHead, FileSink, FileStream, FilesOf, Leash, ListAsk, Part, PointFiles, Result,
    SentFiles,
};

use crate::world::World;

on_both_databases! { downloads_are_recorded, only_who_may_restore_reads_files }

/// Readers of this many questions are at work.
static AT_WORK: AtomicU32 = AtomicU32::new(0);

/// Files by what their path says.
pub(crate) struct Files;

fn fails() -> Box<ErrorBody> {
    Box::new(ErrorBody::new(&codes::FILES_DAMAGED, "it contradicts itself"))
}

impl PointFiles for Files {
    fn volumes(&self, _: &FilesOf, _: &Leash) -> Result<PointVolumes> {
        Ok(PointVolumes { volumes: Vec::new(), unread: None })
    }

    fn list(&self, of: &FilesOf, file: &FileAsk, _: &ListAsk, _: &Leash) -> Result<FileListing> {
        Ok(FileListing {
            of: OfVolume::default(),
            file_system: of.item.clone(),
            path: String::from_utf8_lossy(&file.path).into_owned(),
            path_hex: None,
            notes: Vec::new(),
            entries: Vec::new(),
            next_page_token: None,
        })
    }

    fn send(
        &self,
        _: &FilesOf,
        file: &FileAsk,
        _: FileStream,
        to: &mut dyn FileSink,
        leash: &Leash,
    ) -> Result<SentFiles> {
        let path = file.path.as_slice();
        if path == b"/missing" {
            return Err(fails());
        }
        to.begin(FileHead { name: b"x".to_vec(), size: None, part: Part::Whole });
        AT_WORK.fetch_add(1, Ordering::SeqCst);
        let mut sent = to.write_all(b"first");
        while path == b"/endless" && sent.is_ok() && !leash.cancel().is_cancelled() {
            sent = to.write_all(&[0; 4096]);
        }
        AT_WORK.fetch_sub(1, Ordering::SeqCst);
        if path != b"/good" || sent.is_err() {
            return Err(fails());
        }
        Ok(SentFiles { report: FileReport { complete: true, files: 1, ..FileReport::default() } })
    }
}

fn ask(path: &str) -> FileAsk {
    let of = OfVolume { disk: Some("root".to_owned()), ..OfVolume::default() };
    FileAsk { of, path: path.as_bytes().to_vec() }
}

/// Begins a download; its work is a task of its own.
async fn begin(
    world: &World,
    caller: &Caller,
    path: &str,
) -> strongroom_control::Result<FileDownload> {
    let what = FileStream::Archive(api::ArchiveFormat::Tar);
    let start = |work| drop(tokio::spawn(work));
    let of = ("web", "latest");
    world.control.send_files(caller, of, ask(path), what, path.to_owned(), start).await
}

/// All that is sent, and whether it is whole.
async fn all(mut download: FileDownload) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while let Some(part) = download.next().await {
        match part {
            Ok(part) => bytes.extend(part),
            Err(_) => return (bytes, false),
        }
    }
    (bytes, true)
}

/// What the audit log says of files, the latest first: outcome, path, code.
async fn recorded(world: &World) -> Vec<(String, String, String)> {
    let entries = world.control.audit_entries(&world.admin, None, 1000).await.expect("entries");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let of_files = entries.into_iter().filter(|entry| entry.action == "item.read_files");
    of_files
        .map(|it| (it.outcome.clone(), text(&it.detail["path"]), text(&it.detail["code"])))
        .collect()
}

async fn scene(bed: Bed) -> World {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    world
}

async fn downloads_are_recorded(bed: Bed) {
    let world = scene(bed).await;
    let admin = world.admin.clone();
    assert_eq!(
        all(begin(&world, &admin, "/good").await.expect("begins")).await,
        (b"first".to_vec(), true)
    );
    let report = world.control.file_report(&admin, "/good").expect("a report");
    assert_eq!((report.complete, report.files, report.sent_bytes), (true, 1, 5));
    // What cannot be read to its end does not look whole.
    assert_eq!(
        all(begin(&world, &admin, "/torn").await.expect("begins")).await,
        (b"first".to_vec(), false)
    );
    let report = world.control.file_report(&admin, "/torn").expect("a report");
    assert_eq!(report.error.expect("why").code.as_str(), "files.damaged");
    assert!(!report.complete);
    let error = begin(&world, &admin, "/missing").await.err().expect("it is refused").body();
    assert_eq!(error.code.as_str(), "files.damaged");
    // A client that goes away ends its reader.
    let mut download = begin(&world, &admin, "/endless").await.expect("begins");
    download.next().await.expect("bytes").expect("bytes");
    assert_eq!(AT_WORK.load(Ordering::SeqCst), 1);
    drop(download);
    for _ in 0..1000 {
        if recorded(&world).await[0].0 == "abandoned" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let row = |outcome: &str, path: &str, code: &str| {
        (outcome.to_owned(), path.to_owned(), code.to_owned())
    };
    let damaged = "files.damaged";
    assert_eq!(
        recorded(&world).await,
        [
            row("abandoned", "/endless", damaged),
            row("allowed", "/endless", ""),
            row("failed", "/missing", damaged),
            row("allowed", "/missing", ""),
            row("failed", "/torn", damaged),
            row("allowed", "/torn", ""),
            row("completed", "/good", ""),
            row("allowed", "/good", ""),
        ]
    );
}

async fn only_who_may_restore_reads_files(bed: Bed) {
    let world = scene(bed).await;
    let caller = |role, scope| Caller {
        user: Some(UserId::from_bytes([7; 16])),
        name: "ann".to_owned(),
        grants: vec![Grant { role, scope }],
        limit: Grant { role: Role::VaultAdmin, scope: Scope::Server },
        token: None,
    };
    let reader = caller(Role::Reader, Scope::Server);
    let list = |caller: Caller, path: &'static str| {
        let control = Arc::clone(&world.control);
        async move {
            let ask_for = ListAsk { after: None, limit: 10, xattrs: false };
            control.list_files(&caller, "web", "latest", ask(path), ask_for).await
        }
    };
    let code = |error: strongroom_control::ControlError| error.body().code.to_string();
    let error = list(reader.clone(), "/etc").await.expect_err("refused");
    assert_eq!(code(error), "auth.forbidden");
    let error = begin(&world, &reader, "/good").await.err().expect("refused");
    assert_eq!(code(error), "auth.forbidden");
    let error = world.control.point_volumes(&reader, "web", "latest").await.expect_err("refused");
    assert_eq!(code(error), "auth.forbidden");
    let outside =
        caller(Role::Operator, Scope::Vault(strongroom_base::VaultId::from_bytes([9; 16])));
    let error = list(outside, "/etc").await.expect_err("not seen");
    assert_eq!(code(error), "item.unknown");
    // Looks at a point are recorded once in a while.
    let operator = caller(Role::Operator, Scope::Server);
    for path in ["/etc", "/etc/deep", "/home"] {
        assert_eq!(list(operator.clone(), path).await.expect("listed").path, path);
    }
    let recorded = recorded(&world).await;
    let outcomes: Vec<&str> = recorded.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(outcomes, ["allowed", "denied", "denied", "denied"]);
    assert_eq!(recorded[0].1, "/etc");
}
