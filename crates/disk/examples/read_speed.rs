//! Prints how fast a disk can be read: `read_speed SPEC [THREADS] [KIB-PER-READ]`.
#![allow(clippy::print_stdout, reason = "printing is what it does")]

use std::{
    env,
    error::Error,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use strongroom_base::{AlignedBuf, ByteRange, Clock as _, SystemClock};
use strongroom_disk::{DiskError, DiskSpec, ExtentKind, OpenOptions, open_source};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let spec: DiskSpec = arguments.next().ok_or("which disk?")?.parse()?;
    let threads: usize = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let unit: usize = arguments.next().map_or(Ok(1024), |text| text.parse::<usize>())? << 10;
    let step = u64::try_from(unit)?;

    let clock = SystemClock;
    let start = clock.monotonic();
    let source = open_source(&spec, &OpenOptions::default())?;
    let opened = clock.monotonic();

    let mut data = Vec::new();
    let (mut at, mut extents) = (0, 0_usize);
    while at < source.size() {
        for extent in source.extents(ByteRange::between(at, source.size()))? {
            at = extent.range.end();
            extents = extents.saturating_add(1);
            if extent.kind == ExtentKind::Data {
                let mut from = extent.range.offset();
                while from < at {
                    let to = from.saturating_add(step).min(at);
                    data.push(ByteRange::between(from, to));
                    from = to;
                }
            }
        }
    }
    let mapped = clock.monotonic();

    let bytes = AtomicU64::new(0);
    let queue = Mutex::new(data.into_iter());
    let failure: Mutex<Option<DiskError>> = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buf = AlignedBuf::zeroed(unit);
                let next = || queue.lock().ok()?.next();
                while let Some(range) = next() {
                    buf.resize(usize::try_from(range.len()).unwrap_or(usize::MAX));
                    match source.read_at(range.offset(), &mut buf) {
                        Ok(()) => drop(bytes.fetch_add(range.len(), Ordering::Relaxed)),
                        Err(error) => drop(failure.lock().map(|mut first| first.replace(error))),
                    }
                }
            });
        }
    });
    let read = clock.monotonic();
    if let Some(error) = failure.into_inner()? {
        return Err(error.into());
    }
    let bytes = bytes.into_inner();
    let millis = read.saturating_sub(mapped).as_millis().max(1);
    let speed = u128::from(bytes) / 1000 / millis;
    println!("{spec} ({}): {} bytes, {extents} extents", source.format(), source.size());
    println!("opened in {:?}, extents in {:?}", opened.abs_diff(start), mapped.abs_diff(opened));
    println!("{threads} threads read {bytes} bytes in {millis} ms: {speed} MB/s");
    Ok(())
}
