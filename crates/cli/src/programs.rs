//! Verbs about programs: those that become an operation, `ps`, and `logs`.
//!
//! ```text
//!   logs -f ─▶ lines ─▶ printed ─▶ … ─✂ (the supervisor becomes another binary) ─▶ asked again ─▶ those that were not printed yet
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use comfy_table::Cell;
use handover_api::{
    Answer, Call, ClientError, CopyRole, CopyStatus, ExitCode as Code, Lines, LogLine, ProgramStatus,
    human_age, human_bytes, percent_encoded,
};

use rustix::event::{PollFd, PollFlags};

use crate::args::{Deploy, Enable, Logs, Pause, Restart, Start};
use crate::change::{about_program, milliseconds, operate, program_call};
use crate::look::{plain_table, shortened, shown, trimmed};
use crate::output::note;
use crate::session::Session;

pub(crate) fn restart(session: &Session, restart: &Restart) -> ExitCode {
    let mut call = program_call(&restart.name, "restart");
    if let Some(batch) = restart.batch {
        call = call.query("batch", &batch.to_string());
    }
    if let Some(most) = restart.max_unhealthy {
        call = call.query("max_unhealthy", &most.to_string());
    }
    operate(session, &format!("restart {}", restart.name), call, &restart.operate)
}

pub(crate) fn deploy(session: &Session, deploy: &Deploy) -> ExitCode {
    let mut call = program_call(&deploy.name, "deploy");
    if let Some(slot) = &deploy.slot {
        call = call.query("slot", slot);
    }
    if let Some(directory) = &deploy.directory {
        // The server has another working directory.
        let path = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
        let Some(path) = path.to_str() else {
            let message = format!("{}: a path that is no UTF-8 text cannot be asked for", path.display());
            return session.output().failure(&message, Code::Usage);
        };
        call = call.query("directory", path);
    }
    if let Some(within) = deploy.confirm_within {
        call = call.query("confirm_within", &milliseconds(within));
    }
    match deploy.guard {
        None => {}
        Some(None) => call = call.query("guard", "true"),
        Some(Some(watch)) => call = call.query("guard", &milliseconds(watch)),
    }
    operate(session, &format!("deploy {}", deploy.name), call, &deploy.operate)
}

pub(crate) fn start(session: &Session, start: &Start) -> ExitCode {
    about_program(session, "start", &start.name, &start.operate)
}

pub(crate) fn pause(session: &Session, pause: &Pause) -> ExitCode {
    let mut call = Call::post("/v1/pause").query("name", &pause.name);
    if let Some(time) = pause.time {
        call = call.query("for", &milliseconds(time));
    }
    if let Some(most) = pause.max_held {
        call = call.query("max_held", &most.to_string());
    }
    operate(session, &format!("pause {}", pause.name), call, &pause.operate)
}

pub(crate) fn enable(session: &Session, enable: &Enable) -> ExitCode {
    let call = Call::post(format!("/v1/endpoints/{}/enable", percent_encoded(&enable.name)));
    operate(session, &format!("enable {}", enable.name), call, &enable.operate)
}

pub(crate) fn ps(session: &Session) -> ExitCode {
    shown(session, Call::get("/v1/programs"), |programs: Vec<ProgramStatus>| {
        (table_of(&programs, jiff::Timestamp::now()), Code::Success)
    })
}

/// A row for each copy; one for a program that has none, or only such as are kept warm.
fn table_of(programs: &[ProgramStatus], now: jiff::Timestamp) -> String {
    if programs.is_empty() {
        return "this server runs no program".to_owned();
    }
    let mut table = plain_table();
    let mut head =
        vec!["PROGRAM", "COPY", "SLOT", "PID", "STATE", "AGE", "RESTARTS", "MEMORY", "CONNECTIONS"];
    if programs.iter().any(|program| program.detail.is_some()) {
        head.push("NOTE");
    }
    table.set_header(head);
    for program in programs {
        let note = || program.detail.as_deref().map(shortened).unwrap_or_default();
        let nothing = program.copies.iter().all(|copy| copy.role == CopyRole::Warm);
        if nothing {
            let (slot, restarts) = (program.slot.as_deref().unwrap_or(""), program.restarts.to_string());
            let state = program.state.as_str();
            let row = [&program.name, "", slot, "", state, "", &restarts, "", "", &note()];
            table.add_row(row.map(Cell::new));
        }
        for (at, copy) in program.copies.iter().enumerate() {
            let note = if at == 0 && !nothing { note() } else { String::new() };
            table.add_row(row_of(program, copy, now).into_iter().chain([note]).map(Cell::new));
        }
    }
    trimmed(&table)
}

fn row_of(program: &ProgramStatus, copy: &CopyStatus, now: jiff::Timestamp) -> [String; 9] {
    let known = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    [
        program.name.clone(),
        copy.number.to_string(),
        copy.slot.clone().unwrap_or_default(),
        copy.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        copy.state_in_words(),
        copy.age(now).map(human_age).unwrap_or_default(),
        copy.restarts.to_string(),
        copy.memory_bytes.map(human_bytes).unwrap_or_default(),
        known(copy.connections),
    ]
}

/// How long nobody may be there before the server counts as ended.
const SILENCE: Duration = Duration::from_secs(1);
/// How long until it is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// Lines that are asked for again after a break, to find those that were missed.
const LINES_AFTER_A_BREAK: usize = 1_000;

pub(crate) fn logs(session: &Session, logs: &Logs) -> ExitCode {
    if logs.follow {
        end_with_stdout();
    }
    session.run(async {
        let mut printed = Printed::default();
        let mut lines = match session.client().lines(call_for(logs, logs.lines)).await? {
            Ok(lines) => lines,
            Err(answer) => return Ok(session.refused(&answer)),
        };
        loop {
            match next(&mut lines).await {
                Ok(Some(line)) => {
                    if printed.is_new(&line) {
                        print(session, &line);
                    }
                    continue;
                }
                Ok(None) if !logs.follow => return Ok(Code::Success.into()),
                Ok(None) | Err(ClientError::Lost { .. }) => {}
                Err(error) => return Err(error),
            }
            match again(session, logs).await {
                Some(Ok(others)) => {
                    lines = others;
                    printed.begin_again();
                }
                Some(Err(answer)) => return Ok(session.refused(&answer)),
                None => {
                    note("the server has ended");
                    return Ok(Code::NotRunning.into());
                }
            }
        }
    })
}

/// Ends this process when nobody reads its output any more, also if there is nothing to be written at that moment.
fn end_with_stdout() {
    let watch = || {
        let stdout = std::io::stdout();
        // No events are asked for: those that are always told are the ones (poll(2), POLLERR).
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut fds, None) {}
        if fds.iter().any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP)) {
            std::process::exit(Code::Success.code().into());
        }
    };
    // Without it, the end is noticed with the next line.
    drop(std::thread::Builder::new().spawn(watch));
}

fn call_for(logs: &Logs, lines: usize) -> Call {
    let call = Call::get(format!("/v1/programs/{}/logs", percent_encoded(&logs.name)));
    let call = call.query("lines", &lines.to_string());
    if logs.follow { call.query("follow", "true") } else { call }
}

async fn next(lines: &mut Lines) -> Result<Option<LogLine>, ClientError> {
    loop {
        let Some(line) = lines.next().await? else { return Ok(None) };
        if line.is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice(&line);
        return parsed
            .map(Some)
            .map_err(|error| ClientError::Invalid(format!("a line is not understood: {error}")));
    }
}

fn print(session: &Session, line: &LogLine) {
    if session.output().is_json() {
        session.output().json(&serde_json::to_vec(line).unwrap_or_default());
    } else {
        session.output().bytes(format!("{}\n", line.text()).as_bytes());
    }
}

/// The lines of whoever listens on the socket by now; or what it answers instead.
async fn again(session: &Session, logs: &Logs) -> Option<Result<Lines, Answer>> {
    let lost = Instant::now();
    loop {
        match session.client().lines(call_for(logs, LINES_AFTER_A_BREAK)).await {
            // It does not know its state yet.
            Ok(Err(answer)) if answer.status != 503 || lost.elapsed() > SILENCE => return Some(Err(answer)),
            Ok(Ok(lines)) => return Some(Ok(lines)),
            Err(_) if lost.elapsed() > SILENCE => return None,
            Ok(Err(_)) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What was printed last, to tell after a break which lines are new: their times only grow.
#[derive(Debug, Default)]
struct Printed {
    /// The time of the last one, and how many had it.
    last: String,
    count: usize,
    /// After a break: how many with that time are still to be passed over; none before.
    passing: Option<usize>,
}

impl Printed {
    fn begin_again(&mut self) {
        self.passing = Some(self.count);
    }

    fn is_new(&mut self, line: &LogLine) -> bool {
        if let Some(left) = &mut self.passing {
            if line.at < self.last {
                return false;
            }
            if line.at == self.last && *left > 0 {
                *left -= 1;
                return false;
            }
        }
        if line.at == self.last {
            self.count += 1;
        } else {
            self.last.clone_from(&line.at);
            self.count = 1;
            self.passing = None;
        }
        true
    }
}
