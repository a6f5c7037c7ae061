//! Modules of a crate use each other in one direction: what is read first needs nothing of what is read later.
//!
//! The graph is taken from the sources: the `use` lines, and the paths that begin with `crate`, `super`, `self` or
//! the name of a module below. A name that a module only hands on (`pub use`) counts as use of the module that
//! defines it. Methods are not followed: each file adds some to the service's one type.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::layers::sources;

/// Crates whose modules are without circles.
const HELD: [&str; 17] = [
    "api",
    "base",
    "catalog",
    "client",
    "control",
    "engine",
    "export",
    "format",
    "http",
    "image",
    "keys",
    "nbd",
    "orders",
    "policy",
    "reports",
    "storage-client",
    "verify",
];

/// Uses that may close a circle: crate, the module that uses, what it uses, and why.
const MAY: [(&str, &str, &str, &str); 10] = [
    // The service's one type has the state of those who add methods to it.
    ("control", "service", "access/known", "callers that were recognised a moment ago"),
    ("control", "service", "access/sign_in", "tries to sign in"),
    ("control", "service", "access/used", "when tokens were used last"),
    ("control", "service", "figures", "figures of points as they were counted last"),
    ("control", "service", "saved", "vaults in which the catalog is to be saved"),
    ("control", "service", "time", "the trusted time"),
    ("control", "service", "work/drivers", "the jobs at work"),
    ("control", "service", "work/progress", "how far jobs have come"),
    // What it is made with.
    ("control", "service", "jobs/queue", "the limits of the queue are settings"),
    ("control", "service", "notify", "the channels are parts that it is given"),
];

/// Modules by their path below `src`, with `/`; the root of the crate is the empty one.
struct Modules(BTreeMap<String, Module>);

/// A module as its source says.
#[derive(Default)]
struct Module {
    /// What its source uses, as paths from the crate's root.
    uses: Vec<Vec<String>>,
    /// Names that it only hands on, and what they are.
    hands_on: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Those of these sources: path below `src` and text.
    fn of(sources: &[(String, String)]) -> Self {
        let named: Vec<(String, String)> =
            sources.iter().map(|(path, text)| (module_of(path), product(text))).collect();
        let names: BTreeSet<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        let read =
            |(name, text): &(String, String)| (name.clone(), Module::read(name, text, &names));
        Self(named.iter().map(read).collect())
    }

    /// The module in which a path ends, following those who hand its name on.
    fn resolve(&self, path: &[String], depth: usize) -> String {
        let mut len = path.len();
        while len > 0 && !self.0.contains_key(&path[..len].join("/")) {
            len -= 1;
        }
        let found = path[..len].join("/");
        let next = path.get(len).and_then(|name| self.0.get(&found)?.hands_on.get(name));
        match next {
            Some(next) if depth < 8 => {
                let whole: Vec<String> = next.iter().chain(&path[len + 1..]).cloned().collect();
                self.resolve(&whole, depth + 1)
            }
            _ => found,
        }
    }

    /// Which module uses which, but for those that may.
    fn graph(&self, may: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::new();
        for (name, module) in self.0.iter().filter(|(name, _)| !name.is_empty()) {
            let used = module.uses.iter().map(|path| self.resolve(path, 0));
            let used = used.filter(|to| !to.is_empty() && to != name && !may.contains(&(name, to)));
            graph.insert(name.clone(), used.collect());
        }
        graph
    }
}

impl Module {
    fn read(name: &str, text: &str, names: &BTreeSet<&str>) -> Self {
        let mut module = Self::default();
        let here: Vec<String> =
            name.split('/').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        let mut rest = String::new();
        let mut left = text;
        while let Some((before, tree, after)) = next_use(left) {
            let is_handed_on = before
                .trim_end()
                .rsplit('\n')
                .next()
                .is_some_and(|it| it.trim_start().starts_with("pub"));
            for leaf in leaves(tree) {
                let (path, alias) = leaf.split_once(" as ").unwrap_or((&leaf, ""));
                let Some(mut path) = absolute(&here, path, names) else { continue };
                if path.last().is_some_and(|it| it == "self") {
                    path.pop();
                }
                let called = if alias.is_empty() {
                    path.last().cloned()
                } else {
                    Some(alias.trim().to_owned())
                };
                match called {
                    Some(called) if is_handed_on => drop(module.hands_on.insert(called, path)),
                    _ => module.uses.push(path),
                }
            }
            rest.push_str(before);
            left = after;
        }
        rest.push_str(left);
        module.uses.extend(paths(&rest).filter_map(|path| absolute(&here, path, names)));
        module
    }
}

/// Who uses whom.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The same for the modules at the top, each with all that is below it.
fn top(graph: &Graph) -> Graph {
    let top = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    let mut of = Graph::new();
    for (name, used) in graph {
        let used = used.iter().map(|it| top(it)).filter(|it| *it != top(name));
        of.entry(top(name)).or_default().extend(used);
    }
    of
}

/// One circle for each module that is in one, by its shortest way back.
fn circles(graph: &Graph) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in graph.keys() {
        let mut ways = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                for next in graph.get(*way.last().expect("a way")).into_iter().flatten() {
                    let mut way = way.clone();
                    if next == start {
                        // The same circle, wherever one begins.
                        let least = (0..way.len()).min_by_key(|at| way[*at]);
                        way.rotate_left(least.unwrap_or(0));
                        let names: Vec<&str> = way.iter().map(|it| it.as_str()).collect();
                        found.insert(format!("{} -> {}", names.join(" -> "), names[0]));
                        longer.clear();
                        seen.extend(graph.keys());
                    } else if seen.insert(next) {
                        way.push(next);
                        longer.push(way);
                    }
                }
            }
            ways = longer;
        }
    }
    found
}

/// The module of a source.
fn module_of(path: &str) -> String {
    let name = path.strip_suffix(".rs").unwrap_or(path);
    match name {
        "lib" | "main" => String::new(),
        name => name.strip_suffix("/mod").unwrap_or(name).to_owned(),
    }
}

/// A source without comments and without the tests at its end.
fn product(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_test = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{')
    };
    let end = lines.windows(2).position(is_test).unwrap_or(lines.len());
    let code = lines[..end].iter().map(|line| line.split("//").next().unwrap_or_default());
    code.collect::<Vec<_>>().join("\n")
}

/// What is before the next `use`, its tree, and what is after it.
fn next_use(text: &str) -> Option<(&str, &str, &str)> {
    // Not a word of a text that stands in the source.
    let is_tree = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_:{},*".contains(c);
    let mut from = 0;
    while let Some(at) = text[from..].find("use ").map(|at| from + at) {
        let line = text[..at].rsplit('\n').next().unwrap_or_default().trim_start();
        let begins = line.is_empty() || (line.starts_with("pub") && !line.contains(['{', ';']));
        if let Some((tree, after)) = text[at + 4..].split_once(';')
            && begins
            && tree.chars().all(is_tree)
        {
            return Some((&text[..at], tree, after));
        }
        from = at + 4;
    }
    None
}

/// The paths of a tree of uses.
fn leaves(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, inner)) = tree.split_once('{') else {
        return vec![tree.split_whitespace().collect::<Vec<_>>().join(" ")];
    };
    let inner = &inner[..inner.rfind('}').expect("a brace that closes")];
    let (mut parts, mut depth, mut part) = (Vec::new(), 0_u32, String::new());
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| leaves(part)).map(|leaf| format!("{}{leaf}", before.trim())).collect()
}

/// The paths in code: words that are joined by `::`.
fn paths(code: &str) -> impl Iterator<Item = &str> {
    let is_end = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
    let words = code.split(is_end).map(|word| word.trim_matches(':'));
    words.filter(|word| word.contains("::") && !word.contains(":::"))
}

/// A path from the root of the crate; none if it is of another crate.
fn absolute(here: &[String], path: &str, names: &BTreeSet<&str>) -> Option<Vec<String>> {
    let words: Vec<&str> = path.trim().split("::").map(str::trim).collect();
    let (first, rest) = words.split_first()?;
    let (up, rest) = match *first {
        "crate" => (here.len(), rest),
        "self" => (0, rest),
        "super" => {
            let more = rest.iter().take_while(|word| **word == "super").count();
            (1 + more, &rest[more..])
        }
        name => {
            let below: Vec<&str> = here.iter().map(String::as_str).chain([name]).collect();
            if !names.contains(below.join("/").as_str()) {
                return None;
            }
            (0, words.as_slice())
        }
    };
    let base = here[..here.len().checked_sub(up)?].iter().cloned();
    Some(base.chain(rest.iter().map(|word| (*word).to_owned())).collect())
}

#[test]
fn modules_use_each_other_in_one_direction() {
    let mut wrong = Vec::new();
    for krate in HELD {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("src");
        let mut found = Vec::new();
        sources(&folder, &mut found);
        for (path, _) in &mut found {
            let below = Path::new(path).strip_prefix(&folder).expect("below the folder");
            *path = below.to_str().expect("text").to_owned();
        }
        let modules = Modules::of(&found);
        let all = modules.graph(&[]);
        let may: Vec<(&str, &str)> = MAY
            .iter()
            .filter(|(of, ..)| *of == krate)
            .map(|(_, from, to, _)| (*from, *to))
            .collect();
        let unused =
            may.iter().filter(|(from, to)| !all.get(*from).is_some_and(|it| it.contains(*to)));
        wrong.extend(
            unused.map(|(from, to)| {
                format!("{krate}: {from} does not use {to}: take it off the list")
            }),
        );
        let graph = modules.graph(&may);
        for graph in [top(&graph), graph] {
            wrong.extend(circles(&graph).into_iter().map(|it| format!("{krate}: {it}")));
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "modules that use each other in a circle:\n{}", wrong.join("\n"));
}

#[test]
fn a_circle_is_seen() {
    let made_up = |sources: &[(&str, &str)]| {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        let sources: Vec<(String, String)> = sources.iter().map(owned).collect();
        let graph = Modules::of(&sources).graph(&[]);
        (circles(&graph), circles(&top(&graph)))
    };
    let seen = |circle: &str| BTreeSet::from([circle.to_owned()]);
    let none = BTreeSet::new;
    // By a list, by a path in the code, by three.
    let (files, _) = made_up(&[
        ("a.rs", "use crate::{\n    b::{self, B},\n};"),
        ("b.rs", "fn b() {\n    crate::c::c();\n}"),
        ("c.rs", "use super::a::A;"),
    ]);
    assert_eq!(files, seen("a -> b -> c -> a"));
    // A parent and its child; a name that the parent only hands on is none of the parent's.
    let child = ("a/b.rs", "use super::A;");
    assert_eq!(
        made_up(&[("a/mod.rs", "mod b;\nfn a() {\n    b::b();\n}"), child]).0,
        seen("a -> a/b -> a")
    );
    assert_eq!(made_up(&[("a/mod.rs", "mod b;\npub(crate) use self::b::B;"), child]).0, none());
    let handed_on = [
        ("a/mod.rs", "mod b;\npub use b::{B as C};"),
        ("a/b.rs", "use crate::d::D;"),
        ("d.rs", "use crate::a::C;"),
    ];
    assert_eq!(made_up(&handed_on), (seen("a/b -> d -> a/b"), seen("a -> d -> a")));
    // Of the modules at the top only.
    let between =
        [("a/one.rs", "use crate::b::B;"), ("a/two.rs", ""), ("b.rs", "use crate::a::two::Two;")];
    assert_eq!(made_up(&between), (none(), seen("a -> b -> a")));
    // Neither tests nor comments.
    let tested = "use crate::b::B;\n\n#[cfg(test)]\nmod tests {\n    use crate::c::C;\n}\n";
    assert_eq!(
        made_up(&[("a.rs", tested), ("b.rs", "// crate::a::A"), ("c.rs", "use crate::a::A;")]).0,
        none()
    );
}
