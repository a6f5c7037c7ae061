//! Machines of another host, which is this one by way of `ssh`: with `STRONGROOM_LONG` a real one, whose
//! package starts a server that not everybody wants; otherwise a stand-in that runs the command here.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use crate::{
    guest::{Disk, Guest},
    harness::{Host, tool, within},
};

/// Puts a program in front of all others, whose text is `text`.
fn put_first(host: &mut Host, name: &str, text: &str) {
    let bin = host.lab.path("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join(name), text).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    host.lab.set("PATH", &path);
}

/// A server of the test's own, and the configuration of a client that knows it.
struct Ssh(Child);

impl Drop for Ssh {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(host: &mut Host) -> (Ssh, u16) {
    let folder = host.lab.path("").display().to_string();
    let file = |name: &str| format!("{}/{name}", folder.trim_end_matches('/'));
    for key in ["host_key", "user_key"] {
        tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &file(key)]);
    }
    fs::copy(file("user_key.pub"), file("authorized_keys")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
         UsePAM no\nPidFile none\nPermitRootLogin yes\n",
        file("host_key"),
        file("authorized_keys"),
    );
    fs::write(file("sshd_config"), server).unwrap();
    // Where sshd runs as root it wants this folder.
    fs::create_dir_all("/run/sshd").ok();
    let program =
        Command::new("sh").args(["-c", "command -v sshd || echo /usr/sbin/sshd"]).output();
    let program = String::from_utf8(program.unwrap().stdout).unwrap();
    let child = Command::new(program.trim())
        .args(["-D", "-e", "-f", &file("sshd_config")])
        .stdin(Stdio::null())
        .stderr(fs::File::create(file("sshd.log")).unwrap())
        .spawn()
        .expect("sshd starts");
    // The program runs `ssh`; this one finds the test's keys.
    let wrapper = format!(
        "#!/bin/sh\nexec /usr/bin/ssh -o IdentityFile={} -o UserKnownHostsFile=/dev/null \\\n  \
         -o StrictHostKeyChecking=no -o LogLevel=ERROR -o BatchMode=yes \"$@\"\n",
        file("user_key")
    );
    put_first(host, "ssh", &wrapper);
    assert!(within(10, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()));
    (Ssh(child), port)
}

#[test]
fn machines_of_another_host_are_found_and_checked() {
    let mut host = Host::new();
    let server = std::env::var_os("STRONGROOM_LONG").map(|_| start(&mut host));
    if server.is_none() {
        put_first(&mut host, "ssh", "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n");
    }
    let port = server.as_ref().map_or(22, |(_, port)| *port);
    Guest::named("far").disk(Disk::qcow2(32)).create(&host);
    let uri = format!("qemu+ssh://127.0.0.1:{port}/session?socket={}", host.socket().display());
    let list = host.json(&["vm", "list", "--connect", &uri]);
    assert_eq!(list["machines"][0]["name"], "far", "{list:#}");
    assert_eq!(list["machines"][0]["disks"][0]["size_bytes"], 32 << 20, "{list:#}");
    let checked = host.json(&["vm", "check", "--connect", &uri]);
    assert_eq!(checked["machines"][0]["name"], "far", "{checked:#}");

    // Its images are there, not here.
    let backup = host.strongroom(&["backup", "--vm", "far", "--connect", &uri]);
    assert_eq!(backup.code, 2, "{}", backup.stderr);
    assert!(backup.stderr.contains("run Strongroom there"), "{}", backup.stderr);

    drop(server);
    host.kill_libvirtd();
    let gone = host.strongroom(&["vm", "list", "--connect", &uri]);
    assert_eq!(gone.code, 5, "{}", gone.stderr);
    assert!(gone.stderr.contains("host.unavailable"), "{}", gone.stderr);
}
