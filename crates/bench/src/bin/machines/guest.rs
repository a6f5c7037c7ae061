//! The guest: the lab's, with two disks and programs to change and to load them.

use std::{fmt::Write as _, fs, path::Path, time::Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use strongroom_bench::{Failure, Outcome};

use crate::host::{Host, pause};

/// The name of the machine, for libvirt and in repositories.
pub(crate) const NAME: &str = "bench";

/// The disks, by their names in the guest, and where the guest mounts them.
pub(crate) const DISKS: [&str; 2] = ["vda", "vdb"];

/// A machine that runs.
pub(crate) struct Guest<'h> {
    pub(crate) host: &'h Host,
}

impl<'h> Guest<'h> {
    /// Defines it with images `vda.qcow2` and `vdb.qcow2` of a folder, starts it and waits for its
    /// agent. `lab` has its kernel, `initrd` all of its user space.
    pub(crate) fn boot(host: &'h Host, lab: &Path, initrd: &Path, images: &Path) -> Outcome<Self> {
        let file = host.dir.join("guest.xml");
        let kernel = lab.join("guest/vmlinux").canonicalize()?;
        fs::write(&file, domain(&kernel, initrd, images, &host.dir.join("console")))?;
        host.virsh(&["define", &file.display().to_string()])?;
        host.virsh(&["start", NAME])?;
        let guest = Self { host };
        let started = Instant::now();
        while guest.agent("guest-ping", &json!({}), 2).is_err() {
            if started.elapsed().as_secs() > 180 {
                let console = fs::read(host.dir.join("console")).unwrap_or_default();
                let console = String::from_utf8_lossy(&console);
                return Err(Failure::new(format!("the guest does not start:\n{console}")));
            }
            pause(200);
        }
        // The hook log is to have the times only: what asks for the records' state takes time.
        guest.sh("rm -f /etc/fsfreeze-hook.d/*; ls /data/a/db /data/b/db")?;
        Ok(guest)
    }

    fn agent(&self, command: &str, arguments: &Value, seconds: u64) -> Outcome<Value> {
        let text = json!({"execute": command, "arguments": arguments}).to_string();
        let timeout = seconds.to_string();
        let words = ["qemu-agent-command", NAME, &text, "--timeout", &timeout];
        let mut answer: Value = serde_json::from_str(&self.host.virsh(&words)?)?;
        Ok(answer.get_mut("return").map(Value::take).unwrap_or_default())
    }

    /// Starts a shell command in the guest; gives the number of its process.
    pub(crate) fn start(&self, command: &str) -> Outcome<u64> {
        let arguments = json!({
            "path": "/bin/sh",
            "arg": ["-c", format!("{{ {command}\n}} 2>&1")],
            "capture-output": true,
        });
        let started = self.agent("guest-exec", &arguments, 30)?;
        started
            .get("pid")
            .and_then(Value::as_u64)
            .ok_or_else(|| Failure::new(format!("the guest does not start {command}")))
    }

    /// Waits for what [`Self::start`] has started, which must succeed; gives what it said.
    pub(crate) fn wait(&self, process: u64) -> Outcome<String> {
        let started = Instant::now();
        while started.elapsed().as_secs() < 1800 {
            let state = self.agent("guest-exec-status", &json!({"pid": process}), 30)?;
            let value = |name: &str| state.get(name).cloned().unwrap_or_default();
            if value("exited") == true {
                let said = value("out-data");
                let said = BASE64_STANDARD.decode(said.as_str().unwrap_or_default());
                let said = said.map_err(|error| Failure::new(error.to_string()))?;
                let said = String::from_utf8_lossy(&said).into_owned();
                if value("exitcode") == 0 {
                    return Ok(said);
                }
                return Err(Failure::new(format!("in the guest:\n{said}")));
            }
            pause(50);
        }
        Err(Failure::new("a command in the guest does not end"))
    }

    /// Runs a shell command in the guest.
    pub(crate) fn sh(&self, command: &str) -> Outcome<String> {
        self.wait(self.start(command)?)
    }

    /// The guest's clock, in milliseconds since 1970.
    pub(crate) fn milliseconds(&self) -> Outcome<u64> {
        let time = self.agent("guest-get-time", &json!({}), 30)?;
        time.as_u64()
            .map(|nanoseconds| nanoseconds / 1_000_000)
            .ok_or_else(|| Failure::new("the guest does not know the time"))
    }

    /// Runs `work`; gives for how many seconds the guest was frozen meanwhile, by its own clock: from
    /// the start of the agent's hook before the freeze to the start of the one after the thaw.
    pub(crate) fn frozen_during<T>(
        &self,
        work: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<(T, Option<f64>)> {
        self.sh("rm -f /run/hook.log")?;
        let done = work()?;
        let log = self.sh("cat /run/hook.log 2>/dev/null || true")?;
        let mut frozen = None;
        let mut since = None;
        for line in log.lines() {
            match line.split_once(' ') {
                Some((time, "freeze")) => since = time.parse::<f64>().ok(),
                Some((time, "thaw")) => {
                    if let (Some(start), Ok(end)) = (since.take(), time.parse::<f64>()) {
                        frozen = Some(frozen.unwrap_or(0.0) + end - start);
                    }
                }
                _ => {}
            }
        }
        Ok((done, frozen))
    }

    /// Bytes that QEMU has read since its start, from images and else.
    pub(crate) fn qemu_read_bytes(&self) -> Outcome<u64> {
        let file = self.host.dir.join("r/libvirt/qemu/run").join(format!("{NAME}.pid"));
        let process = fs::read_to_string(&file).map_err(Failure::at(&file))?;
        let file = format!("/proc/{}/io", process.trim());
        let text = fs::read_to_string(&file).map_err(Failure::at(Path::new(&file)))?;
        let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
        Ok(line.ok_or_else(|| Failure::new(format!("{file} says nothing")))?.trim().parse()?)
    }

    /// Deletes all checkpoints, newest first.
    pub(crate) fn forget_checkpoints(&self) -> Outcome<()> {
        let list = self.host.virsh(&["checkpoint-list", NAME, "--name", "--topological"])?;
        let names: Vec<&str> = list.split_whitespace().collect();
        for name in names.iter().rev() {
            self.host.virsh(&["checkpoint-delete", NAME, name])?;
        }
        Ok(())
    }
}

/// Its description. Kernel and user space are named to QEMU, not to libvirt: the peer would store them
/// again with each point, which it does not do with a machine that starts from its disk.
fn domain(kernel: &Path, initrd: &Path, images: &Path, console: &Path) -> String {
    let mut disks = String::new();
    for name in DISKS {
        // Writing to a string cannot fail.
        _ = write!(
            disks,
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
             <source file='{}/{name}.qcow2'/><target dev='{name}' bus='virtio'/></disk>",
            images.display()
        );
    }
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
           <name>{NAME}</name><memory unit='MiB'>640</memory><vcpu>1</vcpu>
           <os><type arch='x86_64' machine='q35'>hvm</type></os>
           <features><acpi/><tcg><tb-cache unit='MiB'>128</tb-cache></tcg></features>
           <cpu mode='custom'><model>qemu64</model></cpu>
           <clock offset='utc'><timer name='hpet' present='no'/></clock>
           <devices>
             <emulator>/usr/bin/qemu-system-x86_64</emulator>
             {disks}
             <controller type='usb' model='none'/>
             <serial type='file'><source path='{}' append='on'/></serial>
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
             <video><model type='none'/></video>
             <memballoon model='none'/>
           </devices>
           <qemu:commandline>
             <qemu:arg value='-kernel'/><qemu:arg value='{}'/>
             <qemu:arg value='-initrd'/><qemu:arg value='{}'/>
             <qemu:arg value='-append'/><qemu:arg value='console=ttyS0 quiet panic=-1 \
               mitigations=off nokaslr no_timer_check cryptomgr.notests lpj=4000000 \
               lab.name={NAME} lab.nowriter lab.quiet'/>
           </qemu:commandline>
         </domain>",
        console.display(),
        kernel.display(),
        initrd.display(),
    )
}
