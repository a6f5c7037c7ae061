//! Blobs as disks: QEMU's and libnbd's programs read and write them over NBD, beside clients over HTTP.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use strongroom_base::{Cancel, Clock as _, SystemClock, start_thread};
use strongroom_storage::{
    ExportAt, ExportRequest, StorageError,
    admin::{OpenExport, RefusedKind, export},
};
use strongroom_testing::{noise, run};

use crate::server::Server;

const MIB: usize = 1 << 20;

fn request(blob: &str, socket: &Path) -> ExportRequest {
    ExportRequest {
        blob: blob.to_owned(),
        snapshot: None,
        since: None,
        read_only: false,
        lease: None,
        at: ExportAt::Socket(socket.to_owned()),
    }
}

fn end(export: OpenExport) -> Result<(), StorageError> {
    let cancel = Cancel::new();
    cancel.cancel();
    export.wait(&cancel)
}

fn qemu_io(url: &str, commands: &[&str]) -> (bool, String) {
    let mut words = vec!["-f", "raw"];
    commands.iter().for_each(|command| words.extend(["-c", command]));
    let output = Command::new("qemu-io").args(words).arg(url).output();
    let output = output.expect("qemu-io, of the package qemu-utils");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn snapshot(server: &Server, path: &str) -> String {
    let taken = server.ask("PUT", &format!("{path}?comp=snapshot"), &[], b"");
    assert_eq!(taken.status, 201, "{}", taken.text());
    taken.header("x-ms-snapshot").to_owned()
}

fn bytes(server: &Server, path: &str) -> Vec<u8> {
    let answer = server.ask("GET", path, &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.body
}

/// Rows of `nbdinfo --map`: offset, length, number.
fn map(url: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let said = run("libnbd-bin", "nbdinfo", &[&format!("--map={context}"), url]);
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).expect("a number");
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        (number(words.next()), number(words.next()), number(words.next()))
    };
    said.lines().map(row).collect()
}

#[test]
fn a_disk_over_nbd_is_the_blob_over_http() {
    let server = Server::start();
    server.container("vms");
    server.page_blob("/vms/web01.vhd", 8 << 20);
    server.put_page("/vms/web01.vhd", MIB, &noise(1, MIB));
    let socket = server.data().join("web01.sock");
    let wanted = request("acct/vms/web01.vhd", &socket);
    let open = export(server.data(), &wanted).expect("is exported");
    assert_eq!((open.shown.size_bytes, open.shown.read_only), (8 << 20, false));
    assert_eq!(fs::metadata(&socket).expect("is there").permissions().mode() & 0o777, 0o600);
    let url = open.shown.url.clone();

    let info = run("libnbd-bin", "nbdinfo", &["--list", &url.replace("/acct/vms/web01.vhd", "/")]);
    for words in ["export=\"acct/vms/web01.vhd\"", "can_multi_conn: true", "can_flush: true"] {
        assert!(info.contains(words), "{words}: {info}");
    }
    let mib = 1_u64 << 20;
    let rows = [(0, mib, 3), (mib, mib, 0), (2 * mib, 6 * mib, 3)];
    assert_eq!(map(&url, "base:allocation"), rows);

    // What is written, also in parts of pages, is there over HTTP after a flush.
    let (written, said) = qemu_io(
        &url,
        &["write -P 0xcd 3145728 70000", "write -P 7 1000 10", "write -z 1048576 65536", "flush"],
    );
    assert!(written, "{said}");
    let now = bytes(&server, "/vms/web01.vhd");
    assert!(now[3 * MIB..3 * MIB + 70000].iter().all(|byte| *byte == 0xcd));
    assert_eq!(&now[998..1012], b"\0\0\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0");
    assert!(now[MIB..MIB + 65536].iter().all(|byte| *byte == 0));
    assert_eq!(now[MIB + 65536..2 * MIB], noise(1, MIB)[65536..]);
    // What is cleared has no pages.
    let ranges = server.ask("GET", "/vms/web01.vhd?comp=pagelist", &[], b"").text();
    assert!(ranges.contains("<Start>1114112</Start><End>2097151</End>"), "{ranges}");

    // It is leased: others read it, and take snapshots, and do not write.
    let refused = server.put_page("/vms/web01.vhd", 0, &[1; 512]);
    assert_eq!(refused.code(), (412, "LeaseIdMissing"));
    let other = request("acct/vms/web01.vhd", &server.data().join("other.sock"));
    let refused = export(server.data(), &other).expect_err("it is leased");
    assert!(matches!(refused, StorageError::Refused { kind: RefusedKind::Leased, .. }));
    assert!(!server.data().join("other.sock").exists());
    let first = snapshot(&server, "/vms/web01.vhd");
    assert!(qemu_io(&url, &["write -P 9 4194304 512", "discard 3145728 4096", "flush"]).0);
    let second = snapshot(&server, "/vms/web01.vhd");

    // Two snapshots, and what changed between them.
    let mut wanted = request("acct/vms/web01.vhd", &server.data().join("snap.sock"));
    wanted.snapshot = Some(second.clone());
    wanted.since = Some(first.clone());
    let shown = export(server.data(), &wanted).expect("is exported");
    assert!(shown.shown.read_only);
    let changed = [
        (0, 3 * mib, 0),
        (3 * mib, 4096, 1),
        (3 * mib + 4096, mib - 4096, 0),
        (4 * mib, 512, 1),
        (4 * mib + 512, 4 * mib - 512, 0),
    ];
    assert_eq!(map(&shown.shown.url, "qemu:dirty-bitmap:since"), changed);
    let copy = server.data().join("copy.raw").display().to_string();
    run("libnbd-bin", "nbdcopy", &[&shown.shown.url, &copy]);
    let frozen = bytes(&server, &format!("/vms/web01.vhd?snapshot={second}"));
    assert!(fs::read(&copy).expect("a file") == frozen);
    let (is_written, said) = qemu_io(&shown.shown.url, &["write 0 512"]);
    assert!(!is_written && said.contains("Permission denied"), "{said}");
    end(shown).expect("ends");

    // What nobody flushed is stored when the export ends, and the lease is given back.
    assert!(qemu_io(&url, &["write -P 0x11 5242880 4096"]).0);
    end(open).expect("ends");
    assert!(!socket.exists());
    assert!(bytes(&server, "/vms/web01.vhd")[5 * MIB..5 * MIB + 4096].iter().all(|it| *it == 0x11));
    assert_eq!(server.put_page("/vms/web01.vhd", 0, &[1; 512]).status, 201);
}

#[test]
fn an_export_without_its_client_ends_and_a_lost_lease_is_an_error_to_the_disk() {
    let server = Server::start();
    server.container("vms");
    server.page_blob("/vms/a", 1 << 20);
    let socket = server.data().join("a.sock");
    let open = export(server.data(), &request("acct/vms/a", &socket)).expect("is exported");
    let url = open.shown.url.clone();
    assert!(qemu_io(&url, &["write -P 1 0 512", "flush"]).0);
    // Another owner takes the blob: nothing that this export writes may reach it from here on.
    let broken = [("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "0")];
    assert_eq!(server.ask("PUT", "/vms/a?comp=lease", &broken, b"").status, 202);
    let (is_stored, said) = qemu_io(&url, &["write -P 2 0 512", "flush"]);
    assert!(!is_stored || said.contains("error"), "{said}");
    assert_eq!(bytes(&server, "/vms/a")[..512], [1; 512]);
    let lost = end(open).expect_err("something was not stored");
    assert!(matches!(lost, StorageError::Refused { kind: RefusedKind::Lost, .. }), "{lost:?}");

    // One who is killed says nothing: the connection's end is the export's end.
    let open = export(server.data(), &request("acct/vms/a", &socket)).expect("is exported");
    assert!(qemu_io(&url, &["write -P 3 0 512"]).0);
    drop(open);
    strongroom_testing::wait_until("the export ends", || !socket.exists());
    strongroom_testing::wait_until("the lease is given back", || {
        server.put_page("/vms/a", 1024, &[4; 512]).status == 201
    });
    assert_eq!(bytes(&server, "/vms/a")[..512], [3; 512]);
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let server = Server::start();
    server.container("vms");
    server.page_blob("/vms/a", 1 << 20);
    let socket = server.data().join("a.sock");
    let kind = |wanted: &ExportRequest| match export(server.data(), wanted) {
        Err(StorageError::Refused { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    let good = request("acct/vms/a", &socket);
    assert_eq!(kind(&request("acct/vms/b", &socket)), RefusedKind::BlobNotFound);
    assert_eq!(kind(&request("acct/vms", &socket)), RefusedKind::InvalidExport);
    // What is no page blob is no disk.
    for kind_of_blob in ["BlockBlob", "AppendBlob"] {
        let headers = [("x-ms-blob-type", kind_of_blob)];
        assert_eq!(server.ask("PUT", "/vms/file", &headers, b"").status, 201);
        assert_eq!(kind(&request("acct/vms/file", &socket)), RefusedKind::InvalidExport);
    }
    let snapshot = Some("yesterday".to_owned());
    assert_eq!(kind(&ExportRequest { snapshot, ..good.clone() }), RefusedKind::InvalidExport);
    let snapshot = Some("2026-01-01T00:00:00.0000000Z".to_owned());
    let missing = ExportRequest { snapshot: snapshot.clone(), ..good.clone() };
    assert_eq!(kind(&missing), RefusedKind::BlobNotFound);
    let since = ExportRequest { since: snapshot, ..good.clone() };
    assert_eq!(kind(&since), RefusedKind::BlobNotFound);
    let open = ExportAt::Clear(([192, 0, 2, 1], 10809).into());
    assert_eq!(kind(&ExportRequest { at: open, ..good.clone() }), RefusedKind::InvalidExport);
    let authorities = server.data().join("nothing.pem");
    let tls = ExportAt::Tls { address: ([127, 0, 0, 1], 0).into(), authorities };
    assert_eq!(kind(&ExportRequest { at: tls, ..good.clone() }), RefusedKind::InvalidExport);
    fs::write(&socket, b"mine").expect("a file");
    assert_eq!(kind(&good), RefusedKind::InvalidExport);
    assert_eq!(fs::read(&socket).expect("is kept"), b"mine");
    let lease = Some("00000000-0000-0000-0000-000000000001".to_owned());
    let not_held = ExportRequest { lease, ..request("acct/vms/a", &server.data().join("b.sock")) };
    assert_eq!(kind(&not_held), RefusedKind::InvalidExport);
    // Nothing of this has left a lease.
    assert_eq!(server.put_page("/vms/a", 0, &[4; 512]).status, 201);
    let empty = tempfile::tempdir().expect("a folder");
    let not_served = export(empty.path(), &good);
    assert!(matches!(not_served, Err(StorageError::NotServed { .. })), "{not_served:?}");
}

/// A certificate of an authority of the test's own, by openssl: `ca-cert.pem`, `client-cert.pem`, `client-key.pem`.
fn client_certificates(folder: &Path) -> PathBuf {
    let path = |name: &str| folder.join(name).display().to_string();
    let openssl = |words: &[&str]| run("openssl", "openssl", words);
    let (ca, ca_key) = (path("authority.pem"), path("authority-key.pem"));
    let subject = ["-subj", "/CN=test authority"];
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
    openssl(&[&["req", "-x509"], &ec[..], &subject, &["-keyout", &ca_key, "-out", &ca]].concat());
    let (key, cert) = (path("client-key.pem"), path("client-cert.pem"));
    let subject = ["-subj", "/CN=client", "-addext", "basicConstraints=critical,CA:FALSE"];
    let signed = ["-CA", &ca, "-CAkey", &ca_key, "-keyout", &key, "-out", &cert];
    openssl(&[&["req", "-x509"], &ec[..], &subject, &signed].concat());
    PathBuf::from(ca)
}

/// Signs the client's key again, as many instructions do it.
fn sign_as_version_1(from: &Path, to: &Path) {
    let [ca, ca_key, key] = ["authority.pem", "authority-key.pem", "client-key.pem"]
        .map(|name| from.join(name).display().to_string());
    let [asked, cert] =
        ["client.csr", "client-cert.pem"].map(|name| to.join(name).display().to_string());
    let openssl = |words: &[&str]| run("openssl", "openssl", words);
    openssl(&["req", "-new", "-key", &key, "-subj", "/CN=client", "-out", &asked]);
    let signs = ["x509", "-req", "-in", &asked, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    openssl(&[&signs[..], &["-days", "30", "-out", &cert]].concat());
    let text = openssl(&["x509", "-in", &cert, "-noout", "-text"]);
    assert!(text.contains("Version: 1"), "{text}");
    for name in ["ca-cert.pem", "client-key.pem"] {
        fs::copy(from.join(name), to.join(name)).expect("is copied");
    }
}

#[test]
fn over_tls_a_client_needs_a_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = strongroom_http::CertificateFiles::own(folder.path());
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    strongroom_http::ensure(&files, &names, SystemClock.now()).expect("a certificate");
    let server = Server::start_with(folder, None);
    server.container("vms");
    server.page_blob("/vms/a", 1 << 20);
    server.put_page("/vms/a", 0, &[5; 4096]);
    let certificates = server.data().join("pki");
    fs::create_dir(&certificates).expect("a folder");
    let authorities = client_certificates(&certificates);
    fs::copy(server.data().join("certificate.pem"), certificates.join("ca-cert.pem"))
        .expect("is copied");
    let at = ExportAt::Tls { address: ([127, 0, 0, 1], 0).into(), authorities };
    let wanted = ExportRequest { at, read_only: true, ..request("acct/vms/a", Path::new("")) };
    let open = export(server.data(), &wanted).expect("is exported");
    assert!(open.shown.url.starts_with("nbds://127.0.0.1:"), "{}", open.shown.url);
    let with = format!("{}?tls-certificates={}", open.shown.url, certificates.display());
    let info = run("libnbd-bin", "nbdinfo", &[&with]);
    assert!(info.contains("with TLS") && info.contains("export-size: 1048576"), "{info}");
    // What OpenSSL signs without being told of extensions has version 1, which rustls refuses.
    let old = server.data().join("old");
    fs::create_dir(&old).expect("a folder");
    sign_as_version_1(&certificates, &old);
    let old = format!("{}?tls-certificates={}", open.shown.url, old.display());
    // Without a certificate, and without TLS, nothing is shown.
    let strangers = server.data().join("strangers");
    fs::create_dir(&strangers).expect("a folder");
    fs::copy(certificates.join("ca-cert.pem"), strangers.join("ca-cert.pem")).expect("is copied");
    let without = format!("{}?tls-certificates={}", open.shown.url, strangers.display());
    for url in [old, without, open.shown.url.replace("nbds:", "nbd:")] {
        let output = Command::new("nbdinfo").arg(&url).output().expect("nbdinfo, of libnbd-bin");
        assert!(!output.status.success(), "{url}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("export-size"));
    }
    end(open).expect("ends");
}

#[test]
fn many_writers_and_flushes_leave_what_was_written_last() {
    let server = Server::start();
    server.container("vms");
    server.page_blob("/vms/a", 64 << 20);
    let socket = server.data().join("a.sock");
    let open = export(server.data(), &request("acct/vms/a", &socket)).expect("is exported");
    let url = open.shown.url.clone();
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let url = url.clone();
            start_thread("writer", move || {
                let base = writer * (16 << 20);
                let mut commands = Vec::new();
                for step in 0..60_u64 {
                    let offset = base + (step * 7919 % 4000) * 4096;
                    commands.push(format!("write -P {} {offset} 8192", 1 + step % 250));
                    if step % 20 == 19 {
                        commands.push(format!("write -z {base} 131072"));
                        commands.push("flush".to_owned());
                    }
                }
                let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
                let (is_written, said) = qemu_io(&url, &commands);
                assert!(is_written && !said.contains("error"), "{said}");
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("writes"));
    let now = bytes(&server, "/vms/a");
    let mut expected = vec![0; 64 << 20];
    for writer in 0..4_usize {
        let base = writer * (16 << 20);
        for step in 0..60_usize {
            let offset = base + (step * 7919 % 4000) * 4096;
            expected[offset..offset + 8192].fill(u8::try_from(1 + step % 250).expect("small"));
            if step % 20 == 19 {
                expected[base..base + 131_072].fill(0);
            }
        }
    }
    assert!(now == expected);
    end(open).expect("ends");
}

/// An export over which a test talks itself, several requests at once if it likes.
struct Disk {
    export: Option<OpenExport>,
    socket: PathBuf,
}

impl Disk {
    fn new(server: &Server, blob: &str) -> Self {
        let socket = server.data().join("disk.sock");
        let export = export(server.data(), &request(blob, &socket)).expect("is exported");
        Self { export: Some(export), socket }
    }

    /// A Python program with libnbd: `h` is a handle that is connected, `other()` makes another.
    fn python(&self, program: &str) -> String {
        let head = format!(
            "import nbd, threading\ndef other():\n  h = nbd.NBD()\n  h.connect_unix({:?})\n  return h\n\
             def fails(what):\n  try:\n    what()\n  except nbd.Error:\n    return True\n  return False\n\
             h = other()\n",
            self.socket.display().to_string()
        );
        run("python3-libnbd", "/usr/bin/python3", &["-c", &(head + program)])
    }
}

#[test]
fn a_clear_that_fails_forgets_nothing_that_was_written() {
    let server = Server::start();
    server.container("vms");
    server.page_blob("/vms/a", 4 << 20);
    let mut disk = Disk::new(&server, "acct/vms/a");
    disk.python("h.pwrite(b'1' * 4096, 0)\nh.flush()\n");
    let broken = [("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "0")];
    assert_eq!(server.ask("PUT", "/vms/a?comp=lease", &broken, b"").status, 202);
    disk.python(
        "h.pwrite(b'2' * 4096, 0)\n\
         assert fails(lambda: h.zero(1 << 20, 0))\n\
         assert h.pread(4096, 0) == b'2' * 4096\n\
         assert fails(h.flush)\n\
         assert h.pread(4096, 0) == b'2' * 4096\n",
    );
    let lost = end(disk.export.take().expect("one")).expect_err("it could not be stored");
    assert!(matches!(lost, StorageError::Refused { kind: RefusedKind::Lost, .. }), "{lost:?}");
    assert_eq!(bytes(&server, "/vms/a")[..4096], [b'1'; 4096]);
}

#[test]
fn writers_of_parts_and_readers_beside_clears_see_nothing_old() {
    let server = Server::start();
    server.container("vms");
    server.page_blob("/vms/a", 4 << 20);
    let mut disk = Disk::new(&server, "acct/vms/a");
    // One connection writes the first bytes of a page, another all of it; only the second writes the rest.
    disk.python(
        "two = other()\nstop = False\n\
         def parts():\n  while not stop: two.pwrite(b'p' * 80, 0)\n\
         thread = threading.Thread(target=parts)\nthread.start()\n\
         for n in range(1500):\n  page = (b'%08d' % n) * 64\n  h.pwrite(page, 0)\n\
         \u{20}\u{20}found = h.pread(512, 0)\n  assert found[200:] == page[200:], n\n\
         stop = True\nthread.join()\n",
    );
    // A page is written and read while it is cleared: it is the newest or zeros, never what was before.
    disk.python(
        "two = other()\n\
         for n in range(100):\n  h.pwrite(b'W' * 4096, 8192)\n  h.flush()\n  h.pwrite(b'X' * 4096, 8192)\n\
         \u{20}\u{20}c = threading.Thread(target=lambda: h.zero(4096, 8192))\n  c.start()\n\
         \u{20}\u{20}found = two.pread(4096, 8192)\n  c.join()\n\
         \u{20}\u{20}assert found in (b'X' * 4096, bytes(4096)), found[:8]\n\
         \u{20}\u{20}assert two.pread(4096, 8192) == bytes(4096)\n",
    );
    end(disk.export.take().expect("one")).expect("ends");
}

#[test]
fn a_blob_of_the_same_name_is_another_disk() {
    let server = Server::start();
    server.container("vms");
    server.page_blob("/vms/a", 1 << 20);
    let socket = server.data().join("a.sock");
    let wanted = ExportRequest { read_only: true, ..request("acct/vms/a", &socket) };
    let open = export(server.data(), &wanted).expect("is exported");
    server.page_blob("/vms/a", 1 << 20);
    let output = Command::new("qemu-io")
        .args(["-r", "-f", "raw", "-c", "read 0 512", &open.shown.url])
        .output()
        .expect("qemu-io, of the package qemu-utils");
    assert!(!output.status.success(), "{output:?}");
    // A socket of its name that came later stays.
    fs::remove_file(&socket).expect("removed");
    let later = export(server.data(), &request("acct/vms/a", &socket)).expect("is exported");
    end(open).expect("ends");
    assert!(socket.exists());
    end(later).expect("ends");
    // That of a process that was killed is replaced.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    end(export(server.data(), &request("acct/vms/a", &socket)).expect("is exported"))
        .expect("ends");
}

#[test]
fn strangers_do_not_keep_clients_out() {
    let server = Server::start();
    server.container("vms");
    server.page_blob("/vms/a", 1 << 20);
    let socket = server.data().join("a.sock");
    let open = export(server.data(), &request("acct/vms/a", &socket)).expect("is exported");
    let strangers: Vec<_> = (0..200)
        .map(|_| std::os::unix::net::UnixStream::connect(&socket).expect("connects"))
        .collect();
    let (is_written, said) = qemu_io(&open.shown.url, &["write -P 1 0 512", "flush"]);
    assert!(is_written, "{said}");
    drop(strangers);
    end(open).expect("ends");
}

#[test]
fn a_full_disk_is_an_error_to_the_client_until_there_is_room() {
    let Some(small) = strongroom_testing::TemporaryMount::new(240) else { return };
    let folder = tempfile::tempdir_in(small.path()).expect("a folder");
    let server = Server::start_with(folder, None);
    server.container("vms");
    server.page_blob("/vms/a", 1 << 30);
    let mut disk = Disk::new(&server, "acct/vms/a");
    // It writes and flushes until that fails; nothing that was acknowledged is dropped.
    let said = disk.python(
        "n = 0\n\
         try:\n  while n < 400:\n    h.pwrite(bytes([1 + n % 250]) * (1 << 20), n << 20)\n    n += 1\n    h.flush()\n\
         except nbd.Error as error:\n  print(n, error.errno)\n\
         for k in range(n):\n  assert h.pread(1 << 20, k << 20) == bytes([1 + k % 250]) * (1 << 20), k\n",
    );
    let (written, errno) = said.trim().split_once(' ').expect("it fails");
    assert_eq!(errno, "ENOSPC", "{said}");
    let written: usize = written.parse().expect("a number");
    assert!(written > 4, "{said}");
    small.remount("size=900M");
    disk.python("h.flush()\n");
    let now = bytes(&server, "/vms/a");
    for (index, part) in now.chunks(MIB).take(written).enumerate() {
        let byte = u8::try_from(1 + index % 250).expect("small");
        assert!(part.iter().all(|it| *it == byte), "{index} of {written}");
    }
    end(disk.export.take().expect("one")).expect("ends");
}
