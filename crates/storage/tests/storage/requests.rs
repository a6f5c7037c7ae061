//! Requests of any kind, signed by the owner, to a store in a temporary folder: what the answers must be. Fuzzing has this
//! file as well.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderName, HeaderValue, Request, Response, header},
};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use strongroom_azure::{AccountKey, AccountName, Headers, Method, http_date, sign_request};
use strongroom_base::{Clock, Entropy, SystemClock};
use strongroom_storage::{
    Options, Storage,
    admin::{AccountKind, Command, Reply, execute},
    router,
};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// Between two requests of an input.
const SEPARATOR: &[u8] = b"\n---\n";
/// Requests of an input that are carried out.
const MOST: usize = 8;
/// Inputs until the store is created again.
const INPUTS: u32 = 1000;
/// Bytes of an answer that are read: a blob may have terabytes of zeros.
const READ: usize = 1 << 20;
/// What the store has before each input: targets, headers and bodies as in an input.
const BEFORE: [&str; 5] = [
    "PUT /acct/con?restype=container\n\n",
    "PUT /acct/con/page\nx-ms-blob-type: PageBlob\nx-ms-blob-content-length: 4096\n\n",
    "PUT /acct/con/page?comp=page\nx-ms-page-write: clear\nx-ms-range: bytes=0-511\n\n",
    "PUT /acct/con/page?comp=snapshot\n\n",
    "PUT /acct/con/block\nx-ms-blob-type: BlockBlob\n\nhello",
];
/// Codes of 5xx that say nothing bad of the server: what was asked for takes too long, or another server does not
/// answer.
const FAULTLESS: [&str; 3] = ["CannotVerifyCopySource", "OperationTimedOut", "ServerBusy"];

/// A moment that stands still in an input, and the same chance each time.
#[derive(Default)]
struct Fixed(AtomicU64);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        let seconds = i64::try_from(self.0.load(Ordering::Relaxed)).expect("few");
        Timestamp::from_second(1_796_000_000 + seconds).expect("a moment")
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration);
    }
}

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let n = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *byte = n.to_be_bytes()[0];
        }
    }
}

/// Accounts that are open.
struct World {
    runtime: Runtime,
    storage: Arc<Storage>,
    router: Router,
    clock: Arc<Fixed>,
    entropy: Fixed,
    inputs: u32,
    _folder: tempfile::TempDir,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Requests as HTTP has them, one after the other: a line with method and target, headers, an empty line, the body. The
/// status of each that HTTP knows as a request.
pub(crate) fn requests(data: &[u8]) -> Vec<u16> {
    WORLD.with(|world| {
        let mut world = world.borrow_mut();
        if world.as_ref().is_some_and(|world| world.inputs >= INPUTS) {
            *world = None;
        }
        world.get_or_insert_with(World::new).play(data)
    })
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(Fixed::default());
        let time: Arc<dyn Clock> = Arc::<Fixed>::clone(&clock);
        let options = Options::new(time, Arc::new(Fixed::default()));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let storage = Storage::open(folder.path(), options).expect("opens");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let router = router(Arc::clone(&storage), false);
        Self {
            runtime,
            storage,
            router,
            clock,
            entropy: Fixed::default(),
            inputs: 0,
            _folder: folder,
        }
    }

    /// Carries an input out on accounts that are always the same.
    fn play(&mut self, data: &[u8]) -> Vec<u16> {
        self.inputs += 1;
        // Longer than an account is remembered.
        self.clock.0.fetch_add(100, Ordering::Relaxed);
        let name = "acct".to_owned();
        execute(self.storage.store(), &Command::Delete { name: name.clone() }, &self.entropy);
        let create = Command::Create {
            name,
            kind: AccountKind::Standard,
            redundancy: None,
            rules: true,
            endpoint: "http://localhost".to_owned(),
        };
        let reply = execute(self.storage.store(), &create, &self.entropy);
        let Reply::Keys(account) = reply else { panic!("{reply:?}") };
        let key = AccountKey::parse(&account.keys[0].value).expect("a key");
        for request in BEFORE {
            let status = self.ask(&key, request.as_bytes());
            assert_eq!(status, Some(201), "{request}");
        }
        let (mut rest, mut answers) = (data, Vec::new());
        for _ in 0..MOST {
            let end = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
            answers.extend(self.ask(&key, &rest[..end.unwrap_or(rest.len())]));
            let Some(end) = end else { break };
            rest = &rest[end + SEPARATOR.len()..];
        }
        answers
    }

    /// Asks, and checks the answer; its status, if it was a request.
    fn ask(&self, key: &AccountKey, text: &[u8]) -> Option<u16> {
        let request = request(text, key, &http_date(self.clock.now()))?;
        let is_head = request.method() == axum::http::Method::HEAD;
        let router = self.router.clone();
        Some(self.runtime.block_on(async {
            let answer = router.oneshot(request).await.expect("an answer");
            check(answer, is_head).await
        }))
    }
}

/// A request as the server gets it, signed if it is not authorized in another way; none if HTTP has no such request.
fn request(text: &[u8], key: &AccountKey, date: &str) -> Option<Request<Body>> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, target) = first.split_once(' ')?;
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines.by_ref() {
        if line.is_empty() {
            break;
        }
        let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        let (name, mut value) = (name.trim().to_ascii_lowercase(), value.trim());
        // Nothing is asked of other servers.
        if name == "x-ms-copy-source" && !value.starts_with("http://localhost/acct/") {
            value = "http://localhost/acct/con/page";
        }
        fields.push((name, value.to_owned()));
    }
    let body = lines.collect::<Vec<_>>().join(&b'\n');
    let length = body.len().to_string();
    let usual = [("host", "localhost"), ("x-ms-version", "2026-10-06"), ("x-ms-date", date)];
    for (name, value) in usual.into_iter().chain([("content-length", &*length)]) {
        if !fields.iter().any(|(found, _)| found == name) {
            fields.push((name.to_owned(), value.to_owned()));
        }
    }
    let is_authorized =
        target.contains("sig=") || fields.iter().any(|(name, _)| name == "authorization");
    if !is_authorized
        && let Ok(method) = Method::parse(method)
        && let Ok(headers) = Headers::of(fields.iter().map(|(name, value)| (&**name, &**value)))
        && let Ok(name) = AccountName::new("acct")
        && let Ok(signed) = sign_request(&name, key, method, target, &headers)
    {
        fields.push(("authorization".to_owned(), signed));
    }
    let mut request = Request::builder().method(method).uri(target).body(Body::from(body)).ok()?;
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_str(&value).ok()?);
    }
    Some(request)
}

/// Whatever was asked, the answer is one of the dialect; its status.
async fn check(answer: Response<Body>, is_head: bool) -> u16 {
    let status = answer.status().as_u16();
    let (head, mut body) = answer.into_parts();
    let text = |name: &str| {
        let value = head.headers.get(name)?;
        Some(value.to_str().expect("text in an answer's header").to_owned())
    };
    let mut content = Vec::new();
    while content.len() < READ
        && let Some(frame) = body.frame().await
    {
        if let Ok(bytes) = frame.expect("an answer does not break off").into_data() {
            content.extend_from_slice(&bytes);
        }
    }
    assert!(text("x-ms-request-id").is_some(), "{status}: an answer without an id");
    let is_xml = text(header::CONTENT_TYPE.as_str()).is_some_and(|kind| kind == "application/xml");
    if status < 300 && !is_xml {
        return status;
    }
    let xml = std::str::from_utf8(&content).expect("XML is text");
    let code = text("x-ms-error-code");
    let document = (!content.is_empty() && content.len() < READ).then(|| {
        roxmltree::Document::parse(xml.trim_start_matches('\u{feff}')).expect("well-formed XML")
    });
    if status < 300 {
        return status;
    }
    let code = code.expect("an error has its code in a header");
    assert!(status < 500 || FAULTLESS.contains(&&*code), "{status} {code}: {xml}");
    if is_head || status == 304 {
        assert!(content.is_empty(), "{status}: a body where HTTP has none");
        return status;
    }
    let document = document.expect("an error has a body");
    let root = document.root_element();
    let in_body = root.children().find(|child| child.has_tag_name("Code"));
    assert_eq!(root.tag_name().name(), "Error", "{xml}");
    assert_eq!(in_body.and_then(|code| code.text()), Some(&*code), "{xml}");
    status
}
