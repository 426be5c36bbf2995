//! [`EtcdStore`]: reads, listings, transactions and leases.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::Revision;
use domicile_store::txn::MOST_OPS;
use domicile_store::{
    Commit, Entry, Header, Key, LeaseId, Listing, Op, Precondition, Room, Store, StoreError, Txn, Watcher,
};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, GetResponse, PutOptions, Txn as EtcdTxn, TxnOp,
    TxnOpResponse, TxnResponse,
};

use crate::answer;
use crate::config::{EtcdConfig, Sabotage};
use crate::failure::Failure;
use crate::members::Members;
use crate::room;
use crate::watch;

/// Longest answer that is read, in bytes. A refused transaction may report 128 entries of 1.4 MB.
const LONGEST_ANSWER: usize = 256 << 20;

/// Longest page of a listing, in bytes. One that is longer is asked for again with fewer entries.
const LONGEST_PAGE: usize = 16 << 20;

/// Entries per page of a listing: 2,000 tenants are about a megabyte.
const PAGE: i64 = 2_000;

/// How often a listing or a long read begins again because its revision was compacted away under it.
const TRIES: usize = 3;

/// The registry on an etcd cluster. Clones share the connections.
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    members: Arc<Members>,
    prefix: String,
    quota: u64,
    stale: bool,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("prefix", &self.shared.prefix).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// A store on these members. Does no I/O: a cluster that is not there shows at the first call. Must be called
    /// inside a tokio runtime that lives as long as the store: its connections run there.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when an endpoint is no address.
    pub async fn connect(config: EtcdConfig) -> Result<Self, StoreError> {
        let members = Arc::new(Members::new(&config).await?);
        let stale = config.sabotage == Sabotage::StaleReads;
        Ok(Self { shared: Arc::new(Shared { members, prefix: config.prefix, quota: config.quota, stale }) })
    }

    fn whole(&self, key: &Key) -> String {
        format!("{}{key}", self.shared.prefix)
    }

    /// How a single key is asked for: `at` a revision, or now.
    fn get(&self, at: Option<Revision>) -> GetOptions {
        let options = at.map_or_else(GetOptions::new, |at| GetOptions::new().with_revision(at.0));
        if self.shared.stale { options.with_serializable() } else { options }
    }

    /// A read of at most [`MOST_OPS`] keys.
    async fn read_some(
        &self,
        keys: &[Key],
        at: Option<Revision>,
    ) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
        let mut gets: Vec<TxnOp> =
            keys.iter().map(|key| TxnOp::get(self.whole(key), Some(self.get(at)))).collect();
        if gets.is_empty() {
            // A transaction without reads is answered without asking the quorum.
            gets.push(TxnOp::get(self.whole(&Key::Schema), Some(self.get(at).with_count_only())));
        }
        let txn = EtcdTxn::new().and_then(gets);
        let (header, mut found) = self
            .shared
            .members
            .ask(|client| run(client, txn.clone()))
            .await
            .and_then(|done| self.understood(&done))?;
        found.truncate(keys.len());
        if found.len() != keys.len() {
            return Err(self.odd("it answered for fewer keys than were asked for"));
        }
        Ok((header, found))
    }

    /// Header and entries of a transaction's answer.
    fn understood(&self, done: &TxnResponse) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
        let header =
            answer::header(done.header()).map_err(|failure| failure.of_a_question(&self.shared.prefix))?;
        let found = done
            .op_responses()
            .iter()
            .map(|response| match response {
                TxnOpResponse::Get(got) => {
                    got.kvs().first().and_then(|kv| answer::entry(&self.shared.prefix, kv))
                }
                _ => None,
            })
            .collect();
        Ok((header, found))
    }

    /// A page of a listing, and the page size that fits into an answer.
    async fn page(
        &self,
        (from, end): (&[u8], &[u8]),
        at: Option<Revision>,
        size: i64,
    ) -> Result<(GetResponse, i64), StoreError> {
        let mut size = size;
        loop {
            let options = self.get(at).with_range(end.to_vec()).with_limit(size);
            let asked = self
                .shared
                .members
                .try_each(true, |client| {
                    let (from, options) = (from.to_vec(), options.clone());
                    async move {
                        let mut kv = client.kv_client().max_decoding_message_size(LONGEST_PAGE);
                        kv.get(from, Some(options)).await
                    }
                })
                .await;
            match asked {
                Ok(page) => return Ok((page, size)),
                Err((_, Failure::TooLong(_))) if size > 1 => size = (size / 8).max(1),
                Err((place, failure)) => return Err(failure.of_a_question(&place)),
            }
        }
    }

    async fn list_once(&self, prefix: &str) -> Result<Listing, StoreError> {
        let whole = format!("{}{prefix}", self.shared.prefix).into_bytes();
        let end = end_of(&whole);
        let mut from = whole;
        let mut size = PAGE;
        let mut header: Option<Header> = None;
        let mut entries = Vec::new();
        loop {
            let (page, fits) = self.page((&from, &end), header.map(|h| h.revision), size).await?;
            size = fits;
            let now = answer::header(page.header()).map_err(|f| f.of_a_question(&self.shared.prefix))?;
            let first = *header.get_or_insert(now);
            if first.cluster != now.cluster {
                return Err(self.odd("its members belong to different clusters"));
            }
            entries.extend(page.kvs().iter().filter_map(|kv| answer::entry(&self.shared.prefix, kv)));
            match page.kvs().last() {
                Some(last) if page.more() => {
                    // The next key after this one.
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok(Listing { header: first, entries }),
            }
        }
    }

    fn odd(&self, why: &str) -> StoreError {
        let place = self.shared.members.in_order().next().map_or_else(String::new, |m| m.place.clone());
        StoreError::Unavailable { place, why: why.to_owned() }
    }
}

/// The end of the range of everything that begins with this text, whose last byte is below 255 as in all UTF-8.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

async fn run(client: Client, txn: EtcdTxn) -> Result<TxnResponse, Error> {
    client.kv_client().max_decoding_message_size(LONGEST_ANSWER).txn(txn).await
}

#[async_trait]
impl Store for EtcdStore {
    async fn read(&self, keys: &[Key]) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
        if keys.len() <= MOST_OPS {
            return self.read_some(keys, None).await;
        }
        let mut tries = 0;
        'again: loop {
            tries += 1;
            let mut header: Option<Header> = None;
            let mut entries = Vec::with_capacity(keys.len());
            for some in keys.chunks(MOST_OPS) {
                match self.read_some(some, header.map(|h| h.revision)).await {
                    Ok((now, found)) => {
                        header.get_or_insert(now);
                        entries.extend(found);
                    }
                    Err(StoreError::Compacted(_)) if tries < TRIES => continue 'again,
                    Err(error) => return Err(error),
                }
            }
            if let Some(header) = header {
                return Ok((header, entries));
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        for _ in 1..TRIES {
            match self.list_once(prefix).await {
                Err(StoreError::Compacted(_)) => {}
                done => return done,
            }
        }
        self.list_once(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        txn.check()?;
        let mut compares = Vec::with_capacity(txn.when.len());
        for precondition in &txn.when {
            let key = self.whole(precondition.key());
            compares.push(match precondition {
                Precondition::Absent(_) => Compare::create_revision(key, CompareOp::Equal, 0),
                // An absent key compares as revision 0, which no key that exists ever has.
                Precondition::ModifiedAt(_, at) => {
                    Compare::mod_revision(key, CompareOp::Equal, never_zero(*at))
                }
                Precondition::CreatedAt(_, at) => {
                    Compare::create_revision(key, CompareOp::Equal, never_zero(*at))
                }
                Precondition::Holds(_, value) => Compare::value(key, CompareOp::Equal, value.clone()),
            });
        }
        let writes: Vec<TxnOp> = txn
            .then
            .iter()
            .map(|op| match op {
                Op::Put(key, value, lease) => {
                    let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                    TxnOp::put(self.whole(key), value.clone(), options)
                }
                Op::Delete(key) => TxnOp::delete(self.whole(key), None),
            })
            .collect();
        let current: Vec<TxnOp> = txn.when.iter().map(|p| TxnOp::get(self.whole(p.key()), None)).collect();
        let request = EtcdTxn::new().when(compares).and_then(writes).or_else(current);
        let done = self.shared.members.tell(|client| run(client, request.clone())).await?;
        let unclear = |_| StoreError::UnknownOutcome {
            place: self.shared.prefix.clone(),
            why: "the answer can't be read".to_owned(),
        };
        let (header, found) = self.understood(&done).map_err(unclear)?;
        if done.succeeded() {
            Ok(Commit::Done(header.revision))
        } else {
            Ok(Commit::Refused { revision: header.revision, current: found })
        }
    }

    async fn watch(&self, from: Revision) -> Result<Box<dyn Watcher>, StoreError> {
        watch::start(&self.shared.members, &self.shared.prefix, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // Whole seconds, never less than asked for. One that was granted but not confirmed ends by itself.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        if seconds == 0 {
            return Err(StoreError::Refused("a lease needs a time to live above zero".to_owned()));
        }
        let granted = self
            .shared
            .members
            .ask(|mut client| async move { client.lease_grant(seconds, None).await })
            .await?;
        if granted.ttl() < seconds || granted.id() == 0 {
            return Err(StoreError::Refused(format!(
                "it granted {} s instead of {seconds} s",
                granted.ttl()
            )));
        }
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // One message and its answer; the stream is dropped.
        let ask = |mut client: Client| async move { client.lease_keep_alive(lease.0).await.map(drop) };
        self.shared.members.ask(ask).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let tried = std::sync::atomic::AtomicUsize::new(0);
        let ask = |mut client: Client| {
            tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move { client.lease_revoke(lease.0).await }
        };
        match self.shared.members.ask(ask).await {
            // An earlier try of this very call may have done it.
            Err(StoreError::LeaseLost) if tried.load(std::sync::atomic::Ordering::Relaxed) > 1 => Ok(()),
            done => done.map(drop),
        }
    }

    async fn room(&self) -> Result<Option<Room>, StoreError> {
        room::look(&self.shared.members, self.shared.quota).await.map(Some)
    }

    async fn forget_before(&self, revision: Revision) -> Result<(), StoreError> {
        // Once for all members. Not waiting until the pages are free: that is the servers' own pace.
        let ask = |mut client: Client| async move { client.compact(revision.0, None).await };
        match self.shared.members.ask(ask).await {
            // It was done before, perhaps by an earlier try of this very call.
            Err(StoreError::Compacted(_)) => Ok(()),
            done => done.map(drop),
        }
    }
}

/// A revision that can't be meant for an absent key.
const fn never_zero(revision: Revision) -> i64 {
    if revision.0 <= 0 { i64::MAX } else { revision.0 }
}
