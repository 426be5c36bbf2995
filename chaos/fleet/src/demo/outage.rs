//! Without the registry and the control plane, traffic goes on; writes, and a router's restart, included.

use std::time::Duration;

use domicile_chaos_kit::wait;
use domicile_model::clock::{Clock, pause};

use super::routers;
use super::stage::Stage;
use super::summary::Outage;
use crate::control::UnitAct;
use crate::load::Shape;
use crate::oracle;

/// The edge that is restarted in the middle of it.
const EDGE: &str = "edge-us-east-1";
/// Until the fleet is whole again.
const WHOLE: Duration = Duration::from_secs(60);

pub(super) async fn tell(stage: &mut Stage, fence_ms: u64) -> anyhow::Result<Outage> {
    let load = stage.load(Shape::demo()).await?;
    pause(Duration::from_secs(1)).await;
    stage.say("$ domicile-chaos kill etcd; domicile-chaos kill control");
    let began = Clock::Machine.now();
    stage.control().unit(UnitAct::Kill, "etcd").await?;
    stage.control().unit(UnitAct::Kill, "control").await?;
    let length = Duration::from_millis(3 * fence_ms + 1_000);
    pause(length / 3).await;
    restart_an_edge(stage, &load).await?;
    pause(length.saturating_sub(Clock::Machine.now().since(began))).await;
    let duration = Clock::Machine.now().since(began);
    // Only what happened while nothing was there: what comes back is another chapter.
    let records = stage.unload(load).await;
    stage.say("registry and control planes come back");
    stage.control().unit(UnitAct::Start, "etcd").await?;
    stage.control().unit(UnitAct::Start, "control").await?;
    let leads = || async { stage.operator().status().await.ok()?.leader };
    wait::eventually(WHOLE, "a control plane leads again", leads).await?;
    let stored = stage.stored().await?;
    let lost = oracle::lost(&records, &stored).len() as u64;
    let numbers = oracle::numbers(&records, "");
    stage.tell_failures(&records);
    stage.must(numbers.requests_failed == 0, &format!("of {} requests none failed", numbers.requests));
    let wrote = format!("{} writes were acknowledged, none of them is lost", numbers.writes_acknowledged);
    stage.must(numbers.writes_acknowledged > 0 && lost == 0, &wrote);
    Ok(Outage {
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        requests: numbers.requests,
        requests_failed: numbers.requests_failed,
        writes_acknowledged: numbers.writes_acknowledged,
        writes_lost: lost,
        read_ms_p99: numbers.read_ms_p99,
    })
}

/// Users go elsewhere, the edge drains and ends, comes up again without any server to ask, and serves every tenant.
async fn restart_an_edge(stage: &mut Stage, load: &crate::load::Load) -> anyhow::Result<()> {
    let edge = stage.fleet().unit(EDGE)?.clone();
    stage.say(&format!("$ domicile-chaos terminate {EDGE}; domicile-chaos start {EDGE}"));
    load.edges().avoid(edge.listen());
    stage.control().unit(UnitAct::Terminate, EDGE).await?;
    stage.control().unit(UnitAct::Start, EDGE).await?;
    let served = wait::eventually(WHOLE, "the edge serves every tenant from disk", || {
        routers::every_tenant_is_served(stage.fleet())
    });
    let served = served.await.is_ok();
    stage.must(served, "an edge that was restarted meanwhile routes from its disk");
    if served {
        load.edges().avoid_none();
    }
    Ok(())
}
