//! At the limits of descriptors, each in a process of its own, since limits are those of a process.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use handover_handoff::{Channel, ChannelError, memfd};
use handover_testkit::is_alone_in;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Rlimit};

use super::super::link::{Link, LinkSink};
use super::super::wire::{GiverChannel, ToTaker};
use super::super::{Lost, Outlet};

/// Users without privileges, one for each test: the kernel counts descriptors on their way for each user.
const NOBODY: u32 = 65_534;
const NOBODY_ELSE: u32 = 65_533;
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether this is the process of its own, of a user without privileges.
fn is_alone(test: &str, user: u32) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let program = || {
        let own = std::env::current_exe().unwrap();
        if !rustix::process::geteuid().is_root() {
            return Command::new(own);
        }
        // Where it lies, others may not come.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let copy = directory.path().join("test");
        assert!(Command::new("cp").arg(&own).arg(&copy).status().unwrap().success());
        let mut command = Command::new(copy);
        command.current_dir("/").uid(user).gid(user);
        command
    };
    is_alone_in(&format!("moving::tests::limits::{test}"), program)
}

fn limit_descriptors(to: u64) {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(to), maximum: hard }).unwrap();
}

#[test]
fn descriptors_that_arrive_only_in_part_are_an_error_with_its_reason() {
    if !is_alone("descriptors_that_arrive_only_in_part_are_an_error_with_its_reason", NOBODY) {
        return;
    }
    let (giver, taker) = GiverChannel::pair().unwrap();
    let file = memfd::sealed("x", b"x").unwrap();
    giver.send(&ToTaker::Sockets { thread: 0, first: 0 }, &[file.as_fd(); 200], PATIENCE).unwrap();
    limit_descriptors(100);
    let error = taker.recv(Some(PATIENCE)).unwrap_err();
    assert!(matches!(error, ChannelError::Truncated { received } if received < 100), "{error}");
    assert!(error.to_string().contains("limit of open descriptors"), "{error}");
    // Those that came were closed again.
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < 50);
}

/// Receives a message without what came with it, which lets the kernel forget it.
fn drop_one(end: &Channel<ToTaker, super::super::wire::ToGiver>) -> io::Result<()> {
    let within = Timespec::try_from(PATIENCE).ok();
    rustix::event::poll(&mut [PollFd::new(end, PollFlags::IN)], within.as_ref())?;
    let mut bytes = [0; 1024];
    rustix::net::recv(end, &mut bytes[..], rustix::net::RecvFlags::empty())?;
    Ok(())
}

#[test]
fn descriptors_over_the_senders_limit_wait_until_others_have_arrived() {
    if !is_alone("descriptors_over_the_senders_limit_wait_until_others_have_arrived", NOBODY_ELSE) {
        return;
    }
    let (giver, taker) = GiverChannel::pair().unwrap();
    let file = memfd::sealed("x", b"x").unwrap();
    limit_descriptors(64);
    let batch = [file.as_fd(); 60];
    // That they are over the limit is told once more have been sent than the limit allows.
    let message = ToTaker::Sockets { thread: 0, first: 0 };
    giver.send(&message, &batch, PATIENCE).unwrap();
    giver.send(&message, &batch, PATIENCE).unwrap();
    let error = giver.send(&message, &batch, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("Too many references"), "{error}");

    let link = Link::new(giver);
    let outlet = Outlet::new(Box::new(LinkSink(std::sync::Arc::clone(&link))));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| (0..4).try_for_each(|_| outlet.send_sockets(0, &batch).map(drop)));
        for messages in 1..=6_u64 {
            drop_one(&taker).unwrap();
            if let Some(taken) = messages.checked_sub(2) {
                // What is not sent yet cannot be acknowledged.
                let _ = link.taken(taken);
            }
        }
        assert_eq!(sender.join().unwrap(), Ok::<(), Lost>(()));
    });
}
