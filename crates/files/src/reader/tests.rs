//! A process that lies: a thread that answers in its place.

use std::{fs, os::unix::net::UnixStream, path::Path};

use strongroom_base::{Cancel, Coded as _, start_thread};

use super::*;
use crate::{
    deliver::{Delivered, Options, deliver},
    survey::Volume,
    walk::Files,
};

/// A reader that such a process answers, until it gives none.
fn lied_to(mut answers: impl FnMut(Request) -> Option<Vec<Answer>> + Send + 'static) -> FileReader {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    start_thread("liar", move || {
        let mut line = Line::new(theirs);
        while let Ok(request) = line.hear() {
            let Some(said) = answers(request) else { return };
            for answer in said {
                let is_data = matches!(answer, Answer::Data);
                line.say(&answer).expect("said");
                if is_data {
                    line.give(b"0123456789").expect("given");
                }
            }
        }
    });
    let bytes: Arc<dyn ReadAt> = Arc::new(vec![7_u8; 4096]);
    FileReader {
        child: None,
        line: Line::new(ours),
        disks: vec![NamedDisk { name: "vda".to_owned(), bytes }],
        patience: Duration::from_millis(500),
        end: None,
        ahead: None,
        unread: None,
        broken: None,
    }
}

fn volume() -> Volume {
    Volume {
        index: 0,
        disk: Some(0),
        partition: None,
        logical: None,
        offset: Some(0),
        size: 4096,
        scheme: None,
        name: None,
        file_system: Some("ext4".to_owned()),
        label: None,
        uuid: None,
        refusal: None,
        notes: vec![],
    }
}

fn entry(name: &[u8], node: u64, kind: crate::Kind, size: u64) -> Entry {
    let mut attributes = Attributes::bare(kind, size);
    attributes.mode = Some(0o4755);
    Entry { name: name.to_vec(), node, attributes: Ok(attributes) }
}

/// Delivers all of a file system whose uppermost folder has these entries.
fn delivered(to: &Path, entries: &[Entry]) -> Delivered {
    try_to_deliver(to, entries).expect("delivered")
}

fn try_to_deliver(to: &Path, entries: &[Entry]) -> Result<Delivered, FilesError> {
    let entries = entries.to_vec();
    let mut reader = lied_to(move |request| {
        Some(match request {
            Request::Open { .. } => vec![Answer::Opened { root: 1, notes: vec![] }],
            Request::Attributes { .. } => {
                vec![Answer::Attributes(Attributes::bare(crate::Kind::Folder, 0))]
            }
            Request::List { node: 1 } => vec![Answer::Entries(entries.clone()), Answer::End],
            // Every other folder has itself in it, and a file.
            Request::List { node } => vec![
                Answer::Entries(vec![
                    entry(b"file", 100, crate::Kind::File, 10),
                    entry(b"again", node, crate::Kind::Folder, 0),
                ]),
                Answer::End,
            ],
            Request::Read { node: 100, .. } => vec![Answer::Data],
            Request::Read { node: 101, .. } => vec![Answer::Hole(0)],
            Request::Target { .. } => vec![Answer::Target(b"/".to_vec())],
            Request::Xattrs { .. } => {
                vec![Answer::Xattrs(vec![(b"security.capability".to_vec(), vec![1])])]
            }
            _ => return None,
        })
    });
    let mut files = Files::open(&mut reader, &volume()).expect("opens");
    let all = files.locate(b"/").expect("found");
    let cancel = Cancel::new();
    deliver(&mut files, &all, to, Options::default(), &cancel)
}

#[test]
fn names_do_not_lead_out_of_the_folder() {
    use crate::Kind::{File, Folder, Link};
    let outer = tempfile::tempdir().expect("a folder");
    let to = outer.path().join("to");
    let long = [b'x'; 300];
    let mut entries: Vec<Entry> =
        [&b"../escaped"[..], b"..", b".", b"", b"a/b", b"nul\0", b"/abs", &long]
            .iter()
            .map(|name| entry(name, 100, File, 10))
            .collect();
    entries.push(entry(b"good", 100, File, 10));
    // A link to the uppermost folder of this machine, and then a folder of the same name.
    entries.push(entry(b"twice", 5, Link, 1));
    entries.push(entry(b"twice", 6, Folder, 0));
    let done = delivered(&to, &entries);
    let names: Vec<_> = fs::read_dir(outer.path())
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["to"]);
    let mut inside: Vec<_> =
        fs::read_dir(&to).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    inside.sort();
    assert_eq!(inside, ["good", "twice"]);
    assert_eq!(fs::read(to.join("good")).expect("a file"), b"0123456789");
    assert_eq!(fs::read_link(to.join("twice")).expect("a link"), Path::new("/"));
    assert!(!Path::new("/file").exists());
    // Eight names, the folder; of the good file its set-user-id bit and its capability.
    assert_eq!(done.problem_count, 11, "{:?}", done.problems);
    let mode =
        std::os::unix::fs::MetadataExt::mode(&fs::metadata(to.join("good")).expect("a file"));
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn a_folder_in_itself_ends() {
    let to = tempfile::tempdir().expect("a folder");
    let folders =
        [entry(b"loop", 7, crate::Kind::Folder, 0), entry(b"other", 7, crate::Kind::Folder, 0)];
    let done = delivered(to.path(), &folders);
    assert_eq!(done.files, 1);
    let damaged = done.problems.iter().filter(|it| it.code == Some("files.damaged")).count();
    assert_eq!(damaged, 2, "{:?}", done.problems);
}

#[test]
fn a_short_file_is_an_error_and_not_there() {
    let to = tempfile::tempdir().expect("a folder");
    let done = delivered(to.path(), &[entry(b"short", 101, crate::Kind::File, 50)]);
    assert_eq!((done.files, done.problem_count), (0, 1));
    assert_eq!(done.problems[0].code, Some("files.damaged"));
    assert!(!to.path().join("short").exists());
}

/// Node 102 is none that it answers: it ends there.
#[test]
fn one_that_ends_in_the_middle_leaves_no_short_file() {
    use crate::Kind::File;
    let to = tempfile::tempdir().expect("a folder");
    let files =
        [entry(b"a", 100, File, 10), entry(b"b", 102, File, 10), entry(b"c", 100, File, 10)];
    let error = try_to_deliver(to.path(), &files).expect_err("it ends");
    assert_eq!(error.code().name, "files.reader");
    assert!(error.to_string().starts_with("/b: "), "{error}");
    let names: Vec<_> = fs::read_dir(to.path())
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["a"]);
}

#[test]
fn what_it_may_not_have_ends_it() {
    for (disk, len) in [(1, 10), (0, 2 << 20)] {
        let mut reader = lied_to(move |_| Some(vec![Answer::Need { disk, offset: 0, len }]));
        let error = reader.survey().expect_err("refused");
        assert!(error.to_string().contains("bytes that it may not have"), "{error}");
        assert_eq!(error.code().name, "files.reader");
        // It is asked nothing more.
        assert!(reader.survey().is_err());
    }
}

#[test]
fn more_bytes_than_were_asked_for_are_refused() {
    let mut reader = lied_to(|_| Some(vec![Answer::Data]));
    let mut buf = [0; 4];
    let error = reader.read(b"/file", 1, 0, &mut buf).expect_err("refused");
    assert_eq!(error.code().name, "files.reader");
    assert_eq!(buf, [0; 4]);
}

#[test]
fn one_that_ends_or_is_silent_is_an_error_of_the_path() {
    let mut reader = lied_to(|_| None);
    let error = reader.list(b"/some/folder", 1).expect_err("refused");
    assert!(error.to_string().starts_with("/some/folder: "), "{error}");
    let mut reader = lied_to(|_| Some(vec![]));
    let error = reader.list(b"/some/folder", 1).expect_err("refused");
    assert!(error.to_string().ends_with("did not answer within 0.5 seconds"), "{error}");
}

#[test]
fn a_disk_that_cannot_be_read_is_to_blame() {
    let mut reader = lied_to(|_| {
        let fault = Fault::damaged("bad");
        let need = Answer::Need { disk: 0, offset: 1 << 40, len: 10 };
        Some(vec![need, Answer::Failed(fault)])
    });
    // The thread does not listen, so the answer to its need is the next request that it hears: it ends.
    let error = reader.attributes(b"/", 1).expect_err("refused");
    assert_eq!(error.code().name, "disk.io");
}
