//! Waiting for a job: by the server's events, or by polling where no events arrive.

use std::time::Duration;

use reqwest::{Method, Response};
use strongroom_api::Job;
use strongroom_base::Cancel;
use tokio::time::timeout;

use crate::{Client, ClientError, http::Sent};

/// How often the wish to stop is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often is asked where events do not come.
const ASK: Duration = Duration::from_secs(2);
/// How long a server may be away before waiting for it is given up: a restart takes less.
const AWAY: Duration = Duration::from_mins(2);
/// No event is larger.
const MAX_EVENT: usize = 16 << 20;

/// Server-sent events, taken apart: only the data counts, because all events here are jobs.
#[derive(Default)]
struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    /// Takes bytes as they come, and calls back with the data of each event that is complete.
    /// Returns whether the stream makes sense.
    fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> bool {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > MAX_EVENT {
                    return false;
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                let data = std::mem::take(&mut self.data);
                if !data.is_empty() {
                    each(&data);
                }
            } else if let Some(data) = line.strip_prefix(b"data:") {
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
                self.data.push(b'\n');
                if self.data.len() > MAX_EVENT {
                    return false;
                }
            }
        }
        true
    }
}

impl Client {
    /// Waits until a job has ended, and says how far it is meanwhile. That the server is away for a
    /// moment does not matter: jobs survive that.
    pub fn wait(
        &self,
        id: &str,
        cancel: &Cancel,
        seen: &mut dyn FnMut(&Job),
    ) -> Result<Job, ClientError> {
        self.runtime.block_on(async {
            let mut away = Duration::ZERO;
            loop {
                match self.ask(id).await {
                    Ok(job) if job.state.is_final() => {
                        seen(&job);
                        return Ok(job);
                    }
                    Ok(job) => {
                        away = Duration::ZERO;
                        seen(&job);
                    }
                    Err(ClientError::Unavailable { .. }) if away < AWAY => {}
                    Err(ClientError::Answer(body)) if body.retryable && away < AWAY => {}
                    Err(error) => return Err(error),
                }
                if let Some(job) = self.follow(id, cancel, seen).await? {
                    return Ok(job);
                }
                self.pause(ASK, cancel).await?;
                away = away.saturating_add(ASK);
            }
        })
    }

    async fn ask(&self, id: &str) -> Result<Job, ClientError> {
        let sent = Sent { method: Method::GET, path: &["jobs", id], query: &[], body: None };
        let mut response = self.send(&sent).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreached(error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_EVENT {
                break;
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| self.senseless(error.to_string()))
    }

    /// Follows a job's events. None if they end before the job does.
    async fn follow(
        &self,
        id: &str,
        cancel: &Cancel,
        seen: &mut dyn FnMut(&Job),
    ) -> Result<Option<Job>, ClientError> {
        let path = ["jobs", id, "events"];
        let sent = Sent { method: Method::GET, path: &path, query: &[], body: None };
        let Ok(mut response) = self.send(&sent).await else { return Ok(None) };
        let mut events = Events::default();
        let mut ended = None;
        loop {
            let Some(chunk) = next(&mut response, cancel).await? else { return Ok(None) };
            let sound = events.take(&chunk, &mut |data| {
                if let Ok(job) = serde_json::from_slice::<Job>(data) {
                    seen(&job);
                    if job.state.is_final() {
                        ended = Some(job);
                    }
                }
            });
            if ended.is_some() {
                return Ok(ended);
            }
            if !sound {
                return Ok(None);
            }
        }
    }

    async fn pause(&self, duration: Duration, cancel: &Cancel) -> Result<(), ClientError> {
        let mut left = duration;
        while !left.is_zero() {
            if cancel.is_cancelled() {
                return Err(ClientError::Interrupted);
            }
            let step = left.min(LOOK);
            tokio::time::sleep(step).await;
            left = left.saturating_sub(step);
        }
        Ok(())
    }
}

/// The next bytes of an answer; none if it ended or broke.
async fn next(response: &mut Response, cancel: &Cancel) -> Result<Option<Vec<u8>>, ClientError> {
    loop {
        if cancel.is_cancelled() {
            return Err(ClientError::Interrupted);
        }
        match timeout(LOOK, response.chunk()).await {
            Err(_) => {}
            Ok(Ok(Some(chunk))) => return Ok(Some(chunk.to_vec())),
            Ok(Ok(None) | Err(_)) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_any_pieces() {
        let stream = b": hello\n\nevent: job\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nid: 3\ndata: x\n\n";
        for piece in 1..stream.len() {
            let mut events = Events::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(piece) {
                assert!(events.take(bytes, &mut |data| found.push(data.to_vec())));
            }
            assert_eq!(found, [b"{\"a\":\n1}\n".to_vec(), b"x\n".to_vec()], "{piece}");
        }
    }

    #[test]
    fn endless_events_are_given_up() {
        let mut events = Events::default();
        assert!(!events.take(&vec![b'x'; MAX_EVENT + 1], &mut |_| ()));
    }
}
