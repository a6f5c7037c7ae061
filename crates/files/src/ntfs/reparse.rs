//! Reparse points: files of which Windows makes something else.

use crate::{
    bytes::Le,
    tree::{Fault, Kind},
    units::{units, wtf8},
};

/// What a file with a reparse point is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A link to this.
    Link(Vec<u8>),
    /// A pipe, socket or device of the Linux in Windows.
    Special(Kind),
    /// What it would be without.
    Plain,
    /// Its content is elsewhere, or in another form.
    Elsewhere(String),
}

/// The tag by which Windows keeps files of itself, compressed, in another stream.
pub(super) const COMPACT: u32 = 0x8000_0017;

/// What this reparse point makes of a file. Files of a cloud are here unless the file's flags say otherwise.
pub(super) fn meaning(value: &[u8], is_offline: bool) -> Result<Meaning, Fault> {
    let broken = || Fault::damaged("its reparse point contradicts itself");
    let le = Le(value);
    let data = value.get(8..8 + usize::from(le.u16(4))).ok_or_else(broken)?;
    let tag = le.u32(0);
    let elsewhere = |what: &str| Ok(Meaning::Elsewhere(what.to_owned()));
    match tag {
        // A symbolic link says whether its target is relative; a junction's never is.
        0xa000_000c => {
            Ok(Meaning::Link(target(data, 12, Le(data).u32(8) & 1 != 0).ok_or_else(broken)?))
        }
        0xa000_0003 => Ok(Meaning::Link(target(data, 8, false).ok_or_else(broken)?)),
        0xa000_001d => Ok(Meaning::Link(data.get(4..).ok_or_else(broken)?.to_vec())),
        0x8000_0023 => Ok(Meaning::Special(Kind::Socket)),
        0x8000_0024 => Ok(Meaning::Special(Kind::Pipe)),
        0x8000_0025 => Ok(Meaning::Special(Kind::CharacterDevice)),
        0x8000_0026 => Ok(Meaning::Special(Kind::BlockDevice)),
        COMPACT => elsewhere("Windows keeps it compressed in another stream (WOF)"),
        0x8000_0013 => elsewhere("its content is in the store of data deduplication"),
        0x8000_001b => elsewhere("it is a name of an app of the Windows store (0x8000001b)"),
        _ if tag & 0xffff_0fff == 0x9000_001a && !is_offline => Ok(Meaning::Plain),
        _ if tag & 0xffff_0fff == 0x9000_001a => {
            elsewhere("its content is in a cloud, not on the disk")
        }
        _ => Ok(Meaning::Elsewhere(format!("it has a reparse point that is not known ({tag:#x})"))),
    }
}

/// Where a link of Windows points. A relative target as Linux writes it, another as Windows shows it to people.
fn target(data: &[u8], names: usize, is_relative: bool) -> Option<Vec<u8>> {
    let le = Le(data);
    let text = |at: usize| {
        let (from, len) = (usize::from(le.u16(at)), usize::from(le.u16(at + 2)));
        let bytes = data.get(names + from..names + from + len)?;
        Some(wtf8(units(bytes)))
    };
    let (substitute, print) = (text(0)?, text(4)?);
    if is_relative {
        let slash = |byte: u8| if byte == b'\\' { b'/' } else { byte };
        return Some(substitute.into_iter().map(slash).collect());
    }
    if print.is_empty() {
        return Some(substitute.strip_prefix(br"\??\").unwrap_or(&substitute).to_vec());
    }
    Some(print)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link with these names.
    fn point(tag: u32, substitute: &str, print: &str, flags: Option<u32>) -> Vec<u8> {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let (substitute, print) = (wide(substitute), wide(print));
        let short = |len: usize| u16::try_from(len).unwrap_or(0).to_le_bytes();
        let mut data =
            [short(0), short(substitute.len()), short(substitute.len()), short(print.len())]
                .concat();
        data.extend(flags.map(u32::to_le_bytes).into_iter().flatten());
        data.extend(substitute);
        data.extend(print);
        [&tag.to_le_bytes()[..], &short(data.len()), &[0, 0], &data].concat()
    }

    #[test]
    fn links_of_windows() {
        let link = |value: &[u8]| match meaning(value, false) {
            Ok(Meaning::Link(target)) => String::from_utf8(target).expect("text"),
            other => format!("{other:?}"),
        };
        assert_eq!(link(&point(0xa000_000c, r"..\a b\名", r"..\a b\名", Some(1))), "../a b/名");
        assert_eq!(link(&point(0xa000_000c, r"\??\C:\Users", r"C:\Users", Some(0))), r"C:\Users");
        assert_eq!(link(&point(0xa000_0003, r"\??\D:\x\", "", None)), r"D:\x\");
    }

    #[test]
    fn what_is_elsewhere_is_named() {
        let of =
            |tag: u32, is_offline| meaning(&[&tag.to_le_bytes()[..], &[0; 4]].concat(), is_offline);
        for (tag, word) in
            [(COMPACT, "WOF"), (0x8000_0013, "deduplication"), (0x8000_7777, "0x80007777")]
        {
            let Ok(Meaning::Elsewhere(reason)) = of(tag, false) else {
                panic!("{tag:#x} is not refused")
            };
            assert!(reason.contains(word), "{reason}");
        }
        assert_eq!(of(0x8000_0023, false), Ok(Meaning::Special(Kind::Socket)));
        assert_eq!(of(0x9000_601a, false), Ok(Meaning::Plain));
        assert!(matches!(of(0x9000_601a, true), Ok(Meaning::Elsewhere(_))));
        assert!(meaning(&point(0xa000_000c, "a", "b", Some(1))[..12], false).is_err());
    }
}
