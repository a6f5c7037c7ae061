//! Watching a real server: its log as JSON, and alerts that survive that it is killed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;
use strongroom_testing::eventually;

use crate::server::Service;

/// The fields of all spans of a line, the inner ones last.
fn spans(line: &Value) -> Vec<(String, Value)> {
    let spans = line["spans"].as_array().into_iter().flatten();
    let fields = spans.filter_map(Value::as_object).flatten();
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn field(line: &Value, name: &str) -> Option<String> {
    let found = spans(line).into_iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str().unwrap_or_default().to_owned())
}

#[test]
fn every_line_carries_the_ids_of_its_request_and_job() {
    // Debug too: nothing that is ever logged has a secret.
    let config = "log_format = \"json\"\nlog_level = \"debug\"\n";
    let service = Service::with_item_and(4, config);
    let lab = &service.lab;
    let id = lab.ok("protection backup-now --item data").stdout.trim().to_owned();
    assert_eq!(lab.json(&format!("job wait {id}"))["state"], "completed");
    let lines: Vec<Value> = eventually("the job's end", || {
        let log = service.log();
        let complete = log.rsplit_once('\n')?.0.to_owned();
        let ended = |line: &Value| {
            line["message"] == "a job has ended" && field(line, "job").as_deref() == Some(&id)
        };
        let lines = complete.lines().filter(|line| line.starts_with('{'));
        let lines: Vec<Value> =
            lines.map(|line| serde_json::from_str(line).expect("one object a line")).collect();
        lines.iter().any(ended).then_some(lines)
    });
    let asked = lines.iter().find(|line| {
        line["message"] == "answered"
            && line["path"].as_str().is_some_and(|it| it.ends_with("/backup"))
    });
    let request = field(asked.expect("the request is logged"), "request").expect("its id");
    let of_job: Vec<&Value> =
        lines.iter().filter(|line| field(line, "job").as_deref() == Some(&id)).collect();
    assert!(of_job.len() >= 2, "{of_job:?}");
    for line in &of_job {
        assert_eq!(field(line, "kind").as_deref(), Some("backup"), "{line}");
        assert_eq!(field(line, "request").as_deref(), Some(request.as_str()), "{line}");
        assert!(field(line, "item").is_some() && field(line, "vault").is_some(), "{line}");
    }
    // What workers log on their threads belongs to the job too.
    let target = |line: &&&Value| !line["target"].as_str().unwrap_or_default().contains("control");
    assert!(of_job.iter().filter(target).count() > 0, "{of_job:?}");
    let answered = lines.iter().filter(|line| line["message"] == "answered");
    for line in answered {
        assert!(field(line, "request").is_some(), "{line}");
    }
    let log = service.log();
    let token = fs::read_to_string(lab.path("token")).expect("a token");
    assert!(!log.contains(token.trim()), "the token is logged");
    assert!(!log.contains("srt_"), "a token is logged");
}

/// A hook that answers when it is told to.
struct Hook {
    port: u16,
    got: mpsc::Receiver<(String, String, TcpStream)>,
}

impl Hook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let (tell, got) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if tell.send(take(stream)).is_err() {
                    return;
                }
            }
        });
        Self { port, got }
    }

    fn wait(&self) -> (String, String, TcpStream) {
        self.got.recv_timeout(Duration::from_mins(1)).expect("the hook is called")
    }
}

/// The delivery's id and the body of a request.
fn take(stream: TcpStream) -> (String, String, TcpStream) {
    let mut reader = BufReader::new(stream);
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("readable");
        let Some((name, value)) = line.trim().split_once(": ") else {
            if line.trim().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "strongroom-delivery" => value.clone_into(&mut id),
            "content-length" => length = value.parse().expect("a length"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    (id, String::from_utf8(body).expect("text"), reader.into_inner())
}

#[test]
fn an_alert_survives_that_the_server_is_killed_while_it_tells() {
    let hook = Hook::start();
    let config = format!(
        "alert_bundle_seconds = 0\n[[webhook]]\nname = \"hook\"\nurl = \"http://127.0.0.1:{}/\"\n\
         secret_file = \"/proc/self/cwd/secret\"\n",
        hook.port
    );
    let mut service = Service::start_with(&config);
    fs::write(service.lab.path("secret"), "0123456789abcdef").expect("written");
    service.lab.ok("vault create spare");
    service.lab.ok("vault delete spare --yes");
    let (id, body, held) = hook.wait();
    assert!(body.contains("vault_deleted"), "{body}");
    // It has arrived, and the server dies before it is told so.
    service.kill_and_start();
    drop(held);
    let (again, same, mut stream) = hook.wait();
    assert_eq!((&again, &same), (&id, &body), "the same once more");
    stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").expect("written");
    eventually("the confirmation", || service.log().contains("alerts were sent").then_some(()));
    // And never again.
    service.kill_and_start();
    let more = hook.got.recv_timeout(Duration::from_secs(15));
    assert!(more.is_err(), "{:?}", more.map(|(id, body, _)| (id, body)));
}
