//! How full a store is, and what is left until it takes no more.

/// Bytes that etcd's database may have if nobody says otherwise: etcd's own default, 2 GiB.
pub const USUAL_QUOTA: u64 = 2 << 30;

/// How full a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Bytes of the largest member's database, free pages included: what the server compares with its quota. Free pages
    /// are used again, but given back only by a defragmentation.
    pub size: u64,
    /// Of these, bytes in use, on that member.
    pub in_use: u64,
    /// Bytes that a member's database may have. None: not known, and nothing can be said of what is left.
    pub quota: Option<u64>,
    /// Alarms that are raised.
    pub alarms: Vec<Alarm>,
    /// Members that did not say, by place. They may be fuller.
    pub silent: Vec<String>,
}

/// An alarm of one member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// What is wrong.
    pub kind: AlarmKind,
    /// The member's number.
    pub member: u64,
}

/// What an alarm says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// A database has reached its quota: the cluster takes no put and grants no lease until the alarm is disarmed.
    NoSpace,
    /// A member's database is damaged.
    Corrupt,
    /// One that this program does not know.
    Other,
}

impl AlarmKind {
    /// As the server and its documentation write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
            Self::Other => "OTHER",
        }
    }
}

impl Room {
    /// Bytes until nothing more is taken. None: the quota is not known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        if self.is_full() {
            return Some(0);
        }
        self.quota.map(|quota| quota.saturating_sub(self.size))
    }

    /// Whether nothing is taken any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_counted_from_the_size_and_an_alarm_leaves_nothing() {
        let room = Room { size: 60, in_use: 10, quota: Some(100), alarms: vec![], silent: vec![] };
        assert_eq!(room.left(), Some(40));
        assert_eq!(Room { size: 160, ..room.clone() }.left(), Some(0));
        assert_eq!(Room { quota: None, ..room.clone() }.left(), None);
        let damaged = vec![Alarm { kind: AlarmKind::Corrupt, member: 1 }];
        assert_eq!(Room { alarms: damaged, ..room.clone() }.left(), Some(40));
        let full = vec![Alarm { kind: AlarmKind::NoSpace, member: 1 }];
        assert_eq!(Room { alarms: full, quota: None, ..room }.left(), Some(0));
    }
}
