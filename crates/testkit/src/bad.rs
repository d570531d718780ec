//! What is no good as the next version of a program: [`File`]s that cannot be run, and [`Candidate`]s that can.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::faults::fifo;
use crate::process::run;
use crate::program::Program;

/// Where the ELF header says for what machine the program is (`e_machine`, elf(5)).
const MACHINE: u64 = 18;
/// Where it says of what class the program is: 32 or 64 bits (`e_ident[EI_CLASS]`).
const CLASS: u64 = 4;
/// A machine that is none of those which this is ever tested on (EM_S390).
const ANOTHER_MACHINE: &str = "\\026\\000";
/// 32 bits.
const ANOTHER_CLASS: &str = "\\001";

/// What is wrong with a file that should be a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// There is none.
    Missing,
    /// It is a symbolic link to nothing.
    Dangling,
    /// It has no executable bit.
    NotExecutable,
    /// It is for a machine of another kind.
    OtherMachine,
    /// It is for a machine with other addresses.
    OtherClass,
    /// Its second half is missing.
    HalfCopied,
    /// Only its first bytes are there.
    Begun,
    /// It is empty.
    Empty,
    /// It is a text for another program to run.
    Script,
    /// It is a directory.
    Directory,
    /// Opening it waits for a writer that never comes.
    Fifo,
}

impl File {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Missing,
        Self::Dangling,
        Self::NotExecutable,
        Self::OtherMachine,
        Self::OtherClass,
        Self::HalfCopied,
        Self::Begun,
        Self::Empty,
        Self::Script,
        Self::Directory,
        Self::Fifo,
    ];

    /// Makes such a file of `program` and puts it beside it.
    #[must_use]
    pub fn make(self, program: &Program) -> PathBuf {
        let path = program.beside(&format!("bad-{self:?}"));
        let good = || program.version(&format!("{self:?}"));
        let from_good = || fs::rename(good(), &path).expect("bad program put in place");
        match self {
            Self::Missing => {}
            Self::Dangling => symlink("nowhere", &path).expect("symbolic link"),
            Self::NotExecutable => {
                from_good();
                shell("chmod 644 \"$0\"", &path);
            }
            Self::OtherMachine => {
                from_good();
                patch(&path, MACHINE, ANOTHER_MACHINE);
            }
            Self::OtherClass => {
                from_good();
                patch(&path, CLASS, ANOTHER_CLASS);
            }
            Self::HalfCopied => {
                from_good();
                let length = fs::metadata(&path).expect("bad program").len();
                shell(&format!("truncate --size={} \"$0\"", length / 2), &path);
            }
            Self::Begun => {
                from_good();
                shell("truncate --size=40 \"$0\"", &path);
            }
            Self::Empty => shell(": > \"$0\" && chmod 755 \"$0\"", &path),
            Self::Script => shell("printf '#!/bin/sh\\nexit 0\\n' > \"$0\" && chmod 755 \"$0\"", &path),
            Self::Directory => fs::create_dir(&path).expect("directory"),
            Self::Fifo => {
                fifo(&path);
                shell("chmod 755 \"$0\"", &path);
            }
        }
        path
    }
}

/// What a program does that turns out to be no good as the next version. It is `examples/bad_candidate.rs` of this package,
/// which finds the word for it at its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    /// It writes [`LAST_WORDS`] to stderr and exits.
    Exits,
    /// A signal ends it.
    Crashes,
    /// It does nothing.
    Hangs,
    /// What it says of itself is no JSON.
    SaysRubbish,
    /// It says nothing of itself, and exits with 0.
    SaysNothing,
    /// It never stops speaking.
    NeverEnds,
    /// It exits, and leaves a process behind that holds its streams open.
    LeavesAChild,
    /// It is well when it is asked about itself, and exits when it is started as a worker.
    WorkerExits,
    /// The same, and does nothing as a worker.
    WorkerHangs,
    /// The same, and what it says as a worker is nothing that anybody understands.
    WorkerSaysRubbish,
    /// The same, and it speaks another version of the channel as a worker.
    WorkerSpeaksAnother,
    /// It refuses the configuration that serves.
    RefusesConfiguration,
    /// It never ends preparing it.
    PrepareHangs,
    /// It dies of preparing it.
    PrepareDies,
    /// It dies when it is to stand by.
    CommitDies,
    /// It does not answer when it is to prove that it would serve.
    ProbeHangs,
    /// It dies instead of answering.
    ProbeDies,
    /// It refuses what is handed over to it.
    RefusesStates,
    /// It dies when it gets what is handed over to it.
    AdoptDies,
    /// It never ends looking at what is handed over to it.
    AdoptHangs,
}

/// What a candidate that exits writes to stderr before.
pub const LAST_WORDS: [&str; 2] = ["bad_candidate: the stars are not right", "bad_candidate: giving up"];

impl Candidate {
    /// Those that show themselves when they are asked about themselves.
    pub const IN_PREFLIGHT: [Self; 7] = [
        Self::Exits,
        Self::Crashes,
        Self::Hangs,
        Self::SaysRubbish,
        Self::SaysNothing,
        Self::NeverEnds,
        Self::LeavesAChild,
    ];
    /// Those that show themselves as a worker, before anything is handed over to them.
    pub const AS_WORKER: [Self; 10] = [
        Self::WorkerExits,
        Self::WorkerHangs,
        Self::WorkerSaysRubbish,
        Self::WorkerSpeaksAnother,
        Self::RefusesConfiguration,
        Self::PrepareHangs,
        Self::PrepareDies,
        Self::CommitDies,
        Self::ProbeHangs,
        Self::ProbeDies,
    ];
    /// Those that show themselves in the middle of the move.
    pub const IN_THE_MOVE: [Self; 3] = [Self::RefusesStates, Self::AdoptDies, Self::AdoptHangs];

    /// Makes such a program and puts it beside `program`; `binary` is the program under test (see [`crate::example()`]).
    #[must_use]
    pub fn make(self, program: &Program, binary: &str) -> PathBuf {
        let bad = crate::example::example_of("handover-testkit", binary, "bad_candidate");
        program.other(&format!("bad-{self:?}"), &bad, &format!("\n{self:?}"))
    }

    /// The one whose word stands at the end of a program.
    #[must_use]
    pub fn at_the_end_of(program: &[u8]) -> Option<Self> {
        let all = Self::IN_PREFLIGHT.iter().chain(&Self::AS_WORKER).chain(&Self::IN_THE_MOVE);
        all.copied().find(|one| program.ends_with(format!("\n{one:?}").as_bytes()))
    }
}

/// Executables are written by child processes: see [`crate::program`].
fn shell(script: &str, path: &Path) {
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(path);
    run(command).expect_code(0);
}

/// Writes bytes (as printf(1) knows them) over those at an offset.
fn patch(path: &Path, offset: u64, bytes: &str) {
    shell(&format!("printf '{bytes}' | dd of=\"$0\" bs=1 seek={offset} conv=notrunc status=none"), path);
}
