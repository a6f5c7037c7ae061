//! Blob Batch: several deletions, or several changes of a tier, in one request and one answer.
//!
//! The body is `multipart/mixed`, a whole request of HTTP in each part. Each is authorized by itself; the version is
//! that of the batch.

use crate::{
    Answer, BlobOperation, Code, Headers, Operation, Refusal, Repeated, Request, Resource,
    Suffixes, headers::MAX_HEADERS,
};

/// The most requests of a batch.
pub const MAX_PARTS: usize = 256;
/// The most bytes of a batch.
pub(crate) const MAX_BATCH: u64 = 4 << 20;
/// The longest boundary between parts.
const MAX_BOUNDARY: usize = 200;
/// The longest id of a part.
const MAX_ID: usize = 64;

/// A request in a batch.
#[derive(Clone, Debug)]
pub struct BatchPart {
    /// `Content-ID`, which the answer repeats.
    pub id: Option<String>,
    /// What its answer repeats.
    pub repeated: Repeated,
    /// The request, or why it is refused: the others are carried out all the same.
    pub request: Result<Request, Refusal>,
}

/// The requests of a batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// In the order of the body.
    pub parts: Vec<BatchPart>,
}

fn bad(reason: &str) -> Refusal {
    Refusal::new(Code::InvalidInput).with("Reason", format!("The batch is invalid: {reason}."))
}

impl Batch {
    /// Reads the body of a batch. The requests are for the account of the batch, and for its container if it has one.
    pub fn parse(batch: &Request, body: &[u8], suffixes: &Suffixes) -> Result<Self, Refusal> {
        let boundary = boundary(&batch.headers)?;
        let text = std::str::from_utf8(body).map_err(|_| bad("it is not text"))?;
        let marker = format!("--{boundary}");
        let mut pieces = text.split(&marker);
        // What is before the first boundary means nothing.
        pieces.next();
        let mut parts = Vec::new();
        let mut is_ended = false;
        for piece in pieces {
            if piece.starts_with("--") {
                is_ended = true;
                break;
            }
            if parts.len() == MAX_PARTS {
                return Err(bad("it has more than 256 requests"));
            }
            parts.push(BatchPart::parse(batch, piece, suffixes)?);
        }
        if !is_ended || parts.is_empty() {
            return Err(bad("it has no requests, or no end"));
        }
        let mut kinds = parts.iter().filter_map(|part| part.request.as_ref().ok()).map(is_deletion);
        if kinds.next().is_some_and(|first| kinds.any(|other| other != first)) {
            return Err(bad("its requests are not all of one kind"));
        }
        Ok(Self { parts })
    }

    /// The answer to the batch, 202, with an answer to each part in its order. Each has been through
    /// [`Answer::repeat`] or [`Answer::refused`].
    pub fn answer(&self, request_id: &str, answers: &[Answer]) -> Answer {
        let boundary = format!("batchresponse_{request_id}");
        let mut body = Vec::new();
        for (part, answer) in self.parts.iter().zip(answers) {
            let mut lines =
                vec![format!("--{boundary}"), "Content-Type: application/http".to_owned()];
            lines.extend(part.id.as_ref().map(|id| format!("Content-ID: {id}")));
            lines.push(String::new());
            lines.push(format!("HTTP/1.1 {} {}", answer.status, reason(answer.status)));
            lines.extend(answer.headers.iter().map(|(name, value)| format!("{name}: {value}")));
            lines.push(format!("content-length: {}\r\n\r\n", answer.body.len()));
            body.extend_from_slice(lines.join("\r\n").as_bytes());
            body.extend_from_slice(&answer.body);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let mut answer =
            Answer::new(202).with("content-type", format!("multipart/mixed; boundary={boundary}"));
        answer.body = body;
        answer
    }
}

impl BatchPart {
    fn parse(batch: &Request, piece: &str, suffixes: &Suffixes) -> Result<Self, Refusal> {
        let piece =
            piece.strip_prefix("\r\n").or_else(|| piece.strip_prefix('\n')).unwrap_or(piece);
        let mut lines = piece.lines();
        let outer = Headers::of(fields(&mut lines)?)?;
        let id = outer.get("content-id").map(str::to_owned);
        if id.as_ref().is_some_and(|id| id.len() > MAX_ID) {
            return Err(bad("the id of a part is too long"));
        }
        let first = lines.next().ok_or_else(|| bad("a part has no request"))?;
        let mut words = first.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(bad("a part does not begin with a method and a target"));
        };
        let mut inner = fields(&mut lines)?;
        if let Some(host) = batch.headers.get("host") {
            inner.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
            inner.push(("host", host));
        }
        let headers = Headers::of(inner)?;
        let repeated = Repeated { version: batch.version, ..Repeated::of(method, &headers) };
        let request = Request::parse_part(batch.version, method, target, headers, suffixes);
        let request = request.and_then(|request| check(batch, &request).map(|()| request));
        Ok(Self { id, repeated, request })
    }
}

/// Headers, up to an empty line.
fn fields<'a>(lines: &mut std::str::Lines<'a>) -> Result<Vec<(&'a str, &'a str)>, Refusal> {
    let mut fields = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header has no colon"))?;
        if fields.len() == MAX_HEADERS {
            return Err(bad("a part has too many headers"));
        }
        fields.push((name.trim(), value));
    }
    Ok(fields)
}

fn is_deletion(request: &Request) -> bool {
    matches!(request.operation, Operation::Blob(_, BlobOperation::Delete(_)))
}

fn check(batch: &Request, request: &Request) -> Result<(), Refusal> {
    let Operation::Blob(path, BlobOperation::Delete(_) | BlobOperation::SetTier(_)) =
        &request.operation
    else {
        return Err(bad("a part is neither a deletion of a blob nor a change of its tier"));
    };
    let (of, to) = (&batch.address, &request.address);
    let within = match batch.resource() {
        Resource::Container(container) => path.container == *container,
        _ => true,
    };
    if of.account == to.account && of.is_secondary == to.is_secondary && within {
        Ok(())
    } else {
        Err(bad("a part is not about a blob of the batch's account and container"))
    }
}

fn boundary(headers: &Headers) -> Result<&str, Refusal> {
    let value = headers.required("content-type")?;
    let boundary = value.split_once(';').and_then(|(kind, parameters)| {
        let is_mixed = kind.trim().eq_ignore_ascii_case("multipart/mixed");
        let (name, boundary) = parameters.trim().split_once('=')?;
        let boundary = boundary.trim().trim_matches('"');
        let fine = is_mixed
            && name.trim().eq_ignore_ascii_case("boundary")
            && (1..=MAX_BOUNDARY).contains(&boundary.len())
            && !boundary.contains(';');
        fine.then_some(boundary)
    });
    boundary.ok_or_else(|| Refusal::header("content-type", value))
}

/// The words after a status; clients do not read them.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        412 => "Precondition Failed",
        503 => "Service Unavailable",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn batch(target: &str, parts: &[&str]) -> (Request, String) {
        let mut body = String::new();
        for (at, part) in parts.iter().enumerate() {
            body.push_str(
                "--b1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n",
            );
            let head = format!("Content-ID: {at}\r\n\r\n{part} HTTP/1.1\r\n");
            body.push_str(&head);
            body.push_str("Content-Length: 0\r\n\r\n\r\n");
        }
        body.push_str("--b1--\r\n");
        let length = body.len().to_string();
        let headers = [
            ("content-type", "multipart/mixed; boundary=b1"),
            ("content-length", length.as_str()),
            ("x-ms-version", "2026-10-06"),
        ];
        let headers = Headers::of(headers).expect("headers");
        let request =
            Request::parse("POST", target, headers, &Suffixes::default()).expect("is a batch");
        (request, body)
    }

    fn parse(target: &str, parts: &[&str]) -> Result<Batch, Code> {
        let (request, body) = batch(target, parts);
        Batch::parse(&request, body.as_bytes(), &Suffixes::default())
            .map_err(|refusal| refusal.code())
    }

    const CONTAINER: &str = "/acct/con?restype=container&comp=batch";

    #[test]
    fn deletions_are_read_and_answered_part_by_part() {
        let parts = ["DELETE /acct/con/a%20b", "DELETE /acct/other/b", "GET /acct/con/c"];
        let batch = parse(CONTAINER, &parts).expect("is a batch");
        let codes: Vec<_> = batch
            .parts
            .iter()
            .map(|part| part.request.as_ref().map_err(Refusal::code).err())
            .collect();
        assert_eq!(codes, [None, Some(Code::InvalidInput), Some(Code::InvalidInput)]);
        assert_eq!(batch.parts[0].repeated.version.to_string(), "2026-10-06");
        let answers: Vec<_> = batch
            .parts
            .iter()
            .map(|part| match &part.request {
                Ok(_) => Answer::deleted().repeat(&part.repeated, "id", Timestamp::UNIX_EPOCH),
                Err(refusal) => {
                    Answer::refused(refusal, &part.repeated, "id", Timestamp::UNIX_EPOCH)
                }
            })
            .collect();
        let answer = batch.answer("r1", &answers);
        assert_eq!(
            answer.header("content-type"),
            Some("multipart/mixed; boundary=batchresponse_r1")
        );
        let text = String::from_utf8(answer.body).expect("is text");
        let start = "--batchresponse_r1\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n\
                     HTTP/1.1 202 Accepted\r\n";
        assert!(text.starts_with(start), "{text}");
        assert!(
            text.contains("HTTP/1.1 400 Bad Request\r\n")
                && text.ends_with("--batchresponse_r1--\r\n")
        );
    }

    #[test]
    fn a_batch_of_the_account_reaches_every_container() {
        for target in ["/acct/?comp=batch", "/acct?comp=batch&restype=container"] {
            let batch = parse(target, &["DELETE /acct/con/a", "DELETE /acct/other/b"]);
            let batch = batch.expect("is a batch");
            assert!(batch.parts.iter().all(|part| part.request.is_ok()), "{target}");
        }
        let other = parse("/acct/?comp=batch", &["DELETE /acc2/con/a"]).expect("is a batch");
        assert!(other.parts[0].request.is_err());
    }

    #[test]
    fn batches_that_break_a_rule_are_refused() {
        assert_eq!(parse(CONTAINER, &[]).expect_err("is empty"), Code::InvalidInput);
        let many = vec!["DELETE /acct/con/a"; 257];
        assert_eq!(parse(CONTAINER, &many).expect_err("has too many"), Code::InvalidInput);
        assert_eq!(parse(CONTAINER, &many[..256]).expect("fits").parts.len(), 256);
        let (request, body) = batch(CONTAINER, &["DELETE /acct/con/a"]);
        for end in 0..body.len() - 4 {
            assert!(
                Batch::parse(&request, &body.as_bytes()[..end], &Suffixes::default()).is_err(),
                "{end}"
            );
        }
        let tier = "PUT /acct/con/a?comp=tier HTTP/1.1\r\nx-ms-access-tier: Cool\r\nx-ms-x: y";
        let mixed = parse(CONTAINER, &["DELETE /acct/con/a", tier]);
        assert_eq!(mixed.expect_err("is mixed"), Code::InvalidInput);
        assert!(parse(CONTAINER, &[tier]).expect("is a batch").parts[0].request.is_ok());
    }
}
