//! What a data directory says about itself: the control file and the histories of timelines.

use std::path::Path;
use std::time::Duration;

use domicile_api::agent::Fork;
use domicile_model::token::Lsn;

use crate::failure::Failure;
use crate::os::Owner;

/// The control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) system_id: String,
    /// PostgreSQL's word: `in production`, `shut down`…
    pub(crate) state: String,
    pub(crate) checkpoint: Lsn,
    /// The newest timeline that it mentions.
    pub(crate) timeline: u32,
}

impl Control {
    /// Stopped as a primary with everything in the checkpoint that it ends with.
    pub(crate) fn is_clean_primary(&self) -> bool {
        self.state == "shut down"
    }

    /// Reads it with `pg_controldata`.
    pub(crate) async fn read(owner: &Owner, data_dir: &Path) -> Result<Self, Failure> {
        let run = owner.command("pg_controldata").arg(data_dir).output();
        let output = tokio::time::timeout(Duration::from_secs(3), run)
            .await
            .map_err(|_| Failure::machine("pg_controldata did not end within 3 s"))?
            .map_err(|e| Failure::machine(format!("pg_controldata can't be run: {e}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::machine(format!(
                "the control file in {} can't be read: {}",
                data_dir.display(),
                said.trim()
            )));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
            Failure::machine("pg_controldata printed something that this agent does not understand")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let field =
            |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let checkpoint: u32 = field("Latest checkpoint's TimeLineID")?.parse().ok()?;
        // After a promotion the first checkpoint comes late; this field moves at once.
        let recovery: u32 =
            field("Min recovery ending loc's timeline").and_then(|t| t.parse().ok()).unwrap_or(0);
        Some(Self {
            system_id: field("Database system identifier")?.to_owned(),
            state: field("Database cluster state")?.to_owned(),
            checkpoint: field("Latest checkpoint location")?.parse().ok()?,
            timeline: checkpoint.max(recovery),
        })
    }
}

/// Where a timeline left its parent, by its history file; none for timeline 1.
pub(crate) fn fork_of(data_dir: &Path, timeline: u32) -> Option<Fork> {
    if timeline <= 1 {
        return None;
    }
    let path = data_dir.join("pg_wal").join(format!("{timeline:08X}.history"));
    parse_history(&std::fs::read_to_string(path).ok()?)
}

fn parse_history(text: &str) -> Option<Fork> {
    let last = text.lines().map(str::trim).rfind(|l| !l.is_empty() && !l.starts_with('#'))?;
    let mut words = last.split_whitespace();
    Some(Fork { parent: words.next()?.parse().ok()?, at: words.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_is_read_as_printed() {
        let text = "pg_control version number:            1300
Database system identifier:           7432
Database cluster state:               shut down
Latest checkpoint location:           0/3000028
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       1
Min recovery ending loc's timeline:   2
";
        let control = Control::parse(text).unwrap();
        assert!(control.is_clean_primary());
        assert_eq!((control.timeline, control.checkpoint.to_string().as_str()), (2, "0/3000028"));
        let standby = text.replace("shut down", "shut down in recovery");
        assert!(!Control::parse(&standby).unwrap().is_clean_primary());
        assert_eq!(Control::parse("rubbish"), None);
    }

    #[test]
    fn a_history_names_the_last_fork() {
        let fork =
            parse_history("1\t0/3000098\tno recovery target specified\n\n2\t0/5000060\twhy\n").unwrap();
        assert_eq!((fork.parent, fork.at.to_string().as_str()), (2, "0/5000060"));
        assert_eq!(parse_history(""), None);
        assert_eq!(parse_history("x y"), None);
    }
}
