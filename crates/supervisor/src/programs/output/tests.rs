//! Pipes written to by this process and by real ones; a log that takes everything, nothing, or what a test lets it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use handover_testkit::{DEADLINE, is_alone, proc, until};

use super::log::Queued;
use super::*;

/// Outputs, and what comes into their log.
fn outputs() -> (Outputs, mpsc::Receiver<Queued>) {
    let (sender, receiver) = mpsc::channel();
    let sink = move |line: &Queued| drop(sender.send(line.clone()));
    (Outputs::start_with(Box::new(sink)).unwrap(), receiver)
}

/// Outputs whose log takes a line for each message, and everything once the sender is gone.
fn stuck() -> (Outputs, mpsc::Sender<()>, mpsc::Receiver<Queued>) {
    let (sender, receiver) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let sink = move |line: &Queued| {
        let _ = wait.recv();
        let _ = sender.send(line.clone());
    };
    (Outputs::start_with(Box::new(sink)).unwrap(), go, receiver)
}

fn open(outputs: &Outputs, program: &str, copy: u32) -> (File, OutputKey) {
    let (writer, key) = outputs.open(program, copy).unwrap();
    (writer.into(), key)
}

fn lines(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.line.as_str()).collect()
}

/// What the reader waits for: pipes, without its bell.
fn watched(outputs: &Outputs) -> usize {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", outputs.shared().epoll().as_raw_fd()));
    info.unwrap().lines().filter(|line| line.starts_with("tfd:")).count() - 1
}

#[test]
fn every_line_reaches_the_log_with_program_and_copy() {
    let (outputs, log) = outputs();
    let (mut web, _) = open(&outputs, "web", 2);
    web.write_all(b"one\ntwo\r\nthr").unwrap();
    let next = || log.recv_timeout(DEADLINE).unwrap();
    let one = next();
    assert_eq!((&*one.program, one.copy, &*one.text, one.left_out), ("web", 2, "one", 0));
    assert_eq!(&*next().text, "two");
    web.write_all(b"ee").unwrap();
    drop(web);
    assert_eq!(&*next().text, "three", "an end ends the last line");
}

#[test]
fn last_lines_are_all_that_was_written_before_they_are_asked_for() {
    let (outputs, _go, _log) = stuck();
    let (mut web, key) = open(&outputs, "web", 1);
    for number in 0..1000 {
        writeln!(web, "line {number}").unwrap();
        assert_eq!(outputs.last_lines(key, 1), [format!("line {number}")]);
    }
    write!(web, "unended").unwrap();
    assert_eq!(outputs.last_lines(key, 3), ["line 998", "line 999", "unended"]);
    assert_eq!(outputs.last_lines(OutputKey(99), 3), [""; 0]);
}

#[test]
fn a_programs_tail_has_the_lines_of_all_its_copies_in_order_and_of_those_before_them() {
    let (outputs, _log) = outputs();
    let (one, first) = open(&outputs, "web", 1);
    let (two, second) = open(&outputs, "web", 2);
    let (mut other, _) = open(&outputs, "db", 1);
    for (writer, key, text) in [(&one, first, "a"), (&two, second, "b"), (&one, first, "c")] {
        let mut writer = writer;
        writeln!(writer, "{text}").unwrap();
        outputs.last_lines(key, 1);
    }
    writeln!(other, "x").unwrap();
    outputs.finish(first);
    let tail = outputs.tail("web", 10);
    assert_eq!(lines(&tail), ["a", "b", "c"]);
    assert_eq!((tail[1].copy, &*tail[1].program), (2, "web"));
    assert!(tail[0].at.ends_with('Z'));
    assert_eq!(lines(&outputs.tail("web", 2)), ["b", "c"]);
    outputs.forget("web");
    assert_eq!(outputs.tail("web", 10), []);
    assert_eq!(lines(&outputs.tail("db", 10)), ["x"]);
}

#[test]
fn of_copies_that_have_ended_the_last_few_are_remembered() {
    let (outputs, _log) = outputs();
    for copy in 1..=20 {
        let (mut writer, key) = open(&outputs, "web", copy);
        writeln!(writer, "copy {copy}").unwrap();
        outputs.finish(key);
    }
    assert_eq!(lines(&outputs.tail("web", 100)), ["copy 17", "copy 18", "copy 19", "copy 20"]);
    assert_eq!(outputs.save().len(), ENDED_COPIES);
    assert_eq!(watched(&outputs), 0);
}

#[tokio::test]
async fn who_follows_gets_every_line_from_then_on() {
    let (outputs, _log) = outputs();
    let (mut web, key) = open(&outputs, "web", 1);
    writeln!(web, "before").unwrap();
    outputs.last_lines(key, 1);
    let mut follower = outputs.follow();
    writeln!(web, "after").unwrap();
    let line = tokio::time::timeout(DEADLINE, follower.recv()).await.unwrap().unwrap();
    assert_eq!((&*line.program, line.copy, &*line.line), ("web", 1, "after"));
}

#[test]
fn a_log_that_stands_still_keeps_no_program_from_writing_and_what_is_left_out_is_counted() {
    let (outputs, go, log) = stuck();
    let (mut web, key) = open(&outputs, "web", 1);
    let (mut other, other_key) = open(&outputs, "other", 1);
    let line = [[b'x'; 99].as_slice(), b"\n"].concat();
    // Ten times what queue and pipe can hold together.
    for _ in 0..200_000 {
        web.write_all(&line).unwrap();
    }
    writeln!(other, "still read").unwrap();
    assert_eq!(outputs.last_lines(other_key, 1), ["still read"]);
    assert_eq!(outputs.last_lines(key, 1)[0].len(), 99);
    drop(go);
    // Once the log takes lines again, so does the queue.
    until("the log has caught up", || outputs.shared().queue.is_half_empty().then_some(()));
    until("lines are logged again", || {
        writeln!(web, "again").unwrap();
        outputs.last_lines(key, 1);
        log.try_iter().find(|queued| &*queued.program == "web" && queued.left_out > 0)
    });
}

#[test]
fn a_slow_log_slows_a_program_down_and_loses_nothing() {
    let (outputs, log) = outputs();
    let (writer, _key) = open(&outputs, "web", 1);
    let mut noisy = Command::new("sh")
        .args(["-c", "i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); echo line $i of many; done"])
        .stdin(Stdio::null())
        .stdout(writer)
        .spawn()
        .unwrap();
    for number in 1..=30_000 {
        let line = log.recv_timeout(DEADLINE).unwrap();
        assert_eq!((&*line.text, line.left_out), (&*format!("line {number} of many"), 0));
    }
    assert!(noisy.wait().unwrap().success());
}

#[test]
fn a_hundred_megabytes_take_no_memory() {
    // In a process of its own: other tests have memory, too.
    if !is_alone("programs::output::tests::a_hundred_megabytes_take_no_memory") {
        return;
    }
    let (outputs, go, _log) = stuck();
    let own = std::process::id();
    let (writer, key) = open(&outputs, "web", 1);
    let before = proc::memory(own).resident;
    let mut noisy = Command::new("sh")
        .args(["-c", "yes 'a line that says nothing, and says it again and again' | head -c 100000000 >&2"])
        .stdin(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    assert!(noisy.wait().unwrap().success());
    assert_eq!(outputs.last_lines(key, 2).len(), 2);
    let after = proc::memory(own).resident;
    // The queue, the kept lines and what the allocator does not give back.
    assert!(after < before + 12 * 1024 * 1024, "{before} bytes before, {after} after");
    drop(go);
}

#[test]
fn while_it_is_held_nothing_is_read_and_another_one_goes_on_where_it_stopped() {
    let (first, log) = outputs();
    let (mut web, key) = open(&first, "web", 3);
    write!(web, "one\ntw").unwrap();
    assert_eq!(first.last_lines(key, 9), ["one", "tw"]);
    first.hold();
    writeln!(web, "o\nthree").unwrap();
    assert_eq!(first.last_lines(key, 9), ["one", "tw"], "the rest is in the pipe");
    let mut saved = first.save();
    let (saved, pipe) = saved.pop().unwrap();
    let pipe = pipe.unwrap();
    assert_eq!(rustix::io::ioctl_fionread(&pipe).unwrap(), 8);
    let json = serde_json::to_string(&saved).unwrap();

    let (second, second_log) = outputs();
    second.restore(serde_json::from_str(&json).unwrap(), Some(pipe.try_clone().unwrap())).unwrap();
    assert_eq!(second.last_lines(key, 9), ["one", "two", "three"]);
    assert_eq!(&*second_log.recv_timeout(DEADLINE).unwrap().text, "two");
    assert_ne!(second.open("web", 4).unwrap().1, key);
    // The first one did not become another program after all.
    first.release();
    writeln!(web, "four").unwrap();
    drop((second, log));
    // The thread of the second one may take a last line with it.
    until("the first one reads again", || {
        writeln!(web, "five").unwrap();
        (first.last_lines(key, 1) == ["five"]).then_some(())
    });
}

#[test]
fn an_end_is_noticed_although_another_process_has_the_same_pipe() {
    let (outputs, _log) = outputs();
    let (writer, key) = open(&outputs, "web", 1);
    let (_, kept_elsewhere) = outputs.save().pop().unwrap();
    assert_eq!(watched(&outputs), 1);
    drop(writer);
    until("the end is noticed", || (watched(&outputs) == 0).then_some(()));
    assert_eq!(outputs.last_lines(key, 1), [""; 0]);
    drop(kept_elsewhere);
}

#[test]
fn what_a_program_writes_while_nobody_reads_waits_in_the_pipe() {
    let (outputs, _log) = outputs();
    let (mut web, _key) = open(&outputs, "web", 1);
    outputs.hold();
    // As much as between two lives of the supervisor; it would block if it did not fit.
    web.write_all(&[b'x'; 200 * 1024]).unwrap();
    outputs.release();
}

#[test]
fn writing_to_the_log_waits_for_room_without_holding_anything() {
    let (mut reader, writer) = io::pipe().unwrap();
    let flags = rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    let (sender, done) = mpsc::channel();
    let waiting = writer.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        log::wait_for_room(waiting.as_fd(), 1000);
        sender.send(()).unwrap();
    });
    assert!(done.try_recv().is_err());
    io::Read::read_exact(&mut reader, &mut [0; 32 * 1024]).unwrap();
    done.recv_timeout(DEADLINE).unwrap();
    thread.join().unwrap();
    // Nobody reads any more: not waited for.
    drop(reader);
    log::wait_for_room(writer.as_fd(), 1000);
    log::wait_for_room(File::open("/dev/null").unwrap().as_fd(), 1000);
}
