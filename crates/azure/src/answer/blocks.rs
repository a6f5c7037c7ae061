//! Lists of blocks: what Put Block List names, and what Get Block List answers.

use super::{Answer, Stamp};
use crate::{
    BlockId, BlockListType, Code, Refusal,
    xml::{self, MAX_BLOCK_LIST_XML, Writer, bad_value, child, child_text, children},
};

/// The most blocks of a blob.
pub(super) const MAX_BLOCKS: usize = 50_000;

/// Where a block is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPlace {
    /// Among the blocks of the blob.
    Committed,
    /// Among the blocks that wait.
    Uncommitted,
    /// Among those that wait, then among those of the blob.
    Latest,
}

impl BlockPlace {
    const ALL: [Self; 3] = [Self::Committed, Self::Uncommitted, Self::Latest];

    const fn name(self) -> &'static str {
        match self {
            Self::Committed => "Committed",
            Self::Uncommitted => "Uncommitted",
            Self::Latest => "Latest",
        }
    }
}

/// A block that Put Block List names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLookup {
    /// Its id.
    pub id: BlockId,
    /// Where it is.
    pub place: BlockPlace,
}

impl BlockLookup {
    /// Reads the body of Put Block List: at most 50,000 blocks, in the order of the blob.
    pub fn parse_list(body: &[u8]) -> Result<Vec<Self>, Refusal> {
        let limit = usize::try_from(MAX_BLOCK_LIST_XML).unwrap_or(usize::MAX);
        xml::parse(body, limit, |root| {
            if root.tag_name().name() != "BlockList" {
                return Err(xml::unknown(root.tag_name().name()));
            }
            let mut list = Vec::new();
            for node in children(root) {
                if list.len() == MAX_BLOCKS {
                    return Err(Code::BlockListTooLong.into());
                }
                let name = node.tag_name().name();
                let place = BlockPlace::ALL
                    .into_iter()
                    .find(|place| place.name() == name)
                    .ok_or_else(|| xml::unknown(name))?;
                let id = BlockId::parse(xml::text(node).trim()).ok_or(Code::InvalidBlockId)?;
                list.push(Self { id, place });
            }
            Ok(list)
        })
    }

    /// The body of Put Block List.
    pub fn list_to_xml(list: &[Self]) -> Vec<u8> {
        let mut writer = Writer::new("BlockList");
        for block in list {
            writer.leaf(block.place.name(), &block.id.to_string());
        }
        writer.finish()
    }
}

/// A block in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBlock {
    /// Its id.
    pub id: BlockId,
    /// Its length in bytes.
    pub length: u64,
}

impl ListedBlock {
    /// Reads the body of Get Block List: committed blocks, and those that wait.
    pub fn parse_lists(body: &[u8]) -> Result<(Vec<Self>, Vec<Self>), Refusal> {
        xml::parse(body, xml::MAX_ANSWER_XML, |root| {
            let list = |name: &str| {
                let Some(node) = child(root, name) else { return Ok(Vec::new()) };
                children(node)
                    .map(|block| {
                        let text =
                            |name: &str| child_text(block, name).ok_or_else(|| xml::missing(name));
                        let (id, length) = (text("Name")?, text("Size")?);
                        Ok(Self {
                            id: BlockId::parse(&id).ok_or_else(|| bad_value("Name", &id))?,
                            length: length.parse().map_err(|_| bad_value("Size", &length))?,
                        })
                    })
                    .collect::<Result<Vec<_>, Refusal>>()
            };
            Ok((list("CommittedBlocks")?, list("UncommittedBlocks")?))
        })
    }
}

/// The answer of Get Block List: 200. The stamp and the length are those of the committed blob, if there is one.
pub fn block_list(
    kind: BlockListType,
    committed: &[ListedBlock],
    uncommitted: &[ListedBlock],
    blob: Option<(&Stamp, u64)>,
) -> Answer {
    let mut writer = Writer::new("BlockList");
    let lists = [
        ("CommittedBlocks", committed, BlockListType::Committed),
        ("UncommittedBlocks", uncommitted, BlockListType::Uncommitted),
    ];
    for (name, blocks, list) in lists {
        if kind != BlockListType::All && kind != list {
            continue;
        }
        writer.open(name);
        for block in blocks {
            writer
                .open("Block")
                .leaf("Name", &block.id.to_string())
                .leaf("Size", &block.length.to_string())
                .close();
        }
        writer.close();
    }
    let answer = Answer::xml(200, writer.finish());
    match blob {
        Some((stamp, length)) => {
            answer.stamped(stamp).with("x-ms-blob-content-length", length.to_string())
        }
        None => answer,
    }
}
