//! Virtual machines as libvirt and QEMU have them.
//!
//! ```text
//!  ConnectUri ─▶ Connection ─┬─ domains, states, descriptions      (connection)
//!                            ├─ backup jobs, checkpoints           (backup)
//!                            ├─ secrets, networks, storage pools   (storage)
//!                            └─ the agent in the guest             (agent)
//!  description (XML) ─▶ Machine: disks, firmware, TPM, owners      (machine)
//! ```
//!
//! This crate says what a host has and does what it is told. It knows nothing of vaults, recovery
//! points or policies, and decides nothing.

pub mod agent;
mod backup;
mod connection;
mod error;
mod rpc;
mod storage;
mod uri;

pub use backup::{BlockJob, BlockSizes, Job, JobKind};
pub use connection::{Connection, CpuComparison, Domain, Form, NotAUuid, Settings, State, Uuid};
pub use error::HypervisorError;
pub use storage::{Named, Secret, SecretUse};
pub use uri::{ConnectUri, Route, Scope};
