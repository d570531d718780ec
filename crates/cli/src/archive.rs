//! `backup` and `restore`.

use std::process::ExitCode;

use handover_api::ExitCode as Code;

use crate::args::{Backup, Restore};
use crate::session::Session;

pub(crate) fn backup(session: &Session, _backup: &Backup) -> ExitCode {
    session.output().failure("backups cannot be made yet", Code::Differs)
}

pub(crate) fn restore(session: &Session, _restore: &Restore) -> ExitCode {
    session.output().failure("backups cannot be restored yet", Code::Differs)
}
