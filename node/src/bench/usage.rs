//! What processes use, as the kernel counts it.

use std::time::Duration;

use crate::cli::error::CliError;

/// The kernel counts the CPU time of processes in hundredths of a second, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// The CPU time that a process has used, its threads included.
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub fn cpu_time(pid: u32) -> Result<Duration, CliError> {
    let path = format!("/proc/{pid}/stat");
    let failed =
        |reason: &str| CliError::Failed(format!("{path}: {reason} (CPU times are read on Linux only)"));
    let stat = std::fs::read_to_string(&path).map_err(|error| failed(&error.to_string()))?;
    // The second field is the command in parentheses and may hold blanks; utime and stime are fields 14 and 15.
    let after_command = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<&str> = after_command.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        return Err(failed("not as expected"));
    };
    Ok(TICK * (user + system))
}

/// The CPU time of several processes together.
pub fn cpu_time_of(pids: &[u32]) -> Result<Duration, CliError> {
    pids.iter().map(|&pid| cpu_time(pid)).sum()
}

/// The memory that a process has resident, in bytes: what is its own, and the parts of its program and libraries that
/// are loaded.
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub fn resident_bytes(pid: u32) -> Result<u64, CliError> {
    let path = format!("/proc/{pid}/status");
    let failed = |reason: &str| CliError::Failed(format!("{path}: {reason} (memory is read on Linux only)"));
    let status = std::fs::read_to_string(&path).map_err(|error| failed(&error.to_string()))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| failed("not as expected"))
}

/// The children of a process, and theirs.
pub fn descendants(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let children: Vec<u32> = children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect();
    let further: Vec<u32> = children.iter().flat_map(|&child| descendants(child)).collect();
    [children, further].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_memory_and_one_that_is_not_there_is_an_error() {
        assert!(resident_bytes(std::process::id()).is_ok_and(|bytes| bytes > 1024 * 1024));
        assert!(resident_bytes(u32::MAX).is_err() && cpu_time(u32::MAX).is_err());
    }
}
