//! How fast one thread tests blocks for zero and computes digests:
//! `cargo run --release -p strongroom-image --example tree_speed`.

#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(clippy::print_stdout, reason = "its purpose")]

use std::{hint::black_box, time::Instant};

use strongroom_base::{BLOCK_SIZE, Digest};
use strongroom_image::{Hasher, Node, is_zero};

fn main() {
    let hasher = Hasher::new(&[1; 32], &[2; 32]);
    let mut block = vec![0; BLOCK_SIZE];
    rate("is_zero, zeros in cache", block.len(), 200_000, || is_zero(black_box(&block)));
    // Written first: memory that was never written is one page of zeros, and stays in cache.
    let mut many = vec![1; 256 << 20];
    many.fill(0);
    rate("is_zero, zeros in memory", many.len(), 20, || is_zero(black_box(&many)));

    block.fill(7);
    rate("is_zero, data", block.len(), 5_000_000, || is_zero(black_box(&block)));
    rate("digest of a block", block.len(), 20_000, || hasher.block(black_box(&block)));

    let mut node = Node::empty();
    for slot in 0..=255 {
        node.set(slot, Digest::new([slot | 1; 32]));
    }
    let encoded = node.encode();
    rate("encode a full node", encoded.len(), 200_000, || black_box(&node).encode());
    rate("decode a full node", encoded.len(), 200_000, || Node::decode(black_box(&encoded)));
    rate("digest of a full node", encoded.len(), 100_000, || hasher.node(black_box(&encoded)));
}

fn rate<T>(what: &str, bytes: usize, times: u32, work: impl Fn() -> T) {
    let start = Instant::now();
    for _ in 0..times {
        black_box(work());
    }
    let each = start.elapsed() / times;
    let rate = u128::try_from(bytes).unwrap_or(0) * 1_000 / each.as_nanos().max(1);
    println!("{what:26} {each:>12?} {rate:>10} MB/s");
}
