//! The basic types of the domain: digests, ids, names of objects, byte ranges, limits, error codes, time
//! and randomness; and one small cache.
//!
//! Every other crate uses this one; this crate uses none of them. It does no I/O except to ask the
//! system for the time and for random bytes. Both are behind traits, so that tests and the
//! simulator control them.

mod aligned;
mod azure;
mod cancel;
mod clock;
mod code;
mod code_params;
mod coded;
mod digest;
mod entropy;
mod environment;
mod ids;
mod key;
mod limits;
mod message;
mod names;
mod params;
mod progress;
mod ranges;
mod recently;
mod record;
mod splitmix;
mod suspicion;
mod threads;
pub mod words;

pub use aligned::AlignedBuf;
pub use cancel::Cancel;
pub use clock::{Clock, SystemClock};
pub use code::{CATALOG, Code, Fault, Kind, codes};
pub use coded::Coded;
pub use digest::{Digest, ParseHexError};
pub use entropy::{Entropy, EntropyExt, SystemEntropy};
pub use environment::Environment;
pub use ids::{
    AlertId, AssignmentId, HostId, ItemId, JobId, KeyId, NoticeId, PackId, ParseIdError, PointId,
    PolicyId, RequestId, SlotId, TokenId, UserId, VaultId, WriterId,
};
pub use key::{Key, KeyError};
pub use limits::{BLOCK_SIZE, BLOCK_SIZE_U64, FANOUT, LEAF_SPAN, MAX_DISK_SIZE, SECTOR_SIZE};
pub use message::Message;
pub use names::check_name;
pub use params::{AsParam, Param, Params};
pub use progress::{Passed, Progress, Snapshot, Stage, Things};
pub use ranges::{ByteRange, RangeError, RangeSet};
pub use recently::Recently;
pub use record::{Consistency, SkippedRange};
pub use splitmix::SplitMix64;
pub use suspicion::{Jump, JumpKind, LastBefore, NewContent, Suspicion};
pub use threads::{lock, start_thread};
