use proptest::prelude::*;

use super::*;

fn command() -> impl Strategy<Value = Command> {
    (0..Command::ALL.len()).prop_map(|at| Command::ALL[at].0)
}

#[test]
fn bytes_are_those_of_the_specification() {
    let greeting = Greeting { flags: 3 }.encode();
    assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\x00\x03");
    let head = RequestHead { flags: 1, command: Command::Write, cookie: 2, offset: 3, len: 4 };
    let bytes = [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0,
        0, 4,
    ];
    assert_eq!(head.encode(), bytes);
    assert_eq!(option_bytes(option::ABORT, b"x"), b"IHAVEOPT\0\0\0\x02\0\0\0\x01x");
    let go = GoOption { export: "ab".to_owned(), facts: vec![info::BLOCK_SIZE] };
    assert_eq!(go.encode(), b"\0\0\0\x02ab\0\x01\0\x03");
    let fact = Fact::Export { size: 512, flags: transmission::HAS_FLAGS };
    assert_eq!(fact.encode(), [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1]);
    let chunk = chunk_bytes(true, chunk::HOLE, 9, &[1; 3]);
    let head = [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 3, 1, 1, 1];
    assert_eq!(chunk, head);
}

#[test]
fn what_breaks_a_rule_is_refused() {
    assert!(Greeting::parse(b"NBDMAGICIHAVEOPT\x00\x02").is_err(), "not the current protocol");
    assert!(Greeting::parse(b"NBDMAGICXXXXXXXX\x00\x03").is_err());
    let long = OptionHead { option: option::GO, len: MAX_OPTION + 1 };
    assert!(OptionHead::parse(&long.encode()).is_err());
    let reply = OptionReply { option: option::GO, kind: answer::ACK, len: 0 };
    assert!(OptionReply::parse(&reply.encode(), option::INFO).is_err(), "the answer to another");
    let mut request =
        RequestHead { flags: 0, command: Command::Read, cookie: 7, offset: 0, len: 1 }.encode();
    request[7] = 99;
    assert_eq!(RequestHead::parse(&request), Err(BadRequest::Unknown { cookie: 7 }));
    request[0] = 0;
    assert_eq!(RequestHead::parse(&request), Err(BadRequest::NoRequest));
    let go = GoOption { export: "x".repeat(MAX_STRING + 1), facts: Vec::new() };
    assert!(GoOption::parse(&go.encode()).is_err(), "a long name");
    let go = GoOption { export: "x".to_owned(), facts: vec![1, 2] }.encode();
    (0..go.len()).for_each(|len| assert!(GoOption::parse(&go[..len]).is_err(), "{len} bytes"));
    assert!(GoOption::parse(&[&go[..], &[0]].concat()).is_err(), "something left over");
    // Four thousand million contexts, it says.
    assert!(ContextOption::parse(b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0").is_err());
    for wrong in [&[0; 3][..], &[0; 4], &[0; 11], &[0; 12], &[1; 13]] {
        assert!(BlockStatus::parse(wrong).is_err(), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn what_a_client_sends_is_read_back(
        (flags, command, cookie) in (any::<u16>(), command(), any::<u64>()),
        (offset, len) in (any::<u64>(), any::<u32>()),
        export in "\\PC{0,40}",
        facts in prop::collection::vec(any::<u16>(), 0..6),
        queries in prop::collection::vec("\\PC{0,20}", 0..4),
        data in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let head = RequestHead { flags, command, cookie, offset, len };
        prop_assert_eq!(RequestHead::parse(&head.encode()), Ok(head));
        let go = GoOption { export: export.clone(), facts };
        prop_assert_eq!(GoOption::parse(&go.encode()), Ok(go));
        let contexts = ContextOption { export, queries };
        prop_assert_eq!(ContextOption::parse(&contexts.encode()), Ok(contexts));
        let option = option_bytes(flags.into(), &data);
        let (head, rest) = option.split_first_chunk().expect("a head");
        let head = OptionHead::parse(head).expect("reads");
        prop_assert_eq!((head.option, head.len), (u32::from(flags), u32::try_from(data.len()).expect("fits")));
        prop_assert_eq!(rest, data);
    }

    #[test]
    fn what_a_server_sends_is_read_back(
        (flags, error, cookie, done) in (any::<u16>(), any::<u32>(), any::<u64>(), any::<bool>()),
        (option, kind, len) in (any::<u32>(), any::<u32>(), 0..=MAX_OPTION),
        (size, least, preferred, most) in (any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>()),
        name in prop::collection::vec(any::<u8>(), 0..40),
        stretches in prop::collection::vec((1_u32.., any::<u32>()), 1..20),
        message in "[ -~]{0,200}",
    ) {
        let greeting = Greeting { flags: flags | FIXED_NEWSTYLE };
        prop_assert_eq!(Greeting::parse(&greeting.encode()), Ok(greeting));
        let reply = OptionReply { option, kind, len };
        prop_assert_eq!(OptionReply::parse(&reply.encode(), option), Ok(reply));
        for fact in [
            Fact::Export { size, flags },
            Fact::BlockSize { least, preferred, most },
            Fact::Other(flags | 1 << 8),
        ] {
            prop_assert_eq!(Fact::parse(&fact.encode()), Ok(fact));
        }
        let context = Context { id: option, name };
        prop_assert_eq!(Context::parse(&context.encode()), Ok(context));
        for reply in [Reply::Simple { error, cookie }, Reply::Chunk { done, kind: flags, cookie }] {
            prop_assert_eq!(Reply::parse(&reply.encode()), Ok(reply));
        }
        let stretches = stretches.into_iter().map(|(len, state)| Stretch { len, state }).collect();
        let status = BlockStatus { context: option, stretches };
        prop_assert_eq!(BlockStatus::parse(&status.encode()), Ok(status));
        let chunk = ErrorChunk { number: error, message };
        prop_assert_eq!(ErrorChunk::parse(&chunk.encode()), Ok(chunk));
    }

    #[test]
    fn nothing_that_is_sent_is_more_than_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        crate::fuzz::fuzz_request(&bytes);
        Fact::parse(&bytes).ok();
        Context::parse(&bytes).ok();
        BlockStatus::parse(&bytes).ok();
        ErrorChunk::parse(&bytes).ok();
    }
}
