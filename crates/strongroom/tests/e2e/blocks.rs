//! Which test runs which fenced block of the pages.
//!
//! [`WHO`] names a runner for each line of a block of shell, and for each other block as a whole. A runner
//! takes its lines from a [`Page`], which fails if one of them was not run. Blocks of `text` are pictures
//! and layouts of bytes.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Who runs a line or a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The test with this name, in any crate.
    Test(&'static str),
    /// This script, which `scripts/test` runs.
    Script(&'static str),
    /// Nobody, for this reason.
    Nobody(&'static str),
}

use By::{Nobody, Script, Test};

const FLAGS: By = Test("the_scripts_of_the_pages_have_their_flags");
const README: By = Test("the_first_things_of_the_readme_work");
const README_VM: By = Test("the_machine_of_the_readme_is_backed_up_and_restored");
const INSTALL: By = Test("the_readme_installs_the_program");
const RECOVERY: By = Test("the_page_for_the_worst_day_works");
const RECOVERY_VM: By = Test("machines_are_restored_on_the_worst_day");
const SERVER: By = Test("a_server_is_recovered_and_starts");
const SERVICE: By = Test("the_page_of_the_service_works");
const SERVICE_VM: By = Test("the_service_protects_and_restores_machines");
const BLOBS: By = Test("the_service_backs_up_blobs_as_the_pages_say");
const NIGHTLY: By = Test("the_nightly_jobs_of_the_page_of_policies_work");
const LOGS: By = Test("the_log_line_of_the_page_is_found_by_its_job");

/// The page, words of the line or the block, and who runs it; the first row that fits counts.
const WHO: &[(&str, &str, By)] = &[
    ("README.md", "scripts/quickstart", Script("scripts/quickstart")),
    ("README.md", "scripts/", FLAGS),
    ("README.md", "packaging/build-deb", INSTALL),
    ("README.md", "cargo build", Nobody("it builds a release; scripts/quickstart runs it as well")),
    ("README.md", "install -m 755", INSTALL),
    ("README.md", "strongroom man ", INSTALL),
    ("README.md", "strongroom completions ", INSTALL),
    ("README.md", "vm check", README_VM),
    ("README.md", "backup --vm", README_VM),
    ("README.md", "restore vm", README_VM),
    ("README.md", "", README),
    ("docs/contribute/tests.md", "scripts/test", FLAGS),
    ("docs/contribute/tests.md", "cargo ", Nobody("it runs the tests themselves")),
    ("docs/operate/access.md", "", Test("the_page_of_access_works")),
    ("docs/operate/catalog.md", "", Test("a_catalog_is_copied_and_loaded_elsewhere")),
    ("docs/operate/monitoring.md", "hashlib", Test("the_check_of_signatures_on_the_page_is_right")),
    (
        "docs/operate/monitoring.md",
        "\"alerts\": [",
        Test("the_check_of_signatures_on_the_page_is_right"),
    ),
    (
        "docs/operate/monitoring.md",
        "scrape_configs",
        Test("the_settings_of_prometheus_on_the_page_are_taken"),
    ),
    (
        "docs/operate/monitoring.md",
        "groups:",
        Test("the_settings_of_prometheus_on_the_page_are_taken"),
    ),
    ("docs/operate/monitoring.md", "\"timestamp\"", LOGS),
    ("docs/operate/monitoring.md", "journalctl", LOGS),
    ("docs/operate/monitoring.md", " = ", Test("the_settings_on_pages_are_taken")),
    ("docs/operate/server.md", "strongroom serve", SERVER),
    ("docs/operate/server.md", " = ", Test("the_settings_on_pages_are_taken")),
    ("docs/understand/benchmarks.md", "scripts/", FLAGS),
    ("docs/use/api.md", "", Test("the_examples_of_the_api_run")),
    ("docs/use/cli.md", "", Nobody("usage and help; docs_tests.rs parses the examples")),
    ("docs/use/export.md", "", Test("the_page_about_exports_works")),
    ("docs/use/json.md", "", Test("every_section_of_the_page_of_json_is_compared")),
    ("docs/use/machines.md", "ScriptRunner", Test("the_settings_of_scripts_on_the_page_are_taken")),
    ("docs/use/machines.md", "", Test("the_page_about_machines_works")),
    ("docs/use/policies.md", "\"time_zone\"", Test("backups_are_due_as_documented")),
    ("docs/use/policies.md", "cron.d", NIGHTLY),
    ("docs/use/policies.md", "ExecStart", NIGHTLY),
    ("docs/use/policies.md", "", Test("the_page_of_policies_forgets_points")),
    ("docs/use/recovery.md", "restore vm", RECOVERY_VM),
    ("docs/use/recovery.md", "strongroom recover ", SERVER),
    ("docs/use/recovery.md", "strongroom serve", SERVER),
    ("docs/use/recovery.md", "--damaged", Test("a_damaged_point_is_given_up_as_the_page_says")),
    ("docs/use/recovery.md", "pip install", Script("scripts/check-format")),
    ("docs/use/recovery.md", "format-reader.py", Script("scripts/check-format")),
    ("docs/use/recovery.md", "", RECOVERY),
    ("docs/use/storage.md", "--context home", Test("accounts_of_the_service_are_managed_by_roles")),
    ("docs/use/storage.md", "protection ", BLOBS),
    ("docs/use/storage.md", "item show", BLOBS),
    ("docs/use/storage.md", "job list", BLOBS),
    ("docs/use/storage.md", "restore disks", BLOBS),
    ("docs/use/storage.md", "/var/lib/strongroom/storage", BLOBS),
    ("docs/use/storage.md", "/srv/", Test("the_page_of_two_servers_works")),
    ("docs/use/storage.md", "", Test("the_page_of_storage_accounts_works")),
    ("docs/use/verify.md", "latest --wait", SERVICE_VM),
    ("docs/use/verify.md", "policy set", SERVICE_VM),
    ("docs/use/verify.md", "vault update", SERVICE_VM),
    ("docs/use/verify.md", "", Test("the_page_about_booting_works")),
    ("docs/use/service.md", "strongroom serve", SERVER),
    ("docs/use/service.md", "host discover", SERVICE_VM),
    ("docs/use/service.md", "protectable-item", SERVICE_VM),
    ("docs/use/service.md", "enable-for-vm", SERVICE_VM),
    ("docs/use/service.md", "enable-for-blobs", BLOBS),
    ("docs/use/service.md", "restore vm", SERVICE_VM),
    ("docs/use/service.md", "restore accept", SERVICE_VM),
    ("docs/use/service.md", "job cancel", Test("a_job_is_cancelled_as_the_page_says")),
    ("docs/use/service.md", "", SERVICE),
    (
        "findings/README.md",
        "findings/",
        Nobody("it takes a network and Debian 12, and checks itself"),
    ),
    ("fuzz/README.md", "scripts/", FLAGS),
    ("scripts/lab/README.md", "Host::new()", Nobody("a sketch of a test")),
];

/// A fenced block.
struct Block {
    language: String,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), lines: vec![] });
            }
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => (),
        }
    }
    blocks
}

/// What a line of a page is for a shell: without the prompt of root or a user; none if it is empty.
fn command(line: &str) -> Option<String> {
    let line = line.trim();
    let line = line.strip_prefix("# ").or(line.strip_prefix("$ ")).unwrap_or(line);
    (!line.is_empty()).then(|| line.to_owned())
}

impl Block {
    /// Whether each line is a command.
    fn is_shell(&self) -> bool {
        ["", "console"].contains(&self.language.as_str())
    }

    /// What is run: the commands of a shell, with continued lines joined, or the whole block.
    fn parts(&self) -> Vec<String> {
        if !self.is_shell() {
            return vec![self.lines.join("\n")];
        }
        let joined = self.lines.join("\n").replace("\\\n", " ");
        joined.lines().filter_map(command).collect()
    }
}

/// Everything in the blocks of a text that somebody has to run, with the language of its block.
pub(crate) fn blocks_of(text: &str) -> Vec<(String, String)> {
    let blocks = blocks(text).into_iter().filter(|block| block.language != "text");
    let with_language = |block: Block| {
        let parts = block.parts();
        parts.into_iter().map(move |part| (block.language.clone(), part))
    };
    blocks.flat_map(with_language).collect()
}

/// Everything in the blocks of a text that somebody has to run.
pub(crate) fn parts(text: &str) -> Vec<String> {
    blocks_of(text).into_iter().map(|(_, part)| part).collect()
}

/// Who runs a part of a page.
pub(crate) fn who(page: &str, part: &str) -> Option<By> {
    let fits = |row: &&(&str, &str, By)| row.0 == page && part.contains(row.1);
    WHO.iter().find(fits).map(|row| row.2)
}

/// A page of the project.
pub(crate) fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).expect("a page")
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

/// The parts of a page that one test runs.
pub(crate) struct Page {
    name: &'static str,
    test: &'static str,
    run: RefCell<BTreeSet<String>>,
}

impl Page {
    pub(crate) fn new(name: &'static str, test: &'static str) -> Self {
        Self { name, test, run: RefCell::default() }
    }

    /// Whether the test runs this part; then it counts as run.
    pub(crate) fn take(&self, part: &str) -> bool {
        let is_ours = who(self.name, part) == Some(Test(self.test));
        if is_ours {
            self.run.borrow_mut().insert(part.to_owned());
        }
        is_ours
    }

    /// The parts that the test runs, in order.
    pub(crate) fn parts(&self) -> Vec<String> {
        let mut parts = parts(&read(self.name));
        parts.retain(|part| who(self.name, part) == Some(Test(self.test)));
        parts
    }

    /// Fails unless every part that the test has to run was run.
    #[track_caller]
    pub(crate) fn assert_all_run(&self) {
        let run = self.run.borrow();
        let left: Vec<String> =
            self.parts().into_iter().filter(|part| !run.contains(part)).collect();
        assert!(left.is_empty(), "{} of {}: not run: {left:#?}", self.test, self.name);
    }
}

/// Every page that shows commands.
pub(crate) fn pages() -> Vec<String> {
    let mut pages: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    let mut folders = ["docs", "findings", "fuzz", "packaging", "bench", "scripts"]
        .map(|folder| root().join(folder))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of docs") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                let name = path.file_name().and_then(|name| name.to_str());
                if !name.is_some_and(|name| ["target", "corpus", "artifacts"].contains(&name)) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let page = path.strip_prefix(root()).expect("below the project");
                pages.push(page.display().to_string());
            }
        }
    }
    pages.sort();
    pages
}
