//! A watch on etcd: one stream from one member, until it ends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::Revision;
use domicile_store::{Batch, Change, StoreError, Watcher};
use etcd_client::{Client, Event, WatchOptions, WatchResponse, WatchStream};

use crate::answer;
use crate::failure::Failure;
use crate::members::Members;

/// Longest answer of a watch that is read, in bytes: 1,000 revisions in one answer is what servers send at most.
const LONGEST_ANSWER: usize = 256 << 20;

/// How long a running watch may take to accept a probe. The queue to the server holds a hundred.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

struct EtcdWatcher {
    stream: WatchStream,
    /// Lives as long as the stream that runs on it.
    _connection: Client,
    members: Arc<Members>,
    member: usize,
    place: String,
    prefix: String,
    /// The first revision that was not told yet.
    next: Revision,
}

/// Begins a watch on the first member that accepts one.
pub(crate) async fn start(
    members: &Arc<Members>,
    prefix: &str,
    from: Revision,
) -> Result<Box<dyn Watcher>, StoreError> {
    let mut failed = Vec::new();
    for member in members.in_order() {
        let connection = members.connection_of_its_own(member).await?;
        let waiting = members.waiting(member);
        let opened =
            tokio::time::timeout(members.call_timeout(), open(connection.watch_client(), prefix, from)).await;
        waiting.over();
        match opened {
            Ok(Ok(stream)) => {
                return Ok(Box::new(EtcdWatcher {
                    stream,
                    _connection: connection,
                    members: Arc::clone(members),
                    member: member.index(),
                    place: member.place.clone(),
                    prefix: prefix.to_owned(),
                    next: from,
                }));
            }
            Ok(Err(Failure::Final(error))) => return Err(error),
            Ok(Err(Failure::Full)) => return Err(StoreError::Full { place: member.place.clone() }),
            Ok(Err(Failure::NotDone(why) | Failure::Unclear(why) | Failure::TooLong(why))) => {
                failed.push(format!("{}: {why}", member.place));
            }
            Err(_) => failed.push(format!("{}: no watch within {:?}", member.place, members.call_timeout())),
        }
        members.avoid(member);
    }
    let place = members.in_order().map(|m| m.place.as_str()).collect::<Vec<_>>().join(",");
    Err(StoreError::Unavailable { place, why: failed.join("; ") })
}

async fn open(
    client: etcd_client::WatchClient,
    prefix: &str,
    from: Revision,
) -> Result<WatchStream, Failure> {
    // One earlier than asked for. A server that has compacted exactly at `from` would start there without a word,
    // and may have dropped the deletions of that very revision; one that has to start before it says so.
    let start = from.0.saturating_sub(1).max(1);
    // No fragments: they are not marked in what we get, and one revision would be applied in halves.
    let options = WatchOptions::new().with_prefix().with_start_revision(start);
    let mut client = client.max_decoding_message_size(LONGEST_ANSWER);
    let mut stream = client.watch(prefix, Some(options)).await.map_err(|error| Failure::of(&error))?;
    match stream.message().await.map_err(|error| Failure::of(&error))? {
        Some(first) if first.canceled() => Err(canceled(&first)),
        Some(first) if first.created() => Ok(stream),
        _ => Err(Failure::NotDone("the watch did not begin with its creation".to_owned())),
    }
}

fn canceled(response: &WatchResponse) -> Failure {
    if response.compact_revision() > 0 {
        Failure::Final(StoreError::Compacted(Revision(response.compact_revision())))
    } else {
        let reason: String = response.cancel_reason().chars().take(300).collect();
        Failure::NotDone(format!("the watch was cancelled: {reason}"))
    }
}

impl EtcdWatcher {
    /// The changes of an answer that were not told yet.
    fn changes(&mut self, events: &[Event]) -> Vec<Change> {
        let from = self.next;
        let mut changes = Vec::with_capacity(events.len());
        for kv in events.iter().filter_map(Event::kv) {
            let revision = Revision(kv.mod_revision());
            // From before our start, or from a member that went back in time when it rejoined.
            if revision < from {
                continue;
            }
            self.next = self.next.max(revision.next());
            // A deletion is told by the creation that it lacks: the client's own method panics on unknown types.
            if kv.create_revision() == 0 {
                let key = answer::key(&self.prefix, kv.key());
                changes.extend(key.map(|key| Change::Delete(key, revision)));
            } else {
                changes.extend(answer::entry(&self.prefix, kv).map(Change::Put));
            }
        }
        changes
    }

    fn ended(&self, failure: Failure) -> StoreError {
        if !matches!(failure, Failure::Final(StoreError::Compacted(_))) {
            self.members.avoid_index(self.member);
        }
        failure.of_a_question(&self.place)
    }
}

#[async_trait]
impl Watcher for EtcdWatcher {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            let response = match self.stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Err(self.ended(Failure::NotDone("the watch ended".to_owned()))),
                Err(error) => return Err(self.ended(Failure::of(&error))),
            };
            if response.canceled() {
                return Err(self.ended(canceled(&response)));
            }
            let header = answer::header(response.header()).map_err(|failure| self.ended(failure))?;
            let changes = self.changes(response.events());
            // An answer whose events are all from before our start is neither news nor a sign of life asked for.
            if !changes.is_empty() || response.events().is_empty() {
                return Ok(Batch { header, changes });
            }
        }
    }

    async fn probe(&mut self) -> Result<(), StoreError> {
        let asked = tokio::time::timeout(PROBE_TIMEOUT, self.stream.request_progress()).await;
        match asked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.ended(Failure::of(&error))),
            Err(_) => Err(self.ended(Failure::NotDone("the watch takes no probe".to_owned()))),
        }
    }

    fn give_up(&mut self) {
        self.members.avoid_index(self.member);
    }
}
