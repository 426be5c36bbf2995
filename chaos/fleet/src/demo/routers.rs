//! What routers say about themselves, and what the registry says about its fence.

use std::time::Duration;

use anyhow::Context;
use domicile_chaos_kit::install;

use crate::fleet::{FleetFile, Kind};

fn http() -> reqwest::Client {
    // Without options this can't fail; a client that could not be built would fail at its first use.
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(3)).build().unwrap_or_default()
}

/// Requests that waited for a move, all routers together. A router that does not answer counts as zero: it is dead.
pub(crate) async fn held(fleet: &FleetFile) -> u64 {
    let http = http();
    let mut sum = 0;
    for router in fleet.units.iter().filter(|u| matches!(u.kind, Kind::Gate | Kind::Edge)) {
        let Some(admin) = router.address("admin") else { continue };
        let Ok(answer) = http.get(format!("http://{admin}/metrics")).send().await else { continue };
        sum += counter(&answer.text().await.unwrap_or_default(), "domicile_router_held_total");
    }
    sum
}

/// A counter without labels in Prometheus' text format.
fn counter(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

/// Whether each edge serves every tenant: an encounter that nobody wrote is the application's own 404.
pub(crate) async fn every_tenant_is_served(fleet: &FleetFile) -> bool {
    unserved(fleet).await.is_empty()
}

/// The tenants that an edge does not serve, and why.
pub(crate) async fn unserved(fleet: &FleetFile) -> Vec<String> {
    let http = http();
    let mut bad = Vec::new();
    for edge in fleet.units.iter().filter(|u| u.kind == Kind::Edge) {
        for tenant in &fleet.tenants {
            let request = http.get(format!("http://{}/encounters/nobody-wrote-this", edge.listen()));
            let why = match request.header("host", &tenant.host).send().await {
                Ok(answer) => {
                    let status = answer.status();
                    let body = answer.text().await.unwrap_or_default();
                    if status == 404 && body == "there is no such encounter" {
                        continue;
                    }
                    format!("{status} {body}")
                }
                Err(error) => error.to_string(),
            };
            bad.push(format!("{} through {}: {why}", tenant.id, edge.name));
        }
    }
    bad
}

/// FENCE, as the registry holds it, in milliseconds.
///
/// # Errors
/// When the registry can't be read, or nothing was applied yet.
pub async fn fence_ms(fleet: &FleetFile) -> anyhow::Result<u64> {
    let output = tokio::process::Command::new(install::program("etcdctl")?)
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", fleet.registry.trim_start_matches("etcd://")))
        .args(["get", "/domicile/world", "--print-value-only"])
        .output()
        .await
        .context("can't run etcdctl")?;
    let world: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the registry holds no world")?;
    world
        .pointer("/data/constants/fence_ms")
        .and_then(serde_json::Value::as_u64)
        .context("the world has no fence")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_read_by_its_whole_name() {
        let text = "# HELP held_total x\nheld_total_other 9\nheld_total 12\n";
        assert_eq!(counter(text, "held_total"), 12);
        assert_eq!(counter(text, "missing"), 0);
    }
}
