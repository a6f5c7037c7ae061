//! The program on real object stores on loopback, and with a key in a token.

use std::{fs, process::Command};

use crate::{
    harness::{Lab, need},
    store::Store,
};

/// From creation to reclaim, with every cache thrown away in the middle.
fn whole_life(lab: &Lab) {
    lab.ok("vault create");
    life_of_a_new_vault(lab);
}

fn life_of_a_new_vault(lab: &Lab) {
    lab.fails("vault create", 4, "vault.exists");
    lab.disk("d.img", 8, 3, 1);
    let first = lab.json("backup --item web --disk system=d.img");
    lab.copy("d.img", "day1.img");
    lab.change("d.img", 1_000_000, 200_000, 2);
    let second = lab.json("backup --item web --disk system=d.img");
    assert!(second["stored_bytes"].as_u64() < first["stored_bytes"].as_u64());
    fs::remove_dir_all(lab.path(".cache")).expect("a cache");
    let first = first["recovery_point"].as_str().expect("an id");
    lab.ok(&format!("restore disks --item web --recovery-point {first} --to one"));
    lab.assert_same("one/system.raw", "day1.img");
    lab.ok(&format!("recoverypoint delete --item web --recovery-point {first} --yes"));
    let reclaimed = lab.json("vault reclaim --wait 0s");
    assert_eq!(reclaimed["points_removed"], 1);
    lab.ok("vault rebuild-index");
    let verified = lab.json("vault verify");
    assert_eq!(verified["recovery_points"], 1);
    lab.ok("restore disks --item web --recovery-point latest --to two");
    lab.assert_same("two/system.raw", "d.img");
}

/// Makes the program use the store's other bucket, which has versions and object lock.
fn use_locked_bucket(lab: &mut Lab) {
    let url = lab.get("STRONGROOM_VAULT").replacen("//lab", "//locked", 1);
    lab.set("STRONGROOM_VAULT", &format!("{url}&checksum=sha256"));
}

fn lab_at(name: &str) -> (Lab, Store) {
    let mut lab = Lab::empty();
    lab.ok("vault key generate key");
    let store = Store::start(name, &mut lab);
    (lab, store)
}

#[test]
fn a_vault_in_s3() {
    let (lab, _store) = lab_at("moto");
    whole_life(&lab);
}

#[test]
fn a_vault_in_ceph_with_object_lock() {
    if std::env::var_os("STRONGROOM_LONG").is_none() {
        println!("Ceph takes long to start: set STRONGROOM_LONG=1");
        return;
    }
    let (mut lab, _store) = lab_at("ceph");
    whole_life(&lab);
    fs::remove_dir_all(lab.path("one")).expect("restored");
    fs::remove_dir_all(lab.path("two")).expect("restored");
    use_locked_bucket(&mut lab);
    // This Ceph forgets the conditions of puts in a bucket with versions.
    lab.fails("vault create", 2, "vault.store_unsafe");
    lab.ok("vault create --single-writer");
    life_of_a_new_vault(&lab);
}

#[test]
fn a_vault_in_azure() {
    let (lab, _store) = lab_at("azurite");
    whole_life(&lab);
}

#[test]
fn a_vault_in_google_cloud() {
    let (lab, _store) = lab_at("fake-gcs");
    whole_life(&lab);
}

#[test]
fn a_store_that_ignores_conditions_is_for_one_writer_who_knows() {
    let (lab, _store) = lab_at("nanio");
    lab.fails("vault create", 2, "vault.store_unsafe");
    lab.fails("vault show", 3, "vault.not_found");
    lab.ok("vault create --single-writer");
    lab.disk("d.img", 4, 2, 1);
    lab.ok("backup --item web --disk system=d.img");
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("out/system.raw", "d.img");
}

#[test]
fn a_vault_for_one_writer_refuses_a_second() {
    let (lab, store) = lab_at("nanio");
    lab.ok("vault create --single-writer");
    lab.disk("a.img", 24, 24, 1);
    lab.disk("b.img", 1, 1, 2);
    let mut first = lab
        .command("backup --item a --disk system=a.img --limit-rate 1M --quiet")
        .spawn()
        .expect("the program starts");
    assert!(store.has_within("writers/", 20), "the first says that it writes");
    let error = lab.fails("backup --item b --disk system=b.img", 4, "vault.busy");
    assert!(error["message"].as_str().unwrap().contains("backup on "), "{error}");
    first.kill().expect("killed");
    first.wait().expect("ended");
    // It is known to be dead.
    lab.ok("backup --item b --disk system=b.img");
}

#[test]
fn a_store_that_is_gone_is_named_and_nothing_is_made_up() {
    let (lab, store) = lab_at("moto");
    lab.ok("vault create");
    drop(store);
    let error = lab.fails("vault show", 5, "store.unavailable");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
}

/// A token with an AES key `kek`, made as docs/use/keys.md says.
fn token(lab: &mut Lab) -> String {
    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    need("softhsm2-util", "softhsm2");
    need("pkcs11-tool", "opensc");
    fs::create_dir(lab.path("tokens")).expect("a folder");
    let conf = lab.path("softhsm2.conf");
    let tokens = lab.path("tokens");
    fs::write(&conf, format!("directories.tokendir = {}\n", tokens.display())).expect("written");
    let conf = conf.to_str().expect("UTF-8");
    let run = |program: &str, words: &str| {
        let mut command = Command::new(program);
        let status = command.args(words.split(' ')).env("SOFTHSM2_CONF", conf).output();
        let output = status.expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("softhsm2-util", "--init-token --free --label lab --pin 1234 --so-pin 5678");
    let key = "--keygen --key-type AES:32 --label kek --id 01 --sensitive";
    let login = format!("--module {MODULE} --token-label lab --login --pin 1234");
    run("pkcs11-tool", &format!("{login} {key}"));
    lab.set("SOFTHSM2_CONF", conf);
    let pin = lab.path("pin");
    fs::write(&pin, "1234\n").expect("written");
    format!("pkcs11:token=lab;object=kek?module-path={MODULE}&pin-source={}", pin.display())
}

#[test]
fn a_vault_with_its_key_in_a_token() {
    let mut lab = Lab::empty();
    let uri = token(&mut lab);
    lab.ok(&format!("vault create --pkcs11 {uri}"));
    lab.disk("d.img", 4, 2, 1);
    lab.ok(&format!("backup --item web --disk system=d.img --pkcs11 {uri}"));
    lab.ok("vault key generate key");
    lab.ok(&format!("vault key add --new-key-file key --pkcs11 {uri}"));
    lab.ok("restore disks --item web --recovery-point latest --to out");
    lab.assert_same("out/system.raw", "d.img");
    fs::write(lab.path("pin"), "4321\n").expect("written");
    let error = lab.fails(&format!("vault show --pkcs11 {uri}"), 5, "key.hsm");
    assert!(!error.to_string().contains("4321"), "{error}");
}
