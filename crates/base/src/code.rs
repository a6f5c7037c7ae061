//! The catalog of error codes, which users and scripts may rely on.
//!
//! Every error of every crate names one [`Code`]. A code's name never changes its meaning and is
//! never used again for another. `docs/use/errors.md` and the pages in `docs/errors` are
//! generated from this list.

use crate::{
    azure::ALIASES,
    code_params::{PARAMS, PROBLEMS},
};

/// An enum that is one word in JSON.
macro_rules! word {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident = $word:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The name in JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The value of this name.
            pub fn named(name: &str) -> Option<Self> {
                [$(Self::$variant),*].into_iter().find(|value| value.name() == name)
            }
        }
    };
}

word! {
    /// What the caller can do about an error; also decides the exit code of the program.
    Kind {
        /// The request is wrong; change it.
        Invalid = "invalid",
        /// The named thing does not exist.
        NotFound = "not_found",
        /// The present state does not allow it: the object exists, is in use, or has changed.
        Conflict = "conflict",
        /// A store, disk or tool does not answer or has no room: try again later, or make room.
        Unavailable = "unavailable",
        /// Stored bytes are not what was written.
        Corrupt = "corrupt",
        /// The work is done, except for a part that the error lists.
        Incomplete = "incomplete",
        /// The key does not fit, or the rights are missing.
        Denied = "denied",
        /// Stopped on request.
        Interrupted = "interrupted",
        /// A defect of this program.
        Bug = "bug",
    }
}

impl Kind {
    /// The program's exit code for errors of this kind.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unavailable => 5,
            Self::Corrupt => 6,
            Self::Incomplete => 7,
            Self::Denied => 8,
            Self::Bug => 70,
            Self::Interrupted => 130,
        }
    }
}

word! {
    /// Who can remove the cause of an error.
    Fault {
        /// The caller: with another request, or with other rights.
        Caller = "caller",
        /// The operator of the hosts, guests, networks and stores.
        Environment = "environment",
        /// Nobody: stored bytes have changed.
        Storage = "storage",
        /// The makers of Strongroom.
        Strongroom = "strongroom",
    }
}

impl Code {
    /// Whether the same request may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        const PASSING: [&str; 6] = [
            "vault.busy",
            "vm.busy",
            "vm.changed",
            "backup.expired",
            "reclaim.concurrent",
            "job.interrupted",
        ];
        self.kind == Kind::Unavailable || PASSING.contains(&self.name)
    }

    /// Who can remove the cause.
    pub const fn fault(&self) -> Fault {
        match self.kind {
            Kind::Invalid | Kind::NotFound | Kind::Conflict | Kind::Denied | Kind::Interrupted => {
                Fault::Caller
            }
            Kind::Unavailable | Kind::Incomplete => Fault::Environment,
            Kind::Corrupt => Fault::Storage,
            Kind::Bug => Fault::Strongroom,
        }
    }

    /// The names of the values that its messages are composed of; a message has some of them.
    pub const fn params(&self) -> &'static [&'static str] {
        let mut rest = PARAMS;
        while let [(name, params), others @ ..] = rest {
            if is_same(name, self.name) {
                return params;
            }
            rest = others;
        }
        &[]
    }

    /// Whether a message may have a value of this name.
    pub const fn has_param(&self, name: &str) -> bool {
        let mut rest = self.params();
        while let [param, others @ ..] = rest {
            if is_same(param, name) {
                return true;
            }
            rest = others;
        }
        false
    }

    /// The values that its parameter `problem` can have, and what each means. A code has it if several of its
    /// sentences have the same other values.
    pub const fn problems(&self) -> &'static [(&'static str, &'static str)] {
        let mut rest = PROBLEMS;
        while let [(name, problems), others @ ..] = rest {
            if is_same(name, self.name) {
                return problems;
            }
            rest = others;
        }
        &[]
    }

    /// Whether its parameter `problem` can have this value.
    pub const fn has_problem(&self, problem: &str) -> bool {
        let mut rest = self.problems();
        while let [(name, _), others @ ..] = rest {
            if is_same(name, problem) {
                return true;
            }
            rest = others;
        }
        false
    }

    /// The entry of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CATALOG.iter().find(|code| code.name == name).copied()
    }

    /// Azure Backup's names for the same error.
    pub fn azure(&self) -> &'static [&'static str] {
        let found = ALIASES.iter().find(|(name, _)| *name == self.name);
        found.map_or(&[], |(_, aliases)| aliases)
    }

    /// Its page in the documentation.
    pub fn page(&self) -> String {
        format!("docs/errors/{}.md", self.name)
    }
}

/// Whether two texts are the same; the compiler can ask it too.
const fn is_same(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while let ([a, one_rest @ ..], [b, other_rest @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (one_rest, other_rest);
    }
    one.is_empty() && other.is_empty()
}

/// One entry of the catalog.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable name, for scripts: `area.what`.
    pub name: &'static str,
    /// What the caller can do about it in general.
    pub kind: Kind,
    /// What has happened, in one sentence.
    pub meaning: &'static str,
    /// What to do about it, in one sentence.
    pub hint: &'static str,
}

macro_rules! catalog {
    ($($konst:ident = $name:literal, $kind:ident, $meaning:literal, $hint:literal;)*) => {
        /// Every code by name.
        pub mod codes {
            use super::{Code, Kind};
            $(
                #[doc = $meaning]
                pub static $konst: Code = Code { name: $name, kind: Kind::$kind, meaning: $meaning, hint: $hint };
            )*
        }

        /// Every code there is, in the order of the documentation.
        pub static CATALOG: &[&Code] = &[$(&codes::$konst),*];
    };
}

catalog! {
    USAGE_INVALID = "usage.invalid", Invalid, "The command line is not valid or contradicts itself.", "See the command's --help.";
    CONFIG_INVALID = "config.invalid", Invalid, "The configuration file cannot be read, or has an unknown or wrong entry.", "Correct the named line, or name another file with --config.";
    CONTEXT_NOT_FOUND = "context.not_found", NotFound, "There is no context of this name.", "`strongroom context list` shows the contexts; `strongroom context add` makes one.";
    CODE_NOT_FOUND = "code.not_found", NotFound, "There is no error code of this name.", "`strongroom errors` lists them.";
    URL_INVALID = "url.invalid", Invalid, "Strongroom does not support this form of a vault URL or disk URL.", "Give a path, or a URL of a kind listed in the command's --help.";

    VAULT_NOT_GIVEN = "vault.not_given", Invalid, "No vault was given.", "Give --vault, or set STRONGROOM_VAULT or `vault` in the configuration file.";
    VAULT_NOT_FOUND = "vault.not_found", NotFound, "There is no vault at this URL.", "Check the URL; `strongroom vault create` makes a new vault.";
    VAULT_EXISTS = "vault.exists", Conflict, "The URL already holds a vault or other data.", "Use the existing vault, or choose an empty folder or prefix.";
    VAULT_FORMAT = "vault.format", Invalid, "The vault has a format version that this program does not support.", "Use the version of Strongroom that wrote it, or a newer one.";
    VAULT_STORE_UNSAFE = "vault.store_unsafe", Invalid, "The object store does not honour create-only puts, so two writers could overwrite each other.", "Use a store that honours If-None-Match, or create the vault with --single-writer and never write to it from two hosts at a time.";
    VAULT_BUSY = "vault.busy", Conflict, "Another writer is active in a vault that allows only one.", "Wait for the other backup to finish.";

    KEY_MISSING = "key.missing", Denied, "No key was given.", "Give --key-file, --passphrase-file or --pkcs11, or set STRONGROOM_KEY_FILE.";
    KEY_WRONG = "key.wrong", Denied, "The key opens none of the vault's key slots.", "Check that it is the key of this vault; `strongroom vault key list` names the slots.";
    KEY_UNREADABLE = "key.unreadable", Invalid, "The key file or passphrase file cannot be read or used.", "Check the path, the permissions and the content of the file.";
    KEY_SLOT_NOT_FOUND = "key.slot_not_found", NotFound, "There is no such key slot.", "`strongroom vault key list` shows the slots.";
    KEY_LAST_SLOT = "key.last_slot", Conflict, "This is the only key slot. Without it nobody could open the vault again.", "Add another key first.";
    KEY_LIMIT = "key.limit", Conflict, "The vault has the maximum number of key slots or master keys.", "First remove a key slot that you no longer need.";
    KEY_URI = "key.uri", Invalid, "The PKCS#11 URI is malformed, or has an unknown or forbidden attribute.", "Write it like `pkcs11:token=NAME;object=NAME?module-path=/PATH/MODULE.so&pin-source=/PATH/PIN`.";
    KEY_HSM = "key.hsm", Unavailable, "The PKCS#11 module or token refused the operation, or failed.", "Check the module path, token, PIN source and object named in the URI.";

    STORE_UNAVAILABLE = "store.unavailable", Unavailable, "The object store does not answer, or keeps failing.", "Check the network and the store, then run the command again: it reuses what is already stored.";
    STORE_DENIED = "store.denied", Denied, "The object store denies access.", "Check the credentials and the rights on the bucket, container or folder.";
    STORE_FULL = "store.full", Unavailable, "The object store has no room left.", "Make room (`strongroom vault reclaim` frees what no recovery point needs), then run the command again.";
    STORE_READ_ONLY = "store.read_only", Unavailable, "The object store is read-only.", "Make it writable; reading commands work meanwhile.";
    STORE_MISSING = "store.missing", Corrupt, "An object that must exist is missing from the store.", "Run `strongroom vault verify --repair`: it restores the object if a mirror has a copy.";
    STORE_CORRUPT = "store.corrupt", Corrupt, "An object's bytes are not what was written.", "Run `strongroom vault verify --repair`: it restores the object if a mirror has a good copy.";
    INDEX_INCOMPLETE = "index.incomplete", Corrupt, "None of the packs in the index has a block that is needed, and the vault has packs that the index does not list.", "Run `strongroom vault rebuild-index`, which rebuilds the index from the packs, then the command again.";
    STORE_DEGRADED = "store.degraded", Unavailable, "A copy of the mirrored vault is missing or has failed, so Strongroom deletes nothing.", "Make the copy available (mount its disk), run `strongroom vault verify --repair`, then try again.";
    STORE_PROTOCOL = "store.protocol", Unavailable, "The object store sent an answer that is not valid.", "Check that the URL points to the right service.";


    ITEM_NOT_FOUND = "item.not_found", NotFound, "The vault has no recovery points of an item with this name.", "`strongroom recoverypoint list --vault URL` shows all items.";
    ITEM_NAME = "item.name", Invalid, "An item or disk name is empty, too long or has characters that are not allowed.", "Use 1 to 200 bytes of letters and digits of any script, spaces and punctuation, but no '/', no '\\' and no control characters; begin with a letter, digit or other symbol, not with '.', '-' or a space, and do not end with a space.";
    POINT_NOT_FOUND = "point.not_found", NotFound, "The item has no such recovery point.", "`strongroom recoverypoint list` shows the item's recovery points.";
    POINT_NONE_BEFORE = "point.none_before", NotFound, "The item has no recovery point at or before the given time.", "`strongroom recoverypoint list` shows the oldest one.";
    POINT_DAMAGED = "point.damaged", Corrupt, "The manifest of a recovery point is damaged, so the point cannot be read.", "Run `strongroom vault verify --repair`, which takes a good copy from a mirror. Or choose another point by its id: `strongroom recoverypoint list` shows the readable points.";
    POINT_FOREIGN_DELETION = "point.foreign_deletion", Conflict, "Recovery points of the service have deletion notes that the service has not put: somebody with the vault's key has deleted them. The service's reclaim does not execute such notes.", "Find out who has the vault's key and deleted the points: see docs/operate/security.md. You can restore the points by their ids. To delete them for good, run `strongroom vault reclaim --vault URL`.";
    POINT_LOST = "point.lost", NotFound, "Recovery points that nobody has deleted are missing from their vault.", "The vault was rolled back to an older state, or lost objects. Copy the missing objects back from a snapshot or a copy of the store; the points can then be restored again.";
    POINT_LOCKED = "point.locked", Conflict, "The recovery point may not be deleted yet.", "Wait until the lock on the recovery point expires.";
    POINT_SUSPECT = "point.suspect", Conflict, "A recovery point has far more new content that does not compress than the points before it: ransomware may have encrypted the item.", "Compare the files of the point with those of the last point before, which the message names: `strongroom restore files diff --suspicious`. Keep that point from expiring: `strongroom recoverypoint keep-until`. If the change was meant, resolve the alert.";
    POINT_DISK_NOT_FOUND = "point.disk_not_found", NotFound, "The recovery point has no disk of this name.", "`strongroom recoverypoint show` lists its disks.";

    POINT_NO_MACHINE = "point.no_machine", Invalid, "The recovery point is not of a machine, or its machine configuration cannot be used.", "Restore its disks with `strongroom restore disks`.";

    BOOT_FAILED = "boot.failed", Incomplete, "The machine was started from the recovery point, and did not boot as far as expected.", "See the report for each step, and the picture of the screen and the text of the console: `strongroom verify show --screenshot FILE --console FILE`. `strongroom verify list` shows the recovery points that boot.";
    DRILL_FAILED = "drill.failed", Incomplete, "A machine of the drill did not come as far as it has to, or not in the time that is wanted.", "See the report for each machine: what failed, and how long each step took.";
    BOOT_NOT_FOUND = "boot.not_found", NotFound, "The recovery point was never booted to verify it.", "`strongroom verify boot` does it; `strongroom verify list` shows the recovery points that were.";

    FILES_VOLUME = "files.volume", NotFound, "The recovery point has no such partition or file system, or several and none was named.", "`strongroom restore files ls` without --path lists the disks, partitions and file systems.";
    FILES_MACHINE = "files.machine", Unavailable, "The micro-VM that reads file systems cannot be started on this host.", "The message says what it lacks: QEMU (package qemu-system-x86), or a kernel in /boot with its modules in /lib/modules, which --machine-kernel names. `--reader process` does without it.";
    FILES_NOT_FOUND = "files.not_found", NotFound, "The file system has no such file, or something of another kind.", "`strongroom restore files ls` shows what is in a folder. Upper and lower case differ, except on FAT, exFAT and NTFS.";
    FILES_UNSUPPORTED = "files.unsupported", Invalid, "No reader of this version reads this file system, file or name right, so it is not read at all.", "`--reader machine` has Linux itself read the file system in a micro-VM, if this host has QEMU and a kernel with a driver for it. Or restore the disk with `strongroom restore disks` or the machine with `strongroom restore vm`, and copy the files there; docs/use/files.md lists what can be read.";
    FILES_SECRET = "files.secret", Denied, "No passphrase or key file that was given opens an encrypted volume (LUKS) of the recovery point.", "Name the file of the right one with --luks-key-file. A passphrase stands in it as it is typed; a line break at its end does not matter.";
    FILES_DAMAGED = "files.damaged", Corrupt, "The file system contradicts itself, or is made to harm its readers.", "Choose another recovery point, or restore the disk and let the file system's own tools repair it.";
    FILES_READER = "files.reader", Unavailable, "The process that reads file systems ended, took too long or broke its protocol.", "Try again. If it happens again, the file system is damaged or made to harm its readers: restore the disk.";
    FILES_INCOMPLETE = "files.incomplete", Incomplete, "The files were delivered, except for parts that the report lists.", "See the report for each path and its reason.";
    FILES_BUSY = "files.busy", Unavailable, "As many processes read file systems as the server lets read at a time.", "Try again in a moment. If it happens often, raise `file_readers` in the server's configuration: each takes up to 1 GiB of memory.";

    BACKUP_EXPIRED = "backup.expired", Conflict, "The backup gave no sign of life for so long that a reclaim, or another backup, stopped waiting for it.", "Run the backup again: it reuses what it has stored, where that still exists. If the backup did not pause, a clock is wrong: the store's, or that of a host with an earlier version, which uses its own clock. `vault reclaim` names the backups that it gave up.";
    BACKUP_SOURCE_READ = "backup.source_read", Unavailable, "A part of the source disk cannot be read.", "Repair or replace the disk; --skip-bad-blocks backs up the rest and records the skipped parts.";
    BACKUP_SKIPPED = "backup.skipped", Incomplete, "The backup is complete, except for parts of the source that could not be read. The recovery point lists them.", "Repair or replace the source disk soon.";
    BACKUP_CONFIGURATION_SIZE = "backup.configuration_size", Invalid, "The machine's configuration is larger than a recovery point can keep.", "Find the part that makes it so large, such as a firmware image among its variables.";
    RANGES_INVALID = "ranges.invalid", Invalid, "The changed-ranges file is malformed or exceeds the disk.", "Each line is `disk offset length` in bytes, within the disk.";

    DISK_NOT_FOUND = "disk.not_found", NotFound, "The disk, file or export does not exist.", "Check the path or URL.";
    DISK_FORMAT = "disk.format", Invalid, "The disk image is damaged, hostile or of an unknown format.", "Name the format (raw:PATH, qcow2:PATH, ...) if Strongroom took the wrong one; check the image with `qemu-img check`.";
    DISK_UNSAFE = "disk.unsafe", Invalid, "The image refers to other files, which Strongroom opens only if you allow it; or an unfinished file is not from an earlier run, but from another user.", "If you trust the image, allow the folder of those files with --allow-backing DIR. If an unfinished file (.partial) is not yours, remove it, and restore to a folder that only you can write to.";
    DISK_NEEDS_QEMU = "disk.needs_qemu", Invalid, "Only QEMU with the machine's definition can read the image: it is encrypted, or its base is not a file.", "Back up the machine with --vm; if it is off, with --start-paused. With --disk: raw:PATH keeps an encrypted image as it is, `qemu-img convert` makes a plain one, `qemu-img rebase -u` names a file as the base.";
    DISK_DOUBTFUL = "disk.doubtful", Invalid, "The file does not look like a disk.", "Check the path. If the file is a disk, write raw:PATH.";
    DISK_BUSY = "disk.busy", Conflict, "The disk is in use by another program.", "Stop the program that uses it (a running machine, a mount), take a snapshot, or choose another target. `backup --allow-busy` reads a disk that may change during the backup, and says so on the recovery point.";
    DISK_DENIED = "disk.denied", Denied, "The disk cannot be opened with this user's rights.", "Check the permissions of the file, device or export.";
    DISK_IO = "disk.io", Unavailable, "Reading from or writing to a disk failed.", "Check the disk and the system log, then run the command again.";
    DISK_FULL = "disk.full", Unavailable, "The target has no room left.", "Make room and run the same command again: it continues where it stopped.";
    DISK_TOO_SMALL = "disk.too_small", Conflict, "The restore target is smaller than the disk.", "Choose a target of at least the disk's size.";
    DISK_NOT_EMPTY = "disk.not_empty", Conflict, "The restore target already holds data.", "Choose another target, or use --in-place to overwrite only what differs.";
    DISK_NBD = "disk.nbd", Unavailable, "The NBD server refused, failed or broke the protocol.", "Check the URL, the export's name and the server's log.";
    DISK_BITMAP = "disk.bitmap", Unavailable, "The disk has no dirty bitmap of this name, or the bitmap is not reliable.", "Back up the disk without the bitmap: the backup then reads and compares everything.";
    DISK_TOOL = "disk.tool", Unavailable, "A program that this disk format needs is missing or failed.", "Install qemu-utils (qemu-nbd, qemu-img).";

    HOST_UNAVAILABLE = "host.unavailable", Unavailable, "libvirt does not answer.", "Check that libvirtd (or virtqemud) runs on the host and that --connect names it.";
    HOST_DENIED = "host.denied", Denied, "libvirt refuses the connection or the operation to this user.", "Run as root or as a member of the group libvirt, or name your own machines with --connect qemu:///session.";
    HOST_PROTOCOL = "host.protocol", Unavailable, "libvirt sent an answer that is not valid.", "Check that --connect names libvirt's socket; report the message with libvirt's version.";
    HOST_LACKS = "host.lacks", Conflict, "The host lacks something that the machine needs.", "Choose another host, or give the option that the message names.";

    VM_NOT_FOUND = "vm.not_found", NotFound, "The host has no machine of this name.", "`strongroom vm list` shows the machines.";
    VM_DISK_NOT_FOUND = "vm.disk_not_found", NotFound, "The machine has no disk of this name.", "Name disks by target (vda), serial number or source; the message lists the disks.";
    VM_EXISTS = "vm.exists", Conflict, "The host already has a machine of this name or identity.", "Choose another --name, restore with --new-identity, or use --replace.";
    VM_STATE = "vm.state", Conflict, "The machine's state does not allow this.", "See the message; `strongroom vm list` shows the state.";
    VM_BUSY = "vm.busy", Conflict, "Another operation runs on the machine: a backup, snapshot, migration or block job.", "Wait until it has finished (`virsh domjobinfo`), then run the command again. Strongroom never ends the work of other programs.";
    VM_OPERATION = "vm.operation", Unavailable, "An operation of libvirt or QEMU failed.", "See the message and libvirt's log of the machine.";
    VM_UNSUPPORTED = "vm.unsupported", Invalid, "The machine has a part that cannot be backed up or restored in this way.", "`strongroom vm check` names the part and says what to do.";
    VM_AGENT = "vm.agent", Unavailable, "The guest agent is missing, does not answer, or refused.", "Install and start qemu-guest-agent in the guest and give the machine its channel; or accept --consistency crash.";
    VM_CONSISTENCY = "vm.consistency", Unavailable, "The required consistency was not reached.", "See the message for the step that failed; without --require the backup continues with a lower consistency and says so on the point.";
    VM_NOT_THAWED = "vm.not_thawed", Unavailable, "The guest's file systems may still be frozen.", "Run `virsh domfsthaw` for the machine until `virsh qemu-agent-command` with guest-fsfreeze-status says thawed.";
    VM_SCRIPT = "vm.script", Unavailable, "A pre or post script in the guest failed, and its configuration does not let the backup continue.", "See the message. To continue after such a failure, set continueBackupOnFailure in the guest's configuration.";
    VM_SCRATCH = "vm.scratch", Unavailable, "The scratch space for blocks that the guest overwrites during the backup ran out. The backup stopped before it could harm the guest.", "Give more space with --scratch-limit, or another folder with --scratch-dir; or back up when the guest writes less.";
    VM_CHANGED = "vm.changed", Conflict, "The machine changed during the backup (it was started, stopped, migrated or its disks were changed), and further tries did not help.", "Run the backup again.";
    VM_NOT_READY = "vm.not_ready", Conflict, "Machines cannot be backed up in their present state.", "The check lists the obstacles, and what to do about each.";
    VM_OTHER_MANAGER = "vm.other_manager", Conflict, "Another manager owns the machine.", "Use that manager's own backup, or allow it with --allow-managed.";

    RESTORE_UNFINISHED = "restore.unfinished", Conflict, "An earlier restore of the machine is unfinished.", "Run that restore again to continue it, or end it as the message says.";
    RESTORE_NOT_DEFINED = "restore.not_defined", Incomplete, "The disks are restored, but libvirt does not accept the machine's description.", "Correct the problem that libvirt reports: run the command again with other options, or change the description that the message names and give it to `virsh define`.";
    RESTORE_NOT_STARTED = "restore.not_started", Incomplete, "The machine is restored and defined in libvirt, but it does not start.", "See the message and libvirt's log of the machine; remove the cause, then start it with `virsh start`.";

    RESTORE_PAUSED = "restore.paused", Interrupted, "The instant restore of a machine was stopped, and the machine is paused: it needs the restore to read its disks.", "Run the same restore again: it continues, and the machine runs again with all that it has written. `strongroom restore undo --vm NAME` removes the machine instead.";
    RESTORE_DIFFERS = "restore.differs", Incomplete, "The machine is restored, but a part of it differs from the original.", "See the message. Add the missing part to the machine, or restore it again with other options.";

    RECLAIM_CONCURRENT = "reclaim.concurrent", Conflict, "Another reclaim worked on the vault at the same time; this one deleted nothing.", "Run the reclaim again when the other one has finished.";
    RECLAIM_WAITING = "reclaim.waiting", Incomplete, "Backups that started earlier are still running, so reclaim has not deleted the condemned packs yet.", "Run `strongroom vault reclaim` again when they have finished; it continues where it stopped.";
    RESTORE_OPEN = "restore.open", Conflict, "A restore has replaced the disks of a machine, and nobody has accepted or undone it.", "Shut the machine down, then `strongroom restore accept --item NAME` keeps the restored state, `strongroom restore undo --item NAME` restores the state before.";
    VERIFY_LATE = "verify.late", Unavailable, "The last verification of a vault is too old.", "See the last `verify` jobs (`strongroom job list --kind verify`), or run `strongroom vault verify NAME --wait`.";
    VERIFY_DAMAGED = "verify.damaged", Corrupt, "The vault has damaged or missing objects, which the report lists.", "Run `strongroom vault verify --repair`. It names the recovery points that need lost blocks.";

    SERVER_NEEDED = "server.needed", Invalid, "The command needs a server, but none is given.", "Start one with `strongroom serve`, sign in with `strongroom context add`, or set STRONGROOM_SERVER and STRONGROOM_TOKEN.";
    SERVER_UNAVAILABLE = "server.unavailable", Unavailable, "The server does not answer.", "Check that `strongroom serve` runs there, the URL of the context, and the network.";
    SERVER_UNTRUSTED = "server.untrusted", Denied, "The server's certificate is not trusted.", "If it is your server, give the fingerprint that the server printed: `strongroom context add --fingerprint`.";
    SERVER_PROTOCOL = "server.protocol", Unavailable, "The server sent an answer that is not valid.", "Check that the URL is that of a Strongroom server, and its version.";
    SERVER_RUNNING = "server.running", Conflict, "Another server uses this folder.", "Stop it first, or name another folder as data_dir.";
    SERVER_CLOCK = "server.clock", Conflict, "The server's clock has jumped, so nothing is deleted whose time may not be over.", "Set the clock right; if it is right, confirm it with `strongroom server confirm-clock`.";
    SERVER_NOT_READY = "server.not_ready", Unavailable, "A check of the server's machine failed.", "Follow the hint of each finding, and run `strongroom doctor` again.";
    FEATURE_MISSING = "feature.missing", Invalid, "This is not supported yet.", "The message names an alternative.";

    REQUEST_INVALID = "request.invalid", Invalid, "The request does not match the API's description.", "See the message, and the API's description at /v1/openapi.json.";
    REQUEST_NOT_FOUND = "request.not_found", NotFound, "The API has nothing at this path.", "See the API's description at /v1/openapi.json.";
    REQUEST_METHOD = "request.method", Invalid, "The API does not support this method at this path.", "See the API's description at /v1/openapi.json.";
    REQUEST_TOO_LARGE = "request.too_large", Invalid, "The request is too large.", "Send at most 1 MiB.";
    REQUEST_RANGE = "request.range", Invalid, "The file has none of the bytes that are asked for.", "Ask for a range that begins before the end of the file, or for the whole file.";
    REQUEST_CHANGED = "request.changed", Conflict, "The object has been changed since you read it.", "Read it again and send its new ETag as If-Match.";
    REQUEST_KEY_REUSED = "request.key_reused", Conflict, "The idempotency key was used for another request.", "Use a new key for each request. Use the same key only to repeat the same request.";
    REQUEST_MEDIA_TYPE = "request.media_type", Invalid, "The request's body is not JSON.", "Send JSON, and `Content-Type: application/json`.";
    REQUEST_IN_PROGRESS = "request.in_progress", Conflict, "The same request is still being processed.", "Wait a moment and send it again with the same key.";
    REQUEST_ANSWERED = "request.answered", Conflict, "The request was carried out, but its answer is not stored: it held a secret, or the server died before it could answer.", "Check the result. If it was a secret, revoke it and send the request again with a new key.";
    REQUEST_TIMEOUT = "request.timeout", Unavailable, "The request timed out; it may still be carried out.", "Check whether it was carried out. With an idempotency key you can send the same request again.";
    REQUEST_PAGE_TOKEN = "request.page_token", Invalid, "The page token does not belong to this list.", "Send a page token only with the filters and order of the request that returned it.";

    AUTH_REQUIRED = "auth.required", Denied, "The request has no token.", "Sign in (`strongroom context add`), or send a token as `Authorization: Bearer`.";
    AUTH_FAILED = "auth.failed", Denied, "The name or the password is wrong, or the user is disabled.", "Check both; after several failures wait some minutes.";
    AUTH_TOKEN = "auth.token", Denied, "The token is unknown, has expired or was revoked.", "Sign in again (`strongroom context add NAME --server URL --sign-in USER`). If nobody can, the owner of the server's data folder makes a new token with `strongroom server new-token`.";
    AUTH_RATE = "auth.rate", Unavailable, "There were too many failed sign-in attempts.", "Wait as long as the message says.";
    AUTH_FORBIDDEN = "auth.forbidden", Denied, "The user's roles do not allow this.", "Ask an administrator for the right; `strongroom access table` shows the permissions of each role.";
    PLACE_NOT_ALLOWED = "place.not_allowed", Denied, "The server's configuration does not allow this file, folder, URL or module.", "Use one that it allows, or ask the operator to add it to the key of server.toml that the message names and to restart the server.";
    AUTH_PASSWORD = "auth.password", Denied, "The present password is missing or wrong.", "Give your present password. If you have forgotten it, ask an administrator for a new one.";
    USER_NOT_FOUND = "user.not_found", NotFound, "There is no such user.", "`strongroom access user list` shows the users.";
    USER_EXISTS = "user.exists", Conflict, "A user with this name exists already.", "Choose another name.";
    USER_LAST_ADMIN = "user.last_admin", Conflict, "No administrator who can sign in would be left.", "First create another user with a password and give them the role vault_admin on the server.";
    USER_SELF = "user.self", Conflict, "Users cannot delete or disable themselves.", "Ask another vault admin of the server to do it.";
    USER_PASSWORD = "user.password", Invalid, "The password is too short or too long.", "Use 12 to 1024 characters.";
    TOKEN_NOT_FOUND = "token.not_found", NotFound, "There is no such token.", "`strongroom access token list` shows your tokens.";
    TOKEN_OUTLIVES = "token.outlives", Denied, "A token cannot expire later than the token that creates it.", "Ask for fewer days; or give your password (`strongroom access token create --password`), and the new token is independent.";
    ASSIGNMENT_NOT_FOUND = "assignment.not_found", NotFound, "There is no such role assignment.", "`strongroom access assignment list` shows them.";
    AUDIT_BROKEN = "audit.broken", Corrupt, "The audit log has been changed after it was written.", "Compare it with an exported copy; find out who could write to the catalog.";

    VAULT_UNKNOWN = "vault.unknown", NotFound, "The service has no vault of this name.", "`strongroom vault list` shows the vaults.";
    VAULT_NAME_TAKEN = "vault.name_taken", Conflict, "The service has a vault with this name or this URL.", "Choose another name; a service can have a vault only once.";
    VAULT_NOT_EMPTY = "vault.not_empty", Conflict, "The vault still has items.", "First stop their protection and delete their data.";
    VAULT_SOFT_DELETED = "vault.soft_deleted", Conflict, "The vault is deleted.", "Restore it first, with `strongroom vault undelete`.";
    VAULT_NOT_DELETED = "vault.not_deleted", Conflict, "The vault is not deleted.", "There is nothing to undelete.";
    VAULT_ROLLED_BACK = "vault.rolled_back", Conflict, "The vault holds less than this host last saw: its newest recovery points or its newest keys are missing, without a deletion note.", "The vault was rolled back to an older state, or lost objects, or another host has deleted and reclaimed. See docs/use/recovery.md. The next backup continues from the present state. To clear this warning, remove the named file.";
    VAULT_IMMUTABLE = "vault.immutable", Denied, "The vault is immutable: nothing in it can be deleted or kept for a shorter time.", "Wait until the points expire. If immutability is not locked, a vault admin can turn it off.";
    VAULT_NOTHING_KEPT = "vault.nothing_kept", NotFound, "The vault has no copy of a catalog under this name.", "Try another vault of the service: it saves its catalog in each of its vaults.";
    VAULT_IRREVERSIBLE = "vault.irreversible", Denied, "This setting of the vault is irreversible.", "Create another vault if you need another setting.";

    HOST_SOCKET = "host.socket", Denied, "The server may not use this socket of libvirt.", "Ask the operator of the server to add it to `libvirt_sockets` in its configuration and to restart it.";
    HOST_UNKNOWN = "host.unknown", NotFound, "The service has no host of this name.", "`strongroom host list` shows the hosts.";
    HOST_VERSION = "host.version", Conflict, "The service does not know the host's version of orders.", "Install the server's version of Strongroom on the host, then discover its machines again: `strongroom host discover NAME`.";
    HOST_EXISTS = "host.exists", Conflict, "A host with this name exists already.", "Choose another name.";
    HOST_IN_USE = "host.in_use", Conflict, "The host has protected items.", "First stop their protection and delete their data.";
    SOURCE_MISSING = "source.missing", NotFound, "The machine or disk that the item protects no longer exists.", "Restore it, or stop the item's protection: `strongroom protection disable`. The item keeps its recovery points.";

    ITEM_UNKNOWN = "item.unknown", NotFound, "The service has no item of this name.", "`strongroom item list` shows the items.";
    ITEM_EXISTS = "item.exists", Conflict, "The vault has an item with this name, or an item that protects the same machine or disk.", "Choose another name, or use the existing item.";
    ITEM_BUSY = "item.busy", Conflict, "Another job works on the item.", "Wait for the job that the message names (`strongroom job wait`), or cancel it (`strongroom job cancel`).";
    ITEM_STOPPED = "item.stopped", Conflict, "The item's protection is stopped.", "Resume it first: `strongroom protection resume`.";
    ITEM_NOT_STOPPED = "item.not_stopped", Conflict, "The item is protected.", "There is nothing to resume.";
    ITEM_SOFT_DELETED = "item.soft_deleted", Conflict, "The item is deleted.", "Restore it first, with `strongroom protection undelete`.";
    ITEM_NOT_DELETED = "item.not_deleted", Conflict, "The item is not deleted.", "There is nothing to undelete.";

    POLICY_INVALID = "policy.invalid", Invalid, "The policy's rules contradict themselves or exceed a limit.", "See the message for the rule, and docs/use/policies.md for the limits.";
    POLICY_NOT_FOUND = "policy.not_found", NotFound, "The vault has no policy of this name.", "`strongroom policy list` shows the policies.";
    POLICY_EXISTS = "policy.exists", Conflict, "The vault has a policy with this name.", "Choose another name.";
    POLICY_IN_USE = "policy.in_use", Conflict, "The policy protects items.", "Give them another policy first.";

    POINT_NOT_RESTORABLE = "point.not_restorable", Conflict, "The recovery point is not validated, is damaged, is lost or is deleted.", "Choose another recovery point: `strongroom recoverypoint list`.";
    POINT_SNAPSHOT_ONLY = "point.snapshot_only", Conflict, "The recovery point is only in the snapshot vault: it was not transferred into the vault yet.", "Restore it on the host of its source, or wait until the item's next backup has transferred it.";
    POINT_LAST = "point.last", Conflict, "The recovery point is the item's last good one.", "Make another one first, or delete the item's data.";

    JOB_NOT_FOUND = "job.not_found", NotFound, "There is no such job.", "`strongroom job list` shows the jobs.";
    JOB_FINISHED = "job.finished", Conflict, "The job has ended already.", "There is nothing to cancel.";
    JOB_CANCELLED = "job.cancelled", Interrupted, "The job was cancelled.", "Start it again if you still need it.";
    JOB_INTERRUPTED = "job.interrupted", Interrupted, "The server was stopped or killed while the job ran.", "Nothing needs to be done: the server tries the job again where that is safe.";
    JOB_WARNINGS = "job.warnings", Incomplete, "The job is done, except for a part that its warnings name.", "See its warnings: `strongroom job show`.";
    ALERT_NOT_FOUND = "alert.not_found", NotFound, "There is no such alert.", "`strongroom alert list` shows the alerts.";
    ALERT_UNDELIVERED = "alert.undelivered", Unavailable, "Alerts could not be sent by mail or webhook.", "See the message; correct the channel in the server's configuration, or its receiver, and test it with `strongroom alert test`.";
    ALERT_NO_CHANNEL = "alert.no_channel", NotFound, "The server has no alert channel of this name.", "Name a channel of the server's configuration; without a name the command tests all channels.";
    CATALOG_URL = "catalog.url", Invalid, "Strongroom does not support this form of a catalog URL.", "Give the path of a SQLite file, or postgres://USER@HOST/DATABASE.";
    CATALOG_UNAVAILABLE = "catalog.unavailable", Unavailable, "The catalog's database does not answer, fails, or has no room.", "Check the database server or the disk of the SQLite file, and its log; nothing is half done.";
    CATALOG_DENIED = "catalog.denied", Denied, "The catalog's database denies access.", "Check the user, password and rights on the database, or the permissions of the SQLite file and its folder.";
    CATALOG_IN_USE = "catalog.in_use", Conflict, "Another process serves from this catalog.", "Stop that process first: only one server at a time works with a catalog. With PostgreSQL a second one can stand by.";
    CATALOG_CONFLICT = "catalog.conflict", Conflict, "An object with this name exists already, or the object was changed meanwhile.", "Read the present state, then try again.";
    CATALOG_LEASE_LOST = "catalog.lease_lost", Conflict, "Another server has taken over this work.", "Nothing needs to be done: the other server continues it.";
    CATALOG_SCHEMA = "catalog.schema", Invalid, "The catalog was written by a newer version, or is not a catalog of this program.", "Use the version of Strongroom that wrote it, or a newer one.";
    CATALOG_QUERY = "catalog.query", Invalid, "The request for a list is not valid: a page of another list, an unknown field, or a wrong limit.", "Begin again at the first page, and check the fields for filters and order.";
    CATALOG_VALUE = "catalog.value", Invalid, "A name or value is too long for the catalog or has a character that it cannot store.", "Shorten the value, and remove control characters.";
    CATALOG_NOT_EMPTY = "catalog.not_empty", Conflict, "The catalog to be filled from a copy is not empty.", "Name an empty catalog; Strongroom never overwrites one.";
    CATALOG_CORRUPT = "catalog.corrupt", Corrupt, "The catalog's data has been damaged or changed after it was written.", "Keep the damaged files, and load the last good copy; see docs/operate/catalog.md.";

    EXPORT_ENDPOINT = "export.endpoint", Conflict, "Clients cannot connect at the socket or address.", "See the message. A socket's folder must exist and the path be free: a socket in use, or another file, is never replaced.";
    EXPORT_OVERLAY_OTHER = "export.overlay_other", Conflict, "The overlay belongs to another recovery point or disk.", "Name the point that the message names, or another folder.";
    EXPORT_OVERLAY_IN_USE = "export.overlay_in_use", Conflict, "Another process uses the overlay.", "End it first, or name another folder.";
    EXPORT_OVERLAY_DAMAGED = "export.overlay_damaged", Corrupt, "The files of an overlay are damaged or incomplete.", "Restore the folder from a copy, or begin again in another folder: what was written is lost then, and the recovery point is as it was.";
    EXPORT_LOST = "export.lost", Unavailable, "What was written to an export since the last flush could not be stored, and is lost.", "Check the disk of the overlay. What was flushed is there; the message says why the rest could not be stored.";
    EXPORT_TRACE = "export.trace", Invalid, "The file is not a trace of reads.", "Name a file that --record-trace has written.";
    MOUNT_STALE = "mount.stale", Conflict, "The folder still has the mount of a process that is gone.", "Run `umount` (or `fusermount3 -u`) on the folder, then repeat the command.";
    MOUNT_FOLDER = "mount.folder", Invalid, "The disks can only be mounted in an empty folder.", "Make the folder, or name another one.";
    MOUNT_REFUSED = "mount.refused", Unavailable, "The system does not allow the mount.", "See the message. Without the superuser's rights `fusermount3` is needed: install fuse3.";

    STORAGE_NOT_FOUND = "storage.not_found", NotFound, "The folder has no storage accounts.", "Check --data-dir; `strongroom storage account create` makes the first account.";
    STORAGE_IN_USE = "storage.in_use", Conflict, "Another process has the storage accounts of the folder open, and takes no commands.", "Stop that process, or repeat the command when it has ended.";
    STORAGE_FORMAT = "storage.format", Invalid, "The storage accounts were written by another version of the format.", "Use the version of Strongroom that wrote them, or a newer one.";
    STORAGE_DAMAGED = "storage.damaged", Corrupt, "The journal or the state of the storage accounts is damaged: changes that were acknowledged would be missing.", "Keep the folder as it is, check the disk, and use a copy of the folder.";
    STORAGE_STOPPED = "storage.stopped", Unavailable, "The storage accounts cannot be read or changed: the disk fails or is full.", "See the message; check the disk and its free space, then start the process again. What was acknowledged is safe.";
    STORAGE_NOT_SERVED = "storage.not_served", Unavailable, "No process serves the storage accounts of the folder, and an export needs one.", "Start `strongroom storage serve` on the same --data-dir, then repeat the command.";
    STORAGE_NOT_CONFIGURED = "storage.not_configured", NotFound, "The server serves no storage accounts.", "Set `storage_listen` in server.toml and start the server again; see docs/operate/server.md. For the accounts of this machine, give --data-dir.";
    STORAGE_EXPORT_INVALID = "storage.export_invalid", Invalid, "The blob cannot be exported in this way.", "See the message. A socket's folder must exist and the path be free; a lease that is named must be held; TLS needs `storage serve` with TLS.";
    STORAGE_EXPORT_LOST = "storage.export_lost", Unavailable, "What was written to an export since the last flush could not be stored, and is lost.", "Check the disk of the machine that used it. What was flushed is there; the message says why the rest could not be stored.";
    STORAGE_EXPORT_BROKEN = "storage.export_broken", Unavailable, "The process that exported a blob has ended.", "Start `strongroom storage serve` again, and repeat the command when the lease has ended, after a minute; what was flushed is there.";
    STORAGE_COPY_MISSING = "storage.copy_missing", Unavailable, "A copy of the storage accounts is missing that may have changes which the others lack.", "Mount its disk, or name its new folder with --copy. If it is lost, and did not continue without the others, serve once with --without FOLDER.";
    STORAGE_COPY_INVALID = "storage.copy_invalid", Invalid, "The folder cannot become, or stop being, a copy of the storage accounts.", "A new copy needs an empty folder; the only copy that has every change cannot be removed. See the message.";
    STORAGE_NOT_PRIMARY = "storage.not_primary", Conflict, "This server is not the primary of its storage accounts, and takes no changes.", "`strongroom storage replication show` says which part it plays and why; change the accounts at the primary.";
    STORAGE_REPLICATION_INVALID = "storage.replication_invalid", Invalid, "What is asked of a pair of servers is not valid.", "See the message; `strongroom storage replication show` says which part this server plays.";
    STORAGE_PEER_UNAVAILABLE = "storage.peer_unavailable", Unavailable, "The other server of the storage accounts cannot be asked.", "Check that it is served, its URL and the network between the servers, then repeat the command.";
    STORAGE_FAILOVER_LOSES = "storage.failover_loses", Conflict, "The failover could lose changes: the primary cannot be asked for the rest of them.", "If the primary is lost, repeat the command with --accept-loss; the message says from which moment on changes may be missing.";
    STORAGE_DIVERGED = "storage.diverged", Conflict, "This server cannot become the secondary yet: it may have changes that the new primary lacks, or the primary cannot be asked.", "See the message. `strongroom storage replication rejoin --discard` gives the changes up that only this server has.";
    ACCOUNT_NOT_FOUND = "account.not_found", NotFound, "There is no storage account of this name.", "`strongroom storage account list` shows the accounts.";
    ACCOUNT_EXISTS = "account.exists", Conflict, "There is a storage account of this name.", "Choose another name, or use the account: `strongroom storage account keys`.";
    ACCOUNT_INVALID = "account.invalid", Invalid, "The name or a setting of a storage account is not valid.", "A name has 3 to 24 lower-case letters and digits; see the message.";

    STORAGE_UNAVAILABLE = "storage.unavailable", Unavailable, "The storage service does not answer, or keeps failing.", "Check the endpoint, the network and the service, then run the command again: uploads, backups and restores continue.";
    STORAGE_UNTRUSTED = "storage.untrusted", Denied, "The certificate of the storage service is not trusted.", "If it is your own service, give its certificate with --ca-file: `storage serve` keeps it as certificate.pem in its folder.";
    STORAGE_DENIED = "storage.denied", Denied, "The storage service refuses the credentials, or they do not permit the request.", "Check the key or the shared access signature with its permissions and times, and the clock of this host.";
    STORAGE_PROTOCOL = "storage.protocol", Unavailable, "The storage service sent an answer that is not valid.", "Check that the endpoint is a blob service in Azure's dialect.";
    CONTAINER_NOT_FOUND = "container.not_found", NotFound, "The account has no such container.", "`strongroom container list` shows the containers.";
    CONTAINER_EXISTS = "container.exists", Conflict, "There is a container of this name, or it is being deleted.", "Choose another name, or use the container.";
    BLOB_NOT_FOUND = "blob.not_found", NotFound, "The container has no such blob or snapshot.", "`strongroom blob list` shows blobs and snapshots.";
    BLOB_EXISTS = "blob.exists", Conflict, "There is a blob of this name, and the command would overwrite it.", "Choose another name, or delete the blob first.";
    BLOB_CHANGED = "blob.changed", Conflict, "The blob was changed while it was read or written.", "Take a snapshot of the blob and use that, or try again when nobody writes to it.";
    BLOB_LEASED = "blob.leased", Conflict, "Another client has a lease on the blob or container; a second run of the same command, or an export, perhaps.", "Wait for the other client, or end it. The lease of a command that was killed ends after a minute.";
    BLOB_SNAPSHOT_LIMIT = "blob.snapshot_limit", Conflict, "A premium account permits one snapshot of a blob in ten minutes, and 100 snapshots of a blob.", "Wait for ten minutes, or delete snapshots of the blob.";
    BLOB_CONFLICT = "blob.conflict", Conflict, "The present state of the blob or container does not allow it.", "See the message, which has the code of the storage service.";
    BLOB_REFUSED = "blob.refused", Invalid, "The storage service refuses the request.", "See the message, which has the code of the storage service.";
    BLOB_FOREIGN = "blob.foreign", Conflict, "The blob is not a backup of this source, so that nothing is written to it.", "Name the blob that this source is backed up to, or the name of a new one.";
    BLOB_TYPE = "blob.type", Invalid, "The blob or the file cannot be used here: it has another type, or a length that is not whole pages of 512 bytes.", "See the message.";
    BLOB_COPY_FAILED = "blob.copy_failed", Unavailable, "A copy of a blob by its service failed or was aborted.", "See the message; copy again when its cause is gone.";
    BLOB_NO_BACKUP = "blob.no_backup", NotFound, "The backup blob has no such snapshot, or the snapshot is not a complete backup.", "`strongroom storage incremental-backup list` shows the complete ones.";

    LOCAL_CLOCK = "local.clock", Conflict, "This host's clock differs from the clock of the vault's store, or from the clock of the previous recovery point's host.", "Set the clocks right, with NTP. No data is in danger: the order of recovery points does not depend on clocks, and ages are measured by the store's clock. But retention and the times in lists use the hosts' clocks.";
    LOCAL_IO = "local.io", Unavailable, "A local file of Strongroom itself (cache, temporary or output file) cannot be read or written.", "Check the named path, its permissions and its free space.";
    INTERRUPTED = "interrupted", Interrupted, "The work was stopped on request.", "Run the command again. Backups, copies and restores of disks reuse what is already there; other work starts over.";
    BUG = "bug", Bug, "Strongroom has a defect.", "Report it with the message and your command.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names: Vec<_> = CATALOG.iter().map(|code| code.name).collect();
        assert!(
            names
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '_'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CATALOG.len());
        assert!(CATALOG.iter().all(|code| code.meaning.ends_with('.') && code.hint.ends_with('.')));
    }
}
