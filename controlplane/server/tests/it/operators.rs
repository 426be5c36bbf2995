//! The operators' file changes while the control plane runs.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use reqwest::Method;

use crate::common::{Plane, Special, operator, registry};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_change_of_the_file_counts_and_a_broken_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let (ann, bob) = (operator("ann", "a"), operator("bob", "b"));
    std::fs::write(&file, &ann).unwrap();
    let special = Special { tokens: Some(file.clone()), ..Special::default() };
    let plane = Plane::start_with("a", registry(), special).await;
    let asks = async |token| plane.send(Method::GET, "/v1/status", None, Some(token), &[]).await.0;
    let broken = async |is: bool| {
        let what = format!("the metrics say whether the file is broken: {is}");
        let line = format!("domicile_control_tokens_broken {}", u8::from(is));
        eventually(SOON, &what, || async { plane.get("/metrics").await.1.to_string().contains(&line) })
            .await
            .unwrap();
    };
    assert_eq!((asks("a").await, asks("b").await), (200, 401));

    // Somebody comes.
    std::fs::write(&file, format!("{ann}{bob}")).unwrap();
    eventually(SOON, "bob is let in", || async { asks("b").await == 200 }).await.unwrap();

    // Broken edits, one of them as an editor leaves it for a moment: all as before.
    for text in [String::new(), "ann not-a-hash".into(), format!("{ann}{ann}")] {
        std::fs::write(&file, &text).unwrap();
        broken(true).await;
        assert_eq!((asks("a").await, asks("b").await), (200, 200), "{text}");
    }
    std::fs::remove_file(&file).unwrap();
    broken(true).await;
    assert_eq!(asks("a").await, 200);

    // Somebody leaves.
    std::fs::write(&file, &bob).unwrap();
    eventually(SOON, "ann is out", || async { asks("a").await == 401 }).await.unwrap();
    broken(false).await;
    assert_eq!(asks("b").await, 200);
}
