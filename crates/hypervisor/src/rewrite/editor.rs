//! Edits of an XML text that keep all other bytes.

use std::{cmp::Reverse, ops::Range};

use roxmltree::Node;

use crate::{
    error::Result,
    xml::{self, wrong},
};

/// Edits that are collected, then made at once.
#[derive(Debug)]
pub(super) struct Editor<'a> {
    text: &'a str,
    edits: Vec<Edit>,
    /// Something was to be written that XML has no way to write.
    unwritable: bool,
}

#[derive(Debug)]
struct Edit {
    range: Range<usize>,
    new: String,
}

impl<'a> Editor<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, edits: Vec::new(), unwritable: false }
    }

    /// The text of an element as it is now.
    pub(super) fn source(&self, node: Node<'_, '_>) -> &'a str {
        self.text.get(node.range()).unwrap_or_default()
    }

    /// Puts other XML in an element's place.
    pub(super) fn replace(&mut self, node: Node<'_, '_>, new: String) {
        self.edit(node.range(), new);
    }

    /// Removes an element and, if it stands alone, its line.
    pub(super) fn remove(&mut self, node: Node<'_, '_>) {
        let range = node.range();
        let before = self.text.get(..range.start).unwrap_or_default();
        let line = before.trim_end_matches([' ', '\t']);
        let start = match line.strip_suffix('\n') {
            Some(before) => before.strip_suffix('\r').unwrap_or(before).len(),
            None => range.start,
        };
        self.edit(start..range.end, String::new());
    }

    /// Puts XML behind an element, in a line of its own with the same indentation.
    pub(super) fn insert_after(&mut self, node: Node<'_, '_>, new: &str) {
        let indentation = self.indentation(node);
        let end = node.range().end;
        self.edit(end..end, format!("{indentation}{new}"));
    }

    /// Puts XML into an element, behind its children.
    pub(super) fn append(&mut self, node: Node<'_, '_>, new: &str) {
        if let Some(last) = node.children().rfind(Node::is_element) {
            return self.insert_after(last, new);
        }
        let (source, range) = (self.source(node), node.range());
        let end_tag = source.rfind("</").filter(|_| !source.ends_with("/>"));
        if let Some(offset) = end_tag {
            let at = range.start.saturating_add(offset);
            return self.edit(at..at, new.to_owned());
        }
        let name = self.start_tag(node).name;
        self.edit(range.end.saturating_sub(2)..range.end, format!(">{new}</{name}>"));
    }

    /// Sets an attribute, which it may or may not have.
    pub(super) fn set_attribute(&mut self, node: Node<'_, '_>, name: &str, value: &str) {
        let value = self.escaped(value);
        if let Some(range) = attribute_range(node, name) {
            return self.edit(range, format!("{name}='{value}'"));
        }
        let at =
            node.range().start.saturating_add(self.start_tag(node).name.len()).saturating_add(1);
        self.edit(at..at, format!(" {name}='{value}'"));
    }

    /// Removes an attribute, if it is there.
    pub(super) fn remove_attribute(&mut self, node: Node<'_, '_>, name: &str) {
        let Some(range) = attribute_range(node, name) else { return };
        let start = self.text.get(..range.start).unwrap_or_default().trim_end().len();
        self.edit(start..range.end, String::new());
    }

    /// Sets the text of an element, in place of all that it holds.
    pub(super) fn set_text(&mut self, node: Node<'_, '_>, text: &str) {
        let text = self.escaped(text);
        let tag = self.start_tag(node);
        self.replace(node, format!("{}{text}</{}>", tag.opening, tag.name));
    }

    /// A text as it stands in XML.
    pub(super) fn escaped(&mut self, text: &str) -> String {
        let escaped = xml::escape(text);
        self.unwritable |= escaped.is_none();
        escaped.unwrap_or_default()
    }

    /// The text with all edits made. An edit within another that replaces more is dropped.
    pub(super) fn apply(mut self) -> Result<String> {
        const WHAT: &str = "the machine to be made";
        if self.unwritable {
            return Err(wrong(WHAT, "a name or path has characters that XML cannot hold"));
        }
        // Of those that begin at one place, insertions come first, then the longest.
        let order =
            |edit: &Edit| (edit.range.start, !edit.range.is_empty(), Reverse(edit.range.end));
        self.edits.sort_by_key(order);
        let (mut result, mut at) = (String::with_capacity(self.text.len()), 0);
        for Edit { range, new } in self.edits {
            if range.start < at && range.end <= at {
                continue;
            }
            let Some(kept) = self.text.get(at..range.start) else {
                return Err(wrong(WHAT, "two changes of it contradict each other"));
            };
            result.push_str(kept);
            result.push_str(&new);
            at = range.end;
        }
        result.push_str(self.text.get(at..).unwrap_or_default());
        Ok(result)
    }

    fn edit(&mut self, range: Range<usize>, new: String) {
        self.edits.push(Edit { range, new });
    }

    /// The line break and spaces before an element, if it stands alone.
    fn indentation(&self, node: Node<'_, '_>) -> &'a str {
        let before = self.text.get(..node.range().start).unwrap_or_default();
        let line = before.trim_end_matches([' ', '\t']).len();
        let start = before.get(..line).and_then(|text| text.strip_suffix('\n')).map(str::len);
        start.and_then(|start| before.get(start..)).unwrap_or_default()
    }

    fn start_tag(&self, node: Node<'_, '_>) -> StartTag {
        let source = self.source(node);
        let tag = source.get(..xml::tag_length(source)).unwrap_or_default();
        let name = tag.trim_start_matches('<').split([' ', '\t', '\r', '\n', '/', '>']).next();
        let opening = match tag.strip_suffix("/>") {
            Some(tag) => format!("{}>", tag.trim_end()),
            None => tag.to_owned(),
        };
        StartTag { name: name.unwrap_or_default().to_owned(), opening }
    }
}

struct StartTag {
    /// The name, with its prefix.
    name: String,
    /// The tag, made one that needs an end tag.
    opening: String,
}

fn attribute_range(node: Node<'_, '_>, name: &str) -> Option<Range<usize>> {
    let mut attributes = node.attributes();
    let found = attributes.find(|one| one.namespace().is_none() && one.name() == name)?;
    Some(found.range())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::child;
    use roxmltree::Document;

    fn edited(text: &str, edit: impl FnOnce(&mut Editor<'_>, Node<'_, '_>)) -> String {
        let document = Document::parse(text).expect("good");
        let mut editor = Editor::new(text);
        edit(&mut editor, document.root_element());
        editor.apply().expect("no contradiction")
    }

    #[test]
    fn attributes() {
        let set =
            |text: &str| edited(text, |editor, root| editor.set_attribute(root, "b", "<'\">"));
        assert_eq!(set("<a/>"), "<a b='&lt;&apos;&quot;&gt;'/>");
        assert_eq!(set("<a\n\tb = \"1\" c='>'/>"), "<a\n\tb='&lt;&apos;&quot;&gt;' c='>'/>");
        assert_eq!(set("<a xmlns:x='u' x:b='1'>t</a>").matches(" b=").count(), 1);
        let removed = |text: &str| edited(text, |editor, root| editor.remove_attribute(root, "b"));
        assert_eq!(removed("<a c='1'  b='2'/>"), "<a c='1'/>");
        assert_eq!(removed("<a c='b'/>"), "<a c='b'/>");
    }

    #[test]
    fn texts() {
        let set = |text: &str| edited(text, |editor, root| editor.set_text(root, "1 & 2"));
        assert_eq!(set("<a/>"), "<a>1 &amp; 2</a>");
        assert_eq!(set("<a b='/>' />"), "<a b='/>'>1 &amp; 2</a>");
        assert_eq!(set("<a b=\">\">x<!-- y --><![CDATA[z]]></a >"), "<a b=\">\">1 &amp; 2</a>");
        let append = |text: &str| edited(text, |editor, root| editor.append(root, "<n/>"));
        assert_eq!(append("<a c='1'/>"), "<a c='1'><n/></a>");
        assert_eq!(append("<a>1<!-- </a> --></a >"), "<a>1<!-- </a> --><n/></a >");
        assert_eq!(append("<a>\n  <b/>\n</a>"), "<a>\n  <b/>\n  <n/>\n</a>");
    }

    #[test]
    fn removals_take_their_line_and_all_edits_inside() {
        let text = "<a>\r\n  <b x='1'>2</b>\r\n  <c/><d/>\r\n</a>";
        let result = edited(text, |editor, root| {
            let (b, d) = (child(root, "b").expect("b"), child(root, "d").expect("d"));
            editor.set_attribute(b, "x", "3");
            editor.set_text(b, "4");
            editor.remove(b);
            editor.remove(d);
        });
        assert_eq!(result, "<a>\r\n  <c/>\r\n</a>");
    }

    #[test]
    fn an_insertion_before_a_removed_line_stays() {
        let text = "<a>\n  <b/>\n  <c/>\n</a>";
        let result = edited(text, |editor, root| {
            editor.remove(child(root, "c").expect("c"));
            editor.insert_after(child(root, "b").expect("b"), "<n/>");
        });
        assert_eq!(result, "<a>\n  <b/>\n  <n/>\n</a>");
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let document = Document::parse("<a/>").expect("good");
        let mut editor = Editor::new("<a/>");
        editor.set_text(document.root_element(), "\u{1}");
        assert!(editor.apply().is_err());
    }
}
