//! Our client against our server, and what no client of ours says.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
    thread,
};

use proptest::prelude::*;

use super::{Allocation, Encryption, Exported, Exports, Handshake, Heard};
use crate::{
    client::{self, Connection, Contexts, Payload, Request},
    proto::{Command, GoOption, OptionHead, RequestHead, Stretch, answer, option, option_bytes},
};

const SIZE: u64 = 3 << 20;

/// A length in memory.
fn small(number: impl TryInto<usize>) -> usize {
    number.try_into().ok().expect("small")
}

/// A number of the protocol.
fn wide(number: usize) -> u64 {
    number.try_into().expect("64 bits")
}

/// A disk in memory; what fails is the sector at [`BAD`].
pub(crate) struct Memory {
    bytes: Mutex<Vec<u8>>,
    read_only: bool,
    unit: u32,
}

const BAD: u64 = 2 << 20;

impl Memory {
    fn new(read_only: bool, unit: u32) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(vec![0; small(SIZE)]), read_only, unit })
    }

    fn part(offset: u64, len: usize) -> std::ops::Range<usize> {
        let start = small(offset);
        start..start + len
    }
}

impl Exported for Memory {
    fn size(&self) -> u64 {
        SIZE
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn unit(&self) -> u32 {
        self.unit
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if (offset..offset + wide(buf.len())).contains(&BAD) && !self.read_only {
            return Err(io::Error::other("a bad sector"));
        }
        buf.copy_from_slice(&self.bytes.lock().expect("bytes")[Self::part(offset, buf.len())]);
        Ok(())
    }

    fn allocation(&self, offset: u64, len: u64) -> io::Result<Vec<Allocation>> {
        let half = len.div_ceil(2);
        let rest = Allocation { len: len - half, is_hole: true };
        assert!(offset + len <= self.size());
        Ok(vec![Allocation { len: half, is_hole: false }, rest])
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.bytes.lock().expect("bytes")[Self::part(offset, data.len())].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        let len = usize::try_from(len).expect("small");
        self.bytes.lock().expect("bytes")[Self::part(offset, len)].fill(0);
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, true)
    }
}

struct One(Arc<Memory>);

impl Exports for One {
    fn names(&self) -> Vec<String> {
        vec!["disk".to_owned()]
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Exported>, String> {
        if ["", "disk"].contains(&name) {
            Ok(Arc::<Memory>::clone(&self.0))
        } else {
            Err(format!("there is no {name}"))
        }
    }
}

/// Talks to a server of this disk.
fn with_server<T>(
    memory: &Arc<Memory>,
    encryption: Encryption,
    talk: impl FnOnce(UnixStream) -> T,
) -> (T, io::Result<()>) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let exports = One(Arc::clone(memory));
    thread::scope(|scope| {
        let served =
            scope.spawn(move || match Handshake::start(theirs, encryption)?.hear(&exports)? {
                Heard::Chosen(mut session) => session.serve(),
                other => Err(io::Error::other(format!("{other:?}"))),
            });
        let said = talk(ours);
        (said, served.join().expect("the server does not panic"))
    })
}

fn connect(stream: UnixStream) -> (Connection<UnixStream>, client::Export) {
    let contexts = Contexts { allocation: true, bitmap: None };
    let handshake = client::Handshake::start(stream).expect("a greeting");
    let (stream, export) = handshake.finish("disk", contexts).expect("an export");
    (Connection::new(stream, &export), export)
}

fn one(connection: &mut Connection<UnixStream>, request: Request<'_>) -> Option<i32> {
    let mut batch = [request];
    connection.run(&mut batch).expect("the connection goes on");
    batch[0].error.as_ref().map(|error| error.raw_os_error().expect("a number"))
}

#[test]
fn what_is_written_is_read() {
    let memory = Memory::new(false, 1);
    let ((), served) = with_server(&memory, Encryption::None, |stream| {
        let (mut connection, export) = connect(stream);
        assert_eq!((export.size, export.structured, export.unit), (SIZE, true, 1));
        let data = strongroom_testing::noise(1, 1_500_000);
        let write = Request::new(Command::Write, 1000, 1_500_000, Payload::Out(&data));
        assert_eq!(one(&mut connection, write), None);
        let mut read = vec![1; 2_000_000];
        let request = Request::new(Command::Read, 0, 2_000_000, Payload::In(&mut read));
        assert_eq!(one(&mut connection, request), None);
        assert_eq!(read[1000..1_501_000], data);
        assert!(read[..1000].iter().chain(&read[1_501_000..]).all(|byte| *byte == 0));

        let mut batch = [Request::new(Command::BlockStatus, 0, 4096, Payload::Status(vec![]))];
        connection.run(&mut batch).expect("goes on");
        let Payload::Status(status) = &batch[0].payload else { panic!("a status") };
        let stretches = [Stretch { len: 2048, state: 0 }, Stretch { len: 2048, state: 3 }];
        assert_eq!(status.as_slice(), [(1, stretches.to_vec())]);

        // A bad sector is an error of its request, and the rest goes on.
        let mut bad = vec![0; 8192];
        let request = Request::new(Command::Read, BAD - 4096, 8192, Payload::In(&mut bad));
        assert_eq!(one(&mut connection, request), Some(5));
        let zero = Request::new(Command::WriteZeroes, 1000, 500_000, Payload::None);
        assert_eq!(one(&mut connection, zero), None);
        let trim = Request::new(Command::Trim, 501_000, 1_000_000, Payload::None);
        assert_eq!(one(&mut connection, trim), None);
        assert_eq!(one(&mut connection, Request::new(Command::Flush, 0, 0, Payload::None)), None);
        connection.end();
    });
    served.expect("a goodbye");
    assert!(memory.bytes.lock().expect("bytes").iter().all(|byte| *byte == 0));
}

#[test]
fn what_may_not_be_is_refused_and_the_connection_goes_on() {
    for (read_only, unit, command, offset, len, error) in [
        (false, 1, Command::Read, SIZE - 1, 2, 22),
        (false, 1, Command::Read, u64::MAX - 1, 2, 22),
        (false, 1, Command::Write, SIZE - 1, 2, 28),
        (false, 1, Command::WriteZeroes, SIZE, 1, 28),
        (false, 1, Command::Cache, 0, 512, 22),
        (false, 1, Command::Flush, 512, 0, 22),
        (false, 1, Command::BlockStatus, 0, 0, 22),
        (true, 1, Command::Write, 0, 512, 1),
        (true, 1, Command::Trim, 0, 512, 1),
        (false, 512, Command::Write, 100, 512, 22),
        (false, 512, Command::Read, 0, 100, 22),
    ] {
        let memory = Memory::new(read_only, unit);
        let ((), served) = with_server(&memory, Encryption::None, |stream| {
            let (mut connection, _) = connect(stream);
            let (out, mut into) = (vec![9; 512], vec![9; 512]);
            let payload = match command {
                Command::Write => Payload::Out(&out[..small(len)]),
                Command::Read => Payload::In(&mut into[..small(len)]),
                Command::BlockStatus => Payload::Status(vec![]),
                _ => Payload::None,
            };
            let found = one(&mut connection, Request::new(command, offset, len, payload));
            assert_eq!(found, Some(error), "{command:?} {offset} {len}");
            let mut read = vec![1; 512];
            let request = Request::new(Command::Read, 0, 512, Payload::In(&mut read));
            assert_eq!(one(&mut connection, request), None, "{command:?} {offset} {len}");
            assert_eq!(read, vec![0; 512]);
            connection.end();
        });
        served.expect("a goodbye");
    }
}

/// Sends an option and reads the kinds of its answers, up to the last.
fn ask(stream: &mut UnixStream, number: u32, data: &[u8]) -> Vec<u32> {
    stream.write_all(&option_bytes(number, data)).expect("sends");
    let mut kinds = Vec::new();
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head).expect("an answer");
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four"));
        assert_eq!(word(8), number);
        let mut rest = vec![0; small(word(16))];
        stream.read_exact(&mut rest).expect("its data");
        kinds.push(word(12));
        if word(12) == answer::ACK || word(12) & answer::ERROR_BIT != 0 {
            return kinds;
        }
    }
}

fn greet(stream: &mut UnixStream, flags: u32) {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    stream.write_all(&flags.to_be_bytes()).expect("sends");
}

fn go(name: &str, facts: Vec<u16>) -> Vec<u8> {
    GoOption { export: name.to_owned(), facts }.encode()
}

#[test]
fn options_are_answered_as_the_protocol_says() {
    let memory = Memory::new(false, 512);
    let ((), served) = with_server(&memory, Encryption::None, |mut stream| {
        greet(&mut stream, 3);
        let stream = &mut stream;
        assert_eq!(ask(stream, 77, b"?"), [answer::UNSUPPORTED]);
        assert_eq!(ask(stream, option::START_TLS, &[]), [answer::UNSUPPORTED]);
        assert_eq!(ask(stream, option::LIST, &[]), [answer::SERVER, answer::ACK]);
        assert_eq!(ask(stream, option::LIST, b"x"), [answer::INVALID]);
        let context = crate::proto::ContextOption {
            export: "disk".to_owned(),
            queries: vec![crate::proto::ALLOCATION.to_owned(), "other:x".to_owned()],
        };
        assert_eq!(ask(stream, option::SET_META_CONTEXT, &context.encode()), [answer::INVALID]);
        assert_eq!(ask(stream, option::STRUCTURED_REPLY, &[]), [answer::ACK]);
        let agreed = ask(stream, option::SET_META_CONTEXT, &context.encode());
        assert_eq!(agreed, [answer::META_CONTEXT, answer::ACK]);
        assert_eq!(ask(stream, option::GO, &go("nowhere", vec![3])), [answer::UNKNOWN]);
        assert_eq!(ask(stream, option::GO, &go("disk", vec![])), [answer::BLOCK_SIZE_REQUIRED]);
        let info = [answer::INFO, answer::INFO, answer::ACK];
        assert_eq!(ask(stream, option::INFO, &go("disk", vec![3])), info);
        // It was agreed on for another export than this one, which is the default.
        assert_eq!(ask(stream, option::GO, &go("", vec![3])), info);
        let status =
            RequestHead { flags: 0, command: Command::BlockStatus, cookie: 9, offset: 0, len: 512 };
        stream.write_all(&status.encode()).expect("sends");
        let mut head = [0; 20];
        stream.read_exact(&mut head).expect("an answer");
        assert_eq!(u16::from_be_bytes([head[6], head[7]]), crate::proto::chunk::ERROR);
        stream.shutdown(std::net::Shutdown::Write).expect("says no more");
        stream.read_to_end(&mut Vec::new()).expect("its words");
    });
    assert_eq!(served.expect_err("no goodbye").kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn nothing_is_shown_before_the_encryption() {
    let memory = Memory::new(false, 1);
    let (mut stream, served) = with_server(&memory, Encryption::Required, |mut stream| {
        greet(&mut stream, 3);
        for (number, data) in [
            (option::LIST, vec![]),
            (option::INFO, go("disk", vec![])),
            (option::GO, go("disk", vec![])),
        ] {
            assert_eq!(ask(&mut stream, number, &data), [answer::TLS_REQUIRED]);
        }
        assert_eq!(ask(&mut stream, option::START_TLS, &[]), [answer::ACK]);
        stream
    });
    assert_eq!(served.expect_err("not chosen yet").to_string(), "Encrypt");
    // What follows would be the encrypted session.
    assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);

    // Bytes that came along in the clear are not taken for the session's.
    let ((), served) = with_server(&memory, Encryption::Offered, |mut stream| {
        greet(&mut stream, 3);
        let both = [option_bytes(option::START_TLS, &[]), option_bytes(option::LIST, &[])];
        stream.write_all(&both.concat()).expect("sends");
        stream.read_to_end(&mut Vec::new()).expect("the end");
    });
    assert_eq!(served.expect_err("refused").kind(), io::ErrorKind::InvalidData);
}

#[test]
fn the_oldest_way_to_choose_has_its_padding() {
    for (flags, len) in [(3, 10), (1, 134)] {
        let memory = Memory::new(true, 1);
        let ((), served) = with_server(&memory, Encryption::None, |mut stream| {
            greet(&mut stream, flags);
            stream.write_all(&option_bytes(1, b"disk")).expect("sends");
            let mut said = vec![0; len];
            stream.read_exact(&mut said).expect("size, flags, padding");
            assert_eq!(said[..8], SIZE.to_be_bytes());
            // Simple answers, as nothing else was agreed on.
            let read =
                RequestHead { flags: 0, command: Command::Read, cookie: 7, offset: 0, len: 100 };
            stream.write_all(&read.encode()).expect("sends");
            let mut answer = vec![1; 116];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer[..4], 0x6744_6698_u32.to_be_bytes());
            assert_eq!(answer[16..], [0; 100]);
            let bye = RequestHead {
                flags: 0,
                command: Command::Disconnect,
                cookie: 8,
                offset: 0,
                len: 0,
            };
            stream.write_all(&bye.encode()).expect("sends");
        });
        served.expect("a goodbye");
    }
}

#[test]
fn a_client_that_makes_no_sense_is_left() {
    let head = OptionHead { option: option::GO, len: 60_000 }.encode();
    for words in [
        vec![0, 0, 0, 8],
        vec![0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        [&[0, 0, 0, 3][..], &head].concat(),
    ] {
        let memory = Memory::new(false, 1);
        let ((), served) = with_server(&memory, Encryption::None, |mut stream| {
            stream.read_exact(&mut [0; 18]).expect("a greeting");
            stream.write_all(&words).expect("sends");
            stream.shutdown(std::net::Shutdown::Write).expect("says no more");
            stream.read_to_end(&mut Vec::new()).ok();
        });
        served.expect_err("no sense");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, Vec<u8>),
    Zero(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place =
        (0..small(SIZE), 0..50_000_usize).prop_map(|(at, len)| (at, len.min(small(SIZE) - at)));
    let step = (0..3, place, any::<u8>()).prop_map(|(kind, (at, len), byte)| match kind {
        0 => Step::Read(at, len),
        1 => Step::Write(at, vec![byte; len]),
        _ => Step::Zero(at, len),
    });
    proptest::collection::vec(step, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_is_a_disk(steps in steps()) {
        let memory = Memory::new(false, 1);
        let mut model = vec![0; small(SIZE)];
        let ((), served) = with_server(&memory, Encryption::None, |stream| {
            let (mut connection, _) = connect(stream);
            for step in &steps {
                match step {
                    Step::Read(at, len) => {
                        let mut read = vec![1; *len];
                        let covers_bad = (wide(*at)..wide(at + len)).contains(&BAD);
                        let number = u32::try_from(*len).expect("small");
                        let payload = Payload::In(&mut read);
                        let request = Request::new(Command::Read, wide(*at), number, payload);
                        let error = one(&mut connection, request);
                        assert_eq!(error, covers_bad.then_some(5));
                        assert!(covers_bad || read == model[*at..at + len]);
                    }
                    Step::Write(at, data) => {
                        let number = u32::try_from(data.len()).expect("small");
                        let request =
                            Request::new(Command::Write, wide(*at), number, Payload::Out(data));
                        assert_eq!(one(&mut connection, request), None);
                        model[*at..at + data.len()].copy_from_slice(data);
                    }
                    Step::Zero(at, len) => {
                        let number = u32::try_from(*len).expect("small");
                        let request =
                            Request::new(Command::WriteZeroes, wide(*at), number, Payload::None);
                        assert_eq!(one(&mut connection, request), None);
                        model[*at..at + len].fill(0);
                    }
                }
            }
            connection.end();
        });
        served.expect("a goodbye");
        prop_assert!(*memory.bytes.lock().expect("bytes") == model);
    }
}
