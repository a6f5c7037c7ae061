//! The dialect of Azure's blob service: requests in, typed operations out; typed answers in, headers and XML out.
//!
//! ```text
//!  method, target, headers ─Request::parse─▶ Request ─authorize─▶ Grant ─▶ operation, body
//!                                               │                               │
//!          Refusal ─Answer::refused─▶ status, headers, XML ◀─answer─ BlobProperties, PageList, …
//! ```
//!
//! | module       | what it does |
//! |--------------|--------------|
//! | `request`    | [`Request`]: everything that a request says, before anything is done |
//! | `address`, `names`, `query`, `headers` | where it goes, by path or by host; text of outside, bounded |
//! | `operation`  | [`Operation`]: one type for each operation, with its headers |
//! | `conditions`, `range`, `lease`, `properties` | what many operations have |
//! | `body`, `checksum`, `structured` | [`Body`]: reading a body in parts, with its checksums |
//! | `auth`       | [`Credentials`]: shared keys and shared access signatures, verified and made |
//! | `batch`      | [`Batch`]: several deletions in one request |
//! | `acl`, `connection` | stored access policies; connection strings |
//! | `code`, `refusal` | [`Code`]: Azure's error codes, with status and message |
//! | `answer`     | [`Answer`]: every answer, and reading the lists of other servers |
//!
//! Pure: no I/O, no clock, no knowledge of how blobs are kept. Keys, policies, the moment and the peer are
//! parameters. Whatever a client sends is hostile until it is checked: headers, queries and XML have limits, and what
//! is not supported is refused by a code of 4xx, because clients repeat a request for minutes after a 5xx.
//!
//! The face of a service does this with each request:
//!
//! ```
//! use strongroom_azure::{
//!     AccountKey, Answer, BlobOperation, Caller, Headers, Operation, Refusal, Repeated, Request, Suffixes, Written,
//! };
//!
//! fn serve(method: &str, target: &str, headers: Headers, content: &[u8], caller: &Caller) -> Answer {
//!     let mut repeated = Repeated::of(method, &headers);
//!     let answer = Request::parse(method, target, headers, &Suffixes::new(["localhost"])).and_then(|request| {
//!         repeated = Repeated::from(&request);
//!         let keys = [AccountKey::from_bytes(b"of the account request.address.account")];
//!         // A SAS may refer to a stored access policy of the container: request.policy_id() names it.
//!         let grant = request.authorize(&keys, None, caller)?;
//!         match &request.operation {
//!             Operation::Blob(path, BlobOperation::PutPage(put)) => {
//!                 let mut reader = put.body.reader()?;
//!                 let mut pages = Vec::new();
//!                 reader.take(content, |bytes| pages.extend_from_slice(bytes))?;
//!                 let received = reader.finish()?;
//!                 // Here the pages at put.range of the blob are written, under put.write and put.sequence.
//!                 let written = Written { checksum: received.checksum, ..Written::default() };
//!                 Ok(written.answer())
//!             }
//!             _ => Err(Refusal::new(strongroom_azure::Code::BlobNotFound)),
//!         }
//!     });
//!     let (id, moment) = ("5f5f3a2e-1d0c-4b8a-9c7d-0a1b2c3d4e5f", caller.moment);
//!     match answer {
//!         Ok(answer) => answer.repeat(&repeated, id, moment),
//!         Err(refusal) => Answer::refused(&refusal, &repeated, id, moment),
//!     }
//! }
//!
//! # let moment = "2026-11-28T16:17:00Z".parse().unwrap();
//! let caller = Caller { moment, address: None, is_https: false };
//! let headers = Headers::of([("x-ms-version", "2026-10-06"), ("authorization", "SharedKey a:b")]).unwrap();
//! let answer = serve("GET", "/acct/container/disk.vhd", headers, b"", &caller);
//! assert_eq!((answer.status, answer.header("x-ms-error-code")), (400, Some("InvalidAuthenticationInfo")));
//! ```
//!
//! The dialect is specified at
//! <https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api>.

mod acl;
mod address;
mod answer;
mod auth;
mod batch;
mod body;
mod checksum;
mod code;
mod conditions;
mod connection;
mod headers;
mod lease;
mod names;
mod operation;
mod properties;
mod query;
mod range;
mod refusal;
mod request;
mod structured;
mod time;
mod version;
mod xml;

#[doc(hidden)]
pub mod fuzz;

pub use acl::{MAX_POLICIES, StoredPolicy};
pub use address::{Address, MAX_TARGET, Resource, Suffixes};
pub use answer::*;
pub use auth::*;
pub use batch::{Batch, BatchPart, MAX_PARTS};
pub use body::{Body, BodyReader, Received};
pub use checksum::{Checksum, ChecksumKind, Checksums, crc64, encode_crc64, md5};
pub use code::Code;
pub use conditions::{Access, AppendConditions, Conditions, ETag, SequenceConditions, State, Tags};
pub use connection::{BadConnectionString, ConnectionString, Endpoint, Prepared, Secret};
pub use headers::{Headers, MAX_HEADER_BYTES, MAX_HEADERS};
pub use lease::{BadLeaseId, Lease, LeaseAction, LeaseDuration, LeaseId, LeaseState};
pub use names::{AccountName, BlobName, BlobPath, ContainerName, MAX_BLOB_NAME, MAX_BLOB_SEGMENTS};
pub use operation::*;
pub use properties::{AccessTier, BlobHeaders, BlobType, MAX_METADATA, Metadata, UnknownName};
pub use query::Query;
pub use range::{MAX_CHECKED_READ, MAX_PAGE_BLOB, MAX_PUT_PAGE, PAGE, RangeHeader, range_header};
pub use refusal::Refusal;
pub use request::{Repeated, Request};
pub use structured::{Decoder, Encoder, STRUCTURED, encoded_length};
pub use time::{BadSnapshotId, SnapshotId, http_date, iso_date, parse_http_date, parse_iso_date};
pub use version::{BadVersion, Version};
