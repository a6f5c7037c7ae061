//! Every error gives the values in its message as data, and the page of its code names them.
//!
//! That a value in a message of `message!` has a name is checked by the compiler. What is checked here is what it
//! does not see: the errors that are enums. Each of them matches its variants field by field, so that
//! the compiler refuses a field that is forgotten; what remains is that none is left out on purpose.

use std::{collections::BTreeSet, ops::Range};

use strongroom_base::CATALOG;

use crate::codes::program_and_tests;

/// Fields that are no values of the message: causes, which have messages of their own, and what only
/// the program decides by.
const UNSAID: [&str; 7] = ["source", "number", "expected", "found", "operation", "item", "code"];

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
            let codes = rest[..end].split('|').map(str::trim).collect();
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
        for name in code.params() {
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
