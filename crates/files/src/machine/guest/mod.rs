//! Process 1 of the machine: it loads drivers, finds disks and answers the questions of files.
//!
//! Everything here runs in the machine, and ends with it. It knows the disks, and whom it answers, and nothing
//! else of the host.

mod arrays;
mod drivers;
mod mounted;
mod volumes;

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, reboot},
};
use strongroom_base::{Clock as _, SystemClock};

use self::{drivers::Drivers, volumes::Attached};

pub use volumes::machine_may_read;

use super::PORT;
use crate::{
    child::Child,
    wire::{Answer, Hello, Line},
};

/// How long devices may take to appear.
const APPEARS: Duration = Duration::from_mins(1);
/// What is needed before anybody can ask.
const FIRST: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_console"];

/// Serves as process 1 of a machine, until nobody asks any more. Does not return to anything: it ends the machine.
pub fn guest() {
    // Anywhere else it would mount over what is there.
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        return;
    }
    if let Err(error) = serve() {
        say(&format!("strongroom: {error}"));
    }
    // If it fails, the end of this process ends the machine too.
    reboot(RebootCommand::Restart).ok();
}

/// Writes a line on the console.
fn say(line: &str) {
    if let Ok(mut console) = File::options().write(true).open("/dev/console") {
        writeln!(console, "{line}").ok();
    }
}

/// The port, as a stream.
struct Port(File);

impl Read for Port {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Port {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve() -> io::Result<()> {
    for (kind, path) in
        [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")]
    {
        mount(kind, path, kind, MountFlags::NOSUID, None)?;
    }
    let mut drivers = Drivers::read()?;
    for name in FIRST {
        drivers.load(name);
    }
    let mut line = Line::new(Port(appears(port)?));
    let hello: Hello = line.hear()?;
    let disks = appears(|| volumes::disks(hello.disks.len()))?;
    line.say(&Answer::Ready)?;
    Child::new(Arc::new(Mutex::new(line)), Attached::new(disks, drivers)).run()
}

/// What appears after some time.
fn appears<T>(mut look: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let begun = SystemClock.monotonic();
    loop {
        let error = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {
                io::Error::new(io::ErrorKind::NotFound, "a device of the machine is missing")
            }
            Err(error) => error,
        };
        if SystemClock.monotonic().saturating_sub(begun) > APPEARS {
            return Err(error);
        }
        SystemClock.sleep(Duration::from_millis(5));
    }
}

/// The port over which this machine is asked.
fn port() -> io::Result<Option<File>> {
    let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") else { return Ok(None) };
    for entry in entries {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == PORT {
            let path = std::path::Path::new("/dev").join(entry.file_name());
            return File::options().read(true).write(true).open(path).map(Some);
        }
    }
    Ok(None)
}
