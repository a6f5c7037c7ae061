//! Block blobs and append blobs of a server that is killed: each is as it was acknowledged, or as the change says whose
//! answer was lost, and nothing is half there.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_base::{Clock as _, SystemClock, lock, start_thread};

use crate::{Killed, account, client::Client};

const WRITERS: usize = 4;
const ROUNDS: u64 = 5;

/// What a writer knows: versions of its block blob, and pieces of its append blob.
#[derive(Clone, Copy, Default)]
struct Ledger {
    acknowledged: u64,
    sent: u64,
    appended: u64,
    appends_sent: u64,
}

/// Two blocks: one that comes as one change, and one that comes in pieces.
fn blocks(writer: usize, version: u64) -> [Vec<u8>; 2] {
    let seed = format!("{writer}/{version}|");
    let of = |len: usize| seed.bytes().cycle().take(len).collect();
    [of(70_001), of((4 << 20) + 5000)]
}

/// What the n-th append brings; every ninth is long.
fn piece(writer: usize, number: u64) -> Vec<u8> {
    let seed = format!("{writer}:{number}|");
    let len = if number % 9 == 8 { (4 << 20) + 77 } else { 3001 };
    seed.bytes().cycle().take(len).collect()
}

pub(crate) fn whole_blocks_and_appends() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = account(folder.path());
    let ledgers: Vec<Arc<Mutex<Ledger>>> = (0..WRITERS).map(|_| Arc::default()).collect();
    for round in 0..ROUNDS {
        let killed = Killed::start(folder.path());
        let client = Client { address: killed.1, keys: keys.clone() };
        if round == 0 {
            assert_eq!(client.ask("PUT", "/con?restype=container", &[], b"").status, 201);
            for writer in 0..WRITERS {
                let kind = [("x-ms-blob-type", "AppendBlob")];
                let log = client.ask("PUT", &format!("/con/log{writer}"), &kind, b"");
                assert_eq!(log.status, 201, "{}", log.text());
            }
        }
        check(&client, &ledgers);
        let writers: Vec<_> = ledgers
            .iter()
            .enumerate()
            .map(|(writer, ledger)| {
                let (client, ledger) = (client.clone(), Arc::clone(ledger));
                start_thread("writer", move || write(&client, writer, &ledger))
            })
            .collect();
        SystemClock.sleep(Duration::from_millis(500 + 350 * round));
        drop(killed);
        for writer in writers {
            writer.join().expect("ends with the server");
        }
    }
    let killed = Killed::start(folder.path());
    let client = Client { address: killed.1, keys };
    check(&client, &ledgers);
    let count =
        |of: fn(&Ledger) -> u64| ledgers.iter().map(|ledger| of(&lock(ledger))).sum::<u64>();
    let (commits, appends) = (count(|l| l.acknowledged), count(|l| l.appended));
    assert!(commits > 10 && appends > 10, "only {commits} commits and {appends} appends");
    // What was on its way is given back: what is left is what is seen.
    for writer in 0..WRITERS {
        for path in [format!("/con/{writer}"), format!("/con/log{writer}")] {
            client.ask("DELETE", &path, &[], b"");
        }
    }
    drop(killed);
    let left = settled(folder.path());
    assert_eq!(left, 0, "data files stay");
    println!("a killed server has whole blocks: {commits} commits and {appends} appends compared");
}

/// The memory of a server, which is a process of its own here, does not grow with what it is sent.
pub(crate) fn a_long_body_takes_little_memory() {
    const MIB: usize = 1 << 20;
    const BODY: usize = 300 * MIB;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = account(folder.path());
    let killed = Killed::start(folder.path());
    let client = Client { address: killed.1, keys };
    assert_eq!(client.ask("PUT", "/con?restype=container", &[], b"").status, 201);
    let host = client.address.to_string();
    let piece: Vec<u8> = (0..MIB).map(|n| n.to_le_bytes()[0]).collect();
    for target in ["/acct/con/whole", "/acct/con/block?comp=block&blockid=b25l"] {
        let headers = [("host", &*host), ("x-ms-blob-type", "BlockBlob")];
        let mut connection = client.connect();
        connection.send(&client.signed("acct", "PUT", target, &headers, BODY));
        for _ in 0..BODY / MIB {
            connection.send(&piece);
        }
        let answer = connection.answer(false).expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let end = format!("bytes={}-{}", BODY - MIB, BODY - 1);
    let read = client.ask("GET", "/con/whole", &[("x-ms-range", &end)], b"");
    assert!(read.body == piece);
    let status = std::fs::read_to_string(format!("/proc/{}/status", killed.0.id())).expect("reads");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("is there");
    let most: usize = most.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(most < 128 << 10, "{most} KiB for bodies of {BODY} bytes");
    println!("bodies of 300 MiB take {most} KiB at most");
}

/// How many data files are left when the store has given everything back.
fn settled(folder: &Path) -> usize {
    let options = strongroom_blobs::Options::new(
        Arc::new(SystemClock),
        Arc::new(strongroom_base::SystemEntropy),
    );
    let folder = folder.join("blobs");
    let store = strongroom_blobs::Store::open(&folder, options).expect("opens");
    store.settle();
    drop(store);
    std::fs::read_dir(folder.join("data")).expect("reads").count()
}

/// Commits and appends until the server is gone.
fn write(client: &Client, writer: usize, ledger: &Mutex<Ledger>) {
    let mut connection = client.connect();
    let host = client.address.to_string();
    let mut put = |target: &str, body: &[u8]| {
        let head = client.signed("acct", "PUT", target, &[("host", &host)], body.len());
        connection.send(&head);
        connection.send(body);
        let answer = connection.answer(false)?;
        assert_eq!(answer.status, 201, "{}", answer.text());
        Some(())
    };
    let mut turn = || {
        let version = {
            let mut ledger = lock(ledger);
            ledger.sent += 1;
            ledger.sent
        };
        for (id, block) in ["b25l", "dHdv"].iter().zip(blocks(writer, version)) {
            put(&format!("/acct/con/{writer}?comp=block&blockid={id}"), &block)?;
        }
        let list = b"<BlockList><Latest>b25l</Latest><Latest>dHdv</Latest></BlockList>";
        put(&format!("/acct/con/{writer}?comp=blocklist"), list)?;
        lock(ledger).acknowledged = version;
        for _ in 0..3 {
            let number = {
                let mut ledger = lock(ledger);
                ledger.appends_sent += 1;
                ledger.appends_sent - 1
            };
            put(&format!("/acct/con/log{writer}?comp=appendblock"), &piece(writer, number))?;
            lock(ledger).appended = number + 1;
        }
        Some(())
    };
    while turn().is_some() {}
}

fn check(client: &Client, ledgers: &[Arc<Mutex<Ledger>>]) {
    for (writer, ledger) in ledgers.iter().enumerate() {
        let mut ledger = lock(ledger);
        let found = client.ask("GET", &format!("/con/{writer}"), &[], b"");
        let known = ledger.acknowledged..=ledger.sent;
        let seen = known.rev().find(|version| match version {
            0 => found.status == 404,
            version => found.body == blocks(writer, *version).concat(),
        });
        let seen = seen.unwrap_or_else(|| panic!("the blob of {writer} is no version of it"));
        (ledger.acknowledged, ledger.sent) = (seen, seen);
        let log = client.ask("GET", &format!("/con/log{writer}"), &[], b"");
        assert_eq!(log.status, 200, "{}", log.text());
        let mut whole = Vec::new();
        let mut count = 0;
        while whole.len() < log.body.len() {
            whole.extend(piece(writer, count));
            count += 1;
        }
        assert!(whole == log.body, "the log of {writer} is not made of whole pieces");
        assert!((ledger.appended..=ledger.appends_sent).contains(&count), "{count} pieces");
        let shown = log.header("x-ms-blob-committed-block-count").to_owned();
        assert_eq!(shown, count.to_string());
        (ledger.appended, ledger.appends_sent) = (count, count);
    }
}
