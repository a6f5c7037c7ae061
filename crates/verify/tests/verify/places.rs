//! Vaults in folders whose names mean something in URLs, or are in other scripts.

use std::{collections::BTreeSet, fs};

use strongroom_base::{Coded as _, SystemEntropy};
use strongroom_keys::{KeySource, generate_key_file};
use strongroom_vault::{
    Vault, VaultOptions,
    place::{NewVault, create, folder_of, open_keys, open_store},
};

const NAMES: [&str; 11] = [
    "with space",
    "with%20space",
    "with+space",
    "日本 語",
    "ü",
    "100%",
    "a#b",
    "a?b=c&d",
    "a%23b",
    "a://b",
    "[x]{y}\\~'\"",
];

/// As a URL says it: every byte that could mean something else is encoded.
fn encoded(path: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    path.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

#[test]
fn each_folder_is_a_place_of_its_own_by_path_and_by_url() {
    let dir = tempfile::tempdir().expect("temp");
    let key = dir.path().join("key");
    generate_key_file(&key, &SystemEntropy).expect("a key");
    let key = KeySource::File(key);
    let root = dir.path().to_str().expect("UTF-8");
    let mut made = BTreeSet::new();
    for (number, name) in NAMES.into_iter().enumerate() {
        let path = format!("{root}/vaults/{name}");
        let url = format!("file://{}", encoded(&path));
        assert_eq!(folder_of(&url).expect("a folder"), folder_of(&path).expect("a folder"));
        // Made by its path or by its URL, with a copy in a folder of such a name, and found by both.
        let new = NewVault {
            url: if number % 2 == 0 { path.clone() } else { url.clone() },
            mirrors: vec![format!("{root}/copies/{name}")],
            key: key.clone(),
            label: String::new(),
            single_writer: false,
        };
        let id = create(&new, VaultOptions::default()).expect(name).config().vault_id;
        assert!(made.insert(id), "{name}: another vault");
        for place in [&path, &url, &new.mirrors[0]] {
            assert!(open_store(place).expect(place).warnings.is_empty(), "{place}");
            let opened = open_keys(place, &key).expect(place);
            assert!(opened.warnings.is_empty(), "{place}: {:?}", opened.warnings);
            assert_eq!((opened.config.vault_id, opened.store.copies().len()), (id, 2), "{place}");
            let options = VaultOptions::default();
            let vault = Vault::open_with(opened.store, opened.config, opened.ring, options);
            assert_eq!(vault.expect(place).points(None).expect("a list").len(), 0);
            let again = NewVault { url: place.clone(), mirrors: vec![], ..new.clone() };
            let refused = create(&again, VaultOptions::default()).map(drop).expect_err("taken");
            assert_eq!(refused.code().name, "vault.exists", "{place}");
        }
    }
    let folders = fs::read_dir(format!("{root}/vaults")).expect("folders").count();
    assert_eq!(folders, NAMES.len(), "\"a://b\" is below the folder \"a:\"");
}

#[test]
fn what_is_no_url_is_refused() {
    let dir = tempfile::tempdir().expect("temp");
    let root = dir.path().to_str().expect("UTF-8");
    for url in [format!("file://{root}/100%"), format!("file:/{root}"), "s3://b/100%".to_owned()] {
        let error = open_store(&url).map(drop).expect_err("no URL");
        let code = error.code().name;
        assert!(["url.invalid", "vault.not_found"].contains(&code), "{url}: {code}");
    }
    assert_eq!(fs::read_dir(root).expect("a folder").count(), 0, "nothing is made");
}
