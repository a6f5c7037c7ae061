//! Every error gives the values in its message as data, and the page of its code names them.
//!
//! That a value in a message of `message!` has a name is checked by the compiler. What is checked here is what it
//! does not see: the errors that are enums. Each of them matches its variants field by field, so that
//! the compiler refuses a field that is forgotten; what remains is that none is left out on purpose.
//!
//! A reader in another language has only the code and the values: so two sentences of one code differ in the names of
//! their values, or in the value of `problem`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use strongroom_base::CATALOG;

use crate::codes::program_and_tests;

/// Fields that are no values of the message: causes, which have messages of their own, and what only
/// the program decides by.
const UNSAID: [&str; 8] =
    ["source", "number", "expected", "found", "operation", "item", "code", "is_undone"];

/// Where the functions `params` of errors are.
pub(crate) fn bodies(program: &str) -> Vec<Range<usize>> {
    let starts = program.match_indices("fn params(&self) -> Params {").map(|(at, _)| at);
    // They end where their indentation does.
    starts
        .filter_map(|at| Some(at..at + program[at..].find("\n    }\n")? + "\n    }\n".len()))
        .collect()
}

/// What is wrong with a function `params`.
fn faults(body: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if body.contains("..") {
        faults.push("it leaves fields out with `..`".to_owned());
    }
    for arm in body.split("Self::").skip(1) {
        let variant: String = arm.chars().take_while(|c| c.is_alphanumeric()).collect();
        let pattern = arm.split("=>").next().unwrap_or_default().trim_end_matches([' ', '|', '\n']);
        let fields = pattern.split(['{', '}', ',', '(']).map(str::trim);
        let unsaid = fields.filter_map(|field| field.strip_suffix(": _"));
        let strange = unsaid.filter(|field| !UNSAID.contains(field));
        faults.extend(strange.map(|field| format!("{variant} does not say {field}")));
    }
    faults
}

#[test]
fn every_variant_gives_the_values_of_its_message() {
    let (program, _) = program_and_tests();
    let bodies = bodies(&program);
    // Each `Coded` of the product: one of these, and `SizeError`, which is no enum, among them.
    let coded = program.matches(" Coded for ").count();
    assert!(coded >= 18 && bodies.len() == coded, "{} of {coded}", bodies.len());
    let mut wrong = Vec::new();
    for body in bodies {
        wrong.extend(faults(&program[body]));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_variant_that_leaves_a_value_out_is_found() {
    let good = "match self { Self::Busy { disk, source: _ } => params!(DISK_BUSY: disk), }";
    assert_eq!(faults(good), Vec::<String>::new());
    let bad = "match self { Self::Busy { disk: _, source: _ } | Self::Other => Params::none(), }";
    assert_eq!(faults(bad), ["Busy does not say disk"]);
    let worse = "match self { Self::Busy { .. } => Params::none(), }";
    assert_eq!(faults(worse), ["it leaves fields out with `..`"]);
}

/// Each `message!` or `params!` with a constant: the codes, and what follows them.
fn given(program: &str) -> Vec<(BTreeSet<&str>, &str)> {
    let mut found = Vec::new();
    for start in ["message!(", "params!("] {
        for (at, _) in program.match_indices(start) {
            let rest = &program[at + start.len()..];
            let end = rest.find(if start == "params!(" { ':' } else { ',' }).unwrap_or(0);
            // A problem stands behind the code.
            let codes = rest[..end].split(':').next().unwrap_or_default();
            let codes = codes.split('|').map(str::trim).collect();
            let until = rest.find(";\n").unwrap_or(rest.len()).min(1500);
            let until = (until..=rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap_or(0);
            found.push((codes, &rest[end..until]));
        }
    }
    found
}

#[test]
fn every_name_of_a_page_is_given_by_some_error() {
    let (program, _) = program_and_tests();
    let given = given(&program);
    let mut wrong = Vec::new();
    for code in CATALOG {
        let konst = code.name.to_uppercase().replace('.', "_");
        for name in code.params().iter().filter(|name| **name != "problem") {
            let names = |text: &str| {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                text.split(|c| !is_part(c)).any(|word| word == *name)
            };
            let is_given = given.iter().any(|(codes, text)| {
                (codes.contains(konst.as_str()) || codes.contains("(code)")) && names(text)
            });
            if !is_given {
                wrong.push(format!("{} has a value {name} that nothing gives", code.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let sorted = |names: &[&str]| names.is_sorted();
    assert!(CATALOG.iter().all(|code| sorted(code.params())));
}

/// Codes that have several sentences with the same values, these values, and why they may.
const SAME: [(&str, &[&str], &str); 8] = [
    ("ALERT_UNDELIVERED", &["channel", "reason"], "one is the reason alone, below its title"),
    ("ASSIGNMENT_NOT_FOUND", &["assignment"], "the program says the same as the service"),
    ("BUG", &["error"], "nobody can do anything but report it"),
    ("POINT_NOT_FOUND", &["point"], "the same, before and during a job"),
    ("REQUEST_INVALID", &["name"], "what is wrong with a request is for the program's author"),
    ("REQUEST_INVALID", &["reason"], "what is wrong with a request is for the program's author"),
    ("REQUEST_NOT_FOUND", &["item"], "the program says the same as the service"),
    ("TOKEN_NOT_FOUND", &["token"], "the program says the same as the service"),
];

/// What a sentence is found by: its code, its problem, and the names of its values.
type Sentence = (String, String, BTreeSet<String>);

/// The sentences of each `message!` with a constant.
fn sentences(program: &str) -> BTreeMap<Sentence, BTreeSet<String>> {
    let mut found = BTreeMap::<Sentence, BTreeSet<String>>::new();
    for (at, start) in program.match_indices("message!(") {
        let parts = arguments(&program[at + start.len()..]);
        let [code, text, values @ ..] = parts.as_slice() else { continue };
        let (code, problem) = code.split_once(':').unwrap_or((code, ""));
        let is_constant =
            code.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit());
        if !is_constant || !text.starts_with('"') {
            continue;
        }
        let name = |value: &String| -> String {
            value.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        let names = values.iter().map(name).filter(|name| !name.is_empty()).collect();
        // A text may be broken, and its next line indented.
        let lines = text.split("\\\n").map(str::trim_start);
        let text = lines.collect::<String>();
        found.entry((code.to_owned(), problem.trim().to_owned(), names)).or_default().insert(text);
    }
    found
}

/// The arguments of a macro, up to the parenthesis that ends them.
fn arguments(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut depth, mut quoted, mut escaped) =
        (Vec::new(), String::new(), 0_u32, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part).trim().to_owned());
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part.trim().to_owned());
    parts.retain(|part| !part.is_empty());
    parts
}

#[test]
fn sentences_of_one_code_differ_in_their_values() {
    let (program, _) = program_and_tests();
    let found = sentences(&program);
    assert!(found.len() > 80, "only {} sentences were found", found.len());
    let several = found.iter().filter(|(_, texts)| texts.len() > 1);
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for ((code, problem, names), texts) in several {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let same = SAME.iter().position(|(of, values, _)| of == code && *values == names);
        match same {
            Some(at) if problem.is_empty() => drop(used.insert(at)),
            _ => wrong.push(format!("{code} {problem} {names:?}: {texts:#?}")),
        }
    }
    let unused = SAME.iter().enumerate().filter(|(at, _)| !used.contains(at));
    wrong.extend(
        unused.map(|(_, (code, names, _))| format!("{code} {names:?} may go off the list")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_sentence_with_the_values_of_another_is_found() {
    let program = r#"
        message!(ITEM_BUSY, "{item} is busy", item);
        message!(ITEM_BUSY, "{item} is (very) busy", item = a.b(c, d) => words(e));
        message!(ITEM_BUSY: other, "{item} is, \
            and stays, busy", item);
        message!(ITEM_BUSY, "a job works");
        message!((code), "{item} is away", item);
    "#;
    let found = sentences(program);
    let of = |problem: &str, names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let texts = found.get(&("ITEM_BUSY".to_owned(), problem.to_owned(), names));
        texts.map(|texts| texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let both = ["\"{item} is (very) busy\"", "\"{item} is busy\""];
    assert_eq!(of("", &["item"]), Some(both.to_vec()));
    assert_eq!(of("other", &["item"]), Some(vec!["\"{item} is, and stays, busy\""]));
    assert_eq!(of("", &[]), Some(vec!["\"a job works\""]));
    assert_eq!(found.len(), 3);
}

/// Each value of `problem` is given by a sentence, and no other is (the compiler sees to that).
#[test]
fn every_problem_of_a_page_is_given_by_some_error() {
    let (program, _) = program_and_tests();
    let found = sentences(&program);
    let mut wrong = Vec::new();
    for code in CATALOG {
        let konst = code.name.to_uppercase().replace('.', "_");
        assert_eq!(code.has_param("problem"), !code.problems().is_empty(), "{}", code.name);
        for (problem, _) in code.problems() {
            if !found.keys().any(|(of, given, _)| *of == konst && given == problem) {
                wrong.push(format!("{} has a problem {problem} that nothing gives", code.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
