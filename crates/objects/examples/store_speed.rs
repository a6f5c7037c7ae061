//! Measures a store: puts and reads of packs, and the latency of small create-only puts.
//!
//! usage: `speed URL [MiB per object] [objects] [threads]`. The URL must not be in use: the
//! objects are removed at the end.

#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(clippy::print_stdout, reason = "prints what it measured")]

use std::{error::Error, sync::Arc, thread, time::Instant};

use strongroom_base::{AlignedBuf, ByteRange, Environment};
use strongroom_objects::{Key, ObjectStore, Options, StoreError, open};

fn timed(
    threads: usize,
    work: &(dyn Fn(usize) -> Result<(), StoreError> + Sync),
) -> Result<f64, StoreError> {
    let start = Instant::now();
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or(Ok(())))
    })?;
    Ok(start.elapsed().as_secs_f64())
}

fn main() -> Result<(), Box<dyn Error>> {
    Environment::new(std::env::vars_os()).give();
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: speed URL [MiB] [objects] [threads]")?;
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (mib, objects, threads) = (number(32)?, number(32)?, number(2)?);
    let store = open(&url, &Options { create: true, ..Options::default() })?;
    let store: &Arc<dyn ObjectStore> = &store;

    let len = usize::try_from(mib)? << 20;
    let mut body = AlignedBuf::zeroed(len);
    blake3::Hasher::new().finalize_xof().fill(&mut body);
    let body = &body;
    let workers = usize::try_from(threads)?;
    let key = |name: &str, nth: u32| Key::new(format!("speed/{name}/{nth}"));
    let (mut packs, mut smalls) = (Vec::new(), Vec::new());
    for nth in 0..objects {
        packs.push(key("pack", nth)?);
        smalls.push(key("small", nth)?);
    }
    let (packs, smalls) = (&packs, &smalls);
    let total = f64::from(mib) * f64::from(objects);

    let put = timed(workers, &|thread| {
        let mut mine = packs.iter().skip(thread).step_by(workers);
        mine.try_for_each(|key| store.put_new(key, body).map(drop))
    })?;
    println!("put   {total:6.0} MiB  {:8.0} MiB/s", total / put);

    let range = ByteRange::between(0, u64::from(mib) << 20);
    let get = timed(workers, &|thread| {
        let mut mine = packs.iter().skip(thread).step_by(workers);
        mine.try_for_each(|key| store.get_range(key, range).map(drop))
    })?;
    println!("get   {total:6.0} MiB  {:8.0} MiB/s", total / get);

    let blocks = 64;
    let block = timed(workers, &|thread| {
        for key in packs.iter().skip(thread).step_by(workers) {
            for nth in 0..blocks {
                let offset = u64::from(nth * 7919 % (mib * 16)) << 16;
                store.get_range(key, ByteRange::between(offset, offset + (1 << 16)))?;
            }
        }
        Ok(())
    })?;
    let reads = f64::from(blocks) * f64::from(objects);
    println!("block {reads:6.0} reads of 64 KiB  {:8.0} /s", reads / block);

    let small =
        timed(1, &|_| smalls.iter().try_for_each(|key| store.put_new(key, b"verdict").map(drop)))?;
    println!("small {objects:6} puts  {:8.2} ms each", small * 1000.0 / f64::from(objects));
    packs.iter().chain(smalls).try_for_each(|key| store.delete(key))?;
    Ok(())
}
