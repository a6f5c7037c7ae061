//! Real object stores on loopback: the suite, the probe, and what users meet on bad days.
//!
//! `scripts/lab/install` puts the stores in place, `scripts/lab/stores` starts them.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it did not try"
)]

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use strongroom_base::{Coded, SystemEntropy, codes};
use strongroom_objects::{
    ConditionalPut, Key, Mirror, ObjectStore, Options, Put, StoreError,
    conformance::{self, Extent},
    open, probe,
};
use tempfile::TempDir;

/// A store that runs for one test.
struct Lab {
    place: TempDir,
    url: String,
    environment: Vec<(String, String)>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/lab/stores")
}

impl Lab {
    fn start(name: &str) -> Self {
        let place = tempfile::tempdir().expect("a temporary folder");
        let mut lab = Self { place, url: String::new(), environment: Vec::new() };
        let started = Command::new(script())
            .args(["start", name])
            .arg(lab.place.path())
            .output()
            .expect("bash");
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        for line in String::from_utf8(started.stdout).expect("text").lines() {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            match name {
                "url" => lab.url.push_str(value),
                _ => lab.environment.push((name.to_owned(), value.to_owned())),
            }
        }
        lab
    }

    fn options(&self) -> Options {
        Options { environment: self.environment.clone(), ..Options::default() }
    }

    /// The URL with a prefix below the bucket.
    fn url(&self, prefix: &str) -> String {
        self.url.replacen("//lab", &format!("//lab/{prefix}"), 1)
    }

    fn open(&self, prefix: &str) -> Arc<dyn ObjectStore> {
        open_as(&self.url(prefix), &self.options())
    }

    fn stop(&self) {
        let stopped = Command::new(script()).arg("stop").arg(self.place.path()).status();
        assert!(stopped.expect("bash").success());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A bucket with versions, none of which can be removed for a day. This Ceph forgets the conditions of
/// puts there, which the probe must find out; one writer at a time can use it.
fn locked(lab: &Lab) {
    let url = format!("{}&checksum=sha256", lab.url.replacen("//lab", "//locked/vault", 1));
    let found = probe(&*open_as(&url, &lab.options()), &SystemEntropy).expect("a probe");
    assert_eq!(found.conditional_put, ConditionalPut::Ignored, "{found:?}");
    let store = open_as(&format!("{url}&conditional-put=off"), &lab.options());
    let alone = Extent { large: 300_000, listed: 9, races: 0 };
    conformance::check(&*store, "", alone).expect("a locked bucket");
}

fn open_as(url: &str, options: &Options) -> Arc<dyn ObjectStore> {
    open(url, options).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

fn count(store: &dyn ObjectStore, prefix: &str) -> usize {
    let mut count = 0;
    let visit = &mut |_| {
        count += 1;
        ControlFlow::Continue(())
    };
    store.list(prefix, visit).expect("a list");
    count
}

/// Prefixes with spaces, other scripts and what means something in URLs: each is a place of its own, also
/// beside those that it could be mistaken for.
fn odd_prefixes(lab: &Lab) {
    let mut prefixes = vec!["with space", "with+space", "日本 語/ü", "a&b=c;d,e'f", "a:b$c!(d)"];
    if !lab.url.starts_with("gs:") {
        prefixes.extend(["with%2520space", "100%25", "a%23b", "a%3Fb", "a%25%323b", "[a]{b}~*|^"]);
    }
    for (number, prefix) in prefixes.iter().enumerate() {
        let store = lab.open(prefix);
        let body = number.to_le_bytes();
        assert_eq!(
            store.put_new(&key("points/x"), &body).expect("a put"),
            Put::Created,
            "{prefix}"
        );
        assert_eq!(store.put_new(&key("points/x"), b"2").expect("a put"), Put::Exists, "{prefix}");
    }
    for (number, prefix) in prefixes.iter().enumerate() {
        let store = lab.open(prefix);
        assert_eq!(store.get(&key("points/x"), 8).expect("it"), number.to_le_bytes(), "{prefix}");
        assert_eq!((count(&*store, ""), count(&*store, "points/")), (1, 1), "{prefix}");
        store.replace(&key("points/x"), b"new").expect("replaces");
        assert_eq!(store.get(&key("points/x"), 8).expect("it"), b"new", "{prefix}");
        store.delete(&key("points/x")).expect("a delete");
        assert_eq!(count(&*store, ""), 0, "{prefix}");
    }
    let small = Extent { large: 300_000, listed: 9, races: 1 };
    conformance::check(&*lab.open(prefixes[0]), "", small).expect("a store");
}

/// The whole suite at two prefixes and at the root of the bucket; the probe; the bad days.
fn check(lab: &Lab) {
    let store = lab.open("a/vault");
    conformance::check(&*store, "", Extent { races: 1, ..Extent::default() }).expect("a store");
    let small = Extent { large: 300_000, listed: 9, races: 1 };
    conformance::check(&*open_as(&lab.url, &lab.options()), "suite/", small).expect("at the root");
    let found = probe(&*store, &SystemEntropy).expect("a probe");
    assert!(found.allow_several_writers(), "{found:?}");

    // A vault sees its own prefix only, not one that begins with the same letters.
    store.put_new(&key("mine"), b"1").expect("a put");
    assert_eq!(count(&*lab.open("a/vau"), ""), 0);
    assert_eq!(count(&*store, ""), 1);
    store.delete(&key("mine")).expect("a delete");

    odd_prefixes(lab);

    let nowhere = lab.url.replacen("//lab", "//nowhere", 1);
    let nowhere = open_as(&nowhere, &lab.options());
    for error in [
        nowhere.put_new(&key("a"), b"1").expect_err("no bucket"),
        nowhere.list("", &mut |_| ControlFlow::Continue(())).expect_err("no bucket"),
    ] {
        assert!(matches!(&error, StoreError::Url { .. }), "{error:?}");
    }

    lab.stop();
    let options = Options { attempts: 2, request_timeout: Duration::from_secs(2), ..lab.options() };
    let gone = open_as(&lab.url, &options);
    for error in [
        gone.put_new(&key("a"), b"1").expect_err("no server"),
        gone.get(&key("a"), 1).expect_err("no server"),
        gone.delete(&key("a")).expect_err("no server"),
        gone.list("", &mut |_| ControlFlow::Continue(())).expect_err("no server"),
    ] {
        assert_eq!(error.code(), &codes::STORE_UNAVAILABLE, "{error:?}");
    }
}

fn wrong_key(lab: &Lab) {
    let mut options = lab.options();
    // Base64, as Azure's keys are.
    options.environment.retain(|(name, _)| !name.ends_with("KEY"));
    options.environment.push(("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), "d3Jvbmc=".to_owned()));
    options.environment.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned()));
    let store = open_as(&lab.url, &options);
    for error in [
        store.put_new(&key("a"), b"1").expect_err("no right"),
        store.list("", &mut |_| ControlFlow::Continue(())).expect_err("no right"),
    ] {
        assert_eq!(error.code(), &codes::STORE_DENIED, "{error:?}");
    }
}

#[test]
fn s3_by_moto() {
    let lab = Lab::start("moto");
    // More than one page of a list, whose pages have a thousand.
    let store = lab.open("pages");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for nth in 0..260 {
                    let put = store.put_new(&key(&format!("{thread}/{nth}")), b"");
                    assert_eq!(put.expect("a put"), Put::Created);
                }
            });
        }
    });
    assert_eq!(count(&*store, ""), 1040);
    assert_eq!(count(&*store, "2/"), 260);
    // A mirror of a folder and a remote store.
    let place = tempfile::tempdir().expect("a temporary folder");
    let folder =
        open(place.path().to_str().expect("UTF-8"), &Options::default()).expect("a folder");
    let mirror = Mirror::new(vec![folder, lab.open("mirror")], Vec::new());
    conformance::check(&mirror, "", Extent { large: 300_000, listed: 9, races: 2 })
        .expect("a mirror");
    // moto's locked bucket asks for a header that Amazon does not need and no client here sends: what
    // it says must be understood. Ceph's can be used.
    let locked = lab.url.replacen("//lab", "//locked", 1);
    let put = open_as(&locked, &lab.options()).put_new(&key("a"), b"a");
    let Err(StoreError::Url { reason, .. }) = put else { panic!("{put:?}") };
    assert!(reason.contains("add checksum=sha256"), "{reason}");
    // Last: it stops the store.
    check(&lab);
}

#[test]
fn azure_by_azurite() {
    let lab = Lab::start("azurite");
    wrong_key(&lab);
    check(&lab);
}

#[test]
fn google_by_fake_gcs() {
    check(&Lab::start("fake-gcs"));
}

#[test]
fn s3_by_ceph() {
    if std::env::var_os("STRONGROOM_LONG").is_none() {
        println!("Ceph takes long to start: set STRONGROOM_LONG=1");
        return;
    }
    let lab = Lab::start("ceph");
    wrong_key(&lab);
    locked(&lab);
    // Last: it stops the store.
    check(&lab);
}

#[test]
fn a_store_that_ignores_conditions_is_found_out() {
    let lab = Lab::start("nanio");
    wrong_key(&lab);
    let store = lab.open("vault");
    let found = probe(&*store, &SystemEntropy).expect("a probe");
    assert_eq!(found.conditional_put, ConditionalPut::Ignored, "{found:?}");
    assert!(!found.allow_several_writers());
    let failure = conformance::check(&*store, "", Extent::default()).expect_err("a bad store");
    assert!(failure.to_string().contains("the second put"), "{failure}");
    // One writer at a time can use it, if existing objects are looked for first.
    let url = format!("{}&conditional-put=off", lab.url("single"));
    let store = open_as(&url, &lab.options());
    let alone = Extent { large: 5_000_000, listed: 9, races: 0 };
    conformance::check(&*store, "", alone).expect("a store for one writer");
}
