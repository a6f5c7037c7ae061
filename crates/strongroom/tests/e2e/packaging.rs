//! What a distribution needs: the systemd unit is sound, and what it relies on is what the program does.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
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

/// The files of a package that is made of the program under test.
#[test]
fn a_debian_package_has_all_that_belongs_to_the_program() {
    need("dpkg-deb", "dpkg");
    let lab = Lab::empty();
    // In place of the program something small that does as it does: packing hundreds of MB takes long.
    let program = lab.path("program");
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_strongroom"));
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let mut command = Command::new("bash");
    command
        .arg(packaging("build-deb"))
        .arg("--program")
        .arg(&program)
        .arg("--out")
        .arg(lab.path("out"));
    let run = Run::of(&command.output().expect("it starts"));
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let package = fs::read_dir(lab.path("out")).expect("a folder").next().expect("a package");
    let package = package.expect("readable").path();
    let ask = |what: &str| {
        let mut command = Command::new("dpkg-deb");
        let run = Run::of(&command.arg(what).arg(&package).output().expect("dpkg-deb starts"));
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    };
    let contents = ask("--contents");
    for file in [
        "/usr/bin/strongroom",
        "/usr/lib/systemd/system/strongroom.service",
        "/usr/lib/sysusers.d/strongroom.conf",
        "/usr/share/man/man1/strongroom.1.gz",
        "/usr/share/man/man1/strongroom-serve.1.gz",
        "/usr/share/man/man1/strongroom-restore-vm.1.gz",
        "/usr/share/bash-completion/completions/strongroom",
        "/usr/share/zsh/vendor-completions/_strongroom",
        "/usr/share/fish/vendor_completions.d/strongroom.fish",
        "/usr/share/doc/strongroom/copyright",
        "/usr/share/doc/strongroom/examples/server.toml",
        "/usr/share/doc/strongroom/examples/config.toml",
        "/usr/share/doc/strongroom/docs/use/recovery.md",
    ] {
        assert!(contents.contains(&format!(" .{file}\n")), "{file} is missing\n{contents}");
    }
    let owned = contents.lines().all(|line| line.contains(" root/root "));
    assert!(owned, "files belong to root\n{contents}");
    let about = ask("--field");
    assert!(about.contains("Package: strongroom\n") && about.contains("Recommends: qemu-utils"));
}

#[test]
fn the_examples_of_configuration_are_taken_as_they_are_and_with_all_their_lines() {
    let lab = Lab::empty();
    for (name, words) in [
        ("config.toml", "policy get-default --config"),
        ("server.toml", "doctor --output json --data-dir data --config"),
    ] {
        let text = fs::read_to_string(packaging(name)).expect("an example");
        for text in [text.clone(), text.replace("\n#", "\n")] {
            let text: String = text
                .lines()
                .filter(|line| !line.starts_with(' '))
                .fold(String::new(), |text, line| {
                    text + if line.contains(" = ") { line } else { "" } + "\n"
                });
            fs::write(lab.path(name), text).expect("written");
            let run = lab.run(&format!("{words} {name}"));
            assert!(!run.stderr.contains("config.invalid"), "{name}: {run:?}");
        }
    }
}

/// Cargo says where the program is, whatever its target folder.
#[test]
fn the_quickstart_finds_the_program_in_any_target_folder() {
    let lab = Lab::empty();
    fs::create_dir_all(lab.path("elsewhere/x86_64/release")).expect("folders");
    let program = lab.path("elsewhere/x86_64/release/strongroom");
    fs::copy("/bin/true", &program).expect("copied");
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/quickstart");
    let message = format!(
        "{{\"reason\":\"compiler-artifact\",\"executable\":\"{}\",\"fresh\":true}}",
        program.display()
    );
    let script = format!(
        "source {}; cargo() {{ echo '{{\"executable\":null}}'; echo '{message}'; }}; build",
        quickstart.display()
    );
    let run = Run::of(&Command::new("bash").args(["-c", &script]).output().expect("bash"));
    assert_eq!((run.code, run.stdout.trim()), (0, &*program.display().to_string()), "{run:?}");
}
