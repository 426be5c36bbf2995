//! Bodies of gigabytes: they pass in pieces, and no router ever holds more than a few of them.

use std::process::Stdio;

use tokio::process::Command;

use crate::kit::{Fleet, HOST, until_status};

const SIZE: u64 = 4 << 30;
/// Above what it took before the first of them.
const MOST_MIB: u64 = 64;

async fn shell(command: &str) -> String {
    let run = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).kill_on_drop(true).output();
    let done = run.await.unwrap();
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_gigabytes_pass_both_ways_in_little_memory() {
    let fleet = Fleet::new().await;
    let (gate, edge) = (fleet.gate("us-east-1").await, fleet.edge().await);
    until_status(&edge, "/", 200).await;
    let before = [edge.peak(), gate.peak()];
    let curl = format!("curl -sS --noproxy '*' -H 'Host: {HOST}'");
    let at = edge.listen;
    let up = format!("head -c {SIZE} /dev/zero | {curl} -T - http://{at}/sink");
    assert_eq!(shell(&up).await, format!("took {SIZE}"), "{}", edge.process.tail());
    let down =
        format!("{curl} -o /dev/null -w '%{{http_code}} %{{size_download}}' http://{at}/source/{SIZE}");
    assert_eq!(shell(&down).await, format!("200 {SIZE}"), "{}", edge.process.tail());
    // A client that takes nothing makes the application wait: what is under way fits into the buffers of the sockets.
    let slow = format!("{curl} --limit-rate 64k --max-time 3 -o /dev/null http://{at}/source/{SIZE}");
    assert!(shell(&slow).await.contains("timed out"));
    for (router, before) in [&edge, &gate].into_iter().zip(before) {
        let more = (router.peak() - before) / 1024;
        assert!(more <= MOST_MIB, "{} has had {more} MiB more than before", router.id);
    }
}
