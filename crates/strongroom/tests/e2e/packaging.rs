//! What a distribution needs: the systemd unit is sound, and what it relies on is what the program does.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Lab, Run, need};

/// The most that `systemd-analyze security` may find exposed, of 100, for the unit alone and with the
/// drop-in for libvirt.
const EXPOSED: u32 = 14;
const EXPOSED_WITH_LIBVIRT: u32 = 30;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

/// The unit as it would be installed, but for the path of the program.
fn install(lab: &Lab, with_libvirt: bool) -> PathBuf {
    let unit = fs::read_to_string(packaging("strongroom.service")).expect("the unit");
    let program = env!("CARGO_BIN_EXE_strongroom");
    assert!(unit.contains("ExecStart=/usr/bin/strongroom serve\n"));
    let unit = unit.replace("/usr/bin/strongroom", program);
    let file = lab.path("strongroom.service");
    fs::write(&file, unit).expect("written");
    if with_libvirt {
        let folder = lab.path("strongroom.service.d");
        fs::create_dir(&folder).expect("a folder");
        fs::copy(packaging("strongroom-libvirt.conf"), folder.join("libvirt.conf"))
            .expect("copied");
    }
    file
}

fn analyze(arguments: &[&str]) -> Run {
    let mut command = Command::new("systemd-analyze");
    let run = Run::of(&command.args(arguments).output().expect("systemd-analyze starts"));
    assert!(!run.stderr.contains("Unknown"), "{}", run.stderr);
    run
}

#[test]
fn the_systemd_unit_is_sound_and_hardened() {
    need("systemd-analyze", "systemd");
    for (with_libvirt, exposed) in [(false, EXPOSED), (true, EXPOSED_WITH_LIBVIRT)] {
        let lab = Lab::empty();
        let file = install(&lab, with_libvirt).display().to_string();
        let run = analyze(&["verify", "--man=no", "--recursive-errors=no", &file]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
        let threshold = format!("--threshold={exposed}");
        let run = analyze(&["security", "--offline=yes", "--no-pager", &threshold, &file]);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    }
    // The test itself: a word that systemd does not know is noticed.
    let lab = Lab::empty();
    let file = install(&lab, false);
    let unit =
        fs::read_to_string(&file).expect("readable") + "\n[Service]\nProtectEverything=yes\n";
    fs::write(&file, unit).expect("written");
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&file).output();
    assert!(Run::of(&output.expect("it starts")).stderr.contains("ProtectEverything"));
}

#[test]
fn the_manager_is_told_when_the_server_is_ready_and_when_it_stops() {
    let lab = Lab::empty();
    let path = lab.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_mins(1))).expect("set");
    let receive = || {
        let mut bytes = [0; 200];
        let count = socket.recv(&mut bytes).expect("the server tells");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut server = lab
        .command("serve --listen 127.0.0.1:0")
        .env("NOTIFY_SOCKET", &path)
        // As the unit does.
        .env("STRONGROOM_SERVER_DATA_DIR", lab.path("state"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    assert_eq!(receive(), "READY=1\n");
    assert!(lab.path("state/catalog.sqlite").exists());
    kill_process(Pid::from_child(&server), Signal::TERM).expect("it is told");
    assert_eq!(receive(), "STOPPING=1\n");
    assert!(server.wait().expect("it ends").success());
}

#[test]
fn a_user_is_made_of_whom_the_unit_speaks() {
    need("systemd-sysusers", "systemd");
    let lab = Lab::empty();
    fs::create_dir(lab.path("etc")).expect("a folder");
    let mut command = Command::new("systemd-sysusers");
    command.arg("--root").arg(lab.path("")).arg(packaging("strongroom.sysusers"));
    let run = Run::of(&command.output().expect("it starts"));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let users = fs::read_to_string(lab.path("etc/passwd")).expect("users");
    assert!(users.contains("strongroom:x:") && users.contains(":/var/lib/strongroom:"), "{users}");
    let unit = fs::read_to_string(packaging("strongroom.service")).expect("the unit");
    assert!(unit.contains("\nUser=strongroom\n"));
}
