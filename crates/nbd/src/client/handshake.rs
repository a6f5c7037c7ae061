//! From a fresh connection to an export: encryption, contexts, size, abilities.

use std::io::{BufReader, Read, Write};

use strongroom_base::MAX_DISK_SIZE;

use crate::proto::{
    self, ALLOCATION, Context, ContextOption, DEFAULT_MAX_LEN, DIRTY_BITMAP, Fact, GoOption,
    Greeting, OptionReply, Reason, answer, info, option, printable, transmission,
};

/// The most answers to one option.
const MAX_ANSWERS: usize = 64;

/// What is known of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// See [`proto::transmission`].
    pub flags: u16,
    /// Every offset and length is a multiple of it: a power of two up to 64 KiB.
    pub unit: u32,
    /// The most bytes of one read or write.
    pub max_len: u32,
    /// Whether reads are answered in chunks.
    pub structured: bool,
    /// The number of the context of holes and zeros, if there is one.
    pub allocation: Option<u32>,
    /// The number of the dirty bitmap's context, if it was asked for.
    pub bitmap: Option<u32>,
}

/// What is asked for of an export besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Contexts<'a> {
    /// Where its holes and zeros are.
    pub allocation: bool,
    /// What this dirty bitmap marks.
    pub bitmap: Option<&'a str>,
}

impl Export {
    /// Whether it has this ability.
    pub const fn can(&self, ability: u16) -> bool {
        self.flags & ability != 0
    }

    /// Whether it can be used over several connections at once.
    pub const fn is_shared(&self) -> bool {
        self.can(transmission::CAN_MULTI_CONN)
    }
}

/// Receives exactly `N` bytes.
pub(super) fn receive<const N: usize>(stream: &mut impl Read) -> Result<[u8; N], Reason> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map_err(|error| transport(&error))?;
    Ok(bytes)
}

/// Why a connection ends early.
pub fn transport(error: &std::io::Error) -> Reason {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not answer".to_owned(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "it has closed the connection".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Sends and receives options.
pub struct Handshake<S: Read + Write> {
    stream: BufReader<S>,
}

/// An answer to an option: its kind and what it says.
type Answer = (u32, Vec<u8>);

impl<S: Read + Write> Handshake<S> {
    /// Reads the server's greeting and answers it.
    pub fn start(stream: S) -> Result<Self, Reason> {
        let mut this = Self { stream: BufReader::with_capacity(4096, stream) };
        let greeting = Greeting::parse(&receive(&mut this.stream)?)?;
        let agreed = u32::from(greeting.flags & (proto::FIXED_NEWSTYLE | proto::NO_ZEROES));
        this.send(&agreed.to_be_bytes())?;
        Ok(this)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).and_then(|()| stream.flush()).map_err(|error| transport(&error))
    }

    /// Sends an option and collects its answers up to the final one, which is the last in the
    /// list.
    fn ask(&mut self, number: u32, data: &[u8]) -> Result<(Vec<Answer>, u32), Reason> {
        self.send(&proto::option_bytes(number, data))?;
        let mut answers = Vec::new();
        while answers.len() < MAX_ANSWERS {
            let OptionReply { kind, len, .. } =
                OptionReply::parse(&receive(&mut self.stream)?, number)?;
            let mut data = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            self.stream.read_exact(&mut data).map_err(|error| transport(&error))?;
            answers.push((kind, data));
            if kind == answer::ACK || kind & answer::ERROR_BIT != 0 {
                return Ok((answers, kind));
            }
        }
        Err("it never ends its answer in the handshake".to_owned())
    }

    /// Agrees on encryption; the bytes that follow on the returned stream are the session's.
    pub fn into_tls(mut self) -> Result<S, Reason> {
        match self.ask(option::START_TLS, &[])? {
            (_, answer::ACK) => {}
            (answers, _) => return Err(refusal("it does not encrypt", &answers)),
        }
        // Anything sent before the encryption could be somebody else's.
        if self.stream.buffer().is_empty() {
            Ok(self.stream.into_inner())
        } else {
            Err("it sends in the clear after agreeing to encrypt".to_owned())
        }
    }

    /// Continues inside a session that is encrypted by now.
    pub fn resume(stream: S) -> Self {
        Self { stream: BufReader::with_capacity(4096, stream) }
    }

    /// Chooses the export and its contexts.
    pub fn finish(
        mut self,
        name: &str,
        wanted: Contexts<'_>,
    ) -> Result<(BufReader<S>, Export), Reason> {
        let mut export = Export { unit: 1, max_len: DEFAULT_MAX_LEN, ..Export::default() };
        let (answers, last) = self.ask(option::STRUCTURED_REPLY, &[])?;
        if last == answer::TLS_REQUIRED {
            return Err(refusal("it wants encryption: use nbds:// or nbds+unix://", &answers));
        }
        export.structured = last == answer::ACK;
        if export.structured {
            self.choose_contexts(name, wanted, &mut export)?;
        }
        if let (Some(bitmap), None) = (wanted.bitmap, export.bitmap) {
            return Err(format!("it has no dirty bitmap {bitmap:?} for this export"));
        }
        self.go(name, &mut export)?;
        Ok((self.stream, export))
    }

    fn choose_contexts(
        &mut self,
        name: &str,
        wanted: Contexts<'_>,
        export: &mut Export,
    ) -> Result<(), Reason> {
        let bitmap = wanted.bitmap.map(|bitmap| format!("{DIRTY_BITMAP}{bitmap}"));
        let allocation = wanted.allocation.then(|| ALLOCATION.to_owned());
        let queries = allocation.iter().chain(&bitmap).cloned().collect();
        let data = ContextOption { export: name.to_owned(), queries }.encode();
        let (answers, last) = self.ask(option::SET_META_CONTEXT, &data)?;
        if last != answer::ACK {
            return Ok(());
        }
        for (kind, data) in answers {
            if kind != answer::META_CONTEXT {
                continue;
            }
            let context = Context::parse(&data)?;
            if context.name == ALLOCATION.as_bytes() {
                export.allocation = Some(context.id);
            } else if bitmap.as_ref().is_some_and(|bitmap| context.name == bitmap.as_bytes()) {
                export.bitmap = Some(context.id);
            }
        }
        Ok(())
    }

    fn go(&mut self, name: &str, export: &mut Export) -> Result<(), Reason> {
        let go = GoOption { export: name.to_owned(), facts: vec![info::BLOCK_SIZE] };
        let data = go.encode();
        let (answers, last) = self.ask(option::GO, &data)?;
        if last != answer::ACK {
            let what = match last {
                answer::UNKNOWN => "it has no such export",
                answer::POLICY => "it does not allow this",
                _ => "it refuses the export",
            };
            self.send(&proto::option_bytes(option::ABORT, &[])).ok();
            return Err(refusal(what, &answers));
        }
        let mut has_size = false;
        for (kind, data) in answers {
            if kind != answer::INFO {
                continue;
            }
            match Fact::parse(&data)? {
                Fact::Export { size, flags } => {
                    (export.size, export.flags, has_size) = (size, flags, true);
                }
                Fact::BlockSize { least, most, .. } => {
                    (export.unit, export.max_len) = (least, most);
                }
                Fact::Other(_) => {}
            }
        }
        if !has_size {
            return Err("it does not say the export's size".to_owned());
        }
        check(export)
    }
}

/// Refuses what a server cannot mean.
fn check(export: &Export) -> Result<(), Reason> {
    if export.size > MAX_DISK_SIZE {
        return Err(format!("it claims a size of {} bytes", export.size));
    }
    let unit_is_sane = export.unit.is_power_of_two() && export.unit <= 64 << 10;
    let most_is_sane = export.max_len >= export.unit.max(4096);
    if !unit_is_sane || !most_is_sane {
        return Err(format!("it claims blocks of {} to {} bytes", export.unit, export.max_len));
    }
    Ok(())
}

/// A refusal with the server's own words, if it gave any.
fn refusal(what: &str, answers: &[Answer]) -> Reason {
    match answers.last().map(|(_, said)| printable(said)) {
        Some(said) if !said.is_empty() => format!("{what} ({said})"),
        _ => what.to_owned(),
    }
}
