//! Alerts by mail: one message for each notice, to all receivers at once.
//!
//! What is sent again has the same `Message-ID`, so that mail programs show it once.

use std::{fs, time::SystemTime};

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
    },
};
use strongroom_api::{Alert, AlertState, Notice, Severity};
use strongroom_base::words;
use strongroom_control::notify::{Channel, Sending, Undelivered};

use super::channels::{MailConfig, MailTls};

/// Alerts that a message tells of one by one; of more it says how many there are.
const LISTED: usize = 50;

/// A mailbox that gets alerts.
pub(super) struct Mail {
    config: MailConfig,
    from: Mailbox,
    to: Vec<Mailbox>,
    host: String,
}

impl Mail {
    /// Of what was set.
    pub(super) fn new(config: &MailConfig, host: &str) -> Result<Self, String> {
        let mailbox = |key: &str, text: &str| {
            let parsed = text.parse::<Mailbox>();
            parsed.map_err(|_| format!("{key} {text:?} is no mail address"))
        };
        let to = config.to.iter().map(|text| mailbox("to", text));
        let to = to.collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() {
            return Err("to names nobody".to_owned());
        }
        let from = mailbox("from", &config.from)?;
        Ok(Self { config: config.clone(), from, to, host: host.to_owned() })
    }

    fn message(&self, notice: &Notice) -> Result<Message, Undelivered> {
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(subject(notice, &self.host))
            .date(SystemTime::from(notice.time))
            .message_id(Some(format!("<{}@{}>", notice.id, self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        // Nobody who is away answers it.
        let mut message = message
            .body(text(notice, &self.host))
            .map_err(|error| Undelivered::refused(format!("no message can be made: {error}")))?;
        let name = lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted");
        let value = "auto-generated".to_owned();
        message.headers_mut().insert_raw(lettre::message::header::HeaderValue::new(name, value));
        Ok(message)
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, Undelivered> {
        let (host, port) = self.config.place().map_err(Undelivered::passing)?;
        let tls = match self.config.tls {
            MailTls::None => Tls::None,
            MailTls::Starttls => Tls::Required(self.encryption(&host)?),
            MailTls::Tls => Tls::Wrapper(self.encryption(&host)?),
        };
        let mut builder =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(port).tls(tls);
        if let (Some(user), Some(file)) = (&self.config.user, &self.config.password_file) {
            let password = fs::read_to_string(file).map_err(|error| {
                Undelivered::passing(format!("cannot read {}: {error}", file.display()))
            })?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(builder.build())
    }

    fn encryption(&self, host: &str) -> Result<TlsParameters, Undelivered> {
        let mut builder = TlsParameters::builder(host.to_owned());
        if let Some(file) = &self.config.ca_file {
            let wrong = |error: String| {
                Undelivered::passing(format!("{} is of no use: {error}", file.display()))
            };
            let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
            let certificate = Certificate::from_pem(&pem).map_err(|e| wrong(e.to_string()))?;
            builder =
                builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
        }
        builder.build().map_err(|error| Undelivered::passing(words(&error)))
    }
}

impl Channel for Mail {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn kind(&self) -> &'static str {
        "mail"
    }

    fn least(&self) -> Severity {
        self.config.severity
    }

    fn send<'a>(&'a self, notice: &'a Notice) -> Sending<'a> {
        Box::pin(async move {
            let message = self.message(notice)?;
            let sent = self.transport()?.send(message).await;
            sent.map(drop).map_err(|error| {
                // Who may not sign in now may later, when the password is put right.
                let code = error.status().map(u16::from);
                let of_signing_in = matches!(code, Some(530 | 534 | 535 | 538));
                Undelivered {
                    refused: error.is_permanent() && !of_signing_in,
                    reason: words(&error),
                }
            })
        })
    }
}

/// An error with what is below it, in one line.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let more = error.to_string();
        // Some repeat what is below them.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        below = error.source();
    }
    one_line(&text, 500)
}

/// Text without line breaks and other controls, so long at most.
fn one_line(text: &str, length: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(length).collect()
}

fn subject(notice: &Notice, host: &str) -> String {
    let is_resolved = |alert: &&Alert| alert.state == AlertState::Resolved;
    let resolved = notice.alerts.iter().filter(is_resolved).count();
    let firing = notice.alerts.len().saturating_sub(resolved);
    let what = match (notice.alerts.as_slice(), firing, resolved) {
        ([one], 1, _) => format!("{}: {}", one.severity, one.title),
        ([one], ..) => format!("resolved: {}", one.title),
        (_, 0, resolved) => format!("{resolved} resolved"),
        (_, firing, 0) => words::count_of(firing, "alert"),
        (_, firing, resolved) => {
            format!("{}, {resolved} resolved", words::count_of(firing, "alert"))
        }
    };
    one_line(&format!("[Strongroom {host}] {what}"), 180)
}

fn text(notice: &Notice, host: &str) -> String {
    let mut text = String::new();
    if notice.test {
        text.push_str("This is a test. Nothing is wrong.\n\n");
    }
    for alert in notice.alerts.iter().take(LISTED) {
        let state = match alert.state {
            AlertState::Resolved => "RESOLVED".to_owned(),
            _ => alert.severity.name().to_uppercase(),
        };
        let mut line = |words: &str| {
            text.push_str(&one_line(words, 1000));
            text.push('\n');
        };
        line(&format!("{state}: {}", alert.title));
        if let Some(error) = alert.error.as_ref().filter(|_| alert.state != AlertState::Resolved) {
            line(&format!("  {} ({})", error.message, error.code));
            line(&format!("  What to do: {}", error.hint));
        }
        let last = alert.resolved.unwrap_or(alert.last);
        let times =
            if alert.count > 1 { format!(", {} times", alert.count) } else { String::new() };
        line(&format!("  {} since {:.0}{times}, last {last:.0}", alert.subject, alert.first));
        if !notice.test {
            line(&format!("  strongroom alert list; alert {}", alert.id));
        }
        text.push('\n');
    }
    let more = notice.alerts.len().saturating_sub(LISTED);
    if more > 0 {
        text.push_str("And ");
        text.push_str(&more.to_string());
        text.push_str(" more: strongroom alert list --state firing\n\n");
    }
    text + "-- \nStrongroom on " + host + ", notice " + &notice.id.to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use strongroom_base::{AlertId, NoticeId, SystemClock, SystemEntropy};

    use super::*;

    fn notice(titles: &[(&str, AlertState)]) -> Notice {
        let alert = |(title, state): &(&str, AlertState)| Alert {
            id: AlertId::generate(&SystemClock, &SystemEntropy),
            rule: "backup_failed".to_owned(),
            severity: Severity::Error,
            state: *state,
            title: (*title).to_owned(),
            error: None,
            subject: "web".to_owned(),
            vault: None,
            item: None,
            job: None,
            count: 1,
            first: Timestamp::UNIX_EPOCH,
            last: Timestamp::UNIX_EPOCH,
            resolved: None,
        };
        Notice {
            id: NoticeId::generate(&SystemClock, &SystemEntropy),
            time: Timestamp::UNIX_EPOCH,
            test: false,
            alerts: titles.iter().map(alert).collect(),
        }
    }

    #[test]
    fn subjects_say_what_it_is_about_in_one_line() {
        use AlertState::{Firing, Resolved};
        for (titles, expected) in [
            (vec![("a failed", Firing)], "[Strongroom h] error: a failed"),
            (vec![("a failed", Resolved)], "[Strongroom h] resolved: a failed"),
            (vec![("a", Firing), ("b", Firing)], "[Strongroom h] 2 alerts"),
            (vec![("a", Firing), ("b", Resolved)], "[Strongroom h] 1 alert, 1 resolved"),
            (vec![("a", Resolved), ("b", Resolved)], "[Strongroom h] 2 resolved"),
            (vec![("a\r\nBcc: x", Firing)], "[Strongroom h] error: a  Bcc: x"),
        ] {
            assert_eq!(subject(&notice(&titles), "h"), expected);
        }
    }

    #[test]
    fn a_resolved_alert_is_called_so() {
        let both = [("a failed", AlertState::Firing), ("b failed", AlertState::Resolved)];
        let text = text(&notice(&both), "h");
        assert!(text.contains("ERROR: a failed") && text.contains("RESOLVED: b failed"), "{text}");
    }

    #[test]
    fn a_storm_is_told_in_numbers() {
        let many: Vec<_> = (0..80).map(|_| ("it failed", AlertState::Firing)).collect();
        let text = text(&notice(&many), "h");
        assert_eq!(text.matches("it failed").count(), LISTED);
        assert!(text.contains("And 30 more"), "{text}");
    }
}
