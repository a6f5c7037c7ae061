//! Keys in a token: `SoftHSM`, through its real module.
//!
//! `SoftHSM` finds its tokens through an environment variable that must be set before its module is
//! loaded, so each test runs itself again as a child with that variable.

use std::process::Command;

use super::*;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const CHILD: &str = "STRONGROOM_TEST_HSM_FOLDER";

fn run(program: &str, package: &str, folder: &std::path::Path, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
        .output()
        .unwrap_or_else(|error| panic!("{program} ({error}): install the package {package}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes two tokens: "lab" has the AES keys `kek` (id 01) and `other`, "spare" has none.
fn make_tokens(folder: &std::path::Path) {
    assert!(PathBuf::from(MODULE).exists(), "{MODULE}: install the package softhsm2");
    let tokens = folder.join("tokens");
    fs::create_dir(&tokens).expect("folder");
    let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    fs::write(folder.join("softhsm2.conf"), conf).expect("writes");
    for label in ["lab", "spare"] {
        let args =
            ["--init-token", "--free", "--label", label, "--pin", "1234", "--so-pin", "5678"];
        run("softhsm2-util", "softhsm2", folder, &args);
    }
    for (label, id) in [("kek", "01"), ("other", "02")] {
        let args = [
            "--module",
            MODULE,
            "--token-label",
            "lab",
            "--login",
            "--pin",
            "1234",
            "--keygen",
            "--key-type",
            "AES:32",
            "--label",
            label,
            "--id",
            id,
            "--sensitive",
        ];
        run("pkcs11-tool", "opensc", folder, &args);
    }
    fs::write(folder.join("pin"), "1234\n").expect("writes");
    fs::write(folder.join("wrong-pin"), "4321\n").expect("writes");
}

/// In a child process: runs `test` with the folder of the tokens. Else: starts that child.
fn with_tokens(name: &str, test: impl FnOnce(&std::path::Path)) {
    if let Some(folder) = std::env::var_os(CHILD) {
        return test(folder.as_ref());
    }
    let folder = tempfile::tempdir().expect("folder");
    make_tokens(folder.path());
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("tests::hsm::{name}"), "--nocapture"])
        .env(CHILD, folder.path())
        .env("SOFTHSM2_CONF", folder.path().join("softhsm2.conf"))
        .output()
        .expect("runs itself");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}

/// In a child process: is the process of a module, on its standard input.
#[test]
fn module_process() {
    use std::os::fd::AsFd as _;
    if std::env::var_os(CHILD).is_some() && std::env::args().any(|word| word == "--nocapture") {
        let stream = std::io::stdin().as_fd().try_clone_to_owned().expect("a socket");
        serve_module(stream.into()).expect("serves");
    }
}

/// The same key, behind a module in a process of its own.
fn apart(source: KeySource, patience: std::time::Duration) -> KeySource {
    let KeySource::Pkcs11(mut key) = source else { panic!("a key in a token") };
    let arguments = ["--exact", "tests::hsm::module_process", "--nocapture"];
    key.module = Some(ModuleCommand {
        program: std::env::current_exe().expect("this program"),
        arguments: arguments.map(str::to_owned).into(),
        patience,
    });
    KeySource::Pkcs11(key)
}

const LONG: std::time::Duration = std::time::Duration::from_mins(1);

#[test]
fn a_module_in_a_process_of_its_own_opens_the_same_vault() {
    with_tokens("a_module_in_a_process_of_its_own_opens_the_same_vault", |folder| {
        let (lab, store) = (Lab::new(), Lab::store());
        let kek = uri(folder, "token=lab;object=kek", "pin");
        let ring = lab.create(&store, &apart(kek.clone(), LONG));
        assert_eq!(probe(&lab.open(&store, &kek).expect("opens")), probe(&ring));
        assert_eq!(probe(&lab.open(&store, &apart(kek, LONG)).expect("opens")), probe(&ring));
        for (pin, code, says) in [
            ("wrong-pin", &codes::KEY_HSM, "PIN is wrong"),
            ("no-such-file", &codes::KEY_UNREADABLE, "cannot be read"),
        ] {
            let source = apart(uri(folder, "token=lab;object=kek", pin), LONG);
            let error = lab.open(&store, &source).map(|_| ()).expect_err(says);
            assert_eq!(error.code(), code, "{error:?}");
            assert!(error.to_string().contains(says) && !format!("{error:?}").contains("4321"));
        }
    });
}

#[test]
fn a_module_that_crashes_or_hangs_is_an_error() {
    with_tokens("a_module_that_crashes_or_hangs_is_an_error", |folder| {
        let (lab, store) = (Lab::new(), Lab::store());
        for (name, code, says) in [
            ("crash", "__builtin_trap();", "has ended its process"),
            ("exit", "_exit(0);", "has ended its process"),
            ("hang", "for (;;) sleep(1);", "does not answer within"),
        ] {
            let (source, module) =
                (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
            let text = format!(
                "#include <unistd.h>\nint C_GetFunctionList(void **l) {{ {code} return 5; }}\n"
            );
            fs::write(&source, text).expect("writes");
            let mut made = Command::new("cc");
            made.args(["-shared", "-fPIC", "-o"]).arg(&module).arg(&source);
            assert!(made.status().expect("install the package gcc").success());
            let text = format!("pkcs11:object=kek?module-path={}", module.display());
            let key = KeySource::Pkcs11(Box::new(text.parse().expect("URI")));
            let patience =
                std::time::Duration::from_millis(if name == "hang" { 500 } else { 60_000 });
            let error =
                KeyRing::create(&store, lab.vault, &apart(key, patience), "", CLOCK, CHANCE);
            let error = error.map(|_| ()).expect_err(name);
            assert_eq!(error.code(), &codes::KEY_HSM);
            assert!(error.to_string().contains(says), "{name}: {error}");
        }
    });
}

fn uri(folder: &std::path::Path, path: &str, pin: &str) -> KeySource {
    let pin = folder.join(pin);
    let text = format!("pkcs11:{path}?module-path={MODULE}&pin-source={}", pin.display());
    KeySource::Pkcs11(Box::new(text.parse().expect("URI")))
}

#[test]
fn a_key_in_a_token_opens_a_vault() {
    with_tokens("a_key_in_a_token_opens_a_vault", |folder| {
        let (lab, store) = (Lab::new(), Lab::store());
        let kek = uri(folder, "token=lab;object=kek", "pin");
        let mut ring = lab.create(&store, &kek);
        ring.rotate_master(&store, CLOCK, CHANCE).expect("rotates");
        for path in [
            "token=lab;object=kek",
            "token=lab;id=%01",
            "token=lab;object=kek;id=%01;type=secret-key",
        ] {
            let opened = lab.open(&store, &uri(folder, path, "pin")).expect("opens");
            assert_eq!(probe(&opened), probe(&ring));
        }
        let infos = list_slots(&store, lab.vault).expect("lists");
        let head = infos[0].head.as_ref().expect("good");
        assert_eq!(head.kek.name(), "pkcs11");

        // Another key of the token is a wrong key; it can become a slot of its own.
        let other = uri(folder, "token=lab;object=other", "pin");
        assert_eq!(lab.code(&store, &other), &codes::KEY_WRONG);
        assert_eq!(lab.code(&store, &lab.key("file")), &codes::KEY_WRONG);
        let slot = ring.slot();
        ring.rotate_slot(&store, slot, &other, "", CLOCK, CHANCE).expect("rotates");
        assert_eq!(probe(&lab.open(&store, &other).expect("opens")), probe(&ring));
        assert_eq!(lab.code(&store, &kek), &codes::KEY_WRONG);
    });
}

#[test]
fn what_a_token_refuses_is_said() {
    with_tokens("what_a_token_refuses_is_said", |folder| {
        let (lab, store) = (Lab::new(), Lab::store());
        lab.create(&store, &uri(folder, "token=lab;object=kek", "pin"));
        let before = objects(&store);
        for (path, pin, says) in [
            ("token=lab;object=kek", "wrong-pin", "PIN is wrong"),
            ("token=lab;object=missing", "pin", "no AES key"),
            ("token=spare;object=kek", "pin", "no AES key"),
            ("token=missing;object=kek", "pin", "no token fits"),
            ("object=kek", "pin", "several tokens fit"),
        ] {
            let source = uri(folder, path, pin);
            let error = lab.open(&store, &source).map(|_| ()).expect_err(says);
            assert_eq!(error.code(), &codes::KEY_HSM, "{error:?}");
            assert!(error.to_string().contains(says), "{error}");
            assert!(!format!("{error:?} {error}").contains("4321"));
        }
        let missing = uri(folder, "token=lab;object=kek", "no-such-pin-file");
        assert_eq!(lab.code(&store, &missing), &codes::KEY_UNREADABLE);
        for (query, says) in [
            ("module-path=/no/such/module.so", "cannot be loaded"),
            ("module-name=no-such-module", "no module named"),
            ("module-name=softhsm2", "wants a PIN"),
        ] {
            let text = format!("pkcs11:token=lab;object=kek?{query}");
            let source = KeySource::Pkcs11(Box::new(text.parse().expect("URI")));
            let error = lab.open(&store, &source).map(|_| ()).expect_err(says);
            assert_eq!(error.code(), &codes::KEY_HSM);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert_eq!(objects(&store), before, "nothing is changed");
    });
}
