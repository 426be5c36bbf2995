//! Room on the disks that the database lives on.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::AgentConfig;

/// Less than this is no room: PostgreSQL makes its write-ahead log in files of 16 MiB.
const LEAST: u64 = 16 << 20;

/// The disks without room, in sentences: data directory, write-ahead log and the agent's own directory, each disk once.
pub(crate) fn problems(config: &AgentConfig) -> Vec<String> {
    let mut seen = Vec::new();
    let places = [config.data_dir.clone(), config.data_dir.join("pg_wal"), config.state_dir()];
    places
        .iter()
        .filter_map(|place| {
            let disk = std::fs::metadata(place).ok()?.dev();
            if seen.contains(&disk) {
                return None;
            }
            seen.push(disk);
            let found = rustix::fs::statvfs(place).ok()?;
            problem(place, found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks * found.f_frsize)
        })
        .collect()
}

/// Free bytes where the write-ahead log lies.
pub(crate) fn free_for_wal(config: &AgentConfig) -> Option<u64> {
    let found = rustix::fs::statvfs(config.data_dir.join("pg_wal")).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

fn problem(place: &Path, free: u64, all: u64) -> Option<String> {
    (free < LEAST).then(|| {
        format!(
            "the disk of {} is full ({} of {} MiB are free): free space there or make it larger; PostgreSQL goes on by itself once there is room",
            place.display(),
            free >> 20,
            all >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_for_one_file_of_log_is_full() {
        let place = Path::new("/srv/pg");
        assert_eq!(problem(place, LEAST, LEAST * 10), None);
        let said = problem(place, LEAST - 1, LEAST * 10).unwrap();
        assert!(
            said.contains("/srv/pg") && said.contains("15 of 160 MiB") && said.contains("free space"),
            "{said}"
        );
    }
}
