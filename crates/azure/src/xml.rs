//! XML: a small writer, and reading with limits.

use roxmltree::{Document, Node, ParsingOptions};

use crate::{
    Code, Refusal,
    query::{percent_decode, percent_encode},
};

/// The most bytes of a list of blocks: 50,000 entries of the longest ids.
pub(crate) const MAX_BLOCK_LIST_XML: u64 = 8 << 20;
/// The most bytes of stored access policies.
pub(crate) const MAX_ACL_XML: u64 = 64 << 10;
/// The most bytes of service properties.
pub(crate) const MAX_PROPERTIES_XML: u64 = 64 << 10;
/// The most bytes of an answer that our client reads.
pub(crate) const MAX_ANSWER_XML: usize = 64 << 20;
/// The most elements and texts of a document.
const MAX_NODES: u32 = 1_000_000;

/// The first line of every document.
const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";

/// Writes one document.
pub(crate) struct Writer {
    text: String,
    open: Vec<&'static str>,
}

impl Writer {
    /// Begins a document with its root element.
    pub(crate) fn new(root: &'static str) -> Self {
        Self::with_attributes(root, &[])
    }

    /// Begins a document with its root element and attributes of it.
    pub(crate) fn with_attributes(root: &'static str, attributes: &[(&str, &str)]) -> Self {
        let mut writer = Self { text: DECLARATION.to_owned(), open: Vec::new() };
        writer.begin(root, attributes);
        writer
    }

    fn begin(&mut self, name: &'static str, attributes: &[(&str, &str)]) {
        self.text.push('<');
        self.text.push_str(name);
        for (attribute, value) in attributes {
            self.text.push(' ');
            self.text.push_str(attribute);
            self.text.push_str("=\"");
            escape(value, &mut self.text);
            self.text.push('"');
        }
        self.text.push('>');
        self.open.push(name);
    }

    /// Opens an element.
    pub(crate) fn open(&mut self, name: &'static str) -> &mut Self {
        self.begin(name, &[]);
        self
    }

    /// Closes the element that was opened last.
    pub(crate) fn close(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            self.text.push_str("</");
            self.text.push_str(name);
            self.text.push('>');
        }
        self
    }

    /// An element with text.
    pub(crate) fn leaf(&mut self, name: &str, text: &str) -> &mut Self {
        if text.is_empty() {
            self.text.push('<');
            self.text.push_str(name);
            self.text.push_str(" />");
            return self;
        }
        self.text.push('<');
        self.text.push_str(name);
        self.text.push('>');
        escape(text, &mut self.text);
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
        self
    }

    /// An element with text, if there is some.
    pub(crate) fn maybe(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        if let Some(text) = text {
            self.leaf(name, text);
        }
        self
    }

    /// An element with a name that may have characters that XML cannot have: then it is percent-encoded, and says so.
    pub(crate) fn name(&mut self, element: &'static str, text: &str) -> &mut Self {
        if text.chars().all(is_plain) {
            return self.leaf(element, text);
        }
        self.begin(element, &[("Encoded", "true")]);
        self.text.push_str(&percent_encode(text, "/"));
        self.close()
    }

    /// Closes what is open; the document.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        while !self.open.is_empty() {
            self.close();
        }
        self.text.into_bytes()
    }
}

/// Whether a character can be in the text of an element and is read back as it is.
fn is_plain(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Appends text with what XML means otherwise escaped. Characters that XML cannot have are replaced.
fn escape(text: &str, into: &mut String) {
    for c in text.chars() {
        match c {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\n' => into.push('\n'),
            '\t' => into.push_str("&#9;"),
            '\r' => into.push_str("&#13;"),
            c if is_plain(c) => into.push(c),
            _ => into.push('\u{fffd}'),
        }
    }
}

/// Reads a document and gives its root to `read`. Documents with a DTD are refused.
pub(crate) fn parse<T>(
    bytes: &[u8],
    limit: usize,
    read: impl FnOnce(Node<'_, '_>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    if bytes.len() > limit {
        return Err(Code::RequestBodyTooLarge.into());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| Code::InvalidXmlDocument)?;
    let options =
        ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| {
        let at = error.pos();
        Refusal::new(Code::InvalidXmlDocument)
            .with("LineNumber", at.row.to_string())
            .with("LinePosition", at.col.to_string())
    })?;
    read(document.root_element())
}

/// The child elements.
pub(crate) fn children<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

/// The first child element of this name.
pub(crate) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    children(node).find(|child| child.tag_name().name() == name)
}

/// The text of an element; of comments and elements in it nothing.
pub(crate) fn text(node: Node<'_, '_>) -> String {
    node.children().filter(Node::is_text).filter_map(|part| part.text()).collect()
}

/// The text of a child element, if it is there and not empty.
pub(crate) fn child_text(node: Node<'_, '_>, name: &str) -> Option<String> {
    child(node, name).map(text).filter(|text| !text.is_empty())
}

/// A name that [`Writer::name`] wrote.
pub(crate) fn child_name(node: Node<'_, '_>, name: &str) -> Option<String> {
    let child = child(node, name)?;
    let text = text(child);
    if child.attribute("Encoded").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return percent_decode(&text).ok();
    }
    Some(text)
}

/// The refusal of a value.
pub(crate) fn bad_value(name: &str, value: &str) -> Refusal {
    Refusal::new(Code::InvalidXmlNodeValue).with("XmlNodeName", name).with("XmlNodeValue", value)
}

/// The refusal of a document without an element that must be there.
pub(crate) fn missing(name: &str) -> Refusal {
    Refusal::new(Code::MissingRequiredXmlNode).with("XmlNodeName", name)
}

/// The refusal of an element that is not known.
pub(crate) fn unknown(name: &str) -> Refusal {
    Refusal::new(Code::UnsupportedXmlNode).with("XmlNodeName", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(name: &str) -> String {
        let mut writer = Writer::new("R");
        writer.name("Name", name);
        let bytes = writer.finish();
        parse(&bytes, 1 << 20, |root| child_name(root, "Name").ok_or_else(|| missing("Name")))
            .expect("is XML")
    }

    #[test]
    fn names_with_control_characters_are_encoded() {
        let mut writer = Writer::new("R");
        writer.name("Name", "a/b\u{1}&").name("Name", "a<b&c");
        let text = String::from_utf8(writer.finish()).expect("is text");
        assert!(
            text.ends_with(
                "<R><Name Encoded=\"true\">a/b%01%26</Name><Name>a&lt;b&amp;c</Name></R>"
            ),
            "{text}"
        );
        assert_eq!(round_trip("a\u{1}\u{ffff}\r\n%41"), "a\u{1}\u{ffff}\r\n%41");
    }

    #[test]
    fn dangerous_documents_are_refused() {
        let code = |text: &[u8]| parse(text, 1 << 20, |_| Ok(())).map_err(|refusal| refusal.code());
        let bomb = b"<!DOCTYPE r [<!ENTITY a \"aa\"><!ENTITY b \"&a;&a;\">]><r>&b;</r>";
        assert_eq!(code(bomb), Err(Code::InvalidXmlDocument));
        assert_eq!(code(b"<r>&x;</r>"), Err(Code::InvalidXmlDocument));
        assert_eq!(code(b"<r>"), Err(Code::InvalidXmlDocument));
        assert_eq!(code(b"\xff"), Err(Code::InvalidXmlDocument));
        assert_eq!(code("<r>".repeat(100_000).as_bytes()), Err(Code::InvalidXmlDocument));
        assert_eq!(code(b"\xef\xbb\xbf<r/>"), Ok(()));
        assert_eq!(code(" ".repeat((1 << 20) + 1).as_bytes()), Err(Code::RequestBodyTooLarge));
    }

    proptest! {
        #[test]
        fn every_name_survives(name in "[^\0]{1,40}") {
            prop_assert_eq!(round_trip(&name), name);
        }

        #[test]
        fn no_document_makes_the_parser_panic(text in ".{0,100}") {
            parse(text.as_bytes(), 1 << 20, |root| Ok(child_name(root, "a"))).ok();
        }
    }
}
