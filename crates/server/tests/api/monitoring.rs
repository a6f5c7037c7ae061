//! Pages of the documentation that are made from tables of the code.
//!
//! `STRONGROOM_BLESS=1 cargo nextest run -p strongroom-server` writes them anew.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use strongroom_control::Rule;
use strongroom_server::{ConfigKey, MailConfig, Metrics, WebhookConfig};

/// A table in Markdown.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = String::new();
    let mut line = |cells: &[String]| writeln!(text, "| {} |", cells.join(" | ")).expect("writes");
    line(&head.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>());
    line(&head.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
    for row in rows {
        line(&row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>());
    }
    text
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn metrics() -> String {
    let rows = Metrics::ALL.iter().map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| code(label)).collect();
        vec![code(metric.name), metric.kind.to_owned(), labels.join(", "), metric.words.to_owned()]
    });
    format!(
        "# Metrics\n\nThe metrics on `/metrics`, if `metrics_listen` is set; [monitoring.md](monitoring.md) says \
         how to\nwatch them. This page is generated from the program; a test keeps it current.\n\nLabels name \
         vaults, channels and routes, never items, users or tokens. A metric without values yet\nis not \
         shown. Counters begin at 0 when the server is started.\n\n{}",
        table(&["name", "type", "labels", "meaning"], rows)
    )
}

fn alerts() -> String {
    let rows = Rule::ALL.iter().map(|rule| {
        let severity = rule.severity().name().to_owned();
        vec![code(rule.name()), severity, rule.words().to_owned(), rule.ends().to_owned()]
    });
    table(&["rule", "severity", "what has happened", "it is resolved when"], rows)
}

fn keys(keys: &[ConfigKey]) -> String {
    let rows = keys.iter().map(|key| {
        let plain = ["required", "none", "the system's"].contains(&key.default);
        let default = if plain { key.default.to_owned() } else { code(key.default) };
        vec![code(key.name), default, key.words.to_owned()]
    });
    table(&["key", "default", "meaning"], rows)
}

/// Puts a table between its marks.
fn put(page: &str, name: &str, table: &str) -> String {
    let (begin, end) =
        (format!("<!-- {name}: made from the program -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no mark of {name}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no end of {name}"));
    format!("{before}{begin}\n{table}\n{end}{after}")
}

fn assert_current(page: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        fs::write(&file, text).expect("writes");
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == text, "docs/{page} is not what the program says: see the head of this file");
}

#[test]
fn the_page_of_metrics_is_current() {
    assert_current("operate/metrics.md", &metrics());
}

#[test]
fn the_tables_of_the_page_on_monitoring_are_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate/monitoring.md");
    let mut page = fs::read_to_string(file).expect("reads");
    page = put(&page, "alerts", &alerts());
    page = put(&page, "mail", &keys(MailConfig::KEYS));
    page = put(&page, "webhook", &keys(WebhookConfig::KEYS));
    assert_current("operate/monitoring.md", &page);
}

/// The names in an expression of Prometheus that are ours, without what is added to those of histograms.
fn names(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("strongroom_")).collect()
}

/// The rules and the settings of Prometheus: `promtool` (Debian: prometheus) takes them, where it is
/// installed; and every metric that a rule asks for is one that the server has.
#[test]
fn the_settings_of_prometheus_on_the_page_are_taken() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate/monitoring.md");
    let page = fs::read_to_string(file).expect("reads");
    let blocks = page.split("```yaml\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|block| block.split("```").next()).collect();
    let [settings, rules] = blocks.as_slice() else { panic!("{blocks:#?}") };
    let names = names(rules);
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        assert!(Metrics::ALL.iter().any(|metric| metric.name == name), "no metric {name}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (kind, text) in [("config", settings), ("rules", rules)] {
        let file = folder.path().join(kind);
        fs::write(&file, text).expect("writes");
        let mut command = Command::new("promtool");
        match command.args(["check", kind]).arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{kind}: {output:?}"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
            Err(error) => panic!("promtool: {error}"),
        }
    }
}
