//! A process that lies: a thread that answers in its place.

use std::{fs, os::unix::net::UnixStream, path::Path, process::Command};

use strongroom_base::{Cancel, Coded as _, start_thread};

use super::*;
use crate::{
    archive::archive,
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
        unread: Unread::default(),
        missed: None,
        broken: None,
        machine: None,
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
    attributes.uid = Some(rustix::process::geteuid().as_raw());
    attributes.gid = Some(rustix::process::getegid().as_raw());
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
                // That btrfs stored it compressed is nothing to deliver, and no problem.
                let stored = (b"btrfs.compression".to_vec(), b"zstd".to_vec());
                let power = (b"security.capability".to_vec(), vec![1]);
                vec![Answer::Xattrs(vec![power, stored])]
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

/// The output of a program that must succeed.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("utf-8")
}

/// What tar makes of an archive with lists of rights is what getfacl shows of the files that had them.
#[test]
fn tar_gives_access_control_lists_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("utf-8").to_owned();
    fs::create_dir_all(path("all/folder")).expect("folders");
    fs::write(path("all/folder/file"), "0123456789").expect("a file");
    output("setfacl", &["-m", "u:1000:rw-,u:65530:---,g:55:r--,m::rw-", &path("all/folder/file")]);
    output("setfacl", &["-m", "g:77:-w-", "-m", "d:u:1001:r-x,d:o::---", &path("all/folder")]);
    let lists = |name: &str| {
        let mut found = Vec::new();
        for key in ["system.posix_acl_access", "system.posix_acl_default"] {
            let mut buf = [0; 4096];
            if let Ok(len) = rustix::fs::getxattr(path(name), key, &mut buf[..]) {
                found.push((key.as_bytes().to_vec(), buf[..len].to_vec()));
            }
        }
        found.push((b"user.plain".to_vec(), b"plain".to_vec()));
        found
    };
    let (of_folder, of_file) = (lists("all/folder"), lists("all/folder/file"));
    let uids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let of = move |kind, mode| {
        let mut attributes = Attributes::bare(kind, 10);
        (attributes.mode, attributes.uid, attributes.gid) =
            (Some(mode), Some(uids.0), Some(uids.1));
        attributes
    };
    let mut reader = lied_to(move |request| {
        let file = Ok(of(crate::Kind::File, 0o664));
        let file = Entry { name: b"file".to_vec(), node: 3, attributes: file };
        let dir = Ok(of(crate::Kind::Folder, 0o775));
        let dir = Entry { name: b"folder".to_vec(), node: 2, attributes: dir };
        Some(match request {
            Request::Open { .. } => vec![Answer::Opened { root: 1, notes: vec![] }],
            Request::Find { .. } => vec![Answer::Found(Some(dir))],
            Request::Attributes { .. } => {
                vec![Answer::Attributes(dir.attributes.expect("known"))]
            }
            Request::List { .. } => vec![Answer::Entries(vec![file]), Answer::End],
            Request::Read { .. } => vec![Answer::Data],
            Request::Xattrs { node: 2 } => vec![Answer::Xattrs(of_folder.clone())],
            Request::Xattrs { .. } => vec![Answer::Xattrs(of_file.clone())],
            _ => return None,
        })
    });
    let mut files = Files::open(&mut reader, &volume()).expect("opens");
    let all = files.locate(b"/folder").expect("found");
    let mut packed = Vec::new();
    let done = archive(&mut files, &all, &mut packed, &Cancel::new()).expect("packed");
    assert_eq!(done.problems, []);
    fs::write(path("tar"), packed).expect("an archive");
    fs::create_dir(path("out")).expect("a folder");
    output("tar", &["-C", &path("out"), "--acls", "--xattrs", "-xpf", &path("tar")]);
    for name in ["folder", "folder/file"] {
        let shown = |top: &str| {
            let text = output("getfacl", &["-nc", &path(&format!("{top}/{name}"))]);
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(shown("out"), shown("all"), "{name}");
    }
    let mut plain = [0; 9];
    let len = rustix::fs::getxattr(path("out/folder/file"), "user.plain", &mut plain[..]);
    assert_eq!(plain[..len.expect("there")], *b"plain");
}

/// A disk of which nothing can be read, for a reason that has a code.
struct Lost;

impl ReadAt for Lost {
    fn size(&self) -> u64 {
        4096
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        let cause =
            io::Error::new(io::ErrorKind::InvalidData, with_causes(&Fault::damaged("bits")));
        let cause = FilesError::Disk { disk: "inner".to_owned(), source: cause };
        let code = &strongroom_base::codes::STORE_CORRUPT;
        Err(io::Error::other(crate::ReadFailure { code, cause: Box::new(cause) }))
    }
}

#[test]
fn the_code_of_the_cause_is_that_of_the_error() {
    let mut reader = lied_to(|request| {
        let need = Answer::Need { disk: 0, offset: 0, len: 10 };
        let refusal = Some(Fault::new(FaultKind::Disk, "could not be read"));
        Some(match request {
            Request::Survey => {
                vec![need, Answer::Volumes(vec![Volume { refusal, ..volume() }, volume()])]
            }
            _ => vec![need, Answer::Failed(Fault::damaged("bad"))],
        })
    });
    reader.disks[0].bytes = Arc::new(Lost);
    let volumes = reader.survey().expect("the rest is there");
    let reason = volumes[0].refusal.as_ref().map(ToString::to_string);
    assert_eq!(reason.as_deref(), Some("could not be read: stored data is damaged"));
    assert_eq!(volumes[1].refusal, None);
    let whole = "a part of disk vda could not be read: cannot read disk inner: bits";
    assert_eq!(volumes[1].notes, [whole]);
    let error = reader.missed().expect("it is known why");
    assert_eq!(error.code().name, "store.corrupt");
    assert_eq!(error.with_causes(), "cannot read disk vda: cannot read disk inner: bits");
    assert!(reader.missed().is_none());
}

#[test]
fn problems_have_the_code_and_all_causes() {
    let to = tempfile::tempdir().expect("a folder");
    let mut reader = lied_to(|request| {
        let file = entry(b"file", 100, crate::Kind::File, 10);
        Some(match request {
            Request::Open { .. } => vec![Answer::Opened { root: 1, notes: vec![] }],
            Request::Attributes { .. } => {
                vec![Answer::Attributes(Attributes::bare(crate::Kind::Folder, 0))]
            }
            Request::List { .. } => vec![Answer::Entries(vec![file]), Answer::End],
            // The answer to the need ends it, after the fault is on its way.
            Request::Read { .. } => vec![
                Answer::Need { disk: 0, offset: 0, len: 10 },
                Answer::Failed(Fault::new(FaultKind::Disk, "the disk cannot be read")),
            ],
            _ => return None,
        })
    });
    reader.disks[0].bytes = Arc::new(Lost);
    let mut files = Files::open(&mut reader, &volume()).expect("opens");
    let all = files.locate(b"/").expect("found");
    let cancel = Cancel::new();
    let done = deliver(&mut files, &all, to.path(), Options::default(), &cancel).expect("the rest");
    assert_eq!(done.problem_count, 1);
    assert_eq!(done.problems[0].code, Some("store.corrupt"));
    assert_eq!(done.problems[0].reason, "cannot read disk vda: cannot read disk inner: bits");
}

/// Links in a ring are no damage: the path is wrong.
#[test]
fn a_ring_of_links_is_a_wrong_path() {
    let mut reader = lied_to(|request| {
        Some(match request {
            Request::Open { .. } => vec![Answer::Opened { root: 1, notes: vec![] }],
            Request::Find { name, .. } => {
                vec![Answer::Found(Some(entry(&name, 5, crate::Kind::Link, 4)))]
            }
            Request::Target { .. } => vec![Answer::Target(b"ring".to_vec())],
            _ => return None,
        })
    });
    let mut files = Files::open(&mut reader, &volume()).expect("opens");
    let error = files.locate(b"/ring/file").expect_err("no end");
    assert_eq!(error.code().name, "files.not_found");
    assert_eq!(error.to_string(), "/ring/file: too many links lead to it");
}

/// Of XFS that was in use, the newest owners may be unknown: of everything, that is listed.
#[test]
fn unknown_owners_are_listed() {
    use crate::Kind::{CharacterDevice, File, Folder, Link, Pipe};
    let kinds = [
        (&b"dir"[..], File),
        (b"file", File),
        (b"link", Link),
        (b"pipe", Pipe),
        (b"device", CharacterDevice),
    ];
    let mut reader = lied_to(move |request| {
        let mut bare = Attributes::bare(Folder, 0);
        bare.mode = Some(0o755);
        let entries = kinds.map(|(name, kind)| {
            let mut entry = entry(name, 100, kind, 10);
            let attributes = Attributes { mode: Some(0o644), ..Attributes::bare(kind, 10) };
            entry.attributes = Ok(attributes);
            entry
        });
        Some(match request {
            Request::Open { .. } => vec![Answer::Opened { root: 1, notes: vec![] }],
            Request::Find { name, .. } => {
                let found = Entry { name, node: 2, attributes: Ok(bare) };
                vec![Answer::Found(Some(found))]
            }
            Request::Attributes { .. } => vec![Answer::Attributes(bare)],
            Request::List { .. } => vec![Answer::Entries(entries.to_vec()), Answer::End],
            Request::Read { .. } => vec![Answer::Data],
            Request::Target { .. } => vec![Answer::Target(b"target".to_vec())],
            Request::Xattrs { .. } => vec![Answer::Xattrs(vec![])],
            Request::Survey | Request::Unlock { .. } | Request::Keys { .. } => return None,
        })
    });
    let mut files = Files::open(&mut reader, &volume()).expect("opens");
    let all = files.locate(b"/all").expect("found");
    let (cancel, to) = (Cancel::new(), tempfile::tempdir().expect("a folder"));
    let options = Options { trusted: true };
    let copied = deliver(&mut files, &all, to.path(), options, &cancel).expect("delivered");
    let packed = archive(&mut files, &all, &mut Vec::new(), &cancel).expect("packed");
    // Two names of one file stay that.
    let meta = fs::metadata(to.path().join("all/dir")).expect("a file");
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&meta), 2);
    for mut done in [copied, packed] {
        done.problems.sort_by(|a, b| a.path.cmp(&b.path));
        let problems: Vec<_> =
            done.problems.iter().map(|it| (shown(&it.path), it.reason.clone())).collect();
        let none = |path: &str| (path.to_owned(), "its owner and times are not known".to_owned());
        assert_eq!(problems[0], none("/all"));
        assert_eq!(problems[1].0, "/all/device");
        assert!(problems[1].1.ends_with("the number of the device is not known"), "{problems:?}");
        let rest = ["/all/dir", "/all/file", "/all/link", "/all/pipe"].map(none);
        assert_eq!(problems[2..], rest);
    }
}

/// Errors name the place on this machine. If it has no room, what was delivered is counted.
#[test]
fn errors_of_the_folder_name_its_path() {
    use crate::Kind::File;
    let outer = tempfile::tempdir().expect("a folder");
    let to = outer.path().join("o2");
    fs::create_dir_all(to.join("a")).expect("folders");
    let done = delivered(&to, &[entry(b"a", 100, File, 10)]);
    let reason = format!("cannot make {}/a: File exists", to.display());
    assert!(done.problems[0].reason.starts_with(&reason), "{:?}", done.problems);

    if !rustix::process::geteuid().is_root() {
        println!("not tried, as nothing can be mounted here");
        return;
    }
    let place = to.to_str().expect("utf-8");
    output("mount", &["-t", "tmpfs", "-o", "nr_inodes=4", "none", place]);
    let files = [&b"a"[..], b"b", b"c", b"d", b"e"].map(|name| entry(name, 100, File, 10));
    let error = try_to_deliver(&to, &files).expect_err("no room");
    output("umount", &[place]);
    assert_eq!(error.code().name, "local.io");
    let full = format!("cannot make {place}/d; files delivered before that: 3: No space left");
    assert!(error.with_causes().starts_with(&full), "{}", error.with_causes());
}

/// A machine has its disks, and asks for none of their bytes; what it has said last is in the error.
#[test]
fn a_machine_that_asks_for_bytes_is_ended() {
    let mut reader = lied_to(|_| Some(vec![Answer::Need { disk: 0, offset: 0, len: 512 }]));
    reader.machine = Some(Running::played().expect("played"));
    let error = reader.survey().expect_err("refused").to_string();
    assert!(error.contains("bytes that it may not have"), "{error}");
    assert!(reader.is_broken());

    let mut reader = lied_to(|_| None);
    reader.machine = Some(Running::played().expect("played"));
    let error = reader.survey().expect_err("ended").to_string();
    assert!(error.ends_with("the last that it said: Kernel panic"), "{error}");
}
