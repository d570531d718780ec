//! How much memory a copy uses: what its control group says, or else the resident pages of its processes.

use super::copy::Copy;
use super::groups::{self, Group, Survey};

/// Bytes. `None` if nothing of it lives, or nobody can tell. Of the resident pages of several processes, shared ones are counted
/// several times. Reads files of `/proc` or of the group: for a thread that may block.
pub(crate) fn of(copy: &Copy, survey: &Survey) -> Option<u64> {
    if let Some(bytes) = copy.group().as_ref().and_then(Group::memory) {
        return Some(bytes);
    }
    let resident: Vec<u64> = copy.processes_of(survey).into_iter().filter_map(groups::resident).collect();
    (!resident.is_empty()).then(|| resident.iter().fold(0, |sum, one| u64::saturating_add(sum, *one)))
}
