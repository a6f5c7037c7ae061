//! LZNT1, by which NTFS compresses files.

use crate::{bytes::Le, tree::Fault};

/// Bytes of a chunk when it is unpacked.
const CHUNK: usize = 4096;

fn broken() -> Fault {
    Fault::damaged("compressed data is damaged")
}

/// Unpacks a unit of this length. What its chunks do not fill is zero.
pub(super) fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, Fault> {
    let mut unpacked = Vec::with_capacity(len);
    let mut rest = packed;
    while unpacked.len() < len && rest.len() >= 2 {
        let head = Le(rest).u16(0);
        if head == 0 {
            break;
        }
        let size = usize::from(head & 0xfff) + 1;
        let chunk = rest.get(2..2 + size).ok_or_else(broken)?;
        rest = rest.get(2 + size..).unwrap_or_default();
        let start = unpacked.len();
        if head & 0x8000 == 0 {
            unpacked.extend(chunk);
        } else {
            expand(chunk, &mut unpacked)?;
        }
        if unpacked.len() - start > CHUNK {
            return Err(broken());
        }
        unpacked.resize(start + CHUNK, 0);
    }
    if unpacked.len() > len {
        return Err(broken());
    }
    unpacked.resize(len, 0);
    Ok(unpacked)
}

/// Adds a compressed chunk. Copies refer to what the same chunk has unpacked before.
fn expand(chunk: &[u8], unpacked: &mut Vec<u8>) -> Result<(), Fault> {
    let start = unpacked.len();
    let mut rest = chunk;
    while let [flags, tokens @ ..] = rest {
        rest = tokens;
        for bit in 0..8 {
            if flags >> bit & 1 == 0 {
                let [byte, after @ ..] = rest else { return Ok(()) };
                unpacked.push(*byte);
                rest = after;
            } else {
                if rest.len() < 2 {
                    return Err(broken());
                }
                copy(Le(rest).u16(0), start, unpacked)?;
                rest = rest.get(2..).unwrap_or_default();
            }
            if unpacked.len() - start > CHUNK {
                return Err(broken());
            }
        }
    }
    Ok(())
}

/// Repeats bytes. The further a chunk is, the more bits of a token say how far back they lie.
fn copy(token: u16, start: usize, unpacked: &mut Vec<u8>) -> Result<(), Fault> {
    let done = unpacked.len() - start;
    let last = done.checked_sub(1).ok_or_else(broken)?;
    let mut bits = 4_u32;
    while bits < 12 && last >> bits != 0 {
        bits += 1;
    }
    let back = usize::from(token >> (16 - bits)) + 1;
    let len = usize::from(token & (0xffff >> bits)) + 3;
    let from = done.checked_sub(back).ok_or_else(broken)?;
    for at in start + from..start + from + len {
        let byte = *unpacked.get(at).ok_or_else(broken)?;
        unpacked.push(byte);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of MS-XCA.
    #[test]
    fn the_example_of_the_specification() {
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2,
            0x47, 0x01, 0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0,
            0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58,
            0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01,
            0x18, 0x90, 0x00,
        ];
        let text = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D \
                    E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let unpacked = unpack(&packed, 4096).expect("unpacks");
        assert_eq!(unpacked.get(..text.len()), Some(text.as_bytes()));
        assert!(unpacked.iter().skip(text.len()).all(|byte| *byte == 0));
    }

    #[test]
    fn damaged_data_is_an_error() {
        // Longer than it is, a copy before there is anything, a copy from before the beginning.
        for packed in
            [&[0x38, 0xb0, 0][..], &[0x02, 0xb0, 0x01, 0, 0], &[0x03, 0xb0, 2, 65, 0, 0xf0]]
        {
            unpack(packed, 4096).expect_err("damaged");
        }
        for byte in 0..=255 {
            let noise: Vec<u8> =
                (0..5000_u32).map(|at| u8::try_from(at * 37 % 251).unwrap_or(0) ^ byte).collect();
            unpack(&noise, 65_536).ok();
        }
        assert_eq!(unpack(&[], 8192).expect("zeros"), vec![0; 8192]);
    }
}
