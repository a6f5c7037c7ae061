//! Whether the screen of a machine looks as it did before.
//!
//! A picture becomes a hash of 128 bits: a grid of 8 x 8 cells, for each whether it is brighter than its right neighbour
//! (difference hash) and whether it is brighter than the picture's mean (average hash). Both stay nearly the same when a
//! clock or a cursor changes, and differ between a desktop, a text console and an error of the firmware. The distance of two
//! hashes is the number of bits in which they differ.
//!
//! Pure. What a picture shows is the guest's choice: its size is checked before memory is taken, and the hash decides
//! nothing but a warning.

use std::{fmt, str::FromStr};

use strongroom_base::PointId;
use strongroom_hypervisor::Screenshot;
use strongroom_reports::{BootPicture, BootSummary, BootVerdict};

/// Cells in a row and in a column.
const CELLS: usize = 8;
/// By how much neighbours must differ, of 255: less is noise.
const STEP: u64 = 4;
/// The most bits of 128 in which pictures that look alike differ.
pub(super) const ALIKE: u32 = 20;
/// The most pixels of a picture: more than 8K.
const PIXELS_MAX: u64 = 40 << 20;

/// The hash of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash(u128);

impl Hash {
    /// The number of bits in which both differ, 0 to 128.
    pub(super) const fn distance(self, other: Self) -> u32 {
        (self.0 ^ other.0).count_ones()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Hash {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// The hash of a picture beside that of the item's newest other recovery point that came as far as expected and has
/// one. None if the picture is of no form that is read.
pub(super) fn compare(
    picture: &Screenshot,
    point: PointId,
    history: &[BootSummary],
) -> Option<BootPicture> {
    let hash = Grey::of(picture)?.hash();
    let passed = history.iter().rev().filter(|boot| boot.verdict == BootVerdict::Passed);
    let others = passed.filter(|boot| boot.recovery_point != point);
    let mut known = others.filter_map(|boot| {
        let known: Hash = boot.picture_hash.as_ref()?.parse().ok()?;
        Some((boot.recovery_point, hash.distance(known)))
    });
    let (other, distance) = known.next().unzip();
    Some(BootPicture {
        hash: hash.to_string(),
        compared_with: other,
        distance,
        is_alike: distance.map(|distance| distance <= ALIKE),
    })
}

/// A picture in shades of grey, row by row.
#[derive(Debug, PartialEq, Eq)]
struct Grey {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// The brightness of a pixel (ITU-R BT.601).
fn brightness(red: u8, green: u8, blue: u8) -> u8 {
    let sum = 77 * u32::from(red) + 150 * u32::from(green) + 29 * u32::from(blue);
    u8::try_from(sum >> 8).unwrap_or(u8::MAX)
}

impl Grey {
    fn of(picture: &Screenshot) -> Option<Self> {
        match picture.kind.as_str() {
            "image/png" => Self::of_png(&picture.bytes),
            "image/x-portable-pixmap" => Self::of_pixmap(&picture.bytes),
            _ => None,
        }
    }

    /// Of pixels of `channels` bytes: grey, or red, green and blue; a last one of transparency is left out.
    fn of_pixels(width: usize, height: usize, channels: usize, bytes: &[u8]) -> Option<Self> {
        let wanted = width.checked_mul(height)?;
        let grey = |pixel: &[u8]| match *pixel {
            [grey] | [grey, _] => grey,
            [red, green, blue] | [red, green, blue, _] => brightness(red, green, blue),
            _ => 0,
        };
        let pixels: Vec<u8> = bytes.chunks_exact(channels.max(1)).take(wanted).map(grey).collect();
        (pixels.len() == wanted && wanted > 0).then_some(Self { width, height, pixels })
    }

    /// A binary pixmap (`P6`) of one byte a colour, as QEMU writes it.
    fn of_pixmap(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"P6")?;
        let mut numbers = [0_usize; 3];
        for number in &mut numbers {
            let start = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
            rest = rest.get(start..)?;
            let end = rest.iter().position(u8::is_ascii_whitespace)?;
            let (digits, after) = rest.split_at_checked(end)?;
            *number = std::str::from_utf8(digits).ok()?.parse().ok()?;
            rest = after;
        }
        let [width, height, 255] = numbers else { return None };
        Self::of_pixels(width, height, 3, rest.get(1..)?)
    }

    /// A PNG file (RFC 2083) of 8 bits a channel, without a palette and not interlaced, as QEMU writes it.
    fn of_png(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
        let (mut head, mut packed) = (None, Vec::new());
        loop {
            let (len, after) = rest.split_first_chunk::<4>()?;
            let (kind, after) = after.split_first_chunk::<4>()?;
            let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
            let (content, after) = after.split_at_checked(len)?;
            match kind {
                b"IHDR" => head = Some(content),
                b"IDAT" => packed.extend_from_slice(content),
                b"IEND" => break,
                _ => {}
            }
            // Behind the sum of the chunk.
            rest = after.get(4..)?;
        }
        let head: &[u8; 13] = head?.try_into().ok()?;
        let (width, after) = head.split_first_chunk::<4>()?;
        let (height, after) = after.split_first_chunk::<4>()?;
        let (width, height) = (u32::from_be_bytes(*width), u32::from_be_bytes(*height));
        let channels = match *after {
            [8, 0, 0, 0, 0] => 1,
            [8, 2, 0, 0, 0] => 3,
            [8, 4, 0, 0, 0] => 2,
            [8, 6, 0, 0, 0] => 4,
            _ => return None,
        };
        if u64::from(width).checked_mul(u64::from(height))? > PIXELS_MAX {
            return None;
        }
        let (width, height) = (usize::try_from(width).ok()?, usize::try_from(height).ok()?);
        let row = width.checked_mul(channels)?;
        let most = row.checked_add(1)?.checked_mul(height)?;
        let rows = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(&packed, most).ok()?;
        let pixels = unfiltered(&rows, row, channels)?;
        Self::of_pixels(width, height, channels, &pixels)
    }

    /// The mean brightness of each cell of a grid.
    fn cells(&self, columns: usize) -> Vec<u64> {
        let part = |of: usize, cells: usize, cell: usize| {
            let start = cell * of / cells;
            // A picture that is smaller than the grid has some pixels in several cells.
            start..((cell + 1) * of / cells).max(start + 1)
        };
        let mut means = Vec::with_capacity(columns * CELLS);
        for row in 0..CELLS {
            for column in 0..columns {
                let (mut sum, mut count) = (0_u64, 0_u64);
                for y in part(self.height, CELLS, row) {
                    let line = self.pixels.get(y * self.width..).unwrap_or_default();
                    let part = line.get(part(self.width, columns, column)).unwrap_or_default();
                    sum += part.iter().map(|pixel| u64::from(*pixel)).sum::<u64>();
                    count += u64::try_from(part.len()).unwrap_or(0);
                }
                means.push(sum.checked_div(count).unwrap_or(0));
            }
        }
        means
    }

    fn hash(&self) -> Hash {
        let mut bits = 0_u128;
        let mut push = |bit: bool| bits = bits << 1 | u128::from(bit);
        let wide = self.cells(CELLS + 1);
        for row in wide.chunks(CELLS + 1) {
            row.windows(2).for_each(|pair| {
                push(matches!(pair, [left, right] if *left > right.saturating_add(STEP)));
            });
        }
        let cells = self.cells(CELLS);
        let mean = cells.iter().sum::<u64>() / 64;
        cells.iter().for_each(|cell| push(*cell > mean.saturating_add(STEP)));
        Hash(bits)
    }
}

/// The bytes of rows whose filters are undone (RFC 2083, 6).
fn unfiltered(rows: &[u8], row: usize, channels: usize) -> Option<Vec<u8>> {
    let mut done: Vec<u8> = Vec::with_capacity(rows.len());
    let mut above = vec![0_u8; row];
    for line in rows.chunks_exact(row.checked_add(1)?) {
        let (filter, line) = line.split_first()?;
        let mut current = vec![0_u8; row];
        for (place, byte) in line.iter().enumerate() {
            let before = |line: &[u8]| {
                let place = place.checked_sub(channels);
                place.and_then(|place| line.get(place)).copied().unwrap_or(0)
            };
            let (left, up, corner) =
                (before(&current), above.get(place).copied().unwrap_or(0), before(&above));
            let guess = match filter {
                0 => 0,
                1 => left,
                2 => up,
                3 => u8::try_from(u16::midpoint(left.into(), up.into())).unwrap_or(u8::MAX),
                4 => paeth(left, up, corner),
                _ => return None,
            };
            *current.get_mut(place)? = byte.wrapping_add(guess);
        }
        done.extend_from_slice(&current);
        above = current;
    }
    Some(done)
}

/// Which of three neighbours is the nearest to what they suggest.
fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let guess = i16::from(left) + i16::from(up) - i16::from(corner);
    let far = |other: u8| guess.abs_diff(other.into());
    if far(left) <= far(up) && far(left) <= far(corner) {
        left
    } else if far(up) <= far(corner) {
        up
    } else {
        corner
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use strongroom_reports::Rung;

    use super::*;

    fn pixmap(width: usize, height: usize, pixels: &[u8]) -> Screenshot {
        let mut bytes = format!("P6\n{width} {height}\n255\n").into_bytes();
        bytes.extend_from_slice(pixels);
        Screenshot { kind: "image/x-portable-pixmap".to_owned(), bytes }
    }

    /// A PNG file whose rows use the filters in turn, made as the specification says and not as it is read here.
    fn png(width: usize, height: usize, pixels: &[u8]) -> Screenshot {
        let row = width * 3;
        let at = |y: Option<usize>, x: Option<usize>| match (y, x) {
            (Some(y), Some(x)) => pixels[y * row + x],
            _ => 0,
        };
        let mut rows = Vec::new();
        for y in 0..height {
            let filter = y % 5;
            rows.push(u8::try_from(filter).expect("small"));
            for x in 0..row {
                let (left, up) = (at(Some(y), x.checked_sub(3)), at(y.checked_sub(1), Some(x)));
                let corner = at(y.checked_sub(1), x.checked_sub(3));
                let mean = usize::midpoint(left.into(), up.into());
                let guess = match filter {
                    0 => 0,
                    1 => left,
                    2 => up,
                    3 => u8::try_from(mean).expect("a byte"),
                    _ => paeth(left, up, corner),
                };
                rows.push(pixels[y * row + x].wrapping_sub(guess));
            }
        }
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |kind: &[u8], content: &[u8]| {
            bytes.extend(u32::try_from(content.len()).expect("small").to_be_bytes());
            bytes.extend_from_slice(kind);
            bytes.extend_from_slice(content);
            bytes.extend([0; 4]);
        };
        let size = |number: usize| u32::try_from(number).expect("small").to_be_bytes();
        chunk(b"IHDR", &[&size(width)[..], &size(height), &[8, 2, 0, 0, 0]].concat());
        let packed = miniz_oxide::deflate::compress_to_vec_zlib(&rows, 6);
        let (first, last) = packed.split_at(packed.len() / 2);
        chunk(b"IDAT", first);
        chunk(b"IDAT", last);
        chunk(b"IEND", &[]);
        Screenshot { kind: "image/png".to_owned(), bytes }
    }

    fn hash(picture: &Screenshot) -> Hash {
        Grey::of(picture).expect("a picture").hash()
    }

    /// A text console: white rectangles for lines of text, of this many characters.
    fn console(lines: &[usize]) -> Screenshot {
        let (width, height) = (640, 400);
        let mut pixels = vec![0; width * height * 3];
        for (line, chars) in lines.iter().enumerate() {
            for y in line * 16 + 4..line * 16 + 12 {
                for x in (0..chars * 8).filter(|x| x % 8 < 5) {
                    pixels[(y * width + x) * 3..][..3].fill(170);
                }
            }
        }
        pixmap(width, height, &pixels)
    }

    #[test]
    fn screens_are_told_apart_and_clocks_are_not() {
        let login = hash(&console(&[40, 0, 12]));
        let later = hash(&console(&[40, 0, 13]));
        assert!(login.distance(later) <= ALIKE, "{login} {later}");
        let panic = hash(&console(&[70; 25]));
        let halves =
            hash(&console(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 78, 78, 78, 78, 78, 78, 78]));
        let mut desktop = vec![0; 800 * 600 * 3];
        for (place, pixel) in desktop.chunks_exact_mut(3).enumerate() {
            let (x, y) = (place % 800, place / 800);
            let bright = if y > 560 { 220 } else { (x * 120 / 800 + y * 100 / 600) % 256 };
            pixel.fill(u8::try_from(bright).expect("a byte"));
        }
        let desktop = hash(&pixmap(800, 600, &desktop));
        for (one, other) in [(login, desktop), (panic, halves), (panic, desktop), (halves, desktop)]
        {
            assert!(one.distance(other) > ALIKE, "{one} {other}: {}", one.distance(other));
        }
    }

    #[test]
    fn what_is_no_picture_has_no_hash() {
        let of = |kind: &str, bytes: &[u8]| {
            Grey::of(&Screenshot { kind: kind.to_owned(), bytes: bytes.to_vec() })
        };
        let good = png(9, 8, &[7; 9 * 8 * 3]);
        for bad in
            [&b""[..], b"P6", b"P6\n1 1\n255\n", b"P6\n0 0\n255\n", b"P6 1 1 65535 \0\0\0\0\0\0"]
        {
            assert_eq!(of("image/x-portable-pixmap", bad), None);
        }
        for cut in 0..good.bytes.len() - 4 {
            assert_eq!(of("image/png", &good.bytes[..cut]), None, "{cut}");
        }
        // More pixels than there is memory for.
        let mut large = good.bytes.clone();
        large[16..24].fill(0xff);
        assert_eq!(of("image/png", &large), None);
        assert_eq!(of("image/gif", b"GIF89a"), None);
    }

    #[test]
    fn the_last_good_picture_of_another_point_is_compared_with() {
        let id = |last: char| format!("01M81RBWN54SXY808JR31NMSK{last}").parse().expect("an id");
        let boot = |point, verdict, picture_hash: Option<Hash>| BootSummary {
            recovery_point: id(point),
            begun: jiff::Timestamp::UNIX_EPOCH,
            verdict,
            expected: Rung::Kernel,
            reached: None,
            reached_seconds: None,
            reason: None,
            picture_hash: picture_hash.map(|hash| hash.to_string()),
        };
        let (passed, failed) = (BootVerdict::Passed, BootVerdict::Failed);
        let picture = console(&[40, 0, 12]);
        let same = hash(&picture);
        let other = Hash(!same.0);
        let history = [
            boot('A', passed, Some(other)),
            boot('B', passed, Some(same)),
            boot('C', failed, Some(other)),
            boot('D', passed, None),
            boot('N', passed, Some(other)),
        ];
        let found = compare(&picture, id('N'), &history).expect("a picture");
        assert_eq!((found.compared_with, found.distance), (Some(id('B')), Some(0)));
        assert_eq!((found.is_alike, found.hash), (Some(true), same.to_string()));
        let found = compare(&picture, id('N'), &history[..1]).expect("a picture");
        assert_eq!((found.distance, found.is_alike), (Some(128), Some(false)));
        let found = compare(&picture, id('N'), &[]).expect("a picture");
        assert_eq!((found.compared_with, found.is_alike), (None, None));
    }

    fn pictures() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
        (1_usize..40, 1_usize..40).prop_flat_map(|(width, height)| {
            let pixels = proptest::collection::vec(any::<u8>(), width * height * 3);
            pixels.prop_map(move |pixels| (width, height, pixels))
        })
    }

    proptest! {
        #[test]
        fn both_formats_of_a_picture_have_one_hash((width, height, pixels) in pictures()) {
            let (png, pixmap) = (png(width, height, &pixels), pixmap(width, height, &pixels));
            prop_assert_eq!(Grey::of(&png), Grey::of(&pixmap));
            prop_assert_eq!(hash(&png).to_string().parse(), Ok(hash(&pixmap)));
        }

        #[test]
        fn a_larger_copy_has_the_same_hash(
            pixels in proptest::collection::vec(any::<u8>(), 72 * 8 * 3), times in 1_usize..4,
        ) {
            let mut large = Vec::new();
            for row in pixels.chunks(72 * 3) {
                for _ in 0..times {
                    row.chunks(3).for_each(|pixel| large.extend(pixel.repeat(times)));
                }
            }
            let (small, large) = (pixmap(72, 8, &pixels), pixmap(72 * times, 8 * times, &large));
            prop_assert_eq!(hash(&small), hash(&large));
        }

        #[test]
        fn distances_are_symmetric_and_bounded(one in any::<u128>(), other in any::<u128>()) {
            let (one, other) = (Hash(one), Hash(other));
            prop_assert_eq!(one.distance(other), other.distance(one));
            prop_assert!(one.distance(other) <= 128);
            prop_assert_eq!(one.distance(one), 0);
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0_usize..2,
        ) {
            let start: &[u8] = if kind == 0 { b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" } else { b"P6 " };
            let kind = ["image/png", "image/x-portable-pixmap"][kind].to_owned();
            let bytes = [start, &bytes].concat();
            drop(Grey::of(&Screenshot { kind, bytes }));
        }
    }
}
