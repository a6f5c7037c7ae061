//! Amounts in a form for people: in results, in the texts of jobs and in errors.

/// Bytes in IEC units: `512 B`, `2 GiB` if it is exactly that, `12.0 GiB` if not.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in UNITS {
        let one = 1_u64 << shift;
        if bytes >= one {
            let whole = bytes >> shift;
            // Tenths, rounded down: a size is never shown larger than it is.
            let tenth = u128::from(bytes & (one - 1)).wrapping_mul(10) >> shift;
            return if whole >= 1000 || bytes.trailing_zeros() >= shift {
                format!("{whole} {unit}")
            } else {
                format!("{whole}.{tenth} {unit}")
            };
        }
    }
    format!("{bytes} B")
}

/// `1 disk`, `2 disks`, `2 policies`.
pub fn count(number: u64, one: &str) -> String {
    if number == 1 {
        return format!("1 {one}");
    }
    match one.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{number} {stem}ies"),
        _ => format!("{number} {one}s"),
    }
}

/// The same of how many things there are in memory.
pub fn count_of(number: usize, one: &str) -> String {
    count(u64::try_from(number).unwrap_or(u64::MAX), one)
}

/// Whole seconds in the two largest units that they fill: `45 s`, `3 min 20 s`, `2 h 05 min`,
/// `367 days 7 h`.
pub fn span(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..DAY => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} {} h", count(seconds / DAY, "day"), seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (amount, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            ((19 << 20) + 1, "19.0 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (256 << 40, "256 TiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(bytes(amount), text);
        }
    }

    #[test]
    fn counts() {
        assert_eq!(count(1, "policy"), "1 policy");
        assert_eq!(count(0, "policy"), "0 policies");
        assert_eq!(count(2, "day"), "2 days");
        assert_eq!(count_of(12, "recovery point"), "12 recovery points");
    }

    #[test]
    fn spans() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (200, "3 min 20 s"),
            (7500, "2 h 05 min"),
            (86_400, "1 day 0 h"),
            (31_735_999, "367 days 7 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
