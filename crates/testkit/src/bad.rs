//! Files that are no good as the next version of a program, and programs that turn out to be none.

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
