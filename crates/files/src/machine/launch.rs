//! The process that becomes QEMU: it gives up rights, and then runs it.
//!
//! QEMU is taken for what a stranger's file system may take over, when the guest's kernel has fallen: it gets
//! the sockets and memory files that it is given, may read programs and libraries, and has nothing else. It
//! ends with the process that started it.

use std::{
    ffi::OsString,
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt},
            net::UnixStream,
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope,
};
use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
    process::{Gid, Resource, Rlimit, Signal, Uid, setrlimit},
};
use serde::{Deserialize, Serialize};

use crate::wire::Line;

/// Sockets and files before those of disks: the line, the console, the kernel, the first file system.
const FIRST: usize = 4;
/// Most disks of a machine: each takes a slot of its bus.
pub(super) const DISKS_MAX: usize = 24;
/// The user and group that have nothing.
const NOBODY: u32 = 65534;
pub(super) const KVM: &str = "/dev/kvm";
/// What QEMU may take of address space besides the memory of its machine.
const BESIDES: u64 = 2 << 30;
/// What it may read and run.
const READABLE: [&str; 6] =
    ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/qemu", "/sys/devices/system/cpu"];
/// What it may read and write.
const DEVICES: [&str; 4] = [KVM, "/dev/null", "/dev/urandom", "/dev/zero"];

/// What is run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Launch {
    /// QEMU.
    pub(super) program: PathBuf,
    /// Whether the processor's support of machines is used, or all is emulated.
    pub(super) accelerator: String,
    /// Its kind of machine, with options.
    pub(super) machine: String,
    /// What the kernel is given to know.
    pub(super) append: String,
    /// MiB of the machine's memory.
    pub(super) memory: u64,
    /// Most seconds of processor time.
    pub(super) seconds: u64,
}

/// Says what to run, with the sockets and files for it: the line, the console, the kernel, the first file
/// system, disks.
pub(super) fn order(
    socket: UnixStream,
    launch: &Launch,
    files: &[BorrowedFd<'_>],
) -> io::Result<Line> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FIRST + DISKS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(&socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
    let mut line = Line::new(socket);
    line.say(launch)?;
    Ok(line)
}

/// Runs QEMU as the process at the other end of standard input says, in the place of this program. It must be
/// the first that a program does, before it has threads. Returns only if it fails.
pub fn launch() -> io::Error {
    launched().err().unwrap_or_else(|| io::Error::other("it returned"))
}

fn launched() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let files = received(&socket)?;
    let mut line: Line = Line::new(socket);
    let launch: Launch = line.hear()?;
    let limit =
        |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    let memory = launch.memory.saturating_mul(1 << 20).saturating_add(BESIDES);
    limit(Resource::As, memory)?;
    limit(Resource::Cpu, launch.seconds)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Core, 0)?;
    become_nobody()?;
    // It is forgotten when a process changes its user. A parent that is gone already has closed its end.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if line.is_closed() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let program = fs::canonicalize(&launch.program)?;
    lock_in(&program).map_err(io::Error::other)?;
    let mut command = Command::new(&program);
    command.args(arguments(&launch, &files)?).env_clear().current_dir("/");
    Err(command.exec())
}

/// The files that come with the first byte. They stay open when another program is run.
fn received(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FIRST + DISKS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty())?;
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            files.extend(some);
        }
    }
    Ok(files)
}

/// Gives up the rights of root, except to use the processor's support of machines, if its group may.
fn become_nobody() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let kvm = fs::metadata(KVM).ok().filter(|it| it.file_type().is_char_device());
    let groups: Vec<Gid> =
        kvm.iter().map(MetadataExt::gid).filter(|gid| *gid != 0).map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_gid(Gid::from_raw(NOBODY))?;
    rustix::thread::set_thread_uid(Uid::from_raw(NOBODY))?;
    Ok(())
}

/// Refuses all files except programs, libraries and some devices, and all networks, as far as this kernel can.
fn lock_in(program: &Path) -> Result<(), RulesetError> {
    let all = AccessFs::from_all(ABI::V5);
    let read = AccessFs::from_read(ABI::V5);
    let of_file = AccessFs::from_file(ABI::V5);
    let mut rules = Ruleset::default()
        .handle_access(all)?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    let own = program.parent().into_iter().map(Path::to_owned);
    let readable = READABLE.into_iter().map(PathBuf::from).chain(own).map(|path| (path, read));
    let devices = DEVICES.into_iter().map(|path| (PathBuf::from(path), of_file));
    for (path, access) in readable.chain(devices) {
        let Ok(file) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & of_file };
        rules = rules.add_rule(PathBeneath::new(file, access))?;
    }
    rules.restrict_self()?;
    Ok(())
}

/// The command line of QEMU: no defaults, no network, no screen.
fn arguments(launch: &Launch, files: &[OwnedFd]) -> io::Result<Vec<OsString>> {
    let [line, console, kernel, first, disks @ ..] = files else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let number = |file: &OwnedFd| file.as_raw_fd();
    let mut words: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-cpu",
        "max",
        "-smp",
        "1",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("-machine", launch.machine.clone());
    option("-accel", launch.accelerator.clone());
    option("-m", format!("{}M", launch.memory));
    option("-kernel", format!("/proc/self/fd/{}", number(kernel)));
    option("-initrd", format!("/proc/self/fd/{}", number(first)));
    option("-append", launch.append.clone());
    option("-chardev", format!("socket,id=console,fd={}", number(console)));
    option("-serial", "chardev:console".to_owned());
    option("-device", "virtio-serial-pci,max_ports=2".to_owned());
    option("-chardev", format!("socket,id=line,fd={}", number(line)));
    option("-device", format!("virtserialport,chardev=line,name={}", super::PORT));
    for (index, disk) in disks.iter().enumerate() {
        let server = format!("server.type=fd,server.str={}", number(disk));
        option("-blockdev", format!("driver=nbd,node-name=d{index},{server}"));
        let device = format!("virtio-blk-pci,drive=d{index},serial=d{index}");
        option("-device", format!("{device},discard=off,write-zeroes=off"));
    }
    Ok(words.into_iter().map(OsString::from).collect())
}
