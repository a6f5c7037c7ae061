//! An export as a disk, over as many connections as it allows.

use std::{
    cell::Cell,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use rustls::ClientConfig;
use strongroom_base::{ByteRange, Clock as _, RangeSet, SECTOR_SIZE, SystemClock, lock};

use strongroom_nbd::{
    client::{Connection, Contexts, Export, Handshake, Payload, Request, transport},
    proto::{Command, Reason, STATE_DIRTY, STATE_ZERO, Stretch, transmission},
};

use super::{
    NbdConnections, NbdUrl,
    stream::{Stream, tls_config},
};
use crate::{
    DiskError, DiskSource, DiskTarget, Extent, ExtentKind,
    num::{round_down, round_up, to_u64, to_usize},
};

/// The most connections to one export.
const MAX_CONNECTIONS: usize = 4;

/// The most bytes of one request; longer reads and writes are several requests in flight.
const PIECE: u64 = 1 << 20;

/// The most requests in flight on a connection.
const IN_FLIGHT: usize = 8;

/// The most bytes that one question about extents covers.
const STATUS_SPAN: u64 = 1 << 30;

/// The most bytes that one request makes zero: a server that has to write them must be able to
/// before we lose patience.
const ZERO_SPAN: u64 = 64 << 20;

/// Changed ranges in memory; beyond, neighbours are joined.
const MAX_CHANGED: usize = 1 << 20;

/// How often it is looked again for a connection that another export does not use.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// How an export is opened.
#[derive(Clone, Debug)]
pub(crate) struct NbdOptions {
    /// What errors call it.
    pub(crate) name: String,
    /// Its format for people.
    pub(crate) format: String,
    /// Whether it will be written.
    pub(crate) write: bool,
    /// Whether what is not yet written reads as zeros.
    pub(crate) blank: bool,
    /// How long the server may send nothing while it owes an answer.
    pub(crate) timeout: Duration,
    /// How long a refused connection is tried again: the server may be about to listen.
    pub(crate) patience: Duration,
    /// The connections that it shares with other exports of the server.
    pub(crate) connections: Option<NbdConnections>,
}

/// An export of an NBD server.
#[derive(Debug)]
pub(crate) struct NbdDisk {
    url: NbdUrl,
    options: NbdOptions,
    tls: Option<Arc<ClientConfig>>,
    /// Whether it was asked where holes are.
    allocation: bool,
    export: Export,
    changed: Option<RangeSet>,
    pool: Arc<Mutex<Pool>>,
    returned: Condvar,
    /// Held while a part of a block is written, which means reading, changing and writing it.
    edge: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) idle: Vec<Connection<Stream>>,
    pub(super) open: usize,
    most: usize,
    /// Why the export is of no more use. After one connection has failed nobody knows what became
    /// of its writes, so all end.
    broken: Option<Reason>,
}

/// One part of the work of a batch: a request and where its bytes are.
type Piece<'a> = (u64, Payload<'a>);

impl NbdDisk {
    /// Connects, and fetches the dirty bitmap if the URL names one.
    pub(crate) fn open(url: &NbdUrl, options: NbdOptions) -> Result<Self, DiskError> {
        let mut disk = Self::connect(url, options, true)?;
        disk.changed = disk.find_changed()?;
        Ok(disk)
    }

    /// Connects, with or without asking for the allocation.
    fn connect(url: &NbdUrl, options: NbdOptions, allocation: bool) -> Result<Self, DiskError> {
        let nbd = |reason| DiskError::Nbd { disk: options.name.clone(), reason };
        let tls = url.tls.as_ref().map(tls_config).transpose().map_err(nbd)?;
        let shared = options.connections.clone();
        if let Some(shared) = &shared {
            shared.take();
        }
        let give_back = |error| {
            if let Some(shared) = &shared {
                shared.give(1);
            }
            error
        };
        let (connection, export) = connect(url, tls.as_ref(), &options, allocation)
            .map_err(|error| give_back(error.into_disk_error(&options.name)))?;
        if options.write && export.can(transmission::READ_ONLY) {
            return Err(give_back(nbd("it is read-only".to_owned())));
        }
        let most = if export.is_shared() { MAX_CONNECTIONS } else { 1 };
        let pool = Pool { idle: vec![connection], open: 1, most, broken: None };
        let pool = Arc::new(Mutex::new(pool));
        if let Some(shared) = &shared {
            shared.register(&pool);
        }
        Ok(Self {
            url: url.clone(),
            options,
            tls,
            allocation,
            export,
            changed: None,
            pool,
            returned: Condvar::new(),
            edge: Mutex::new(()),
        })
    }

    /// What the dirty bitmap marks, if there is one. It is fetched over a connection that asks for
    /// nothing else, if there may be several: with its bitmap a server tells the allocation too, and
    /// for that of the whole of a large disk QEMU reads gigabytes of tables.
    fn find_changed(&self) -> Result<Option<RangeSet>, DiskError> {
        let Some(context) = self.export.bitmap else { return Ok(None) };
        if self.export.is_shared()
            && let Ok(alone) = Self::connect(&self.url, self.options.clone(), false)
            && let Some(context) = alone.export.bitmap
        {
            return alone.fetch_changed(context).map(Some);
        }
        self.fetch_changed(context).map(Some)
    }

    /// Bytes of the export, which need not be whole sectors.
    pub(crate) const fn len(&self) -> u64 {
        self.export.size
    }

    fn nbd_error(&self, reason: Reason) -> DiskError {
        DiskError::Nbd { disk: self.options.name.clone(), reason }
    }

    fn unit(&self) -> u64 {
        self.export.unit.into()
    }

    /// A connection of our own; waits for one if no more may be opened.
    fn acquire(&self) -> Result<Connection<Stream>, DiskError> {
        let mut pool = lock(&self.pool);
        loop {
            if let Some(reason) = &pool.broken {
                return Err(self.nbd_error(reason.clone()));
            }
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            let shared = self.options.connections.as_ref();
            let is_first = pool.open == 0;
            let may_open =
                pool.open < pool.most && (is_first || shared.is_none_or(NbdConnections::try_take));
            if may_open {
                pool.open = pool.open.saturating_add(1);
                drop(pool);
                if let Some(shared) = shared.filter(|_| is_first) {
                    shared.take();
                }
                let opened = connect(&self.url, self.tls.as_ref(), &self.options, self.allocation);
                pool = lock(&self.pool);
                match opened {
                    Ok((connection, export)) if export == self.export => return Ok(connection),
                    // The server does not take more; make do with what is open.
                    other => {
                        pool.open = pool.open.saturating_sub(1);
                        pool.most = pool.open.max(1);
                        if let Some(shared) = shared {
                            shared.give(1);
                        }
                        if pool.open == 0 {
                            pool.broken = Some(match other {
                                Ok(_) => "it is another than before".to_owned(),
                                Err(error) => error.into_reason(),
                            });
                            self.returned.notify_all();
                        }
                        continue;
                    }
                }
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does requests on one connection, several in flight. Fails if the connection does; what the
    /// server says to each request is in the request.
    fn run(&self, batch: &mut [Request<'_>]) -> Result<(), DiskError> {
        let mut connection = self.acquire()?;
        let done = batch.chunks_mut(IN_FLIGHT).try_for_each(|part| connection.run(part));
        let mut pool = lock(&self.pool);
        let result = match done {
            Ok(()) => {
                pool.idle.push(connection);
                Ok(())
            }
            Err(reason) => {
                pool.open = pool.open.saturating_sub(1);
                pool.broken.get_or_insert_with(|| reason.clone());
                if let Some(shared) = &self.options.connections {
                    shared.give(1);
                }
                Err(self.nbd_error(reason))
            }
        };
        drop(pool);
        if let Some(shared) = &self.options.connections {
            shared.is_idle();
        }
        match result {
            Ok(()) => self.returned.notify_one(),
            Err(_) => self.returned.notify_all(),
        }
        result
    }

    /// Does one request that moves nothing.
    fn run_one(&self, command: Command, range: ByteRange) -> Result<io::Result<()>, DiskError> {
        let len = u32::try_from(range.len()).unwrap_or(u32::MAX);
        let mut batch = [Request::new(command, range.offset(), len, Payload::None)];
        self.run(&mut batch)?;
        let [request] = batch;
        Ok(request.error.map_or(Ok(()), Err))
    }

    /// Moves bytes in pieces; `Err` inside `Ok` is the first error of the server for a piece.
    fn transfer(
        &self,
        command: Command,
        pieces: Vec<Piece<'_>>,
    ) -> Result<io::Result<()>, DiskError> {
        let mut batch = Vec::with_capacity(pieces.len());
        for (offset, payload) in pieces {
            let len = match &payload {
                Payload::In(buf) => buf.len(),
                Payload::Out(data) => data.len(),
                Payload::None | Payload::Status(_) => 0,
            };
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            batch.push(Request::new(command, offset, len, payload));
        }
        self.run(&mut batch)?;
        Ok(batch.into_iter().find_map(|request| request.error).map_or(Ok(()), Err))
    }

    fn piece_len(&self) -> usize {
        to_usize(round_down(PIECE.min(self.export.max_len.into()), self.unit()).max(self.unit()))
    }

    /// Reads whole units within the export.
    fn read_units(&self, offset: u64, buf: &mut [u8]) -> Result<io::Result<()>, DiskError> {
        let len = self.piece_len();
        let mut at = offset;
        let pieces = buf.chunks_mut(len).map(|part| {
            let from = at;
            at = at.saturating_add(to_u64(part.len()));
            (from, Payload::In(part))
        });
        let pieces = pieces.collect();
        self.transfer(Command::Read, pieces)
    }

    /// Reads a part of the export.
    fn read_within(&self, range: ByteRange, buf: &mut [u8]) -> Result<io::Result<()>, DiskError> {
        let whole = self.whole_units(range);
        if whole == range {
            return self.read_units(range.offset(), buf);
        }
        let mut units = vec![0; to_usize(whole.len())];
        let read = self.read_units(whole.offset(), &mut units)?;
        let skip = to_usize(range.offset().saturating_sub(whole.offset()));
        let part = units.get(skip..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(part.unwrap_or_default());
        Ok(read)
    }

    /// The units that `range` touches, within the export.
    fn whole_units(&self, range: ByteRange) -> ByteRange {
        let end = round_up(range.end(), self.unit()).min(self.export.size);
        ByteRange::between(round_down(range.offset(), self.unit()), end)
    }

    fn fill(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let have = to_usize(self.export.size.saturating_sub(offset)).min(buf.len());
        let (buf, past_end) = buf.split_at_mut(have);
        past_end.fill(0);
        if buf.is_empty() {
            return Ok(());
        }
        let range = ByteRange::between(offset, offset.saturating_add(to_u64(have)));
        let Err(error) = self.read_within(range, buf)? else { return Ok(()) };
        let lost = Cell::new(None);
        let unit = self.unit().max(SECTOR_SIZE);
        let (range, source) = crate::locate::first_failing(range, unit, error, |part| {
            let part = part.intersect(ByteRange::between(0, self.export.size));
            let mut scratch = vec![0; to_usize(part.len())];
            self.read_within(part, &mut scratch).unwrap_or_else(|error| {
                lost.set(Some(error));
                Ok(())
            })
        });
        match lost.into_inner() {
            Some(error) => Err(error),
            None => Err(DiskError::Read { disk: self.options.name.clone(), range, source }),
        }
    }

    /// Asks what is in `range`, at most [`STATUS_SPAN`]; gives the stretches of `context`.
    fn status(&self, range: ByteRange, context: u32) -> Result<Vec<Stretch>, DiskError> {
        let whole = self.whole_units(range);
        let most = whole.offset().saturating_add(STATUS_SPAN).min(whole.end());
        let asked = ByteRange::between(whole.offset(), most);
        let len = u32::try_from(asked.len()).unwrap_or(u32::MAX);
        let payload = Payload::Status(Vec::new());
        let mut batch = [Request::new(Command::BlockStatus, asked.offset(), len, payload)];
        self.run(&mut batch)?;
        let [request] = batch;
        if let Some(source) = request.error {
            if !self.export.size.is_multiple_of(self.unit()) {
                return Err(self.nbd_error(format!(
                    "it refuses to report its last blocks ({source}): its size of {} bytes is not a multiple of its block size of {} bytes",
                    self.export.size,
                    self.unit()
                )));
            }
            let disk = self.options.name.clone();
            return Err(DiskError::Io { disk, action: "list its extents", source });
        }
        let Payload::Status(contexts) = request.payload else { return Ok(Vec::new()) };
        let found = contexts.into_iter().find(|(id, _)| *id == context);
        let (_, stretches) =
            found.ok_or_else(|| self.nbd_error("it leaves out a block status".to_owned()))?;
        Ok(stretches)
    }

    /// What the dirty bitmap marks. Joins neighbours if there are too many: what is said to have
    /// changed may be more than what has.
    fn fetch_changed(&self, context: u32) -> Result<RangeSet, DiskError> {
        let mut changed = Vec::new();
        let mut grain = 128 << 10;
        let mut at = 0;
        while at < self.export.size {
            for stretch in self.status(ByteRange::between(at, self.export.size), context)? {
                let end = at.saturating_add(stretch.len.into()).min(self.export.size);
                if stretch.state & STATE_DIRTY != 0 {
                    changed.push(ByteRange::between(at, end));
                }
                at = end;
            }
            while changed.len() > MAX_CHANGED {
                let set = RangeSet::from_unsorted(changed).align_outwards(grain);
                changed = set.iter().map(|range| self.clip(range)).collect();
                grain = grain.saturating_mul(2);
            }
        }
        Ok(RangeSet::from_unsorted(changed))
    }

    fn clip(&self, range: ByteRange) -> ByteRange {
        range.intersect(ByteRange::between(0, self.export.size))
    }

    fn list(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        let mut found: Vec<Extent> = Vec::new();
        let mut push = |to: u64, kind: ExtentKind| {
            let from = found.last().map_or(range.offset(), |last| last.range.end());
            match found.last_mut() {
                Some(last) if last.kind == kind => {
                    last.range = ByteRange::between(last.range.offset(), to.max(from));
                }
                _ if to > from => {
                    found.push(Extent { range: ByteRange::between(from, to), kind });
                }
                _ => {}
            }
        };
        let within = self.clip(range);
        if within.is_empty() {
            push(range.end(), ExtentKind::Zero);
            return Ok(found);
        }
        let Some(context) = self.export.allocation else {
            push(within.end(), ExtentKind::Data);
            push(range.end(), ExtentKind::Zero);
            return Ok(found);
        };
        let mut at = round_down(within.offset(), self.unit());
        for stretch in self.status(within, context)? {
            at = at.saturating_add(stretch.len.into());
            let zero = stretch.state & STATE_ZERO != 0;
            let kind = if zero { ExtentKind::Zero } else { ExtentKind::Data };
            push(at.min(within.end()), kind);
        }
        if found.is_empty() {
            return Err(self.nbd_error("a block status that says nothing".to_owned()));
        }
        Ok(found)
    }

    /// The error of writing `range`.
    fn write_error(&self, range: ByteRange, source: io::Error) -> DiskError {
        let disk = self.options.name.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                DiskError::Full { disk, range }
            }
            _ => DiskError::Write { disk, range, source },
        }
    }

    /// Writes whole units.
    fn write_units(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        if data.is_empty() {
            return Ok(());
        }
        let mut at = offset;
        let pieces = data.chunks(self.piece_len()).map(|part| {
            let from = at;
            at = at.saturating_add(to_u64(part.len()));
            (from, Payload::Out(part))
        });
        let pieces = pieces.collect();
        let end = offset.saturating_add(to_u64(data.len()));
        self.transfer(Command::Write, pieces)?
            .map_err(|error| self.write_error(ByteRange::between(offset, end), error))
    }

    /// Writes a part of one unit.
    fn write_edge(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        if data.is_empty() {
            return Ok(());
        }
        let range = ByteRange::between(offset, offset.saturating_add(to_u64(data.len())));
        let whole = self.whole_units(range);
        let alone = lock(&self.edge);
        let mut unit = vec![0; to_usize(whole.len())];
        self.fill(whole.offset(), &mut unit)?;
        let skip = to_usize(offset.saturating_sub(whole.offset()));
        if let Some(part) = unit.get_mut(skip..).and_then(|rest| rest.get_mut(..data.len())) {
            part.copy_from_slice(data);
        }
        let written = self.write_units(whole.offset(), &unit);
        drop(alone);
        written
    }

    fn write_zeros_plainly(&self, range: ByteRange) -> Result<(), DiskError> {
        let mut at = range.offset();
        while at < range.end() {
            let left = to_usize(range.end().saturating_sub(at));
            let part = ZEROS.get(..left.min(ZEROS.len())).unwrap_or_default();
            self.write_at(at, part)?;
            at = at.saturating_add(to_u64(part.len()));
        }
        Ok(())
    }
}

impl DiskSource for NbdDisk {
    fn size(&self) -> u64 {
        round_up(self.export.size, SECTOR_SIZE)
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        self.list(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.fill(offset, buf)
    }

    fn changed(&self) -> Option<&RangeSet> {
        self.changed.as_ref()
    }

    fn format(&self) -> &str {
        &self.options.format
    }
}

impl DiskTarget for NbdDisk {
    fn size(&self) -> u64 {
        self.export.size
    }

    fn is_blank(&self) -> bool {
        self.options.blank
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let end = offset.saturating_add(to_u64(data.len()));
        if end > self.export.size {
            let range = ByteRange::between(offset, end);
            return Err(self.write_error(range, io::ErrorKind::InvalidInput.into()));
        }
        let head = round_up(offset, self.unit()).saturating_sub(offset);
        let (head, rest) = data.split_at(to_usize(head).min(data.len()));
        let units = to_usize(round_down(to_u64(rest.len()), self.unit()));
        let (units, tail) = rest.split_at(units);
        let at = offset.saturating_add(to_u64(head.len()));
        self.write_edge(offset, head)?;
        self.write_units(at, units)?;
        self.write_edge(at.saturating_add(to_u64(units.len())), tail)
    }

    fn write_zeroes(&self, range: ByteRange) -> Result<(), DiskError> {
        let start = round_up(range.offset(), self.unit());
        let end = round_down(range.end(), self.unit());
        if !self.export.can(transmission::SEND_WRITE_ZEROES) || start >= end {
            return self.write_zeros_plainly(range);
        }
        self.write_zeros_plainly(ByteRange::between(range.offset(), start))?;
        let mut at = start;
        while at < end {
            let part = ByteRange::between(at, at.saturating_add(ZERO_SPAN).min(end));
            self.run_one(Command::WriteZeroes, part)?
                .map_err(|error| self.write_error(part, error))?;
            at = part.end();
        }
        self.write_zeros_plainly(ByteRange::between(end, range.end()))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.fill(offset, buf)
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        self.list(range)
    }

    fn flush(&self) -> Result<(), DiskError> {
        if !self.export.can(transmission::SEND_FLUSH) {
            return Ok(());
        }
        self.run_one(Command::Flush, ByteRange::between(0, 0))?.map_err(|source| {
            let whole = ByteRange::between(0, self.export.size);
            match self.write_error(whole, source) {
                DiskError::Write { disk, source, .. } => {
                    DiskError::Io { disk, action: "flush", source }
                }
                full => full,
            }
        })
    }
}

impl Drop for NbdDisk {
    fn drop(&mut self) {
        let mut pool = lock(&self.pool);
        for connection in pool.idle.drain(..) {
            connection.end();
        }
        let open = std::mem::take(&mut pool.open);
        drop(pool);
        if let Some(shared) = &self.options.connections {
            shared.give(open);
        }
    }
}

/// Why a connection is not made.
enum ConnectError {
    Socket(io::Error),
    Server(Reason),
}

impl ConnectError {
    fn into_disk_error(self, name: &str) -> DiskError {
        let disk = name.to_owned();
        match self {
            Self::Server(reason) => DiskError::Nbd { disk, reason },
            Self::Socket(error) => match error.kind() {
                io::ErrorKind::NotFound => DiskError::NotFound { disk },
                io::ErrorKind::PermissionDenied => DiskError::Denied { disk },
                _ => DiskError::Nbd { disk, reason: format!("cannot connect: {error}") },
            },
        }
    }
}

impl ConnectError {
    fn into_reason(self) -> Reason {
        match self {
            Self::Server(reason) => reason,
            Self::Socket(error) => format!("cannot connect: {error}"),
        }
    }
}

impl From<Reason> for ConnectError {
    fn from(reason: Reason) -> Self {
        Self::Server(reason)
    }
}

fn connect(
    url: &NbdUrl,
    config: Option<&Arc<ClientConfig>>,
    options: &NbdOptions,
    allocation: bool,
) -> Result<(Connection<Stream>, Export), ConnectError> {
    let start = SystemClock.monotonic();
    let stream = loop {
        match Stream::connect(&url.server, options.timeout) {
            Ok(stream) => break stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if SystemClock.monotonic().saturating_sub(start) >= options.patience {
                    return Err(ConnectError::Socket(error));
                }
                SystemClock.sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(ConnectError::Socket(error)),
        }
    };
    let mut handshake = Handshake::start(stream)?;
    if let (Some(tls), Some(config)) = (&url.tls, config) {
        let clear = handshake.into_tls()?;
        let encrypted = clear.start_tls(tls, config).map_err(|error| {
            ConnectError::Server(format!("no encryption: {}", transport(&error)))
        })?;
        handshake = Handshake::resume(encrypted);
    }
    let contexts = Contexts { allocation, bitmap: url.dirty_bitmap.as_deref() };
    let (stream, export) = handshake.finish(&url.export, contexts)?;
    Ok((Connection::new(stream, &export), export))
}
