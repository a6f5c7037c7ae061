//! Virtual machines of libvirt and QEMU: protocol, descriptions, backup jobs, the guest's agent.
//!
//! ```text
//!  ConnectUri ─▶ Connection ─┬─ domains, states, descriptions      (connection)
//!                            ├─ backup jobs, checkpoints           (backup)
//!                            ├─ secrets, networks, storage pools   (storage)
//!                            ├─ machines and networks for a while  (transient)
//!                            └─ the agent in the guest             (agent)
//!                  without libvirt: the agent's socket            (agent_socket)
//!
//!  description ─▶ Machine ───┬─ disks, firmware, TPM, owners       (machine)
//!   (XML)                    ├─ which disks are backed up          (select)
//!                            ├─ obstacles to backups               (precheck)
//!                            ├─ the description of a restored one  (rewrite)
//!                            └─ what a host lacks for it           (requirements)
//! ```
//!
//! This crate reports what a host has and carries out single operations. It must not know vaults,
//! recovery points or policies, and decides nothing.

pub mod agent;
mod agent_socket;
mod backup;
mod connection;
mod copy;
mod error;
mod finding;
pub mod fuzz;
mod machine;
mod precheck;
mod qemu_img;
mod requirements;
mod rewrite;
mod rpc;
mod select;
mod storage;
mod transient;
mod uri;
mod xml;

pub use agent_socket::AgentSocket;
pub use backup::{BlockJob, BlockSizes, Job, JobKind, ScratchImages};
pub use connection::{Connection, CpuComparison, Domain, Form, NotAUuid, Settings, State, Uuid};
pub use error::HypervisorError;
pub use finding::{Finding, Level};
pub use machine::{
    AgentChannel, BackupKind, Cpu, Device, DirectBoot, Disk, DiskNote, Driver, Encryption,
    Filesystem, Firmware, GuestFamily, HostDevice, Interface, InterfaceKind, Layer, Loader,
    Machine, Manager, Mirror, NetworkHost, NetworkSource, Nvram, SecretRef, SkipReason, Slice,
    Source, Tpm, TpmBackend,
};
pub use precheck::{AgentState, Checkpoint, DiskFacts, Facts, Snapshot};
pub use qemu_img::{Bitmap, ImageInfo};
pub use requirements::{Capabilities, DomainCapabilities, GuestArch, Host, MachineType};
pub use rewrite::{Changes, DiskChange, Isolation, MacChange, NetworkMapping, NetworkRef};
pub use select::{DiskChoice, LeftOut, Selection};
pub use storage::{Named, Secret, SecretUse};
pub use transient::Screenshot;
pub use uri::{ConnectUri, Route, Scope};
