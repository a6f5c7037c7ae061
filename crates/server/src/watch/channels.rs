//! Channels as the operator has set them: `[[mail]]` and `[[webhook]]` in the configuration.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use serde::Deserialize;
use strongroom_api::Severity;
use strongroom_base::Clock;
use strongroom_control::notify::Channel;

use super::{mail::Mail, webhook::Webhook};
use crate::config::keys;

/// How a connection for mail is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// It begins in the clear and must become encrypted before anything is said.
    #[default]
    Starttls,
    /// It is encrypted from its beginning.
    Tls,
    /// It is not: only within the machine.
    None,
}

impl MailTls {
    /// The usual port.
    const fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

keys! {
    /// A mailbox that gets alerts.
    MailConfig {
        name: String = String::new(), "required", "Name of the channel, in messages and for `strongroom alert test`.";
        severity: Severity = Severity::Warning, "\"warning\"", "Lowest severity that the channel gets: `critical`, `error`, `warning` or `information`.";
        server: String = String::new(), "required", "Mail server: `HOST` or `HOST:PORT`; the port is usually 587, with `tls = \"tls\"` 465, with `tls = \"none\"` 25.";
        tls: MailTls = MailTls::Starttls, "\"starttls\"", "Encryption of the connection: `starttls` (without it nothing is sent), `tls`, or `none`, only for a mail server on the same machine.";
        ca_file: Option<PathBuf> = None, "the system's", "PEM file with the authorities to trust, instead of the system's.";
        user: Option<String> = None, "none", "User to sign in as.";
        password_file: Option<PathBuf> = None, "none", "File with the user's password. Read for each message.";
        from: String = String::new(), "required", "Sender: `strongroom@example.net` or `Strongroom <strongroom@example.net>`.";
        to: Vec<String> = Vec::new(), "required", "Receivers.";
    }
}

keys! {
    /// A URL that gets alerts.
    WebhookConfig {
        name: String = String::new(), "required", "Name of the channel, in messages and for `strongroom alert test`.";
        severity: Severity = Severity::Warning, "\"warning\"", "Lowest severity that the channel gets: `critical`, `error`, `warning` or `information`.";
        url: String = String::new(), "required", "URL that gets alerts by POST: `https://`, or `http://` on the same machine.";
        secret_file: Option<PathBuf> = None, "required", "File with the secret for signatures, 16 bytes or more. Read for each message.";
        ca_file: Option<PathBuf> = None, "the system's", "PEM file with the authorities to trust, instead of the system's.";
    }
}

impl MailConfig {
    /// Host and port of the mail server.
    pub(super) fn place(&self) -> Result<(String, u16), String> {
        let wrong = || format!("server {:?} is not HOST or HOST:PORT", self.server);
        // An IPv6 address stands in brackets.
        let (host, port) = match self.server.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
            None => self.server.split_at(self.server.find(':').unwrap_or(self.server.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None if port.is_empty() => self.tls.port(),
            None => return Err(wrong()),
        };
        if host.is_empty() { Err(wrong()) } else { Ok((host.to_owned(), port)) }
    }

    fn check(&self) -> Result<(), String> {
        let (host, _) = self.place()?;
        if self.tls == MailTls::None && !is_here(&host) {
            return Err(format!("tls = \"none\", but {host} is another machine"));
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err("user and password_file belong together".to_owned());
        }
        absolute([&self.password_file, &self.ca_file])?;
        Mail::new(self, "localhost").map(drop)
    }
}

impl WebhookConfig {
    fn check(&self) -> Result<(), String> {
        // A URL may hold a secret, so it is not repeated.
        let url: url::Url = self.url.parse().map_err(|_| "url is no URL".to_owned())?;
        let here = url.host_str().is_some_and(is_here);
        if url.scheme() != "https" && !(url.scheme() == "http" && here) {
            return Err("url must be https://, or http:// on the same machine".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("url has a user or a password; what is sent is signed instead".to_owned());
        }
        if self.secret_file.is_none() {
            return Err("secret_file is missing".to_owned());
        }
        absolute([&self.secret_file, &self.ca_file])
    }
}

fn is_here(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<std::net::IpAddr> = host.parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

fn absolute<const N: usize>(paths: [&Option<PathBuf>; N]) -> Result<(), String> {
    match paths.into_iter().flatten().find(|path| !path.is_absolute()) {
        Some(path) => Err(format!("{} must start with /", path.display())),
        None => Ok(()),
    }
}

/// Checks what was set.
pub(crate) fn check_channels(mail: &[MailConfig], webhook: &[WebhookConfig]) -> Result<(), String> {
    let mails = mail.iter().map(|it| ("mail", &it.name, it.check()));
    let hooks = webhook.iter().map(|it| ("webhook", &it.name, it.check()));
    let mut names = BTreeSet::new();
    for (kind, name, checked) in mails.chain(hooks) {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 60 || !name.chars().all(good) {
            return Err(format!(
                "{kind}: the name {name:?} is not 1 to 60 letters, digits, '.', '_' and '-'"
            ));
        }
        if !names.insert(name) {
            return Err(format!("{kind} {name}: another channel has this name"));
        }
        checked.map_err(|reason| format!("{kind} {name}: {reason}"))?;
    }
    Ok(())
}

/// The channels, as the service takes them. `host` is how the server is called in what it sends.
pub(crate) fn channels(
    mail: &[MailConfig],
    webhook: &[WebhookConfig],
    host: &str,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Arc<dyn Channel>>, String> {
    let mut found: Vec<Arc<dyn Channel>> = Vec::new();
    for config in mail {
        found.push(Arc::new(Mail::new(config, host)?));
    }
    for config in webhook {
        found.push(Arc::new(Webhook::new(config, host, Arc::clone(clock))));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(server: &str, tls: MailTls) -> MailConfig {
        MailConfig {
            name: "ops".to_owned(),
            server: server.to_owned(),
            tls,
            from: "Strongroom <strongroom@example.net>".to_owned(),
            to: vec!["ops@example.net".to_owned()],
            ..MailConfig::default()
        }
    }

    #[test]
    fn servers_have_their_usual_ports() {
        for (server, tls, place) in [
            ("mail.example.net", MailTls::Starttls, ("mail.example.net", 587)),
            ("mail.example.net", MailTls::Tls, ("mail.example.net", 465)),
            ("localhost", MailTls::None, ("localhost", 25)),
            ("[::1]:1025", MailTls::None, ("::1", 1025)),
            ("127.0.0.1:26", MailTls::None, ("127.0.0.1", 26)),
        ] {
            let config = mail(server, tls);
            config.check().expect(server);
            assert_eq!(config.place().expect(server), (place.0.to_owned(), place.1));
        }
    }

    #[test]
    fn mistakes_are_named() {
        let good = mail("localhost", MailTls::None);
        for (config, named) in [
            (MailConfig { server: "h:x".to_owned(), ..good.clone() }, "HOST:PORT"),
            (mail("mail.example.net", MailTls::None), "another machine"),
            (MailConfig { user: Some("u".to_owned()), ..good.clone() }, "belong together"),
            (MailConfig { to: Vec::new(), ..good.clone() }, "to "),
            (MailConfig { from: "nobody".to_owned(), ..good.clone() }, "from"),
            (MailConfig { ca_file: Some("x".into()), ..good.clone() }, "must start with /"),
        ] {
            let error = check_channels(&[config], &[]).expect_err(named);
            assert!(error.starts_with("mail ops: ") && error.contains(named), "{error}");
        }
        let error = check_channels(&[good.clone(), good], &[]).expect_err("twice");
        assert!(error.contains("another channel"), "{error}");
        let hook = |url: &str| WebhookConfig {
            name: "hook".to_owned(),
            url: url.to_owned(),
            secret_file: Some("/s".into()),
            ..WebhookConfig::default()
        };
        for url in ["", "x", "http://example.net/", "ftp://localhost/", "https://u:hidden@h/"] {
            let error = check_channels(&[], &[hook(url)]).expect_err(url);
            assert!(error.contains("url") && !error.contains("hidden"), "{error}");
        }
        check_channels(
            &[],
            &[
                hook("http://127.0.0.1:1/x"),
                WebhookConfig { name: "other".to_owned(), ..hook("https://example.net/?token=x") },
            ],
        )
        .expect("good");
    }
}
