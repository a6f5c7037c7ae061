//! What the operator lets others name: places of vaults and keys, and the modules of tokens.
//!
//! A caller of the service names paths, URLs and modules, and the service opens them with its own
//! rights. So only what stands in its configuration can be named. What a vault was made with stays good
//! when the list becomes shorter: the list is asked when something is named, not when it is used.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use strongroom_api::KeyReference;
use strongroom_keys::Pkcs11Uri;
use strongroom_orders::{AllowedPlaces, NotAllowed};
use strongroom_vault::place;

/// What may be named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Folders below which vaults may be.
    pub vault_dirs: Vec<PathBuf>,
    /// Places in object stores at or below which vaults may be.
    pub vault_urls: Vec<String>,
    /// Folders below which files of keys, passphrases and PINs may be.
    pub key_dirs: Vec<PathBuf>,
    /// Modules of tokens, by name.
    pub pkcs11_modules: BTreeMap<String, PathBuf>,
    /// Folders and devices that may be backed up by path.
    pub disk_dirs: Vec<PathBuf>,
    /// Storage accounts of this host whose page blobs may be backed up.
    pub blob_accounts: Vec<String>,
    /// Storage accounts of this host to which page blobs may be backed up.
    pub blob_target_accounts: Vec<String>,
    /// Folders below which disks may be restored to, and devices that may be overwritten.
    pub restore_dirs: Vec<PathBuf>,
}

impl AllowedPlaces for Allowed {
    fn check_vault(&self, url: &str) -> Result<(), NotAllowed> {
        if place::folder_of(url).is_some() {
            return self.check_vault_folder(url);
        }
        if self.vault_urls.iter().any(|allowed| matches!(place::covers(allowed, url), Ok(true))) {
            return Ok(());
        }
        // What follows the question mark may be a secret that does not belong there.
        let named = url.split('?').next().unwrap_or_default().to_owned();
        Err(NotAllowed { named, setting: "vault_urls", allowed: self.vault_urls.clone() })
    }

    fn check_vault_folder(&self, url: &str) -> Result<(), NotAllowed> {
        let path = place::folder_of(url).unwrap_or_default();
        check_path(&path.to_string_lossy(), &self.vault_dirs, "vault_dirs").map_err(|no| {
            NotAllowed { named: url.split('?').next().unwrap_or_default().to_owned(), ..no }
        })
    }

    fn check_key(&self, key: &KeyReference) -> Result<(), NotAllowed> {
        let uri = match key {
            KeyReference::File(path) | KeyReference::Passphrase(path) => {
                return check_path(path, &self.key_dirs, "key_dirs");
            }
            // One that is none is refused in words of its own.
            KeyReference::Pkcs11(uri) => match uri.parse::<Pkcs11Uri>() {
                Ok(uri) => uri,
                Err(_) => return Ok(()),
            },
        };
        let module = match (uri.module_path(), uri.module_name()) {
            (None, Some(name)) if self.pkcs11_modules.contains_key(name) => None,
            (Some(path), _) => Some(path.display().to_string()),
            (None, name) => Some(name.unwrap_or_default().to_owned()),
        };
        if let Some(named) = module {
            let allowed = self.pkcs11_modules.keys().map(|name| format!("module-name={name}"));
            let named = format!("the PKCS#11 module {named}");
            return Err(NotAllowed {
                named,
                setting: "pkcs11_modules",
                allowed: allowed.collect(),
            });
        }
        match uri.pin_source() {
            Some(pin) => check_path(&pin.to_string_lossy(), &self.key_dirs, "key_dirs"),
            None => Ok(()),
        }
    }

    fn check_disk(&self, path: &str) -> Result<(), NotAllowed> {
        check_path(path, &self.disk_dirs, "disk_dirs")
    }

    fn check_blob(&self, blob: &str) -> Result<(), NotAllowed> {
        check_account(blob, &self.blob_accounts, "blob_accounts")
    }

    fn check_blob_target(&self, blob: &str) -> Result<(), NotAllowed> {
        check_account(blob, &self.blob_target_accounts, "blob_target_accounts")
    }

    fn check_target(&self, path: &str) -> Result<(), NotAllowed> {
        check_path(path, &self.restore_dirs, "restore_dirs")
    }
}

/// Refuses a blob of an account that the operator has not named.
fn check_account(blob: &str, accounts: &[String], setting: &'static str) -> Result<(), NotAllowed> {
    let account = blob.split('/').next().unwrap_or_default();
    if accounts.iter().any(|allowed| allowed == account) {
        return Ok(());
    }
    let named = format!("the storage account {account}");
    Err(NotAllowed { named, setting, allowed: accounts.to_owned() })
}

/// Refuses a path that is not below a folder that the operator has named, or leads out of it through a
/// link.
///
/// Outside these folders nothing is looked at: the answer does not tell what exists.
fn check_path(path: &str, dirs: &[PathBuf], setting: &'static str) -> Result<(), NotAllowed> {
    let named = Path::new(path);
    let plain = named.is_absolute()
        && named.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let mut below = dirs.iter().filter_map(|dir| Some((dir, named.strip_prefix(dir).ok()?)));
    if plain && below.any(|(dir, rest)| leads_to(dir, rest)) {
        return Ok(());
    }
    let allowed = dirs.iter().map(|dir| dir.display().to_string()).collect();
    Err(NotAllowed { named: path.to_owned(), setting, allowed })
}

/// Whether what is there of a path below a folder is below it on the disk, too.
fn leads_to(dir: &Path, rest: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // Names of devices are links, which only root can change.
    if dir.starts_with("/dev") {
        return true;
    }
    // Of a folder that is not there, nothing can lead out.
    let Ok(root) = rustix::fs::open(dir, flags, Mode::empty()) else { return true };
    for part in rest.ancestors() {
        if part.as_os_str().is_empty() {
            break;
        }
        match open_below(&root, part, flags) {
            Ok(_) | Err(Errno::ACCESS | Errno::NOTDIR) => return true,
            // What is not there yet: is its folder? A link to what is not there leads somewhere, though.
            Err(Errno::NOENT) if !is_link(&root, part) => {}
            Err(_) => return false,
        }
    }
    true
}

fn open_below(root: &OwnedFd, rest: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, rest, flags, Mode::empty(), resolve)
}

fn is_link(root: &OwnedFd, rest: &Path) -> bool {
    open_below(root, rest, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn allowed(dir: &Path) -> Allowed {
        Allowed {
            vault_dirs: vec![dir.join("vaults")],
            vault_urls: vec!["s3://b/p?endpoint=https://store.example.net".to_owned()],
            key_dirs: vec![dir.join("keys")],
            pkcs11_modules: [("hsm".to_owned(), PathBuf::from("/usr/lib/hsm.so"))].into(),
            disk_dirs: vec![dir.join("disks")],
            blob_accounts: vec!["disks".to_owned()],
            blob_target_accounts: vec!["backups".to_owned()],
            restore_dirs: vec![dir.join("restored")],
        }
    }

    #[test]
    fn only_what_is_on_the_list_may_be_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        for made in ["vaults/sub", "keys", "outside"] {
            std::fs::create_dir_all(dir.join(made)).expect("a folder");
        }
        symlink(dir.join("outside"), dir.join("vaults/out")).expect("a link");
        symlink(dir.join("outside/new"), dir.join("vaults/dangling")).expect("a link");
        symlink("sub", dir.join("vaults/in")).expect("a link");
        let allowed = allowed(dir);
        let at = |path: &str| dir.join(path).display().to_string();
        let refused = |url: &str| allowed.check_vault(url).err().map(|no| no.setting);
        for good in ["vaults/a", "vaults/sub/a/b", "vaults/in/a"] {
            assert_eq!(refused(&at(good)), None, "{good}");
            assert_eq!(refused(&format!("file://{}", at(good))), None, "{good}");
        }
        for bad in
            ["outside/a", "vaults/../a", "vaults/out/a", "vaults/dangling", "vaults/dangling/a"]
        {
            assert_eq!(refused(&at(bad)), Some("vault_dirs"), "{bad}");
        }
        // In a URL a path can be written in more ways than one.
        for good in ["vaults/with%20space", "vaults/100%25", "vaults/%73ub/a"] {
            assert_eq!(refused(&format!("file://{}", at(good))), None, "{good}");
        }
        let encoded = format!("file://{}", at("vaults/%2e%2e/outside"));
        let encoded_slash = format!("file://{}", at("vaults/..%2foutside"));
        for bad in ["", "vaults/a", "memory:", &encoded, &encoded_slash] {
            assert_eq!(refused(bad), Some("vault_dirs"), "{bad}");
        }
        let refused_path = |checked: Result<(), NotAllowed>| checked.err().map(|no| no.setting);
        assert_eq!(refused_path(allowed.check_disk(&at("disks/a.raw"))), None);
        assert_eq!(refused_path(allowed.check_disk(&at("restored/a"))), Some("disk_dirs"));
        assert_eq!(refused_path(allowed.check_blob("disks/vms/a")), None);
        for bad in ["disk/vms/a", "disks2/vms/a", "/disks/vms/a", ""] {
            assert_eq!(refused_path(allowed.check_blob(bad)), Some("blob_accounts"), "{bad}");
        }
        let target = |blob| refused_path(allowed.check_blob_target(blob));
        assert_eq!(
            (target("backups/a/b"), target("disks/a/b")),
            (None, Some("blob_target_accounts"))
        );
        assert_eq!(refused_path(allowed.check_target(&at("restored/a"))), None);
        assert_eq!(refused_path(allowed.check_target(&at("disks/a"))), Some("restore_dirs"));
        assert_eq!(refused("s3://b/p/x?endpoint=https://store.example.net"), None);
        for bad in ["s3://b/p/x", "s3://b/p?endpoint=http://127.0.0.1:1", "ftp://h/x"] {
            assert_eq!(refused(bad), Some("vault_urls"), "{bad}");
        }
    }

    #[test]
    fn keys_are_files_of_their_folders_and_modules_have_names() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("keys")).expect("a folder");
        let allowed = allowed(dir.path());
        let at = |path: &str| dir.path().join(path).display().to_string();
        let refused = |key: KeyReference| allowed.check_key(&key).err().map(|no| no.setting);
        assert_eq!(refused(KeyReference::File(at("keys/a"))), None);
        assert_eq!(refused(KeyReference::Passphrase(at("keys/a"))), None);
        for path in ["/etc/shadow", "/nope", "/proc/self/environ", &at("keys"), "keys/a"] {
            let expected = (*path != at("keys")).then_some("key_dirs");
            assert_eq!(refused(KeyReference::File((*path).to_owned())), expected, "{path}");
        }
        let token = |query: String| KeyReference::Pkcs11(format!("pkcs11:object=a?{query}"));
        let pin = at("keys/pin");
        assert_eq!(refused(token(format!("module-name=hsm&pin-source={pin}"))), None);
        for (query, setting) in [
            ("module-name=other".to_owned(), "pkcs11_modules"),
            (format!("module-path={}", at("keys/a.so")), "pkcs11_modules"),
            ("module-path=/usr/lib/hsm.so".to_owned(), "pkcs11_modules"),
            (format!("module-name=hsm&module-path={}", at("keys/a.so")), "pkcs11_modules"),
            ("module-name=hsm&pin-source=/etc/hostname".to_owned(), "key_dirs"),
        ] {
            assert_eq!(refused(token(query.clone())), Some(setting), "{query}");
        }
    }
}
