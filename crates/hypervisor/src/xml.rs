//! Reading libvirt's XML, which is treated as hostile: other programs and users may have written
//! it.

use roxmltree::{Document, Node, ParsingOptions};

use crate::{HypervisorError, error::Result};

/// Bytes: libvirt itself sends no longer text.
const MAX_TEXT: usize = 4 << 20;

/// Elements, texts and comments.
const MAX_NODES: u32 = 250_000;

/// Attributes of one element. The parser compares each with all before it.
const MAX_ATTRIBUTES: usize = 128;

/// Mentions of `xmlns`. The parser copies to an element all that its parents declare.
const MAX_NAMESPACES: usize = 512;

/// Reads a document whose root is `root`; `what` says of what, for errors. They tell places only:
/// the text may hold passwords.
pub(crate) fn parse<'a>(text: &'a str, root: &str, what: &str) -> Result<Document<'a>> {
    if text.len() > MAX_TEXT {
        return Err(wrong(what, format!("it is longer than {MAX_TEXT} bytes")));
    }
    if text.matches("xmlns").count() > MAX_NAMESPACES {
        return Err(wrong(what, format!("it has more than {MAX_NAMESPACES} namespaces")));
    }
    if most_attributes(text) > MAX_ATTRIBUTES {
        let reason = format!("an element has more than {MAX_ATTRIBUTES} attributes");
        return Err(wrong(what, reason));
    }
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)
        .map_err(|error| wrong(what, format!("it is not good XML at {}", error.pos())))?;
    if is(document.root_element(), root) {
        return Ok(document);
    }
    Err(wrong(what, format!("its root is not <{root}>")))
}

/// An error about a description.
pub(crate) fn wrong(what: &str, reason: impl Into<String>) -> HypervisorError {
    HypervisorError::Xml { what: what.to_owned(), reason: reason.into() }
}

/// At least the number of attributes of the element that has most.
fn most_attributes(text: &str) -> usize {
    let (mut most, mut rest) = (0, text);
    while let Some((_, after)) = rest.split_once('<') {
        rest = if let Some(comment) = after.strip_prefix("!--") {
            comment.split_once("-->").map_or("", |(_, rest)| rest)
        } else if let Some(data) = after.strip_prefix("![CDATA[") {
            data.split_once("]]>").map_or("", |(_, rest)| rest)
        } else {
            let tag = tag(after);
            most = most.max(tag.attributes);
            after.get(tag.length..).unwrap_or_default()
        };
    }
    most
}

struct Tag {
    /// Bytes up to and with its `>`.
    length: usize,
    /// Equals signs outside quotes.
    attributes: usize,
}

/// Looks over the tag that `text` begins with, without its `<`.
fn tag(text: &str) -> Tag {
    let (mut quote, mut attributes) = (None, 0_usize);
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Tag { length: at.saturating_add(1), attributes },
            (None, b'=') => attributes = attributes.saturating_add(1),
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    Tag { length: text.len(), attributes }
}

/// Bytes of the start tag that `text` begins with, from its `<` to its `>`.
pub(crate) fn tag_length(text: &str) -> usize {
    tag(text.get(1..).unwrap_or_default()).length.saturating_add(1)
}

/// Whether a node is an element of this name. libvirt's own are in no namespace.
pub(crate) fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().namespace().is_none() && node.tag_name().name() == name
}

/// The children of this name.
pub(crate) fn children<'a, 'i>(
    node: Node<'a, 'i>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| is(*child, name))
}

/// The first child of this name.
pub(crate) fn child<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

/// The element at the end of a path of first children.
pub(crate) fn at<'a, 'i>(node: Node<'a, 'i>, path: &[&'static str]) -> Option<Node<'a, 'i>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}

/// The text in an element, without space around it; none if there is none.
pub(crate) fn text(node: Node<'_, '_>) -> Option<String> {
    let text: String =
        node.children().filter(Node::is_text).filter_map(|part| part.text()).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The text in a child.
pub(crate) fn text_of(node: Node<'_, '_>, name: &'static str) -> Option<String> {
    child(node, name).and_then(text)
}

/// An attribute, if it is not empty.
pub(crate) fn attribute(node: Node<'_, '_>, name: &str) -> Option<String> {
    raw_attribute(node, name).filter(|value| !value.is_empty()).map(str::to_owned)
}

fn raw_attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let mut attributes = node.attributes();
    let found = attributes.find(|one| one.namespace().is_none() && one.name() == name)?;
    Some(found.value())
}

/// An attribute of a child.
pub(crate) fn attribute_of(
    node: Node<'_, '_>,
    name: &'static str,
    attribute_name: &str,
) -> Option<String> {
    attribute(child(node, name)?, attribute_name)
}

/// An attribute, read as something else; none if it is not that.
pub(crate) fn parsed<T: std::str::FromStr>(node: Node<'_, '_>, name: &str) -> Option<T> {
    raw_attribute(node, name)?.trim().parse().ok()
}

/// Whether an attribute says yes.
pub(crate) fn yes(node: Node<'_, '_>, name: &str) -> bool {
    matches!(raw_attribute(node, name), Some("yes" | "on"))
}

/// A text as it stands between tags or quotes; none if XML has no way to write it.
pub(crate) fn escape(text: &str) -> Option<String> {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            '\t' => escaped.push_str("&#9;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => return None,
            other => escaped.push(other),
        }
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_take_too_long_is_refused_at_once() {
        let many = |one: &dyn Fn(usize) -> String| (0..50_000).map(one).collect::<String>();
        let attributes = format!("<a{}/>", many(&|n| format!(" a{n}='>'")));
        let spaces = many(&|n| format!("<a xmlns:n{n}='u:{n}'>"));
        let nodes = format!("<a>{}</a>", "<b/>".repeat(300_000));
        let long = format!("<a>{}</a>", " ".repeat(MAX_TEXT));
        for text in [attributes, spaces, nodes, long] {
            assert!(parse(&text, "a", "x").is_err());
        }
        let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
        assert!(parse(&deep, "a", "x").is_ok());
        assert!(parse("<!-- <b ' --><a x='1'>= = <![CDATA[<c d=']]></a>", "a", "x").is_ok());
    }

    #[test]
    fn document_types_are_refused_and_errors_tell_nothing() {
        let laughs = "<!DOCTYPE a [<!ENTITY e 'secret'>]><a>&e;</a>";
        let error = parse(laughs, "a", "x").expect_err("a DTD").to_string();
        assert!(!error.contains("secret"), "{error}");
        let error = parse("<a p='hunter2'></hunter2>", "a", "x").expect_err("bad").to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn other_namespaces_are_not_ours() {
        let text = "<a xmlns:q='u'><q:b>1</q:b><b>2<!-- c -->3<![CDATA[<]]></b></a>";
        let document = parse(text, "a", "x").expect("good");
        assert_eq!(text_of(document.root_element(), "b").as_deref(), Some("23<"));
        assert!(parse("<a xmlns='u'/>", "a", "x").is_err());
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back(value in "\\PC*[ \t\n\r'\"<>&\u{1}]?") {
            let Some(escaped) = escape(&value) else {
                let control = value.contains('\u{1}');
                prop_assert!(control);
                return Ok(());
            };
            let text = format!("<a b='{escaped}'>{escaped}</a>");
            let document = Document::parse(&text).expect("good");
            let root = document.root_element();
            prop_assert_eq!(root.attribute("b"), Some(value.as_str()));
            prop_assert_eq!(root.text().unwrap_or_default(), value.as_str());
        }
    }
}
