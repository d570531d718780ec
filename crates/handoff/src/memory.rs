//! Memory that was freed, back to the system.

/// Gives memory that this process has freed back to the system (`malloc_trim(3)`), so that after a large generation is gone
/// the process is as small as before it. It takes milliseconds for each hundred megabytes: not to be called where somebody
/// waits. Does nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: needed because the allocator keeps freed memory by itself. Sound: the function takes no pointer, locks what
        // it touches, and only returns pages that hold nothing.
        #[allow(unsafe_code, reason = "see above")]
        let _anything_given = unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// Private memory that is resident, in KiB (`proc_pid_status(5)`).
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    fn what_many_small_objects_took_goes_back_to_the_system() {
        let small: Vec<Vec<u8>> = (0..400_000).map(|_| vec![1; 100]).collect();
        // One that stays behind the others, as something always does.
        let last = vec![1_u8; 100];
        let full = resident();
        drop(small);
        give_back();
        let after = resident();
        assert!(after + 20_000 < full, "{full} KiB, then {after} KiB");
        drop(last);
    }
}
