//! A host of a test's own: a private libvirt daemon, and the program under test beside it.

use std::{
    fs::{self, File},
    os::unix::{fs::symlink, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{self, WaitId, WaitIdOptions, WaitOptions};
use serde_json::Value;
use strongroom_base::{Clock as _, SystemClock};

pub(crate) use crate::lab::{Lab, Run};

/// A host with a session daemon of libvirt, whose every file is in the test's folder. Nothing is left
/// when it is dropped, nor when the test is killed.
///
/// The daemon is a session's (`qemu:///session`) because only that one keeps to the folders that its
/// environment names. To root libvirt gives no session; then the daemon runs in a user namespace where
/// root has another number, and everything else is as for a plain user.
pub(crate) struct Host {
    /// The test's folder, with a vault; its environment leads the program to the daemon.
    pub(crate) lab: Lab,
    libvirtd: Mutex<Option<Child>>,
    reaper: Option<(Child, ChildStdin)>,
    undertaker: Option<Undertaker>,
}

/// A file system that is mounted until this is dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts one of its own, of so many bytes (as `4M`), on a folder. None where that may not be done,
    /// which is said: only root can.
    pub(crate) fn tmpfs(folder: &Path, size: &str) -> Option<Self> {
        let path = folder.to_str().expect("text");
        let run = try_tool("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path]);
        if run.code != 0 {
            eprintln!("not tried: nothing can be mounted here ({})", run.stderr.trim());
            return None;
        }
        Some(Self(folder.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        try_tool("umount", &["-l", self.0.to_str().expect("text")]);
    }
}

/// Takes note of the end of the processes that libvirt has started, until it is dropped.
struct Undertaker {
    work: Option<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
}

impl Host {
    /// A host with a key, a vault, and libvirt running.
    pub(crate) fn new() -> Self {
        for (program, package) in [
            ("libvirtd", "libvirt-daemon"),
            ("virsh", "libvirt-clients"),
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("qemu-img", "qemu-utils"),
            ("unshare", "util-linux"),
        ] {
            let found = path().split(':').any(|dir| Path::new(dir).join(program).exists());
            assert!(found, "{program} is missing: scripts/install-tools, or apt install {package}");
        }
        build_guest();
        let mut lab = Lab::new();
        let environment = environment(&lab);
        for (name, value) in &environment {
            lab.set(name, value);
            if value.starts_with('/') {
                fs::create_dir_all(value).expect("a folder");
            }
        }
        let config = lab.path("c/libvirt");
        fs::create_dir_all(&config).expect("a folder");
        // Else there would be a second daemon that only writes console logs.
        fs::write(config.join("qemu.conf"), "stdio_handler = \"file\"\n").expect("written");
        // What QEMU can do takes libvirt seconds to find out: once for all tests.
        let known = target().join("libvirt-cache");
        fs::create_dir_all(&known).expect("a folder");
        fs::create_dir_all(lab.path(".cache/libvirt/qemu")).expect("a folder");
        symlink(known, lab.path(".cache/libvirt/qemu/cache")).expect("a link");

        let mut reaper = Command::new(project().join("scripts/lab/reap"))
            .arg(lab.path("").canonicalize().expect("a folder"))
            .stdin(Stdio::piped())
            // What ends the test must not end this.
            .process_group(0)
            .spawn()
            .expect("scripts/lab/reap starts");
        let pipe = reaper.stdin.take().expect("a pipe");
        let undertaker = Undertaker::new();
        let host = Self {
            lab,
            libvirtd: Mutex::new(None),
            reaper: Some((reaper, pipe)),
            undertaker: Some(undertaker),
        };
        host.start_libvirtd();
        host
    }

    /// What the program under test connects to; its environment says whose session it is.
    #[allow(clippy::unused_self, reason = "hosts with other URIs may come")]
    pub(crate) fn uri(&self) -> &'static str {
        "qemu:///session"
    }

    /// The daemon's socket: `$XDG_RUNTIME_DIR/libvirt/libvirt-sock` of [`Self::env`].
    pub(crate) fn socket(&self) -> PathBuf {
        self.lab.path("r/libvirt/libvirt-sock")
    }

    /// The environment that leads to the daemon.
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        environment(&self.lab)
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start_libvirtd(&self) {
        let log = File::options().append(true).create(true).open(self.lab.path("libvirtd.log"));
        let log = log.expect("a log");
        let mut command = if is_root() {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-user=1000", "--map-group=1000", "--", "libvirtd"]);
            command
        } else {
            Command::new("libvirtd")
        };
        let child = command
            .env_clear()
            .env("PATH", path())
            .envs(self.env())
            .current_dir(self.lab.path(""))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        *self.libvirtd.lock().expect("unlocked") = Some(child.expect("libvirtd starts"));
        // The first one asks QEMU what it can do, in emulation.
        let up = within(60, || {
            let mut daemon = self.libvirtd.lock().expect("unlocked");
            let ended = daemon.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "{}", self.no_libvirt());
            UnixStream::connect(self.socket()).is_ok()
        });
        assert!(up, "{}", self.no_libvirt());
        let version = self.try_virsh(&["version"]);
        assert_eq!(version.code, 0, "{}\n{}", version.stderr, self.no_libvirt());
    }

    fn no_libvirt(&self) -> String {
        let log = fs::read_to_string(self.lab.path("libvirtd.log")).unwrap_or_default();
        format!(
            "No libvirt daemon runs here, and tests on machines need one. To install it: \
             scripts/install-tools test. Root also needs user namespaces (try `unshare --user \
             true`), a plain user does not. What the daemon says:\n{log}"
        )
    }

    /// Kills the daemon with SIGKILL. Machines go on.
    pub(crate) fn kill_libvirtd(&self) {
        if let Some(mut daemon) = self.libvirtd.lock().expect("unlocked").take() {
            daemon.kill().expect("killed");
            daemon.wait().expect("ended");
        }
    }

    /// Runs virsh, which must succeed: a look at libvirt that is not ours.
    pub(crate) fn virsh(&self, words: &[&str]) -> String {
        let run = self.try_virsh(words);
        assert_eq!(run.code, 0, "virsh {words:?}\n{}{}", run.stdout, run.stderr);
        run.stdout.trim().to_owned()
    }

    /// Runs virsh.
    pub(crate) fn try_virsh(&self, words: &[&str]) -> Run {
        // Root's virsh would not look for a session's socket.
        let uri = format!("qemu+unix:///session?socket={}", self.socket().display());
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", &uri]).args(words).env_clear().env("PATH", path());
        command.envs(self.env()).current_dir(self.lab.path("")).stdin(Stdio::null());
        Run::of(&command.output().expect("virsh starts"))
    }

    /// The program under test, in the test's folder.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.lab.command("");
        command.args(words);
        command
    }

    /// Runs the program under test.
    pub(crate) fn strongroom(&self, words: &[&str]) -> Run {
        Run::of(&self.command(words).output().expect("the program starts"))
    }

    /// Runs the program under test with `--output json`; it must succeed.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let run = self.strongroom(&[words, &["--output", "json"]].concat());
        assert_eq!(run.code, 0, "strongroom {words:?}\n{}{}", run.stdout, run.stderr);
        serde_json::from_str(&run.stdout).expect("JSON on standard output")
    }

    /// Starts the program under test, to be looked at or killed while it runs.
    pub(crate) fn strongroom_start(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    }
}

impl Undertaker {
    /// QEMU has no parent, so the first process of the system has to note its end. In a container that
    /// one may take seconds, and for so long libvirt believes that it runs. So it falls to us.
    fn new() -> Self {
        process::set_child_subreaper(Some(process::getpid())).expect("Linux");
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let work = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                if matches!(process::waitid(WaitId::All, look), Ok(Some(_))) {
                    for id in ended_orphans() {
                        process::waitpid(Some(id), WaitOptions::NOHANG).ok();
                    }
                }
                SystemClock.sleep(Duration::from_millis(40));
            }
        });
        Self { work: Some(work), ended }
    }
}

/// The processes that ended and that were left to us, by the names that libvirt's have: whoever has
/// started one of the others waits for it.
fn ended_orphans() -> Vec<process::Pid> {
    let parent = process::getpid().as_raw_nonzero().to_string();
    let of = |file: fs::DirEntry| {
        // ID (NAME) STATE PARENT ...
        let stat = fs::read_to_string(file.path().join("stat")).ok()?;
        let (id, rest) = stat.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let mut rest = rest.split(' ');
        let ours = rest.next() == Some("Z") && rest.next() == Some(&parent);
        let libvirts = name.starts_with("qemu-system") || name.starts_with("swtpm");
        if ours && libvirts { process::Pid::from_raw(id.parse().ok()?) } else { None }
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of).collect()
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(work) = self.work.take() {
            work.join().ok();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.lab.path("libvirtd.log")).unwrap_or_default();
            eprintln!("--- libvirtd said:");
            // What it says whenever an agent is waited for says nothing.
            for line in log.lines().filter(|line| !line.contains("agent is not connected")) {
                eprintln!("{line}");
            }
            let files = fs::read_dir(self.lab.path("")).into_iter().flatten().flatten();
            for console in files.map(|file| file.path()) {
                if console.extension().is_some_and(|extension| extension == "console") {
                    let text = fs::read(&console).unwrap_or_default();
                    let text = String::from_utf8_lossy(&text);
                    eprintln!("--- {}:\n{text}", console.display());
                }
            }
        }
        if let Some((mut reaper, pipe)) = self.reaper.take() {
            drop(pipe);
            reaper.wait().ok();
        }
        drop(self.undertaker.take());
        if let Ok(Some(daemon)) = self.libvirtd.get_mut().map(Option::as_mut) {
            daemon.wait().ok();
        }
    }
}

fn environment(lab: &Lab) -> Vec<(&'static str, String)> {
    // Short: names of sockets may have 107 bytes, and libvirt adds 70.
    let folders = [
        ("HOME", "h"),
        ("XDG_RUNTIME_DIR", "r"),
        ("XDG_CONFIG_HOME", "c"),
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_DATA_HOME", "d"),
    ];
    let mut environment =
        folders.map(|(name, folder)| (name, lab.path(folder).display().to_string())).to_vec();
    // Who finds no daemon must not start one.
    environment.push(("LIBVIRT_AUTOSTART", "0".to_owned()));
    environment.push(("STRONGROOM_CONNECT", "qemu:///session".to_owned()));
    environment
}

/// Makes the guest, or finds that it is there.
fn build_guest() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let output = Command::new(project().join("scripts/lab/guest")).output().expect("it starts");
        let run = Run::of(&output);
        assert_eq!(run.code, 0, "scripts/lab/guest\n{}{}", run.stdout, run.stderr);
    });
}

/// Waits so many seconds at most until something is so.
pub(crate) fn within(seconds: u64, mut is_so: impl FnMut() -> bool) -> bool {
    let end = SystemClock.monotonic() + Duration::from_secs(seconds);
    let mut pause = Duration::from_millis(10);
    loop {
        if is_so() {
            return true;
        }
        if SystemClock.monotonic() > end {
            return false;
        }
        // Asking often takes from the machine that is waited for.
        SystemClock.sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(200));
    }
}

/// Runs a tool, which must succeed.
pub(crate) fn tool(program: &str, words: &[&str]) -> String {
    let run = try_tool(program, words);
    assert_eq!(run.code, 0, "{program} {words:?}\n{}{}", run.stdout, run.stderr);
    run.stdout
}

/// Runs a tool.
pub(crate) fn try_tool(program: &str, words: &[&str]) -> Run {
    let mut command = Command::new(program);
    command.args(words).env("PATH", path()).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output();
    Run::of(&output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/install-tools")))
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn is_root() -> bool {
    tool("id", &["-u"]).trim() == "0"
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

/// Where the lab keeps what it has built.
pub(crate) fn target() -> PathBuf {
    let lab = std::env::var_os("STRONGROOM_LAB");
    lab.map_or_else(|| project().join("target/lab"), PathBuf::from)
}
