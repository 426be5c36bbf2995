//! How full the cluster is: what each member says of its own database, and the alarms of all.

use domicile_store::{Alarm, AlarmKind, Room, StoreError};
use etcd_client::{AlarmAction, AlarmType, StatusResponse};

use crate::members::Members;

/// Asks all members. `quota` counts for those that do not tell their own.
pub(crate) async fn look(members: &Members, quota: u64) -> Result<Room, StoreError> {
    let (statuses, alarms) = futures::join!(
        members.ask_each(|mut client| async move { client.status().await }),
        members.ask(|mut client| async move { client.alarm(AlarmAction::Get, AlarmType::None, None).await })
    );
    let mut silent = Vec::new();
    let mut fullest: Option<(u64, Room)> = None;
    for (member, status) in statuses {
        let Some(status) = status else {
            silent.push(member.place.clone());
            continue;
        };
        let room = told(&status, quota);
        // The first one that has nothing left raises the alarm for all.
        let left = room.left().unwrap_or(u64::MAX);
        if fullest.as_ref().is_none_or(|(least, _)| left < *least) {
            fullest = Some((left, room));
        }
    }
    let Some((_, mut room)) = fullest else {
        return Err(StoreError::Unavailable {
            place: silent.join(","),
            why: "no member told the size of its database".to_owned(),
        });
    };
    room.silent = silent;
    room.alarms =
        alarms?.alarms().iter().map(|a| Alarm { kind: kind(a.alarm()), member: a.member_id() }).collect();
    room.alarms.sort();
    Ok(room)
}

fn told(status: &StatusResponse, quota: u64) -> Room {
    let bytes = |told: i64| u64::try_from(told).unwrap_or(0);
    let own = bytes(status.db_size_quota());
    Room {
        size: bytes(status.db_size()),
        in_use: bytes(status.raft_used_db_size()),
        quota: Some(if own > 0 { own } else { quota }),
        alarms: Vec::new(),
        silent: Vec::new(),
    }
}

const fn kind(told: AlarmType) -> AlarmKind {
    match told {
        AlarmType::Nospace => AlarmKind::NoSpace,
        AlarmType::Corrupt => AlarmKind::Corrupt,
        AlarmType::None => AlarmKind::Other,
    }
}
