//! A private libvirt: a session's daemon whose every file is in a folder of its own.

use std::{
    fs::{self, File},
    os::unix::{fs::symlink, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use strongroom_base::{Clock as _, SystemClock};
use strongroom_bench::{Failure, Outcome};

/// The daemon and its folder. Nothing is left when it is dropped, nor when this program is killed.
pub(crate) struct Host {
    /// Short: names of sockets may have 107 bytes, and libvirt adds 70.
    pub(crate) dir: PathBuf,
    reaper: Child,
    /// The reaper does its work when this is closed.
    pipe: Option<ChildStdin>,
    daemon: Option<Child>,
}

impl Host {
    /// Starts it. `lab` is where scripts/lab keeps what it makes.
    pub(crate) fn start(project: &Path, lab: &Path) -> Outcome<Self> {
        let made = run(Command::new("mktemp").args(["-d", "/tmp/srb-XXXXXX"]))?;
        let dir = PathBuf::from(made.trim());
        let mut reaper = Command::new(project.join("scripts/lab/reap"))
            .arg(&dir)
            .stdin(Stdio::piped())
            // What ends this program must not end that one.
            .process_group(0)
            .spawn()?;
        let pipe = reaper.stdin.take();
        let mut host = Self { dir, reaper, pipe, daemon: None };
        for folder in ["h", "r", "c/libvirt", "cache/libvirt/qemu", "d"] {
            fs::create_dir_all(host.dir.join(folder))?;
        }
        // Else there would be a second daemon that only writes console logs.
        fs::write(host.dir.join("c/libvirt/qemu.conf"), "stdio_handler = \"file\"\n")?;
        // What QEMU can do takes libvirt seconds to find out: once for all.
        let known = lab.join("libvirt-cache");
        fs::create_dir_all(&known)?;
        symlink(known, host.dir.join("cache/libvirt/qemu/cache"))?;
        host.start_daemon()?;
        Ok(host)
    }

    fn start_daemon(&mut self) -> Outcome<()> {
        let log = File::create(self.dir.join("libvirtd.log"))?;
        // libvirt gives root no session; in a user namespace root has another number.
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-user=1000", "--map-group=1000", "--", "libvirtd"]);
        command.env_clear().envs(self.environment()).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(command.spawn()?);
        for _ in 0..600 {
            if UnixStream::connect(self.socket()).is_ok() {
                self.virsh(&["version"])?;
                return Ok(());
            }
            pause(100);
        }
        let log = fs::read_to_string(self.dir.join("libvirtd.log"))?;
        Err(Failure::new(format!("no libvirt daemon runs here:\n{log}")))
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("r/libvirt/libvirt-sock")
    }

    /// The URI for root's virsh, which would not look for a session's socket.
    fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket().display())
    }

    /// What leads programs to the daemon.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let folder = |name: &str| self.dir.join(name).display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        vec![
            ("PATH", format!("{path}:/usr/sbin:/sbin")),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("HOME", folder("h")),
            ("XDG_RUNTIME_DIR", folder("r")),
            ("XDG_CONFIG_HOME", folder("c")),
            ("XDG_CACHE_HOME", folder("cache")),
            ("XDG_DATA_HOME", folder("d")),
            // Who finds no daemon must not start one.
            ("LIBVIRT_AUTOSTART", "0".to_owned()),
            ("STRONGROOM_CONNECT", "qemu:///session".to_owned()),
        ]
    }

    /// A program, led to the daemon.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment()).stdin(Stdio::null());
        command
    }

    /// Runs virsh, which must succeed.
    pub(crate) fn virsh(&self, words: &[&str]) -> Outcome<String> {
        let mut command = self.command(Path::new("virsh"));
        command.args(["-q", "-c", &self.uri()]).args(words);
        Ok(run(&mut command)?.trim().to_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // All that it started is killed by now or cannot be.
        self.reaper.wait().ok();
        if let Some(daemon) = &mut self.daemon {
            daemon.wait().ok();
        }
    }
}

/// Runs a program, which must succeed; gives what it printed.
pub(crate) fn run(command: &mut Command) -> Outcome<String> {
    let failed = |why: String| Failure::new(format!("{command:?} failed:\n{why}"));
    // A borrow of its own, so that a failure can still name the command.
    let output = Command::new(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = [output.stdout, output.stderr].concat();
    Err(failed(String::from_utf8_lossy(&words).into_owned()))
}

/// Waits for so many milliseconds.
pub(crate) fn pause(milliseconds: u64) {
    SystemClock.sleep(Duration::from_millis(milliseconds));
}
