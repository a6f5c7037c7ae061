//! A result as a tree, in the order in which it was said: for YAML, and for lines of values.

use std::fmt::{self, Write as _};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor},
};

/// A value with the order of its fields kept, which `serde_json::Value` does not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// Nothing, a truth value or a number, as in JSON.
    Plain(String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// Named values.
    Map(Vec<(String, Self)>),
}

impl Node {
    /// The tree of a result.
    pub(crate) fn of<T: Serialize>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::from_str(&serde_json::to_string(value)?)
    }

    /// As YAML 1.1 and 1.2 read it alike.
    pub(crate) fn to_yaml(&self) -> String {
        let mut text = String::new();
        match self {
            Self::List(list) if !list.is_empty() => yaml_list(list, 0, &mut text),
            Self::Map(map) if !map.is_empty() => yaml_map(map, 0, &mut text),
            scalar => {
                text = scalar.flow();
                text.push('\n');
            }
        }
        text
    }

    /// As lines of values with tabs between them, as `az` prints them: of a list, or of a map with
    /// nothing but a list in it, a line for each entry; of anything else one line. Of values that
    /// have parts, only lists say something: how long they are.
    pub(crate) fn to_tsv(&self) -> String {
        let lines = match self {
            Self::List(list) => list.as_slice(),
            Self::Map(map) => match map.as_slice() {
                [(_, Self::List(list))] => list.as_slice(),
                _ => std::slice::from_ref(self),
            },
            _ => std::slice::from_ref(self),
        };
        let mut text = String::new();
        for line in lines {
            let cells: Vec<String> = match line {
                Self::Map(map) => map.iter().map(|(_, value)| value.cell()).collect(),
                Self::List(list) => list.iter().map(Self::cell).collect(),
                plain => vec![plain.cell()],
            };
            text.push_str(&tsv_line(&cells));
        }
        text
    }

    fn cell(&self) -> String {
        match self {
            Self::Plain(plain) if plain == "null" => String::new(),
            Self::Plain(text) | Self::Text(text) => text.clone(),
            Self::List(list) => list.len().to_string(),
            Self::Map(_) => String::new(),
        }
    }

    /// On one line.
    fn flow(&self) -> String {
        match self {
            Self::Plain(plain) => plain.clone(),
            Self::Text(text) => yaml_text(text),
            Self::List(_) => "[]".to_owned(),
            Self::Map(_) => "{}".to_owned(),
        }
    }
}

/// A line of cells. What would break the line is written as a space.
pub(crate) fn tsv_line(cells: &[String]) -> String {
    let clean = |cell: &String| cell.replace(char::is_control, " ");
    cells.iter().map(clean).collect::<Vec<_>>().join("\t") + "\n"
}

fn yaml_list(list: &[Node], depth: usize, text: &mut String) {
    for entry in list {
        write!(text, "{:depth$}-", "").ok();
        yaml_value(entry, depth, text, true);
    }
}

fn yaml_map(map: &[(String, Node)], depth: usize, text: &mut String) {
    for (name, value) in map {
        write!(text, "{:depth$}{}:", "", yaml_text(name)).ok();
        yaml_value(value, depth, text, false);
    }
}

/// What comes after `-` or `NAME:`.
fn yaml_value(value: &Node, depth: usize, text: &mut String, in_list: bool) {
    let deeper = depth.saturating_add(2);
    let mut below = String::new();
    match value {
        Node::List(list) if !list.is_empty() => yaml_list(list, deeper, &mut below),
        Node::Map(map) if !map.is_empty() => yaml_map(map, deeper, &mut below),
        scalar => {
            writeln!(text, " {}", scalar.flow()).ok();
            return;
        }
    }
    if in_list {
        // The first line of what is below goes behind the dash.
        writeln!(text, " {}", below.trim_start().trim_end_matches('\n')).ok();
    } else {
        writeln!(text, "\n{}", below.trim_end_matches('\n')).ok();
    }
}

/// A text: plain if every reader takes it for one, in quotes else.
fn yaml_text(text: &str) -> String {
    const WORDS: [&str; 11] =
        ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf"];
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
    if first && text.chars().all(plain) && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
    {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // What cannot be printed, and what some readers take for the end of a line.
            '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}' => {
                escape(c, &mut quoted);
            }
            c if c.is_control() => escape(c, &mut quoted),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn escape(c: char, into: &mut String) {
    write!(into, "\\u{:04X}", u32::from(c)).ok();
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Plain("null".to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // With a point, else some readers take 1e16 for a text.
        let plain = format!("{value}");
        let point = plain.contains('.');
        Ok(Node::Plain(if point { plain } else { plain + ".0" }))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = seq.next_element()? {
            list.push(entry);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut named = Vec::new();
        while let Some(entry) = map.next_entry()? {
            named.push(entry);
        }
        Ok(Node::Map(named))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use serde_json::{Value, json};

    use super::*;

    /// What a real reader of YAML makes of a text, as JSON; none if there is no such reader here.
    fn read(yaml: &str) -> Option<Value> {
        let script = "import sys, json, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
        let mut python = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        python.stdin.take()?.write_all(yaml.as_bytes()).ok()?;
        let output = python.wait_with_output().ok()?;
        let words = String::from_utf8_lossy(&output.stderr);
        if words.contains("No module named") {
            return None;
        }
        assert!(output.status.success(), "{words}\n{yaml}");
        Some(serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    fn hard() -> Value {
        let texts = [
            "",
            " ",
            "a",
            "a b",
            "a: b",
            "a #b",
            "- a",
            "yes",
            "No",
            "null",
            "~",
            "1",
            "1.5",
            "0x1",
            "1e3",
            "1:30",
            "2026-01-01",
            "2026-01-01T00:00:00Z",
            "=",
            "<<",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "{a}",
            "[a]",
            "a,b",
            "\"",
            "'",
            "\\",
            "\n",
            "a\nb\n",
            "\t",
            "\r",
            "\u{0}",
            "\u{1b}[2J",
            "\u{7f}",
            "\u{85}",
            "\u{a0}",
            "\u{2028}",
            "\u{feff}x",
            "ä",
            "日本",
            "🦀",
            "/var/lib",
            "a-b.c_d",
            "on",
            ".inf",
            "nan",
            "y",
            "0o7",
            "?",
            "?a",
            ":",
            "...",
            "---",
        ];
        let mut map = serde_json::Map::new();
        for text in texts {
            map.insert(text.to_owned(), json!(text));
        }
        json!({
            "texts": texts.as_slice(), "map": map, "empty": [], "none": {}, "null": null, "yes": true,
            "numbers": [0, -1, 1.5, 1e20, 1e-9, u64::MAX], "nested": [[1, [2, []]], [{}], [{"a": [{"b": 1, "c": 2}]}]],
        })
    }

    #[test]
    fn yaml_means_the_same_as_json() {
        for value in [hard(), json!([]), json!({}), json!("x: y"), json!(null), json!([1, "a"])] {
            let yaml = Node::of(&value).expect("a tree").to_yaml();
            if let Some(found) = read(&yaml) {
                assert_eq!(found, value, "{yaml}");
            }
        }
    }

    #[test]
    fn yaml_is_what_people_expect() {
        let value = json!({"jobs": [{"id": "01ABC", "tags": [], "note": "it: is"}], "n": 1});
        let yaml = Node::of(&value).expect("a tree").to_yaml();
        assert!(yaml.starts_with("jobs:\n  - id: \"01ABC\"\n    note: \"it: is\"\n    tags: []\n"));
    }

    #[test]
    fn lines_of_values() {
        let tsv = |value: Value| Node::of(&value).expect("a tree").to_tsv();
        assert_eq!(
            tsv(json!({"a": [{"x": 1, "y": "b\tc"}, {"x": null, "y": [1, 2]}]})),
            "1\tb c\n\t2\n"
        );
        assert_eq!(tsv(json!({"a": "b", "c": {"d": 1}})), "b\t\n");
    }
}
