//! The members of the cluster: one client each, asked in turn.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domicile_store::StoreError;
use etcd_client::{Client, ConnectOptions, Error};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::config::{EtcdConfig, Sabotage};
use crate::failure::Failure;

/// HTTP/2 pings: not more often than servers allow (5 s), and fast enough that a dead peer's watch ends by itself.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Members {
    members: Vec<Member>,
    options: ConnectOptions,
    /// Who answered last. Whoever fails loses the place to the next one, and gets it back when that one fails.
    preferred: AtomicUsize,
    call_timeout: Duration,
    ask_next_after: Duration,
    resend: bool,
}

/// A call that waits for a member. Whoever is less patient than [`Members::call_timeout`] drops it, and would begin
/// with the same silent member for ever.
pub(crate) struct Waiting<'a> {
    members: &'a Members,
    index: usize,
    since: Instant,
    over: bool,
}

impl Waiting<'_> {
    /// An answer came, or the member had all its time.
    pub(crate) fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // One that was dropped early says nothing about the member: its caller had something better to do.
        // One that was overtaken by a member that was asked later is named by that one's success.
        if !self.over && self.since.elapsed() >= self.members.call_timeout / 2 {
            self.members.avoid_index(self.index);
        }
    }
}

pub(crate) struct Member {
    pub(crate) place: String,
    client: Client,
    index: usize,
}

impl Members {
    pub(crate) async fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        let options = ConnectOptions::new()
            .with_connect_timeout(config.connect_timeout)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            // A member without a leader says so at once instead of letting us wait, and ends its watches.
            .with_require_leader(true);
        let mut members = Vec::new();
        for (index, place) in config.endpoints.iter().enumerate() {
            let client = connect(place, &options).await?;
            members.push(Member { place: place.clone(), client, index });
        }
        if members.is_empty() {
            return Err(StoreError::Refused("no member of the registry is named".to_owned()));
        }
        Ok(Self {
            members,
            options,
            preferred: AtomicUsize::new(0),
            call_timeout: config.call_timeout,
            ask_next_after: config.ask_next_after,
            resend: config.sabotage == Sabotage::ResentCommits,
        })
    }

    /// Asks one member after the other until one answers: only for calls that may be carried out twice. One that takes
    /// long is not given up when the next one is asked: all may be slow, and then the first one answers first.
    pub(crate) async fn ask<T, F, Answer>(&self, call: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> Answer,
        Answer: Future<Output = Result<T, Error>>,
    {
        self.try_each(true, call).await.map_err(|(place, failure)| failure.of_a_question(&place))
    }

    /// Like [`Self::ask`], for a call that must not be carried out twice: the next member is asked only if this one
    /// certainly did nothing.
    pub(crate) async fn tell<T, F, Answer>(&self, call: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> Answer,
        Answer: Future<Output = Result<T, Error>>,
    {
        self.try_each(self.resend, call).await.map_err(|(place, failure)| match failure {
            Failure::NotDone(why) => StoreError::Unavailable { place, why },
            Failure::Unclear(why) | Failure::TooLong(why) => StoreError::UnknownOutcome { place, why },
            Failure::Full => StoreError::Full { place },
            Failure::Final(error) => error,
        })
    }

    /// `again_if_unclear`: the call may be carried out twice, so a member that takes long is not waited for alone.
    pub(crate) async fn try_each<T, F, Answer>(
        &self,
        again_if_unclear: bool,
        call: F,
    ) -> Result<T, (String, Failure)>
    where
        F: Fn(Client) -> Answer,
        Answer: Future<Output = Result<T, Error>>,
    {
        let mut failed = Failed::default();
        let mut asked = FuturesUnordered::new();
        let mut rest = self.from(self.preferred()).peekable();
        loop {
            if asked.is_empty() {
                let Some(member) = rest.next() else { return Err(failed.all(&self.members)) };
                asked.push(self.call(member, &call));
            }
            // Nobody is left to ask as well, or nobody may be.
            let alone = rest.peek().is_none() || !again_if_unclear;
            let (member, answer) = match self.first_of(&mut asked, alone).await {
                Some(answered) => answered,
                None => {
                    asked.extend(rest.next().map(|next| self.call(next, &call)));
                    continue;
                }
            };
            let failure = match answer {
                Ok(answer) => {
                    self.preferred.store(member.index, Ordering::Relaxed);
                    failed.overcome_by(member);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            match &failure {
                Failure::NotDone(why) => failed.note(member, why, false),
                Failure::Unclear(why) if again_if_unclear => failed.note(member, why, true),
                Failure::Unclear(_) => {
                    self.avoid(member);
                    return Err((member.place.clone(), failure));
                }
                Failure::TooLong(_) | Failure::Full | Failure::Final(_) => {
                    return Err((member.place.clone(), failure));
                }
            }
            // At once: this call may be dropped before the next member has answered.
            self.avoid(member);
        }
    }

    /// The next answer; none if it is time to ask another member as well.
    async fn first_of<'a, T, Asked>(
        &self,
        asked: &mut FuturesUnordered<Asked>,
        alone: bool,
    ) -> Option<(&'a Member, Result<T, Failure>)>
    where
        Asked: Future<Output = (&'a Member, Result<T, Failure>)>,
    {
        if alone {
            return asked.next().await;
        }
        tokio::time::timeout(self.ask_next_after, asked.next()).await.ok().flatten()
    }

    async fn call<'a, T, F, Answer>(
        &'a self,
        member: &'a Member,
        call: &F,
    ) -> (&'a Member, Result<T, Failure>)
    where
        F: Fn(Client) -> Answer,
        Answer: Future<Output = Result<T, Error>>,
    {
        let waiting = self.waiting(member);
        let answer = tokio::time::timeout(self.call_timeout, call(member.client.clone())).await;
        waiting.over();
        let answer = match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure::Unclear(format!("no answer within {:?}", self.call_timeout))),
        };
        (member, answer)
    }

    /// Asks every member at once; what each says, or that it did not. For questions about the member itself.
    pub(crate) async fn ask_each<T, F, Answer>(&self, call: F) -> Vec<(&Member, Option<T>)>
    where
        F: Fn(Client) -> Answer,
        Answer: Future<Output = Result<T, Error>>,
    {
        let call = &call;
        let asked = self.members.iter().map(|member| async move {
            let answer = tokio::time::timeout(self.call_timeout, call(member.client.clone())).await;
            (member, answer.ok().and_then(Result::ok))
        });
        futures::future::join_all(asked).await
    }

    /// A new connection to this member, for a watch: changes that nobody reads fill a connection's window, and neither
    /// calls nor other watches may wait behind them.
    pub(crate) async fn connection_of_its_own(&self, member: &Member) -> Result<Client, StoreError> {
        connect(&member.place, &self.options).await
    }

    /// All members, the one that answered last first.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Member> {
        self.from(self.preferred())
    }

    /// The next call begins with another member than this one.
    pub(crate) fn avoid(&self, member: &Member) {
        self.avoid_index(member.index);
    }

    /// To be held while a call waits for this member.
    pub(crate) fn waiting(&self, member: &Member) -> Waiting<'_> {
        Waiting { members: self, index: member.index, since: Instant::now(), over: false }
    }

    pub(crate) const fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    pub(crate) fn avoid_index(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        // Only if nobody else has moved on already.
        let _ = self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    fn from(&self, start: usize) -> impl Iterator<Item = &Member> {
        self.members.iter().cycle().skip(start).take(self.members.len())
    }
}

/// Does no I/O: the connection is made with the first call.
async fn connect(place: &str, options: &ConnectOptions) -> Result<Client, StoreError> {
    Client::connect([format!("http://{place}")], Some(options.clone()))
        .await
        .map_err(|error| StoreError::Refused(format!("{place}: {error}")))
}

/// Who failed during one call.
#[derive(Default)]
struct Failed {
    why: Vec<String>,
    unclear: bool,
}

impl Failed {
    fn note(&mut self, member: &Member, why: &str, unclear: bool) {
        self.why.push(format!("{}: {why}", member.place));
        self.unclear |= unclear;
    }

    /// Once per change: the next call begins with the one that answered.
    fn overcome_by(&self, member: &Member) {
        if !self.why.is_empty() {
            tracing::info!(now = member.place, failed = self.why.join("; "), "another member was asked");
        }
    }

    fn all(self, members: &[Member]) -> (String, Failure) {
        let place = members.iter().map(|m| m.place.as_str()).collect::<Vec<_>>().join(",");
        let why = self.why.join("; ");
        (place, if self.unclear { Failure::Unclear(why) } else { Failure::NotDone(why) })
    }
}

impl Member {
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}
