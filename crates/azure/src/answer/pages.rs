//! Lists of page ranges, in both directions.

use strongroom_base::ByteRange;

use super::{Answer, Stamp};
use crate::{
    Refusal,
    xml::{self, MAX_ANSWER_XML, Writer, bad_value, child_text, children},
};

/// A range in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedRange {
    /// The bytes; not empty.
    pub range: ByteRange,
    /// In a difference: whether they were cleared, instead of written.
    pub is_clear: bool,
}

/// The ranges of a page blob, or of a difference, by their offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageList {
    /// The ranges. Written and cleared ones are mixed, sorted by offset.
    pub ranges: Vec<ListedRange>,
    /// Where the next answer begins.
    pub next_marker: Option<String>,
}

impl PageList {
    /// The answer for a blob of this state and length: 200.
    pub fn answer(&self, stamp: &Stamp, length: u64) -> Answer {
        Answer::xml(200, self.to_xml())
            .stamped(stamp)
            .with("x-ms-blob-content-length", length.to_string())
    }

    fn to_xml(&self) -> Vec<u8> {
        let mut writer = Writer::new("PageList");
        for listed in self.ranges.iter().filter(|listed| !listed.range.is_empty()) {
            writer
                .open(if listed.is_clear { "ClearRange" } else { "PageRange" })
                .leaf("Start", &listed.range.offset().to_string())
                .leaf("End", &listed.range.end().saturating_sub(1).to_string())
                .close();
        }
        if let Some(marker) = &self.next_marker {
            writer.leaf("NextMarker", marker);
        }
        writer.finish()
    }

    /// Reads an answer.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        xml::parse(body, MAX_ANSWER_XML, |root| {
            if root.tag_name().name() != "PageList" {
                return Err(xml::unknown(root.tag_name().name()));
            }
            let mut list = Self { ranges: Vec::new(), next_marker: child_text(root, "NextMarker") };
            for node in children(root) {
                let is_clear = match node.tag_name().name() {
                    "PageRange" => false,
                    "ClearRange" => true,
                    _ => continue,
                };
                let number = |name: &str| {
                    let text = child_text(node, name).ok_or_else(|| xml::missing(name))?;
                    text.trim().parse::<u64>().map_err(|_| bad_value(name, &text))
                };
                let (start, end) = (number("Start")?, number("End")?);
                let past = end.checked_add(1).filter(|_| start <= end);
                let past = past.ok_or_else(|| bad_value("End", &end.to_string()))?;
                list.ranges.push(ListedRange { range: ByteRange::between(start, past), is_clear });
            }
            Ok(list)
        })
    }
}
