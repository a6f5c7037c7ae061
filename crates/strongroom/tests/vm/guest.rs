//! Machines with the lab's guest in them.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    check::to_raw,
    harness::{Host, target, tool, within},
};

/// A disk of a machine to be.
pub(crate) struct Disk {
    mib: u64,
    format: &'static str,
    fs: &'static str,
    /// Options of qemu-img for its format.
    options: String,
    image: Option<PathBuf>,
    /// Whether the image is the socket of an NBD server.
    is_socket: bool,
    /// Further elements in the disk's XML.
    xml: String,
}

impl Disk {
    /// A new qcow2 image of so many MiB, with ext4.
    pub(crate) fn qcow2(mib: u64) -> Self {
        let (image, xml) = (None, String::new());
        let (options, is_socket) = (String::new(), false);
        Self { mib, format: "qcow2", fs: "ext4", options, image, is_socket, xml }
    }

    /// A new raw image of so many MiB, with ext4.
    pub(crate) fn raw(mib: u64) -> Self {
        Self { format: "raw", ..Self::qcow2(mib) }
    }

    /// An image that is there.
    pub(crate) fn image(path: &Path, format: &'static str) -> Self {
        Self { image: Some(path.to_owned()), format, ..Self::qcow2(0) }
    }

    /// The default export of an NBD server that listens on a socket file.
    pub(crate) fn nbd(socket: &Path) -> Self {
        Self { is_socket: true, ..Self::image(socket, "raw") }
    }

    /// With XFS, which wants 300 MiB.
    pub(crate) fn xfs(self) -> Self {
        Self { fs: "xfs", ..self }
    }

    /// With nothing on it.
    pub(crate) fn blank(self) -> Self {
        Self { fs: "", ..self }
    }

    /// With options of qemu-img, such as `cluster_size=4096`.
    pub(crate) fn options(self, options: &str) -> Self {
        Self { options: options.to_owned(), ..self }
    }

    /// With clusters of so many bytes.
    pub(crate) fn cluster(self, bytes: u32) -> Self {
        self.options(&format!("cluster_size={bytes}"))
    }

    /// With further elements in its XML.
    pub(crate) fn xml(self, xml: &str) -> Self {
        Self { xml: xml.to_owned(), ..self }
    }

    /// Makes the image. Its file system has a file `payload` of random bytes and `payload.sha256`.
    pub(crate) fn make(&self, path: &Path) {
        let raw = path.with_extension("new");
        let file = fs::File::create(&raw).expect("a disk");
        file.set_len(self.mib << 20).expect("room");
        let name = raw.to_str().expect("text");
        if !self.fs.is_empty() {
            let content = path.with_extension("content");
            fs::create_dir(&content).expect("a folder");
            let payload = content.join("payload");
            let payload = payload.to_str().expect("text");
            tool("dd", &["if=/dev/urandom", &format!("of={payload}"), "bs=64k", "count=32"]);
            let sum = tool("sha256sum", &[payload]);
            fs::write(content.join("payload.sha256"), &sum[..64]).expect("written");
            if self.fs == "ext4" {
                let options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"];
                let content = content.to_str().expect("text");
                tool("mkfs.ext4", &[&options[..], &[content, name]].concat());
            } else {
                // It can be given files only by a description of all of them.
                let list = path.with_extension("list");
                let sum = content.join("payload.sha256");
                let text = format!(
                    "/\n0 0\nd--755 0 0\npayload ---644 0 0 {payload}\npayload.sha256 ---644 0 0 \
                     {}\n$\n",
                    sum.display()
                );
                fs::write(&list, text).expect("written");
                tool("mkfs.xfs", &["-q", "-p", list.to_str().expect("text"), name]);
            }
            fs::remove_dir_all(&content).expect("removed");
        }
        if self.format == "raw" {
            fs::rename(&raw, path).expect("renamed");
        } else {
            let mut words = vec!["convert", "-f", "raw", "-O", "qcow2"];
            if !self.options.is_empty() {
                words.extend(["-o", self.options.as_str()]);
            }
            words.extend([name, path.to_str().expect("text")]);
            tool("qemu-img", &words);
            fs::remove_file(&raw).expect("removed");
        }
    }
}

/// The words for the kernel of a machine of this name.
fn kernel_words(name: &str) -> String {
    format!(
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check cryptomgr.notests \
         lpj=4000000 lab.name={name}"
    )
}

/// Makes a raw disk from which a machine of this name starts by UEFI: the guest's kernel and user space behind a script
/// of the firmware's shell. Its first partition has ext4 with fio and its libraries; [`Guest::fio`] runs it.
pub(crate) fn make_boot_disk(path: &Path, name: &str) {
    /// Where the partitions begin, in sectors.
    const DATA: u64 = 2048;
    const BOOT: u64 = DATA + (160 << 11);
    const END: u64 = BOOT + (48 << 11);
    let image = path.to_str().expect("text");
    let file = fs::File::create(path).expect("a disk");
    file.set_len((END + 2048) << 9).expect("room");
    let data = format!("--new=1:{DATA}:{}", BOOT - 1);
    let boot = format!("--new=2:{BOOT}:{}", END - 1);
    tool("sgdisk", &[&data, &boot, "--typecode=2:ef00", image]);

    let content = path.with_extension("content");
    fs::create_dir(&content).expect("a folder");
    let fio = tool("sh", &["-c", "command -v fio"]);
    fs::copy(fio.trim(), content.join("fio")).expect("copied");
    for word in tool("ldd", &[fio.trim()]).split_whitespace().filter(|word| word.starts_with('/')) {
        let library = Path::new(word);
        let to = content.join(library.file_name().expect("a file"));
        fs::copy(library, to).expect("copied");
    }
    let folder = content.to_str().expect("text");
    let options = format!("offset={},lazy_itable_init=0,lazy_journal_init=0", DATA << 9);
    tool("mkfs.ext4", &["-q", "-F", "-E", &options, "-d", folder, image, "160m"]);
    fs::remove_dir_all(&content).expect("removed");

    let script = path.with_extension("nsh");
    let words = format!("vmlinuz.efi initrd=\\initrd.cpio {}\r\n", kernel_words(name));
    fs::write(&script, words).expect("written");
    let guest = target().join("guest");
    tool("mkfs.vfat", &["--offset", &BOOT.to_string(), image, &(48 << 10).to_string()]);
    for (from, to) in [
        (guest.join("vmlinuz"), "::vmlinuz.efi"),
        (guest.join("initrd.cpio"), "::initrd.cpio"),
        (script, "::startup.nsh"),
    ] {
        let partition = format!("{image}@@{}", BOOT << 9);
        tool("mcopy", &["-i", &partition, from.to_str().expect("text"), to]);
    }
}

/// A machine to be.
pub(crate) struct Builder {
    name: String,
    disks: Vec<Disk>,
    memory: Option<u32>,
    cmdline: String,
    uefi: bool,
    has_kernel: bool,
    vga: bool,
    xml: String,
}

/// A machine that libvirt knows.
pub(crate) struct Guest<'h> {
    host: &'h Host,
    pub(crate) name: String,
    disks: Vec<PathBuf>,
    /// Seconds that a boot may take.
    patience: u64,
}

impl Builder {
    /// Adds a disk: vda, then vdb, and so on.
    pub(crate) fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Words for the kernel's command line: see `scripts/lab/guest-root/init`.
    pub(crate) fn cmdline(mut self, words: &str) -> Self {
        self.cmdline = format!("{} {words}", self.cmdline);
        self
    }

    /// MiB of memory.
    pub(crate) fn memory(mut self, mib: u32) -> Self {
        self.memory = Some(mib);
        self
    }

    /// Starts by UEFI, without secure boot; takes 20 seconds.
    pub(crate) fn uefi(mut self) -> Self {
        self.uefi = true;
        self
    }

    /// Has no kernel from outside: it starts by UEFI what is on a disk with the element `<boot order='1'/>`; takes 15 seconds.
    pub(crate) fn without_kernel(mut self) -> Self {
        self.has_kernel = false;
        self.uefi()
    }

    /// Has no kernel from outside, and a BIOS that looks for something to start on its disks.
    pub(crate) fn bios(mut self) -> Self {
        self.has_kernel = false;
        self
    }

    /// Has a TPM 2.0.
    pub(crate) fn tpm(self) -> Self {
        self.xml("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>")
    }

    /// Has a screen, which shows the guest's console.
    pub(crate) fn vga(mut self) -> Self {
        self.vga = true;
        self
    }

    /// Further devices.
    pub(crate) fn xml(mut self, xml: &str) -> Self {
        self.xml.push_str(xml);
        self
    }

    /// Makes the disks and defines the machine.
    pub(crate) fn create(self, host: &Host) -> Guest<'_> {
        let mut disks = Vec::new();
        for (disk, letter) in self.disks.iter().zip('a'..) {
            let path = host.lab.path(&format!("{}-{letter}.{}", self.name, disk.format));
            disks.push(disk.image.clone().unwrap_or(path));
            if disk.image.is_none() {
                disk.make(disks.last().expect("one"));
            }
        }
        let file = host.lab.path(&format!("{}.xml", self.name));
        fs::write(&file, self.domain(host, &disks)).expect("written");
        host.virsh(&["define", file.to_str().expect("text")]);
        let patience = if self.uefi { 180 } else { 90 };
        Guest { host, name: self.name, disks, patience }
    }

    fn domain(&self, host: &Host, disks: &[PathBuf]) -> String {
        let guest = target().join("guest").canonicalize().expect("scripts/lab/guest makes it");
        let guest = guest.display();
        let name = &self.name;
        let xfs = self.disks.iter().any(|disk| disk.fs == "xfs" || disk.image.is_some());
        let memory = self.memory.unwrap_or(if self.uefi { 192 } else { 96 + u32::from(xfs) * 16 });
        let (firmware, feature) = if self.uefi {
            let no = "<firmware><feature enabled='no' name='secure-boot'/></firmware>";
            (" firmware='efi'", no)
        } else {
            ("", "")
        };
        let kernel = if self.uefi || self.vga { "vmlinuz" } else { "vmlinux" };
        let initrd = if xfs { "initrd-xfs.cpio" } else { "initrd.cpio" };
        let (video, console) = if self.vga { ("vga", "console=tty0 ") } else { ("none", "") };
        let words = format!("{console}{}{}", kernel_words(name), self.cmdline);
        let start = if self.has_kernel {
            format!(
                "<kernel>{guest}/{kernel}</kernel><initrd>{guest}/{initrd}</initrd>
                 <cmdline>{words}</cmdline>"
            )
        } else {
            String::new()
        };
        let serial = host.lab.path(&format!("{name}.console"));
        let mut devices = String::new();
        for ((disk, path), letter) in self.disks.iter().zip(disks).zip('a'..) {
            let path = path.display();
            let (kind, source) = if disk.is_socket {
                let host = format!("<host transport='unix' socket='{path}'/>");
                ("network", format!("<source protocol='nbd' name=''>{host}</source>"))
            } else {
                ("file", format!("<source file='{path}'/>"))
            };
            write!(
                devices,
                "<disk type='{kind}' device='disk'>
                   <driver name='qemu' type='{}' discard='unmap'/>{source}
                   <target dev='vd{letter}' bus='virtio'/>{}
                 </disk>",
                disk.format, disk.xml,
            )
            .expect("written");
        }
        format!(
            "<domain type='qemu'>
               <name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
               <os{firmware}><type arch='x86_64' machine='q35'>hvm</type>{feature}
                 {start}
               </os>
               <features><acpi/><tcg><tb-cache unit='MiB'>64</tb-cache></tcg></features>
               <cpu mode='custom'><model>qemu64</model></cpu>
               <clock offset='utc'><timer name='hpet' present='no'/></clock>
               <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>
               <on_crash>destroy</on_crash>
               <devices>
                 <emulator>/usr/bin/qemu-system-x86_64</emulator>
                 {devices}
                 <controller type='usb' model='none'/>
                 <serial type='file'><source path='{}' append='on'/></serial>
                 <channel type='unix'>
                   <target type='virtio' name='org.qemu.guest_agent.0'/>
                 </channel>
                 <video><model type='{video}'/></video>
                 <memballoon model='none'/>{}
               </devices>
             </domain>",
            serial.display(),
            self.xml,
        )
    }
}

impl<'h> Guest<'h> {
    /// A machine to be, with 96 MiB and no disks yet.
    pub(crate) fn named(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            disks: Vec::new(),
            memory: None,
            cmdline: String::new(),
            uefi: false,
            has_kernel: true,
            vga: false,
            xml: String::new(),
        }
    }

    /// The machine `web` with these disks, off.
    pub(crate) fn web<const N: usize>(host: &'h Host, disks: [Disk; N]) -> Self {
        disks.into_iter().fold(Guest::named("web"), Builder::disk).create(host)
    }

    /// Switched on, and with so many records.
    pub(crate) fn up(self, records: u64) -> Self {
        self.boot();
        if records > 0 {
            self.wait_records(records);
        }
        self
    }

    /// A machine that libvirt already knows, with these images as vda, vdb, and so on: what the
    /// program under test has defined.
    pub(crate) fn known(host: &'h Host, name: &str, disks: &[&Path]) -> Self {
        let disks = disks.iter().map(|&disk| disk.to_owned()).collect();
        Self { host, name: name.to_owned(), disks, patience: 180 }
    }

    /// Runs a virsh command on this machine; it must succeed.
    pub(crate) fn virsh(&self, command: &str, words: &[&str]) -> String {
        self.host.virsh(&[&[command, self.name.as_str()], words].concat())
    }

    /// Switches it on.
    pub(crate) fn start(&self) {
        self.virsh("start", &[]);
    }

    /// Waits until the guest's agent answers.
    pub(crate) fn wait_agent(&self) {
        let ping = json!({"execute": "guest-ping"}).to_string();
        let words = ["qemu-agent-command", &self.name, &ping, "--timeout", "2"];
        let answers = within(self.patience, || self.host.try_virsh(&words).code == 0);
        assert!(answers, "no agent in {}; console:\n{}", self.name, self.console());
    }

    /// Switches it on and waits until the guest's agent answers.
    pub(crate) fn boot(&self) {
        self.start();
        self.wait_agent();
    }

    /// Says something to the guest's agent; gives what it returns.
    pub(crate) fn agent(&self, command: &str, arguments: &Value) -> Value {
        let text = json!({"execute": command, "arguments": arguments}).to_string();
        let answer = self.virsh("qemu-agent-command", &[&text, "--timeout", "30"]);
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        answer["return"].clone()
    }

    /// Runs a shell command in the guest; gives its status and what it says.
    pub(crate) fn try_sh(&self, command: &str) -> (i64, String) {
        self.execute(command, "")
    }

    /// Runs a shell command in the guest, which must succeed; gives what it says, trimmed.
    pub(crate) fn sh(&self, command: &str) -> String {
        let (status, said) = self.try_sh(command);
        assert_eq!(status, 0, "in {}: {command}\n{said}", self.name);
        said.trim().to_owned()
    }

    fn execute(&self, command: &str, input: &str) -> (i64, String) {
        let started = self.agent(
            "guest-exec",
            &json!({
                "path": "/bin/sh",
                "arg": ["-c", format!("{{ {command}\n}} 2>&1")],
                "capture-output": true,
                "input-data": BASE64_STANDARD.encode(input),
            }),
        );
        let mut state = Value::Null;
        let ended = within(120, || {
            state = self.agent("guest-exec-status", &json!({"pid": started["pid"]}));
            state["exited"] == true
        });
        assert!(ended, "in {}: {command} does not end", self.name);
        let said = state["out-data"].as_str().unwrap_or_default();
        let said = BASE64_STANDARD.decode(said).expect("base64");
        let status = state["exitcode"].as_i64().unwrap_or(-1);
        (status, String::from_utf8_lossy(&said).into_owned())
    }

    /// Runs fio in the guest, from a disk that [`make_boot_disk`] made and that is mounted there.
    pub(crate) fn fio(&self, mounted: &str, words: &str) -> String {
        let loader = format!("{mounted}/ld-linux-x86-64.so.2 --library-path {mounted}");
        self.sh(&format!("{loader} {mounted}/fio {words}"))
    }

    /// Writes a file in the guest, with this mode (as `600`), owned by root.
    pub(crate) fn put(&self, path: &str, mode: &str, text: &str) {
        let command =
            format!("mkdir -p \"$(dirname {path})\" && cat >{path} && chmod {mode} {path}");
        let (status, said) = self.execute(&command, text);
        assert_eq!(status, 0, "in {}: {path}: {said}", self.name);
    }

    /// `running`, `shut off` and so on.
    pub(crate) fn state(&self) -> String {
        self.virsh("domstate", &[])
    }

    /// Has the guest shut itself down, and waits until it is off.
    pub(crate) fn shutdown(&self) {
        // An error if the guest is faster than libvirt.
        self.host.try_virsh(&["shutdown", &self.name, "--mode", "agent"]);
        let off = within(60, || self.state() == "shut off");
        assert!(off, "{} does not shut down; console:\n{}", self.name, self.console());
    }

    /// Has the guest restart itself, and waits until its agent answers again.
    pub(crate) fn reboot(&self) {
        let starts = || self.console().matches("agent started").count();
        let before = starts();
        self.host.try_virsh(&["reboot", &self.name, "--mode", "agent"]);
        let up = within(self.patience, || starts() > before);
        assert!(up, "{} does not restart; console:\n{}", self.name, self.console());
        self.wait_agent();
    }

    /// Switches it off.
    pub(crate) fn destroy(&self) {
        self.virsh("destroy", &[]);
    }

    /// Stops its processor.
    pub(crate) fn suspend(&self) {
        self.virsh("suspend", &[]);
    }

    /// Lets its processor go on.
    pub(crate) fn resume(&self) {
        self.virsh("resume", &[]);
    }

    /// Kills QEMU with SIGKILL, and waits until libvirt has seen it.
    pub(crate) fn kill_qemu(&self) {
        let file = self.host.lab.path(&format!("r/libvirt/qemu/run/{}.pid", self.name));
        let pid = fs::read_to_string(file).expect("it runs");
        tool("kill", &["-KILL", pid.trim()]);
        assert!(within(30, || self.state() == "shut off"), "libvirt thinks that it runs");
    }

    /// The image of a disk such as `vda`.
    pub(crate) fn disk_path(&self, target: &str) -> &Path {
        let letters = ('a'..).zip(&self.disks);
        let mut found = letters.filter(|(letter, _)| target == format!("vd{letter}"));
        found.next().expect("a disk of this machine").1
    }

    /// The last records on disks A and B, as the guest sees them; 0 is none. Not while it is frozen: its
    /// agent runs nothing then.
    pub(crate) fn last_records(&self) -> (u64, u64) {
        let said = self.sh("workload last /data/a 2>/dev/null; workload last /data/b 2>/dev/null");
        let mut numbers = said.lines().map(|line| line.parse().expect("a number"));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Waits until there are so many records more than now.
    pub(crate) fn wait_records(&self, more: u64) {
        let goal = self.last_records().0 + more;
        assert!(within(60, || self.last_records().0 >= goal), "no records; {}", self.console());
    }

    /// `thawed` or `frozen`.
    pub(crate) fn freeze_status(&self) -> String {
        self.agent("guest-fsfreeze-status", &json!({})).as_str().expect("text").to_owned()
    }

    /// Copies all disks as they are at one instant, for which the machine is paused, to raw images whose
    /// names end with `tag`: what a backup of that instant must be, made without any backup. `meanwhile`
    /// runs before the machine goes on.
    pub(crate) fn paused_copy(&self, tag: &str, meanwhile: impl FnOnce()) -> Vec<PathBuf> {
        let running = self.state() == "running";
        if running {
            self.suspend();
        }
        let copy = |(disk, letter): (&PathBuf, char)| {
            let copy = self.host.lab.path(&format!("{}-{letter}.{tag}", self.name));
            to_raw(disk, &copy);
            copy
        };
        let copies = self.disks.iter().zip('a'..).map(copy).collect();
        meanwhile();
        if running {
            self.resume();
        }
        copies
    }

    /// Starts a pull backup of these disks by virsh, without freezing anything; disks are exported under
    /// their names at the socket, which is returned. [`Self::end_pull`] ends it.
    pub(crate) fn begin_pull(&self, targets: &[&str]) -> PathBuf {
        let socket = self.host.lab.path(&format!("{}.nbd", self.name));
        let mut disks = String::new();
        for letter in ('a'..).take(self.disks.len()) {
            let target = format!("vd{letter}");
            let yes = if targets.contains(&target.as_str()) { "yes" } else { "no" };
            write!(disks, "<disk name='{target}' backup='{yes}'").expect("written");
            if yes == "yes" {
                let scratch = self.host.lab.path(&format!("{}-{letter}.scratch", self.name));
                let scratch = scratch.display();
                write!(disks, " type='file'><scratch file='{scratch}'/></disk>").expect("written");
            } else {
                disks.push_str("/>");
            }
        }
        let xml = format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{}'/>
             <disks>{disks}</disks></domainbackup>",
            socket.display()
        );
        let file = self.host.lab.path(&format!("{}.backup.xml", self.name));
        fs::write(&file, xml).expect("written");
        self.virsh("backup-begin", &[file.to_str().expect("text")]);
        socket
    }

    /// Ends a pull backup.
    pub(crate) fn end_pull(&self) {
        self.virsh("domjobabort", &[]);
    }

    /// What the guest has said on its console.
    pub(crate) fn console(&self) -> String {
        let text = fs::read(self.host.lab.path(&format!("{}.console", self.name)));
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }
}
