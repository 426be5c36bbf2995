//! A control plane that is cut off from the registry ends no command that another one could carry out.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use serde_json::Value;

use crate::rig::{GOOD, Rig};

/// Both ways of being cut off: connections are refused, and connections that just stay silent.
async fn the_others_answer(silent: bool) -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let (cut, other) = (rig.servers[0].clone(), rig.servers[1].clone());
    let all = format!("{cut},{other}");
    let old = rig.write("old.toml", GOOD)?;
    let (code, _, err) = rig.domicile(&all, "token", &["apply", &old])?;
    assert_eq!(code, 0, "{err}");
    // Both have seen it, so both have something to show.
    for server in [&cut, &other] {
        assert_eq!(rig.domicile(server, "token", &["tenant", "list"])?.0, 0);
    }

    // The leader is cut off; it stays first in the list.
    if silent {
        rig.links[0].control().stall();
    } else {
        rig.links[0].control().cut();
    }
    eventually(Duration::from_secs(30), "the other one leads", || async {
        rig.domicile(&other, "token", &["--json", "status"])
            .is_ok_and(|(_, out, _)| out.contains("\"leader\": \"cp-b\""))
    })
    .await?;

    // Alone it shows what it saw last, and says so.
    let (code, out, err) = rig.domicile(&cut, "token", &["--json", "status"])?;
    assert_eq!(code, 75, "{err}");
    let status: Value = serde_json::from_str(&out)?;
    assert_eq!((&status["server"], &status["leader"]), (&"cp-a".into(), &Value::Null));
    assert!(status["age_ms"].as_u64() > Some(0) && err.contains("does not reach the registry"), "{out}{err}");
    let (code, out, err) = rig.domicile(&cut, "token", &["tenant", "list"])?;
    assert!(code == 0 && out.contains("mercy") && err.contains("s old"), "{code} {out}{err}");

    // With the others named, whoever knows a leader answers.
    let (code, out, err) = rig.domicile(&all, "token", &["--json", "status"])?;
    assert_eq!(code, 0, "{err}");
    let status: Value = serde_json::from_str(&out)?;
    assert_eq!((&status["server"], &status["leader"]), (&"cp-b".into(), &"cp-b".into()));

    // Changes too: the one that is cut off says that it did nothing.
    let more = GOOD.replace("[tenants.mercy]", "[tenants.grace]").replace("mercy.", "grace.");
    let more = rig.write("more.toml", &(GOOD.to_owned() + &more[more.find("[tenants").unwrap_or(0)..]))?;
    let (code, _, err) = rig.domicile(&all, "token", &["apply", &more])?;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("added"), "{err}");
    // What is new is found, and the old view of the first one is not believed in its "there is none".
    let (code, out, err) = rig.domicile(&all, "token", &["--json", "tenant", "show", "grace"])?;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("grace.example.com"), "{out}");
    let nowhere = domicile_model::MoveId::new().to_string();
    for verb in ["retry", "rollback", "show"] {
        let (code, _, err) = rig.domicile(&all, "token", &["failover", verb, &nowhere])?;
        assert_eq!(code, 66, "the leader knows that there is no such move: {err}");
    }

    // Nobody is left who could: the reason that says most, and what the others said.
    rig.links[1].control().set(rig.links[0].control().faults());
    let (code, _, err) = rig.domicile(&all, "token", &["apply", &more])?;
    assert_eq!(code, 75, "{err}");
    assert!(err.contains("also asked: ") && err.contains(&other) && err.contains("hint: "), "{err}");
    for link in &rig.links {
        link.control().heal();
    }
    eventually(Duration::from_secs(30), "somebody leads again", || async {
        rig.domicile(&all, "token", &["status"]).is_ok_and(|(code, _, _)| code == 0)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_registry_refuses_connections_stops_nobody() -> anyhow::Result<()> {
    the_others_answer(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_registry_is_silent_stops_nobody() -> anyhow::Result<()> {
    the_others_answer(true).await
}
