//! The plan, and its transactions on the in-process store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domicile_model::clock::{Clock, ManualClock};
use domicile_model::{
    BootId, CellId, FenceConstants, Fleet, MoveClaim, MoveId, Placement, RegionId, Revision, Role, RouterId,
    RouterState, WitnessState, World,
};
use domicile_store::lead::{Attempt, Candidate, Reign};
use domicile_store::memory::{LostAnswer, MemoryStore};
use domicile_store::world::init_world;
use domicile_store::{
    Commit, Entry, Header, Key, LeaseId, Listing, Op, Precondition, Store, StoreError, Txn, Watcher, codec,
    right,
};

use super::{Applier, ApplyError, batch, look};

const SMALL: &str = r#"
[regions]
us-east-1 = { country = "US", ingress = ["10.0.1.10:8443"] }
us-west-2 = { country = "US", ingress = ["10.1.1.10:8443"] }
eu-west-1 = { country = "IE", ingress = ["10.2.1.10:8443"] }
eu-central-1 = { country = "DE", ingress = ["10.3.1.10:8443"] }

[jurisdictions]
EU = ["IE", "DE"]

[cells.pool]
primary = "us-west-2"
dr = "us-east-1"

[tenants.mercy]
primary = "us-east-1"
dr = "us-west-2"
hosts = ["mercy.example.com"]
residency = ["US"]

[tenants.nhs]
primary = "eu-west-1"
dr = "eu-central-1"
hosts = ["nhs.example.com"]
residency = ["EU"]

[tenants.clinic]
cell = "pool"
hosts = ["clinic.example.com"]
"#;

fn fleet(text: &str) -> Fleet {
    domicile_config::parse("regions.toml", text).unwrap_or_else(|m| panic!("{m}"))
}

struct Bench {
    store: std::sync::Arc<MemoryStore>,
    clock: Clock,
    world: World,
    reign: Reign,
    unfenced: bool,
    may_weaken: bool,
}

impl Bench {
    async fn new() -> Self {
        let clock = Clock::Manual(ManualClock::new());
        let store = std::sync::Arc::new(MemoryStore::new(clock.clone()));
        let world = init_world(&*store, FenceConstants::DEFAULT).await.unwrap();
        let reign = Self::lead(&store, &clock, &world).await;
        Self { store, clock, world, reign, unfenced: false, may_weaken: false }
    }

    async fn lead(store: &std::sync::Arc<MemoryStore>, clock: &Clock, world: &World) -> Reign {
        let address = "127.0.0.1:1".parse().unwrap();
        let ttl = std::time::Duration::from_secs(3);
        let candidate = Candidate::new(store.clone(), clock.clone(), world.clone(), "a", address, ttl);
        match candidate.try_lead().await.unwrap() {
            Attempt::Leads(reign) => reign,
            Attempt::Follows(other) => panic!("{other:?} leads"),
        }
    }

    async fn apply(&self, text: &str, prune: bool) -> Result<domicile_api::views::ApplyReport, ApplyError> {
        self.apply_through(&*self.store, text, prune).await
    }

    async fn apply_through(
        &self,
        store: &dyn Store,
        text: &str,
        prune: bool,
    ) -> Result<domicile_api::views::ApplyReport, ApplyError> {
        let applier = Applier {
            store,
            clock: &self.clock,
            world: &self.world,
            leadership: self.reign.leadership(),
            server: "a",
            by: "ann",
            may_weaken: self.may_weaken,
            room: None,
            unfenced: self.unfenced,
        };
        applier.apply(&fleet(text), prune).await
    }

    async fn refusals(&self, text: &str, prune: bool) -> String {
        let before = self.store.revision();
        let error = self.apply(text, prune).await.unwrap_err();
        assert_eq!(self.store.revision(), before, "a refused file wrote something");
        let ApplyError::Refused(changes) = error else { panic!("{error}") };
        changes.iter().map(|c| format!("{} {}: {}\n", c.what, c.id, c.why)).collect()
    }

    async fn placement(&self, cell: &str) -> (Placement, domicile_model::Revision) {
        let key = Key::Placement(CellId::new(cell).unwrap());
        let (_, found) = self.store.read(&[key]).await.unwrap();
        let entry = found[0].clone().unwrap();
        (codec::decode(&entry.value).unwrap(), entry.modified)
    }

    async fn hold(&self, cell: &str, region: &str) {
        let (old, seen) = self.placement(cell).await;
        let new = Placement { holder: Some(RegionId::new(region).unwrap()), ..old.clone() };
        let base = Txn::fenced(&self.world, self.reign.leadership());
        let (txn, _) = right::take_right(base, &old, seen, new).unwrap();
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.list(prefix).await.unwrap().entries.iter().map(|e| e.key.to_string()).collect()
    }
}

#[tokio::test]
async fn a_first_apply_writes_everything_once_with_history_and_audit() {
    let bench = Bench::new().await;
    let report = bench.apply(SMALL, false).await.unwrap();
    assert!(report.applied);
    assert_eq!(report.changes.iter().filter(|c| c.action == "add").count(), 4 + 1 + 3 + 3);
    let (placement, _) = bench.placement("mercy").await;
    assert_eq!(placement.holder.unwrap().as_str(), "us-east-1");
    assert_eq!(bench.keys("hosts/").await.len(), 3);
    assert_eq!(bench.keys("history/tenant/").await.len(), 3);
    assert_eq!(bench.keys("history/placement/").await.len(), 3);
    assert_eq!(bench.keys("audit/").await.len(), 1);

    let before = bench.store.revision();
    let again = bench.apply(SMALL, false).await.unwrap();
    assert!(again.changes.is_empty(), "{:?}", again.changes);
    assert_eq!(bench.store.revision(), before, "nothing to do wrote something");
}

/// Naming them later would raise the epoch under the first users.
#[tokio::test]
async fn a_new_cell_begins_with_the_witnesses_that_are_up() {
    let bench = Bench::new().await;
    let routers = [
        ("gate-a", "us-east-1", Role::Gate, true),
        ("gate-b", "us-west-2", Role::Gate, true),
        ("edge-e", "eu-west-1", Role::Edge, true),
        // The first by name, and gone.
        ("edge-a", "eu-central-1", Role::Edge, false),
    ];
    for (id, region, role, up) in routers {
        let (id, region) = (RouterId::new(id).unwrap(), RegionId::new(region).unwrap());
        let boot = BootId::new();
        let at = "127.0.0.1:1".parse().unwrap();
        let witness = WitnessState {
            id: id.clone(),
            region: region.clone(),
            role,
            boot,
            quiet: Revision::ZERO,
            peer: at,
        };
        let mut txn = Txn::in_world(&bench.world).put(Key::Witness(id.clone()), &witness);
        if up {
            let (world, applied, busy) = (bench.world.id, Revision::ZERO, [].into());
            let state = RouterState { id: id.clone(), role, region, boot, world, applied, busy, listen: at };
            txn = txn.put(Key::Router(id), &state);
        }
        bench.store.commit(txn).await.unwrap();
    }
    bench.apply(SMALL, false).await.unwrap();
    let (mercy, _) = bench.placement("mercy").await;
    let names: Vec<&str> = mercy.witnesses.members.iter().map(RouterId::as_str).collect();
    assert_eq!((names.as_slice(), mercy.epoch.0), (["edge-e", "gate-a", "gate-b"].as_slice(), 1));
    let (nhs, _) = bench.placement("nhs").await;
    assert!(nhs.witnesses.members.is_empty(), "too few for its regions: {nhs:?}");
}

#[tokio::test]
async fn a_file_moves_nothing() {
    let bench = Bench::new().await;
    bench.apply(SMALL, false).await.unwrap();
    bench.hold("mercy", "us-west-2").await;
    let (before, seen) = bench.placement("mercy").await;
    bench.apply(&SMALL.replace("mercy.example.com", "mercy.example.org"), false).await.unwrap();
    assert_eq!(bench.placement("mercy").await, (before, seen));

    let swapped = SMALL.replace(
        "primary = \"us-east-1\"\ndr = \"us-west-2\"",
        "primary = \"us-west-2\"\ndr = \"us-east-1\"",
    );
    let said = bench.refusals(&swapped, false).await;
    assert!(said.contains("cell mercy: its regions can't be changed by a file"), "{said}");
    assert!(said.contains("domicile failover start mercy --to REGION"), "{said}");
}

#[tokio::test]
async fn a_tenant_does_not_change_its_cell_by_a_file() {
    let bench = Bench::new().await;
    bench.apply(SMALL, false).await.unwrap();
    let moved = SMALL.replace("primary = \"us-east-1\"\ndr = \"us-west-2\"\nhosts", "cell = \"pool\"\nhosts");
    let said = bench.refusals(&moved, false).await;
    assert!(said.contains("tenant mercy: its data lies in cell `mercy`"), "{said}");
}

#[tokio::test]
async fn nothing_is_removed_without_prune_and_a_used_cell_never() {
    let bench = Bench::new().await;
    bench.apply(SMALL, false).await.unwrap();
    let without = &SMALL[..SMALL.find("[tenants.clinic]").unwrap()];
    let report = bench.apply(without, false).await.unwrap();
    assert_eq!(report.changes.len(), 1);
    assert_eq!((report.changes[0].action.as_str(), report.changes[0].id.as_str()), ("keep", "clinic"));
    assert_eq!(bench.keys("tenants/").await.len(), 3);

    bench.apply(without, true).await.unwrap();
    assert_eq!(bench.keys("tenants/").await, ["tenants/mercy", "tenants/nhs"]);
    assert_eq!(bench.keys("hosts/").await, ["hosts/mercy.example.com", "hosts/nhs.example.com"]);

    let no_pool = without.replace("[cells.pool]\nprimary = \"us-west-2\"\ndr = \"us-east-1\"\n", "");
    bench.apply(&no_pool, true).await.unwrap();
    assert_eq!(bench.keys("cells/").await, ["cells/mercy", "cells/nhs"]);
    assert_eq!(bench.keys("placements/").await.len(), 3, "a removed cell's epochs must not begin again");
    bench.hold("pool", "us-east-1").await;
    bench.apply(SMALL, false).await.unwrap();
    assert_eq!(bench.placement("pool").await.0.epoch.0, 2, "a cell that returns goes on from its epoch");
}

#[tokio::test]
async fn a_kept_tenant_keeps_its_rights() {
    let bench = Bench::new().await;
    bench.apply(SMALL, false).await.unwrap();
    // The file does not name mercy any more and gives its host to another one.
    let start = SMALL.find("[tenants.mercy]").unwrap();
    let end = SMALL.find("[tenants.nhs]").unwrap();
    let robbed =
        format!("{}{}", &SMALL[..start], &SMALL[end..]).replace("clinic.example.com", "mercy.example.com");
    let said = bench.refusals(&robbed, false).await;
    assert!(said.contains("`mercy.example.com` is claimed by"), "{said}");
    // And a narrower EU would leave the kept nhs outside.
    let start = SMALL.find("[tenants.nhs]").unwrap();
    let end = SMALL.find("[tenants.clinic]").unwrap();
    let narrowed =
        format!("{}{}", &SMALL[..start], &SMALL[end..]).replace("EU = [\"IE\", \"DE\"]", "EU = [\"DE\"]");
    let said = bench.refusals(&narrowed, false).await;
    assert!(said.contains("nhs"), "{said}");
}

#[tokio::test]
async fn a_policy_that_the_present_holder_would_break_is_refused() {
    let bench = Bench::new().await;
    bench.apply(SMALL, false).await.unwrap();
    // Nothing but a wrong hand could bring it there; the file must still not make it lawful or worse.
    bench.hold("pool", "eu-west-1").await;
    let tightened = SMALL.replace("cell = \"pool\"", "cell = \"pool\"\nresidency = [\"US\"]");
    let said = bench.refusals(&tightened, false).await;
    assert!(said.contains("tenant clinic: its cell pool is served from `eu-west-1` now"), "{said}");
}

#[tokio::test]
async fn a_host_passes_from_one_tenant_to_another_in_one_transaction() {
    let bench = Bench::new().await;
    bench.apply(SMALL, false).await.unwrap();
    let passed = SMALL
        .replace("hosts = [\"mercy.example.com\"]\n", "")
        .replace("[\"clinic.example.com\"]", "[\"clinic.example.com\", \"mercy.example.com\"]");
    let (plan, _) = look(&*bench.store, &bench.clock, &fleet(&passed), false).await.unwrap();
    let units: Vec<_> = plan.stages.iter().flat_map(|s| &s.units).collect();
    assert_eq!(units.len(), 1);
    bench.apply(&passed, false).await.unwrap();
    let (_, found) = bench
        .store
        .read(&[Key::Host(domicile_model::HostPattern::new("mercy.example.com").unwrap())])
        .await
        .unwrap();
    let claim: domicile_model::fleet::HostClaim = codec::decode(&found[0].clone().unwrap().value).unwrap();
    assert_eq!(claim.tenant.as_str(), "clinic");
}

#[tokio::test]
async fn a_cell_that_moves_is_left_alone() {
    let bench = Bench::new().await;
    bench.apply(SMALL, false).await.unwrap();
    let cell = CellId::new("pool").unwrap();
    let claim = Txn::fenced(&bench.world, bench.reign.leadership())
        .put(Key::Move(cell), &MoveClaim { moving: MoveId::from_u128(7) });
    bench.store.commit(claim).await.unwrap();
    let changed = SMALL.replace("dr = \"us-east-1\"\n\n", "dr = \"us-east-1\"\nrpo = \"5m\"\n\n");
    let said = bench.refusals(&changed, false).await;
    assert!(said.contains("cell pool: move") && said.contains("is under way"), "{said}");
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_looked_at_and_not_done_twice() {
    for how in [LostAnswer::Applied, LostAnswer::NotApplied] {
        let bench = Bench::new().await;
        bench.store.lose_next_answer(how);
        let report = bench.apply(SMALL, false).await.unwrap();
        assert_eq!(report.changes.len(), 11, "what was done is told, however often it was looked at");
        assert_eq!(bench.keys("audit/").await.len(), 1);
        assert_eq!(bench.keys("history/cell/").await.len(), 3);
    }
}

/// A leader that was deposed and does not know it applies a file; and whether that changed anything.
async fn deposed(unfenced: bool) -> (Result<domicile_api::views::ApplyReport, ApplyError>, bool) {
    let mut bench = Bench::new().await;
    bench.unfenced = unfenced;
    bench.apply(SMALL, false).await.unwrap();
    domicile_store::lead::seize(&*bench.store, &bench.world, bench.reign.leadership()).await.unwrap();
    let _other = Bench::lead(&bench.store, &bench.clock, &bench.world).await;
    let before = bench.store.revision();
    let applied = bench.apply(&SMALL.replace("mercy.example.com", "mercy.example.org"), false).await;
    (applied, bench.store.revision() != before)
}

#[tokio::test]
async fn a_deposed_leader_applies_nothing() {
    assert!(matches!(deposed(false).await, (Err(ApplyError::Deposed), false)));
}

#[tokio::test]
async fn without_the_fence_a_deposed_leader_would_change_the_fleet() {
    assert!(matches!(deposed(true).await, (Ok(_), true)));
}

#[tokio::test]
async fn what_a_newer_program_wrote_stops_an_apply() {
    let bench = Bench::new().await;
    bench.apply(SMALL, false).await.unwrap();
    bench.store.put_raw("/domicile/tenants/zeta", br#"{"v":2,"data":{}}"#);
    assert!(matches!(bench.apply(SMALL, true).await, Err(ApplyError::Unreadable(_))));
}

/// A file that takes several transactions.
fn large() -> String {
    use std::fmt::Write as _;
    let mut text = SMALL.to_owned();
    for n in 0..150 {
        write!(
            text,
            "\n[tenants.t{n}]\ncell = \"pool\"\nhosts = [\"t{n}.example.com\", \"www.t{n}.example.com\"]\n"
        )
        .unwrap();
    }
    text
}

/// Answers so many commits, and then no more.
struct Ends(std::sync::Arc<MemoryStore>, AtomicUsize);

#[async_trait::async_trait]
impl Store for Ends {
    async fn read(&self, keys: &[Key]) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
        self.0.read(keys).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.0.list(prefix).await
    }
    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        if self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            return Err(StoreError::Unavailable { place: "here".into(), why: "a test".into() });
        }
        self.0.commit(txn).await
    }
    async fn watch(&self, from: Revision) -> Result<Box<dyn Watcher>, StoreError> {
        self.0.watch(from).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.0.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }
    async fn room(&self) -> Result<Option<domicile_store::Room>, StoreError> {
        self.0.room().await
    }
    async fn forget_before(&self, revision: domicile_model::Revision) -> Result<(), StoreError> {
        self.0.forget_before(revision).await
    }
}

#[tokio::test]
async fn whether_anything_was_applied_before_the_end_is_said() {
    let bench = Bench::new().await;
    let before = bench.store.revision();
    let none = bench.apply_through(&Ends(bench.store.clone(), 0.into()), &large(), false).await;
    assert!(matches!(none, Err(ApplyError::Store(_))), "{none:?}");
    assert_eq!(bench.store.revision(), before);
    let some = bench.apply_through(&Ends(bench.store.clone(), 2.into()), &large(), false).await;
    assert!(matches!(some, Err(ApplyError::Partly(_))), "{some:?}");
    assert!(bench.store.revision() > before);
    // The same file again goes on where it stopped.
    bench.apply(&large(), false).await.unwrap();
    assert_eq!(bench.keys("tenants/").await.len(), 153);
}

#[tokio::test]
async fn a_large_fleet_takes_several_transactions_of_lawful_size_and_each_prefix_is_sound() {
    let bench = Bench::new().await;
    let text = large();
    let (plan, _) = look(&*bench.store, &bench.clock, &fleet(&text), false).await.unwrap();
    let packed: Vec<_> = plan.stages.iter().flat_map(|s| batch::pack(&s.units)).collect();
    assert!(packed.len() > 3);
    assert!(packed.iter().all(|u| u.then.len() <= batch::MOST && u.when.len() <= batch::MOST));
    bench.apply(&text, false).await.unwrap();
    assert_eq!(bench.keys("tenants/").await.len(), 153);
    assert_eq!(bench.keys("hosts/").await.len(), 303);

    // Between the stages nothing may be wrong: a region that changes its country under a policy that changes with it.
    let mut moved = text.replace("eu-west-1 = { country = \"IE\"", "eu-west-1 = { country = \"GB\"");
    moved = moved.replace("residency = [\"EU\"]", "residency = [\"EU\", \"GB\"]").replace("t1", "u1");
    let said = bench.refusals(&moved, true).await;
    assert!(said.contains("for a moment"), "{said}");
}

#[test]
fn one_precondition_is_asked_once() {
    let key = Key::Placement(CellId::new("pool").unwrap());
    let unit = || {
        batch::Unit::new("x".into()).when(Precondition::ModifiedAt(key.clone(), domicile_model::Revision(3)))
    };
    let mut both = unit();
    both.join(unit());
    assert_eq!(both.when.len(), 1);
    assert!(both.then.iter().all(|op| matches!(op, Op::Delete(_))));
}

#[tokio::test]
async fn the_approval_policy_is_kept_changed_and_only_weakened_by_who_may() {
    let mut bench = Bench::new().await;
    let strict = format!("{SMALL}\n[approvals]\nfailover = \"two\"\n");
    let report = bench.apply(&strict, false).await.unwrap();
    assert!(report.changes.iter().any(|c| c.what == "approvals" && c.action == "add"), "{report:#?}");
    let standing = async |bench: &Bench| -> Option<domicile_model::Approvals> {
        let (_, found) = bench.store.read(&[Key::Approvals]).await.unwrap();
        found[0].as_ref().map(|e| codec::decode(&e.value).unwrap())
    };
    let policy = standing(&bench).await.unwrap();
    // A file that says nothing about it keeps it, and says so.
    let report = bench.apply(SMALL, false).await.unwrap();
    assert!(report.changes.iter().any(|c| c.what == "approvals" && c.action == "keep"), "{report:#?}");
    assert_eq!(standing(&bench).await.as_ref(), Some(&policy));
    let weak = format!("{SMALL}\n[approvals]\nfailover = \"one\"\n");
    for (text, prune) in [(weak.as_str(), false), (SMALL, true)] {
        let refused = bench.apply(text, prune).await.unwrap_err();
        assert!(
            matches!(&refused, ApplyError::Weakens { place, .. } if place == "approvals.failover"),
            "{refused}"
        );
        assert_eq!(standing(&bench).await.as_ref(), Some(&policy));
    }
    bench.may_weaken = true;
    bench.apply(&weak, false).await.unwrap();
    assert_ne!(standing(&bench).await.unwrap(), policy);
    bench.apply(SMALL, true).await.unwrap();
    assert_eq!(standing(&bench).await, None);
}
