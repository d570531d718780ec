//! Copies that reload, or say that they do.

use std::net::TcpListener;
use std::sync::Mutex;

use tokio::sync::watch;

use super::*;
use crate::programs::checks::{Place, Processes};
use crate::programs::commands::Setting;
use crate::protocol::Address;

/// Time enough for what must come.
const LIMIT: Duration = Duration::from_secs(20);
/// Time for what must not come.
const SHORT: Duration = Duration::from_millis(300);
const HUP: i32 = 1;

/// A copy, and the signals that it got.
struct Rig {
    sent: Arc<Mutex<Vec<i32>>>,
    says: Arc<watch::Sender<Spoken>>,
    copy: Reloading,
}

impl Rig {
    /// It does this when it gets a signal.
    fn new(number: u32, obeys: impl Fn(&watch::Sender<Spoken>) + Send + Sync + 'static) -> Self {
        let (sender, receiver) = watch::channel(Spoken::default());
        let says = Arc::new(sender);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (noted, sender) = (Arc::clone(&sent), Arc::clone(&says));
        let subject = Subject {
            program: "web".to_owned(),
            number,
            pid: 4711,
            processes: Processes::new(|| vec![std::process::id()]),
            place: None,
            spoken: Some(receiver),
            setting: Setting::default(),
        };
        let signal: SendSignal = Arc::new(move |signal| {
            noted.lock().unwrap().push(signal);
            obeys(&sender);
            Ok(())
        });
        let ended: AwaitEnd = Arc::new(|| Box::pin(std::future::pending()));
        Self { sent, says, copy: Reloading { subject, signal, ended } }
    }

    async fn reload(&self, how: &Reload, limit: Duration) -> Result<Reloaded, NotReloaded> {
        reload(how, None, std::slice::from_ref(&self.copy), limit).await
    }
}

fn shell(script: &str) -> CommandSpec {
    CommandSpec { command: ["sh", "-c", script].map(str::to_owned).to_vec(), limit: LIMIT }
}

fn hear(says: &watch::Sender<Spoken>, lines: &[&str]) {
    says.send_modify(|spoken| spoken.hear(lines.iter().copied(), monotonic_micros()));
}

#[tokio::test]
async fn what_says_reloading_and_ready_has_reloaded_and_its_status_is_the_answer() {
    let rig = Rig::new(1, |says| {
        hear(says, &["RELOADING=1", &format!("MONOTONIC_USEC={}", monotonic_micros())]);
        hear(says, &["READY=1", "STATUS=12 sites"]);
    });
    let reloaded = rig.reload(&Reload::Notify { signal: HUP }, LIMIT).await;
    assert_eq!(reloaded, Ok(Reloaded::Applied { answer: Some("12 sites".to_owned()) }));
    assert_eq!(*rig.sent.lock().unwrap(), [HUP]);
}

#[tokio::test]
async fn an_earlier_reload_or_a_mere_ready_is_no_answer_to_this_one() {
    let rig = Rig::new(1, |says| {
        hear(says, &["RELOADING=1", "MONOTONIC_USEC=1"]);
        hear(says, &["READY=1"]);
    });
    let not = rig.reload(&Reload::Notify { signal: HUP }, SHORT).await.unwrap_err();
    assert_eq!(not.why, "copy 1 has not reloaded: it has not said RELOADING=1 within 300ms");
    let rig = Rig::new(1, |says| hear(says, &["READY=1"]));
    let not = rig.reload(&Reload::Notify { signal: HUP }, SHORT).await.unwrap_err();
    assert!(not.why.contains("has not said RELOADING=1"), "{not}");
}

#[tokio::test]
async fn one_that_is_never_ready_again_has_not_reloaded() {
    let rig = Rig::new(1, |says| hear(says, &["RELOADING=1", "STATUS=asking the database"]));
    let not = rig.reload(&Reload::Notify { signal: HUP }, SHORT).await.unwrap_err();
    let wanted = "copy 1 has not reloaded: it said RELOADING=1, but not READY=1 within 300ms; the last it said is \"asking the database\"";
    assert_eq!(not.why, wanted);
    // It comes late, and is not taken for the answer to the next one.
    hear(&rig.says, &["READY=1"]);
    let silent = Reloading { signal: Arc::new(|_| Ok(())), ..rig.copy.clone() };
    assert!(reload(&Reload::Notify { signal: HUP }, None, &[silent], SHORT).await.is_err());
}

#[tokio::test]
async fn a_signal_alone_proves_nothing_unless_a_command_does() {
    let rig = Rig::new(1, |_| {});
    let how = Reload::Signal { signal: HUP };
    assert_eq!(rig.reload(&how, LIMIT).await, Ok(Reloaded::Sent));
    let copies = std::slice::from_ref(&rig.copy);
    let checked = reload(&how, Some(&shell("echo version 7 of $HANDOVER_PID")), copies, LIMIT).await;
    assert_eq!(checked, Ok(Reloaded::Applied { answer: Some("version 7 of 4711\n".to_owned()) }));
    let not = reload(&how, Some(&shell("echo still version 6; exit 1")), copies, LIMIT).await.unwrap_err();
    assert_eq!(not.why, "copy 1 has not reloaded: 'sh' exited with code 1");
    assert_eq!(not.said.as_deref(), Some("still version 6\n"));
}

#[tokio::test]
async fn a_commands_code_and_output_are_the_answer() {
    let rig = Rig::new(2, |_| {});
    let how = Reload::Command(shell("echo reloading {pid}"));
    let reloaded = rig.reload(&how, LIMIT).await;
    assert_eq!(reloaded, Ok(Reloaded::Applied { answer: Some("reloading 4711\n".to_owned()) }));
    let not = rig.reload(&Reload::Command(shell("echo line 3: what is this?; exit 1")), LIMIT).await;
    let not = not.unwrap_err();
    assert_eq!(not.why, "copy 2 has not reloaded: 'sh' exited with code 1");
    assert_eq!(not.said.as_deref(), Some("line 3: what is this?\n"));
    let not = rig.reload(&Reload::Command(shell("cat /dev/zero >/dev/null")), SHORT).await.unwrap_err();
    assert!(not.why.contains("did not end within"), "{not}");
}

/// A server in this process that answers each request with these bytes, and gives the first line of each.
fn server(answer: &'static str) -> (Address, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(socket.local_addr().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((connection, _)) = socket.accept() {
            let mut lines = BufReader::new(&connection).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            lines.find(String::is_empty);
            let _ = (&connection).write_all(answer.as_bytes());
            let _ = sender.send(first);
        }
    });
    (address, receiver)
}

fn post() -> Reload {
    Reload::Http { path: "/-/reload".to_owned(), host: "localhost".to_owned(), limit: LIMIT }
}

#[tokio::test]
async fn a_posts_status_and_body_are_the_answer() {
    let mut rig = Rig::new(1, |_| {});
    let (address, asked) = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfine\n");
    rig.copy.subject.place = Some(Place { address, own: false });
    let reloaded = rig.reload(&post(), LIMIT).await;
    assert_eq!(reloaded, Ok(Reloaded::Applied { answer: Some("fine\n".to_owned()) }));
    assert_eq!(asked.recv_timeout(LIMIT).unwrap(), "POST /-/reload HTTP/1.1");
    let (address, _asked) = server("HTTP/1.1 422 No\r\nContent-Length: 6\r\n\r\nline 3");
    rig.copy.subject.place = Some(Place { address, own: true });
    let not = rig.reload(&post(), LIMIT).await.unwrap_err();
    assert_eq!(not.why, "copy 1 has not reloaded: answered 422 to POST /-/reload");
    assert_eq!(not.said.as_deref(), Some("line 3"));
}

#[tokio::test]
async fn a_post_reaches_no_other_copy() {
    let mut rig = Rig::new(1, |_| {});
    let (address, asked) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    rig.copy.subject.place = Some(Place { address, own: false });
    let (until, keep) = io::pipe().unwrap();
    let mut other = std::process::Command::new("cat").stdin(until).spawn().unwrap();
    let pid = other.id();
    rig.copy.subject.processes = Processes::new(move || vec![pid]);
    let short = Reload::Http { path: "/".to_owned(), host: "localhost".to_owned(), limit: SHORT };
    let not = rig.reload(&short, LIMIT).await.unwrap_err();
    assert!(not.why.starts_with("copy 1 has not reloaded: "), "{not}");
    assert!(asked.try_recv().is_err(), "another copy was told");
    drop(keep);
    other.wait().unwrap();
}

#[tokio::test]
async fn of_several_copies_those_after_one_that_fails_are_not_told_and_that_is_said() {
    let good = |number| {
        Rig::new(number, |says| {
            hear(says, &["RELOADING=1"]);
            hear(says, &["READY=1"]);
        })
    };
    let rigs = [good(1), Rig::new(2, |_| {}), good(3)];
    let copies: Vec<Reloading> = rigs.iter().map(|rig| rig.copy.clone()).collect();
    let how = Reload::Notify { signal: HUP };
    let not = reload(&how, None, &copies, SHORT).await.unwrap_err();
    assert!(not.why.starts_with("copy 2 has not reloaded: "), "{not}");
    assert!(not.why.ends_with("; 1 copy has reloaded before it; 1 copy was not told"), "{not}");
    assert!(rigs[2].sent.lock().unwrap().is_empty());
    assert!(reload(&how, None, &copies[2..], LIMIT).await.is_ok());
}

#[tokio::test]
async fn a_copy_that_a_signal_ends_is_the_last_that_is_told() {
    let rigs = [1, 2, 3].map(|number| Rig::new(number, |_| {}));
    let mut copies: Vec<Reloading> = rigs.iter().map(|rig| rig.copy.clone()).collect();
    let sent = Arc::clone(&rigs[0].sent);
    copies[0].ended = Arc::new(move || {
        let sent = Arc::clone(&sent);
        Box::pin(async move {
            while sent.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            Exit::Signal(HUP)
        })
    });
    for how in [Reload::Signal { signal: HUP }, Reload::Notify { signal: HUP }] {
        let not = reload(&how, None, &copies, LIMIT).await.unwrap_err();
        assert!(not.ended, "{not}");
        assert_eq!(not.why, "web/1 was ended by signal HUP instead of reloading; 2 copies were not told");
        assert!(rigs[1].sent.lock().unwrap().is_empty() && rigs[2].sent.lock().unwrap().is_empty());
    }
}
