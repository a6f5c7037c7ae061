use proptest::prelude::*;

use super::{
    connection::{Payload, Request, receive_answers},
    handshake::Handshake,
};
use crate::{
    fuzz::{Script, fuzz_reply},
    proto::{Command, Greeting, OptionReply, Reply, chunk_bytes},
};

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[&[u8]]) -> Vec<u8> {
    chunk_bytes(flags & 1 != 0, kind, cookie, &payload.concat())
}

fn simple(error: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    [&Reply::Simple { error, cookie }.encode(), data].concat()
}

fn data(cookie: u64, offset: u64, len: usize, done: bool) -> Vec<u8> {
    chunk(done.into(), 1, cookie, &[&offset.to_be_bytes(), &vec![7; len]])
}

/// Two reads of 1 KiB at 0 and 1024, with cookies 5 and 6; gives what they got.
fn read_two(structured: bool, answer: &[Vec<u8>]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (mut first, mut second) = (vec![1; 1024], vec![1; 1024]);
    let mut batch = [
        Request::new(Command::Read, 0, 1024, Payload::In(&mut first)),
        Request::new(Command::Read, 1024, 1024, Payload::In(&mut second)),
    ];
    receive_answers(&mut answer.concat().as_slice(), structured, 5, &mut batch)?;
    let error = batch.iter().find_map(|request| request.error.as_ref());
    if let Some(error) = error {
        return Err(format!("reported: {error}"));
    }
    Ok((first, second))
}

#[test]
fn answers_in_any_order_and_in_pieces() {
    let hole = chunk(1, 2, 5, &[&512_u64.to_be_bytes(), &512_u32.to_be_bytes()]);
    let answer =
        [data(6, 1536, 512, false), data(5, 0, 512, false), hole, data(6, 1024, 512, true)];
    let (first, second) = read_two(true, &answer).expect("right");
    assert_eq!(first, [vec![7; 512], vec![0; 512]].concat());
    assert_eq!(second, vec![7; 1024]);

    let answer = [simple(0, 6, &[3; 1024]), simple(0, 5, &[2; 1024])];
    assert_eq!(read_two(false, &answer).expect("right"), (vec![2; 1024], vec![3; 1024]));
}

#[test]
fn lies_are_found() {
    let good = data(6, 1024, 1024, true);
    let lies = [
        ("outside", data(5, 1024, 1024, true)),
        ("beyond", data(5, 512, 1024, true)),
        ("too long", data(5, 0, 4096, true)),
        ("nothing", chunk(1, 0, 5, &[])),
        ("a part", data(5, 0, 512, true)),
        ("twice the same", [data(5, 0, 512, false), data(5, 0, 512, true)].concat()),
        ("overlapping", [data(5, 0, 600, false), data(5, 500, 424, true)].concat()),
        ("far away", data(5, u64::MAX - 3, 8, true)),
        ("an empty piece", data(5, 0, 0, true)),
        ("another cookie", data(9, 0, 1024, true)),
        ("a cookie again", [data(5, 0, 1024, true), data(5, 0, 1024, true)].concat()),
        ("an unknown kind", chunk(1, 77, 5, &[&[0; 20]])),
        ("a status", chunk(1, 5, 5, &[&[0, 0, 0, 1, 0, 0, 4, 0, 0, 0, 0, 0]])),
        ("no magic", vec![0; 64]),
        ("a simple answer", simple(0, 5, &[0; 1024])),
        ("an end", vec![]),
        ("no end", chunk(0, 0, 5, &[])),
    ];
    for (what, lie) in lies {
        let said = read_two(true, &[lie, good.clone()]).expect_err(what);
        assert!(!said.starts_with("reported"), "{what}: {said}");
    }
    assert!(read_two(false, &[data(5, 0, 1024, true), good]).is_err(), "chunks not agreed on");
}

#[test]
fn reported_errors_leave_the_connection_usable() {
    let payload: [&[u8]; 2] = [&5_u32.to_be_bytes(), &[0, 2, b'n', b'o']];
    let answer = [chunk(1, (1 << 15) + 1, 5, &payload), data(6, 1024, 1024, true)];
    let said = read_two(true, &answer).expect_err("an error");
    assert!(said.starts_with("reported: Input/output error"), "{said}");
    let answer = [simple(28, 5, &[]), data(6, 1024, 1024, true)];
    assert!(read_two(true, &answer).expect_err("an error").starts_with("reported: No space"));
}

#[test]
fn handshakes_that_are_none() {
    let hello = b"NBDMAGIC";
    let old_style = 0x0000_4202_8186_1253_u64.to_be_bytes();
    let start = |parts: &[&[u8]]| Handshake::start(Script(&parts.concat())).is_ok();
    assert!(!start(&[b"HTTP/1.1 400 Bad Request"]));
    assert!(!start(&[hello, &old_style, &[0; 200]]));
    assert!(!start(&[hello, b"IHAVEOPT", &[0, 0]]));
    assert!(!start(&[hello]));
    assert!(start(&[hello, b"IHAVEOPT", &[0, 3]]));
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_reply(&bytes);
    }

    /// Well-formed heads with wrong insides get further than noise does.
    #[test]
    fn never_panics_on_chunks(parts in prop::collection::vec(
        (any::<u16>(), prop_oneof![0_u16..6, any::<u16>()], 0_u64..6, prop::collection::vec(any::<u8>(), 0..40)), 0..8))
    {
        let bytes: Vec<u8> = parts.iter().flat_map(|(flags, kind, cookie, payload)| chunk(*flags, *kind, *cookie, &[payload])).collect();
        fuzz_reply(&bytes);
    }

    #[test]
    fn never_panics_in_the_handshake(parts in prop::collection::vec(
        (prop_oneof![Just(8_u32), Just(10), Just(7), any::<u32>()], prop_oneof![1_u32..5, any::<u32>()], prop::collection::vec(any::<u8>(), 0..40)), 0..8))
    {
        let mut bytes = Greeting { flags: 3 }.encode().to_vec();
        for (option, kind, payload) in parts {
            let len = u32::try_from(payload.len()).expect("fits");
            bytes.extend(OptionReply { option, kind, len }.encode());
            bytes.extend(payload);
        }
        fuzz_reply(&bytes);
    }
}
