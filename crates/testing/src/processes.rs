//! Programs that a test needs, and what they leave behind.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use strongroom_base::{Clock as _, SystemClock};

/// Runs a program and returns what it printed.
///
/// # Panics
///
/// If the program is not installed (the message names its package) or fails.
pub fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run {program} ({error}): install the package {package}")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process that ends with the test.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts a program.
    ///
    /// # Panics
    ///
    /// If the program is not installed; the message names its package.
    #[must_use]
    pub fn start(package: &str, program: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| {
            panic!("cannot run {program} ({error}): install the package {package}")
        }))
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Panics
    ///
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        self.0.kill().expect("is running");
        self.0.wait().expect("has ended");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Looks for something again and again, for a minute at most, and returns it.
///
/// # Panics
///
/// If it has not come after a minute.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = SystemClock.monotonic();
    loop {
        if let Some(found) = look() {
            return found;
        }
        let waited = SystemClock.monotonic().saturating_sub(began);
        assert!(waited < Duration::from_mins(1), "waited in vain: {what}");
        SystemClock.sleep(Duration::from_millis(10));
    }
}

/// Waits, for a minute at most, until something is so.
///
/// # Panics
///
/// If it is not so after a minute.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || is_so().then_some(()));
}

/// A port of this machine where nobody listens.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A small file system in memory, gone when the test ends.
#[derive(Debug)]
pub struct TemporaryMount(tempfile::TempDir);

impl TemporaryMount {
    /// One of this size; none, and a note on standard output, where mounting is not allowed.
    ///
    /// # Panics
    ///
    /// If `mount` is not installed.
    #[must_use]
    pub fn new(megabytes: u32) -> Option<Self> {
        let place = tempfile::tempdir().expect("a temporary folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "strongroom-test"])
            .arg(place.path())
            .output()
            .expect("mount, of the package mount");
        if mounted.status.success() {
            return Some(Self(place));
        }
        let why = String::from_utf8_lossy(&mounted.stderr);
        println!("not tried, as nothing can be mounted here: {why}");
        None
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Mounts it again with these options, such as `ro` or `size=8m`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        let done = Command::new("mount").args(["-o", &options]).arg(self.path()).status();
        assert!(done.expect("mount").success(), "mount -o {options}");
    }
}

impl Drop for TemporaryMount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(done.expect("umount").success(), "{} stays mounted", self.0.path().display());
    }
}
