//! NBD exports, of real servers.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{
    Server, assert_same, data_len, folder, noise, open, raw_disk, read_all, run, socket, text,
    wait_for,
};
use strongroom_base::{ByteRange, Clock as _, SystemClock};
use strongroom_disk::{
    DiskError, DiskSpec, DiskTarget, Existing, ExtentKind, NbdConnections, OpenOptions,
    TargetOptions, open_source, open_target,
};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// Starts nbdkit with arguments of words, and gives its URL.
fn nbdkit(folder: &TempDir, arguments: &str) -> (Server, String) {
    let socket = socket(folder);
    let mut all = vec!["-f", "-U", text(&socket)];
    all.extend(arguments.split_whitespace());
    let server = Server::start("nbdkit", "nbdkit", &all);
    wait_for(&socket);
    let url = format!("nbd+unix:///?socket={}", text(&socket));
    (server, url)
}

fn target(url: &str, size: usize, existing: Existing) -> Result<Box<dyn DiskTarget>, DiskError> {
    let options = TargetOptions { existing, ..TargetOptions::default() };
    open_target(&url.parse().expect("parses"), u64::try_from(size).expect("fits"), &options)
}

#[test]
fn reads_a_file_through_nbdkit() {
    let folder = folder();
    let path = folder.path().join("disk");
    let bytes = raw_disk(&path, 20 * MIB, &[(0, 1), (3 * MIB + 5, 5 * MIB), (20 * MIB - 3, 3)]);
    let (_server, url) = nbdkit(&folder, &format!("-r file {}", text(&path)));
    let source = open(&url).expect("opens");
    assert_eq!((source.format(), source.changed()), ("nbd", None));
    assert_same(&read_all(source.as_ref()), &bytes);
    assert!(data_len(source.as_ref()) < 6 << 20);

    // Several threads, several connections, any alignment; past the end are zeros.
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (source, bytes) = (&source, &bytes);
            scope.spawn(move || {
                for i in 0..40 {
                    let at = (i * 577_771 + thread * 13) % (20 * MIB);
                    let mut buf = vec![9; 300_000];
                    source.read_at(u64::try_from(at).expect("fits"), &mut buf).expect("reads");
                    let mut expected = bytes[at..(at + buf.len()).min(bytes.len())].to_vec();
                    expected.resize(buf.len(), 0);
                    assert_same(&buf, &expected);
                }
            });
        }
    });
}

#[test]
fn servers_with_habits() {
    // No contexts, no structured answers, no parallel connections, odd sizes, block sizes.
    for (filters, size) in [
        ("--no-sr", 3 * MIB),
        ("--filter=noextents", 3 * MIB),
        ("--filter=multi-conn multi-conn-mode=disable", 3 * MIB),
        (
            "--filter=blocksize-policy blocksize-minimum=4096 blocksize-preferred=65536 blocksize-maximum=131072 blocksize-error-policy=error",
            3 * MIB,
        ),
        ("", 3 * MIB + 1),
    ] {
        let folder = folder();
        let path = folder.path().join("disk");
        let mut bytes = raw_disk(&path, size, &[(MIB - 7, 70_000), (size - 5, 5)]);
        let (plugin, filter) = (format!("file {}", text(&path)), filters.split_once(' '));
        // Filters come before the plugin, their parameters after it.
        let (filter, parameters) = filter.unwrap_or((filters, ""));
        let (_server, url) = nbdkit(&folder, &format!("{filter} {plugin} {parameters}"));
        let source = open(&url).unwrap_or_else(|error| panic!("{filters}: {error}"));
        bytes.resize(size.next_multiple_of(512), 0);
        assert_same(&read_all(source.as_ref()), &bytes);
        drop(source);

        let target = target(&url, size, Existing::Keep).expect("opens");
        let part = noise(5, 200_000);
        target.write_at(4096 + 3, &part).expect("writes");
        bytes[4099..204_099].copy_from_slice(&part);
        target.write_zeroes(ByteRange::between(100_001, 190_000)).expect("writes");
        bytes[100_001..190_000].fill(0);
        target.flush().expect("flushes");
        assert!(target.write_at(u64::try_from(size).expect("fits") - 1, &[1, 2]).is_err());
        drop(target);
        assert_same(&fs::read(&path).expect("reads"), &bytes[..size]);
    }
}

#[test]
fn a_server_whose_size_and_blocks_contradict_each_other_is_named() {
    let folder = folder();
    let path = folder.path().join("disk");
    raw_disk(&path, 1_000_003, &[(0, 5)]);
    let filter = "--filter=blocksize-policy";
    let sizes = "blocksize-minimum=512 blocksize-preferred=4096 blocksize-maximum=131072 \
                 blocksize-error-policy=error";
    let (_server, url) = nbdkit(&folder, &format!("{filter} file {} {sizes}", text(&path)));
    let source = open(&url).expect("opens");
    let whole = ByteRange::between(0, source.size());
    let error = source.extents(whole).expect_err("its end cannot be asked for").to_string();
    assert!(
        error.contains("size of 1000003 bytes is not a multiple of its block size of 512 bytes"),
        "{error}"
    );
}

#[test]
fn a_dirty_bitmap_says_what_changed() {
    let folder = folder();
    let image = folder.path().join("disk.qcow2");
    let image = text(&image);
    run("qemu-utils", "qemu-img", &["create", "-q", "-f", "qcow2", image, "64M"]);
    run("qemu-utils", "qemu-io", &["-c", "write -P 1 0 20M", image]);
    run("qemu-utils", "qemu-img", &["bitmap", "--add", image, "b0"]);
    run("qemu-utils", "qemu-io", &["-c", "write -P 2 5M 64k", "-c", "write -P 3 30M 1M", image]);
    let socket = socket(&folder);
    let arguments =
        ["-r", "-t", "-f", "qcow2", "-B", "b0", "-x", "vda", "-k", text(&socket), image];
    let _server = Server::start("qemu-utils", "qemu-nbd", &arguments);
    wait_for(&socket);

    let url = format!("nbd+unix:///vda?socket={}", text(&socket));
    let source = open(&format!("{url}&dirty-bitmap=b0")).expect("opens");
    let changed = source.changed().expect("a bitmap").iter().collect::<Vec<_>>();
    let expected =
        [(5 << 20, 64 << 10), (30 << 20, 1 << 20)].map(|(offset, len)| ByteRange::new(offset, len));
    assert_eq!(changed, expected.map(|range| range.expect("fits")));
    assert_eq!(data_len(source.as_ref()), 21 << 20);
    drop(source);
    assert!(open(&url).expect("opens").changed().is_none());
    let missing = open(&format!("{url}&dirty-bitmap=b1")).err().expect("an error");
    assert!(
        matches!(&missing, DiskError::Nbd { reason, .. } if reason.contains("b1")),
        "{missing}"
    );
    let wrong = format!("nbd+unix:///vdb?socket={}", text(&socket));
    let wrong = open(&wrong).err().expect("an error");
    assert!(
        matches!(&wrong, DiskError::Nbd { reason, .. } if reason.contains("export")),
        "{wrong}"
    );
}

#[test]
fn read_errors_name_the_sectors() {
    let folder = folder();
    // Reads of sectors 5000 to 5002 and 6000 fail.
    let script = r#"
case "$1" in
    get_size) echo 8388608 ;;
    thread_model) echo parallel ;;
    can_multi_conn) exit 0 ;;
    pread)
        end=$(( $4 + $3 ))
        for bad in 2560000 2560512 2561024 3072000; do
            if [ $4 -lt $(( bad + 512 )) ] && [ $end -gt $bad ]; then
                echo "EIO the disk is broken" >&2; exit 1
            fi
        done
        head -c $3 /dev/zero | tr '\0' 'x' ;;
    *) exit 2 ;;
esac
"#;
    let path = folder.path().join("broken.sh");
    fs::write(&path, script).expect("writes");
    run("coreutils", "chmod", &["+x", text(&path)]);
    let (_server, url) = nbdkit(&folder, &format!("sh {}", text(&path)));
    let source = open(&url).expect("opens");
    let mut buf = vec![0; 64 << 10];
    source.read_at(1 << 20, &mut buf).expect("reads");
    assert!(buf.iter().all(|byte| *byte == b'x'));
    match source.read_at(39 << 16, &mut buf) {
        Err(DiskError::Read { range, source, .. }) => {
            assert_eq!(range, ByteRange::new(5000 * 512, 3 * 512).expect("fits"));
            assert_eq!(source.raw_os_error(), Some(5));
        }
        other => panic!("{other:?}"),
    }
    // The connection has survived.
    source.read_at(0, &mut buf).expect("reads");
    match source.read_at(46 << 16, &mut vec![0; 128 << 10]) {
        Err(DiskError::Read { range, .. }) => {
            assert_eq!((range.offset(), range.len()), (3_072_000, 512));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_hangs_is_an_error() {
    let folder = folder();
    let (_server, url) = nbdkit(&folder, "--filter=delay memory 1M rdelay=60");
    let options = OpenOptions { timeout: Duration::from_millis(300), ..OpenOptions::default() };
    let source = open_source(&url.parse().expect("parses"), &options).expect("opens");
    let start = SystemClock.monotonic();
    for _ in 0..2 {
        let error = source.read_at(0, &mut [0; 512]).expect_err("no answer");
        assert!(matches!(&error, DiskError::Nbd { reason, .. } if reason.contains("not answer")));
    }
    assert!(SystemClock.monotonic().saturating_sub(start) < Duration::from_secs(5));

    // One that never accepts, and one that accepts and says nothing.
    let path = folder.path().join("silent");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("listens");
    let url = format!("nbd+unix:///?socket={}", text(&path));
    assert!(open_source(&url.parse().expect("parses"), &options).is_err());
    drop(listener);
    assert!(matches!(
        open_source(&url.parse().expect("parses"), &options).err(),
        Some(DiskError::Nbd { .. })
    ));
    fs::remove_file(&path).expect("removes");
    assert!(matches!(
        open_source(&url.parse().expect("parses"), &options).err(),
        Some(DiskError::NotFound { .. })
    ));
}

#[test]
fn a_server_that_dies_is_an_error() {
    let folder = folder();
    let (mut server, url) = nbdkit(&folder, "memory 1M");
    let source = open(&url).expect("opens");
    source.read_at(0, &mut [0; 512]).expect("reads");
    server.kill();
    assert!(matches!(source.read_at(0, &mut [0; 512]), Err(DiskError::Nbd { .. })));
    assert!(matches!(source.extents(ByteRange::between(0, 512)), Err(DiskError::Nbd { .. })));
}

#[test]
fn targets() {
    let folder = folder();
    let (_server, url) = nbdkit(&folder, "memory 4M");
    assert!(matches!(target(&url, 5 * MIB, Existing::Keep), Err(DiskError::TooSmall { .. })));
    let disk = target(&url, 4 * MIB, Existing::Refuse).expect("opens");
    assert!(!disk.is_blank());
    let part = noise(8, 3 * MIB);
    disk.write_at(0, &part).expect("writes");
    disk.flush().expect("flushes");
    let mut back = vec![0; 3 * MIB];
    disk.read_at(0, &mut back).expect("reads");
    assert_same(&back, &part);
    let tail = disk.extents(ByteRange::between(3 << 20, 4 << 20)).expect("extents");
    assert!(tail.iter().all(|extent| extent.kind == ExtentKind::Zero));
    drop(disk);
    assert!(matches!(target(&url, 4 * MIB, Existing::Refuse), Err(DiskError::NotEmpty { .. })));
}

#[test]
fn a_read_only_or_full_target() {
    let here = folder();
    let (_server, url) = nbdkit(&here, "-r memory 4M");
    assert!(matches!(target(&url, MIB, Existing::Keep), Err(DiskError::Nbd { .. })));
    let here = folder();
    let (_server, url) = nbdkit(&here, "full 4M");
    let disk = target(&url, MIB, Existing::Refuse).expect("opens");
    match disk.write_at(0, &[1; 4096]) {
        Err(DiskError::Full { range, .. }) => assert_eq!(range.len(), 4096),
        other => panic!("{other:?}"),
    }
}

/// Makes a certificate authority and a server's certificate for `localhost` in `folder`.
fn certificates(folder: &Path) {
    let at = |name: &str| text(&folder.join(name)).to_owned();
    let openssl = |arguments: &str| {
        run("openssl", "openssl", &arguments.split_whitespace().collect::<Vec<_>>());
    };
    fs::write(at("ext"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .expect("writes");
    openssl(&format!(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -keyout {} -out {}",
        at("ca-key.pem"),
        at("ca-cert.pem")
    ));
    for name in ["server", "client"] {
        let (key, request) = (at(&format!("{name}-key.pem")), at("request.pem"));
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {key} -out {request}"
        ));
        openssl(&format!(
            "x509 -req -days 2 -in {request} -CA {} -CAkey {} -CAcreateserial -extfile {} -out {}",
            at("ca-cert.pem"),
            at("ca-key.pem"),
            at("ext"),
            at(&format!("{name}-cert.pem"))
        ));
    }
}

#[test]
fn encrypted() {
    let folder = folder();
    let pki = folder.path().join("pki");
    fs::create_dir(&pki).expect("a folder");
    certificates(&pki);
    let path = folder.path().join("disk");
    let bytes = raw_disk(&path, 5 * MIB, &[(0, 5 * MIB)]);
    let arguments = format!(
        "--tls=require --tls-certificates={} --tls-verify-peer file {}",
        text(&pki),
        text(&path)
    );
    let (_server, clear) = nbdkit(&folder, &arguments);
    let error = open(&clear).err().expect("refused");
    assert!(matches!(&error, DiskError::Nbd { reason, .. } if reason.contains("nbds")), "{error}");

    let url = clear.replace("nbd+unix", "nbds+unix");
    let source = open(&format!("{url}&tls-certificates={}", text(&pki))).expect("opens");
    assert_same(&read_all(source.as_ref()), &bytes);
    drop(source);
    // A server that our authority has not signed, one with another name, no certificate of ours.
    assert!(matches!(open(&url), Err(DiskError::Nbd { .. })));
    let other = format!("{url}&tls-certificates={}&tls-hostname=elsewhere", text(&pki));
    assert!(matches!(open(&other), Err(DiskError::Nbd { .. })));
    fs::remove_file(pki.join("client-cert.pem")).expect("removes");
    assert!(open(&format!("{url}&tls-certificates={}", text(&pki))).is_err());
    fs::remove_file(pki.join("ca-cert.pem")).expect("removes");
    assert!(open(&format!("{url}&tls-certificates={}", text(&pki))).is_err());
}

#[test]
fn over_tcp() {
    let folder = folder();
    let path = folder.path().join("disk");
    let bytes = raw_disk(&path, 5 * MIB, &[(MIB, 3 * MIB)]);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("binds")
        .local_addr()
        .expect("is bound")
        .port();
    let port = port.to_string();
    let arguments = ["-f", "-i", "127.0.0.1", "-p", &port, "file", text(&path)];
    let _server = Server::start("nbdkit", "nbdkit", &arguments);
    let url = format!("nbd://127.0.0.1:{port}");
    common::wait_until("nbdkit listens", || open(&url).is_ok());
    assert_same(&read_all(open(&url).expect("opens").as_ref()), &bytes);
}

/// A server that takes two connections at once has five readers: each gets its turn.
#[test]
fn connections_are_shared() {
    let folder = folder();
    let path = folder.path().join("disk");
    let bytes = noise(11, 4 << 20);
    fs::write(&path, &bytes).expect("writes");
    let socket = socket(&folder);
    let arguments =
        ["-r", "-t", "--shared=2", "-f", "raw", "-x", "vda", "-k", text(&socket), text(&path)];
    let _server = Server::start("qemu-utils", "qemu-nbd", &arguments);
    wait_for(&socket);
    let connections = NbdConnections::new(2);
    let spec: DiskSpec = format!("nbd+unix:///vda?socket={}", text(&socket)).parse().expect("good");
    let options = OpenOptions {
        connections: Some(connections),
        // Whoever waits for a third connection waits so long.
        timeout: Duration::from_secs(5),
        ..OpenOptions::default()
    };
    let start = SystemClock.monotonic();
    let sources: Vec<_> = (0..5).map(|_| open_source(&spec, &options).expect("opens")).collect();
    std::thread::scope(|scope| {
        for source in &sources {
            for _ in 0..2 {
                scope.spawn(|| assert_same(&read_all(source.as_ref()), &bytes));
            }
        }
    });
    drop(sources);
    open_source(&spec, &options).expect("all were given back");
    let took = SystemClock.monotonic().saturating_sub(start);
    assert!(took < Duration::from_secs(5), "{took:?}");
}
