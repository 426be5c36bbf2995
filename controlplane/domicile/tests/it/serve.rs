//! Two control planes, one leads; the command line talks to both.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_store::Store;
use domicile_store_etcd::EtcdStore;

use crate::rig::{GOOD, Rig};

/// SHA-256 of `another`.
const OTHER_HASH: &str = "ae448ac86c4e8e4dec645729708ef41873ae79c6dff84eff73360989487f08e5";
const MISTAKES: &str = include_str!("../../../../registry/config/tests/invalid/six.toml");

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_command_line_against_two_control_planes() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let (first, second) = (rig.servers[0].clone(), rig.servers[1].clone());
    let all = format!("{first},{second}");

    // A wrong token: a sentence, and nothing else.
    let (code, out, err) = rig.domicile(&second, "wrong", &["status"])?;
    assert_eq!((code, out.as_str()), (77, ""), "{err}");
    assert!(err.contains("token") && err.contains("hint: "), "{err}");

    // It becomes a right one when the operators' file says so, without a restart.
    let tokens = rig.dir.path().join("tokens");
    let bob = format!("{}bob {OTHER_HASH}\n", std::fs::read_to_string(&tokens)?);
    std::fs::write(&tokens, bob)?;
    eventually(Duration::from_secs(10), "bob is let in", || async {
        rig.domicile(&second, "wrong", &["status"]).is_ok_and(|(code, _, _)| code == 0)
    })
    .await?;

    // All mistakes in one report, and nothing changed in etcd.
    let bad = rig.write("bad.toml", MISTAKES)?;
    let before = rig.revision().await?;
    let (code, _, err) = rig.domicile(&all, "token", &["apply", &bad])?;
    assert_eq!(code, 64, "{err}");
    for word in
        ["residancy", "us-east-9", "residency policy", "is claimed by", "not a host", "primary region"]
    {
        assert!(err.contains(word), "{word} is not in:\n{err}");
    }
    assert_eq!(rig.revision().await?, before, "a bad file changed the registry");

    // Through the follower, which passes it on.
    let good = rig.write("good.toml", GOOD)?;
    let (code, out, err) = rig.domicile(&second, "token", &["apply", &good])?;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("tenant") && err.contains("4 added"), "{out}{err}");
    let (code, out, _) = rig.domicile(&second, "token", &["--json", "tenant", "route", "mercy"])?;
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out)?["region"], "us-east-1");
    let (code, _, err) = rig.domicile(&all, "token", &["cell", "show", "nowhere"])?;
    assert_eq!(code, 66, "{err}");

    // The leader dies: the other one leads, and answers through the same list of addresses.
    rig.planes[0].kill();
    rig.leader("cp-b").await?;
    let more = rig.write("more.toml", &GOOD.replace("[\"mercy.example.com\"]", "[\"mercy.example.org\"]"))?;
    let (code, _, err) = rig.domicile(&all, "token", &["apply", &more])?;
    assert_eq!(code, 0, "{err}");

    // Told to stop, it resigns and ends well.
    rig.planes[1].terminate();
    let status = rig.planes[1].wait(Duration::from_secs(10)).await?;
    assert!(status.success(), "{status}\n{}", rig.planes[1].tail());
    let store = EtcdStore::connect(rig.etcd.url().parse()?).await?;
    let (_, leader) = store.read(&[domicile_store::Key::Leader]).await?;
    assert_eq!(leader, [None], "a stopped leader resigns");

    // Nobody is there any more.
    let (code, _, err) = rig.domicile(&all, "token", &["status"])?;
    assert_eq!(code, 69, "{err}");
    Ok(())
}
