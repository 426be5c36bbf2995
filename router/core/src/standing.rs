//! When a stream that stands open must go: its cell moves, and a silent stream would never notice.

use std::time::Duration;

use domicile_mirror::RoutingTable;
use domicile_model::clock::BootTime;
use domicile_model::{CellId, ClosedReason, Epoch, Phase, RegionId};

/// Streams that stand open for long, each with a manner of its own to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A tunnel of WebSocket frames (RFC 6455). Ends with a close frame.
    WebSocket,
    /// Server-sent events (WHATWG HTML, section 9.2). Ends with the answer; browsers reconnect.
    EventStream,
    /// A gRPC call. Ends with a status in trailers.
    Grpc,
    /// HL7 messages over MLLP. Ends between two messages; senders connect again.
    Mllp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::EventStream, Self::Grpc, Self::Mllp];

    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::EventStream => "event-stream",
            Self::Grpc => "grpc",
            Self::Mllp => "mllp",
        }
    }
}

/// A call that has begun to answer and says nothing for so long is a stream that waits, and no call in flight.
pub const IDLE: Duration = Duration::from_secs(1);
/// So long before a hold ends, calls that are still in flight are ended: a move that still has time goes on.
pub const RESERVE: Duration = Duration::from_secs(1);

/// A stream that stands open.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub cell: &'a CellId,
    /// Where it goes.
    pub region: &'a RegionId,
    /// Under which epoch it was admitted.
    pub epoch: Epoch,
    /// When a piece passed last, in either direction; none while the answer has not begun, or a message is under way.
    pub idle_since: Option<BootTime>,
    /// Between 0 and 1: when in the time for it this one goes. Many that went at once would come back at once.
    pub turn: f64,
}

/// When the stream must have begun to go; none if it may stay. After a switch at most `linger` later.
#[must_use]
pub fn leaves(
    table: &RoutingTable,
    stream: &Stream<'_>,
    now: BootTime,
    linger: Duration,
) -> Option<BootTime> {
    let Some(placed) = table.placement(stream.cell.as_str()) else { return Some(now) };
    let placement = &placed.placement;
    // A gate that knows more than this table has answered: the table will follow.
    if placement.epoch < stream.epoch {
        return None;
    }
    let here = placement.holder.as_ref() == Some(stream.region);
    let in_turn = || Some(placed.applied_at + linger.mul_f64(stream.turn.clamp(0.0, 1.0)));
    match placement.phase {
        Phase::Serving if here && placement.epoch == stream.epoch => None,
        Phase::Serving | Phase::Closed { reason: ClosedReason::Operator | ClosedReason::Conflict, .. } => {
            in_turn()
        }
        // The move waits for what is in flight, and writers wait for the move.
        phase => {
            let length = phase.hold().unwrap_or_default().saturating_sub(RESERVE);
            let end = placed.applied_at + length;
            match (stream.kind, stream.idle_since) {
                // What has not begun to answer is a request in flight like any other.
                (_, None) => Some(end),
                (Kind::WebSocket | Kind::EventStream | Kind::Mllp, Some(_)) => Some(now),
                (Kind::Grpc, Some(since)) => Some(end.min(since + IDLE)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{place, table_with};

    fn cell() -> CellId {
        CellId::new("mercy").unwrap()
    }

    #[test]
    fn a_stream_stays_only_where_and_while_its_epoch_is_served() {
        let (cell, region) = (cell(), RegionId::new("us-east-1").unwrap());
        let linger = Duration::from_secs(5);
        let now = BootTime::from_nanos(0) + Duration::from_secs(60);
        let at = |kind, idle_since, turn| Stream {
            kind,
            cell: &cell,
            region: &region,
            epoch: Epoch(3),
            idle_since,
            turn,
        };
        let mut p = place("mercy", 3, Some("us-east-1"), Phase::Serving);
        let table = |p: &domicile_model::Placement| table_with(std::slice::from_ref(p));
        let applied = |t: &RoutingTable| t.placement("mercy").unwrap().applied_at;
        for kind in Kind::ALL {
            assert_eq!(leaves(&table(&p), &at(kind, None, 0.5), now, linger), None, "{kind:?} stays");
        }
        // Another epoch, or another holder: within the time for it, each in its turn.
        p.epoch = Epoch(4);
        let t = table(&p);
        for (turn, after) in [(0.0, 0), (0.5, 2_500), (1.0, 5_000), (9.0, 5_000)] {
            let goes = leaves(&t, &at(Kind::WebSocket, None, turn), now, linger);
            assert_eq!(goes, Some(applied(&t) + Duration::from_millis(after)));
        }
        // A table that is behind the gate that has answered.
        p.epoch = Epoch(2);
        p.phase = Phase::Holding { for_ms: 10_000 };
        assert_eq!(leaves(&table(&p), &at(Kind::WebSocket, Some(now), 0.0), now, linger), None);
        // A hold: tunnels at once, calls when they fall silent, at the latest just before it ends.
        p.epoch = Epoch(3);
        p.phase = Phase::Holding { for_ms: 10_000 };
        let t = table(&p);
        assert_eq!(leaves(&t, &at(Kind::WebSocket, Some(now), 1.0), now, linger), Some(now));
        assert_eq!(leaves(&t, &at(Kind::EventStream, Some(now), 1.0), now, linger), Some(now));
        assert_eq!(leaves(&t, &at(Kind::Mllp, Some(now), 1.0), now, linger), Some(now));
        let end = applied(&t) + Duration::from_secs(9);
        for kind in Kind::ALL {
            assert_eq!(leaves(&t, &at(kind, None, 1.0), now, linger), Some(end), "{kind:?} not answered yet");
        }
        let silent = applied(&t);
        assert_eq!(leaves(&t, &at(Kind::Grpc, Some(silent), 1.0), now, linger), Some(silent + IDLE));
        assert_eq!(leaves(&t, &at(Kind::Grpc, Some(end + IDLE), 1.0), now, linger), Some(end));
        // A cell that nobody knows any more.
        let gone = CellId::new("gone").unwrap();
        let stream = Stream { cell: &gone, ..at(Kind::Grpc, None, 1.0) };
        assert_eq!(leaves(&t, &stream, now, linger), Some(now));
    }
}
