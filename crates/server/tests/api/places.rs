//! Places: over the API nobody names a file, folder, URL or module that the configuration does not allow.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::bed::Bed;

/// A library whose loading leaves a file.
fn library(bed: &Bed, mark: &Path) -> String {
    let (source, library) = (bed.path("mark.c"), bed.path("restored/mark.raw"));
    let code = format!(
        "#include <stdio.h>\n__attribute__((constructor)) static void mark(void) {{\
         fclose(fopen(\"{}\", \"w\")); }}\nint C_GetFunctionList(void **list) {{ return 5; }}\n",
        mark.display()
    );
    fs::write(&source, code).expect("writes");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o", &library, &source]).status();
    assert!(made.expect("install the package gcc").success());
    library
}

/// A server of the inside, which counts who asks.
fn inside() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            counted.fetch_add(1, Ordering::SeqCst);
            // What it asks is no matter, only that it does.
            let mut request = [0; 4096];
            if stream.read(&mut request).is_err() {
                continue;
            }
            let body = "<html>INTERNAL-SECRET</html>";
            let head = format!("HTTP/1.1 403 No\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).ok();
        }
    });
    (format!("http://{address}"), asked)
}

fn refused(bed: &Bed, path: &str, body: &Value, setting: &str) {
    let answer = bed.post(path, body);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (403, "place.not_allowed"),
        "{text}"
    );
    assert!(text.contains(&format!("`{setting}` in server.toml")), "{body}: {text}");
    assert!(!text.contains("INTERNAL-SECRET") && !text.contains("No such file"), "{text}");
}

#[test]
fn only_configured_places_can_be_named() {
    let bed = Bed::new();
    let mark = bed.dir.path().join("loaded");
    let library = library(&bed, &mark);
    let (endpoint, asked) = inside();
    let other = bed.path("other");
    let data = bed.path("data");
    let uri = |module: &str| format!("pkcs11:token=x;object=y?{module}&pin-source={data}/keys/pin");
    let s3 = format!("s3://a/b?endpoint={endpoint}&anonymous=true");
    for (body, setting) in [
        (json!({ "key": { "pkcs11": uri(&format!("module-path={library}")) } }), "pkcs11_modules"),
        (json!({ "key": { "pkcs11": uri("module-name=mark") } }), "pkcs11_modules"),
        (json!({ "url": &other }), "vault_dirs"),
        (json!({ "url": format!("file://{other}") }), "vault_dirs"),
        (json!({ "url": format!("file://{data}/vaults/%2e%2e/x") }), "vault_dirs"),
        (json!({ "mirrors": [&other] }), "vault_dirs"),
        (json!({ "mirrors": [&s3] }), "vault_dirs"),
        (json!({ "url": &s3 }), "vault_urls"),
        (json!({ "url": "s3://a/b?endpoint=http://169.254.169.254" }), "vault_urls"),
        (json!({ "key": { "file": "/etc/hostname" } }), "key_dirs"),
        (json!({ "key": { "file": "/nope" } }), "key_dirs"),
        (json!({ "key": { "passphrase": "/proc/self/environ" } }), "key_dirs"),
    ] {
        let mut vault = json!({ "name": "x" });
        for (name, value) in body.as_object().expect("fields") {
            vault[name] = value.clone();
        }
        refused(&bed, "/vaults", &vault, setting);
    }
    bed.post("/vaults", &json!({ "name": "own" })).good(201);
    for (key, setting) in [
        (json!({ "pkcs11": uri(&format!("module-path={library}")) }), "pkcs11_modules"),
        (json!({ "file": "/etc/hostname" }), "key_dirs"),
    ] {
        refused(&bed, "/vaults/own/rotate-key", &json!({ "key": key }), setting);
    }
    assert!(!mark.exists(), "the library was loaded");
    assert_eq!(asked.load(Ordering::SeqCst), 0, "the inside was asked");
    assert!(!Path::new(&other).exists());
    // A link in an allowed folder leads out of it.
    fs::create_dir(&other).expect("a folder");
    std::os::unix::fs::symlink(&other, format!("{data}/vaults/out")).expect("a link");
    refused(
        &bed,
        "/vaults",
        &json!({ "name": "x", "url": format!("{data}/vaults/out/v") }),
        "vault_dirs",
    );
}

#[test]
fn what_is_configured_can_be_named_and_repeats_no_server() {
    let (endpoint, asked) = inside();
    let allowed = format!("s3://a?endpoint={endpoint}");
    let bed = Bed::with(|config| {
        config.vault_urls = vec![allowed];
        config.pkcs11_modules = [("broken".to_owned(), "/dev/null".into())].into();
    });
    let url = format!("s3://a/b?endpoint={endpoint}&anonymous=true");
    let answer = bed.post("/vaults", &json!({ "name": "v", "url": url }));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.code(), "store.denied", "{text}");
    assert!(!text.contains("INTERNAL") && text.contains("403"), "{text}");
    assert!(asked.load(Ordering::SeqCst) > 0);
    // A module that cannot be loaded, or ends its process, is an error and not the end of the server.
    let key = json!({ "pkcs11": "pkcs11:token=x;object=y?module-name=broken" });
    let answer = bed.post("/vaults", &json!({ "name": "v", "key": key }));
    assert_eq!(answer.code(), "key.hsm");
    bed.get("/status").good(200);
}
