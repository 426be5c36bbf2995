//! Streams that stand open and silent while their cell moves: WebSocket, server-sent events, gRPC.

use std::net::SocketAddr;
use std::process::Stdio;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::wait::eventually;
use domicile_model::Revision;
use domicile_router::config::Sabotage;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::kit::{Fleet, HOST, Router, SOON, client, until_status};

/// A client that others wrote, and what it prints.
pub(crate) struct Client {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub(crate) fn script(name: &str, at: SocketAddr) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR")));
        command.args([&at.to_string(), HOST]);
        Self::start(command)
    }

    /// With one more argument.
    pub(crate) fn script_with(name: &str, at: SocketAddr, more: &str) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR")));
        command.args([&at.to_string(), HOST, more]);
        Self::start(command)
    }

    pub(crate) async fn hears(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    fn events(at: SocketAddr) -> Self {
        let mut command = Command::new("sh");
        let curl = format!(
            "curl -sSN --noproxy '*' -H 'Host: {HOST}' -H 'Accept: text/event-stream' http://{at}/events; echo ended $?"
        );
        command.args(["-c", &curl]);
        Self::start(command)
    }

    pub(crate) async fn says(&mut self, line: &str) {
        loop {
            let next = tokio::time::timeout(SOON, self.lines.next_line()).await;
            let next = next.unwrap_or_else(|_| panic!("still no `{line}`")).unwrap();
            match next.as_deref() {
                Some("" | ": nothing") => {}
                other => return assert_eq!(other, Some(line)),
            }
        }
    }
}

/// A fleet with routers.
pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    pub(crate) edge: Router,
    pub(crate) gates: Vec<Router>,
}

impl Stage {
    pub(crate) async fn of(fleet: Fleet, sabotage: Sabotage) -> Self {
        let gates = vec![fleet.gate_as(sabotage, "us-east-1").await, fleet.gate("us-west-2").await];
        let edge = fleet.edge_as(sabotage).await;
        Self { fleet, edge, gates }
    }

    pub(crate) async fn new(sabotage: Sabotage) -> Self {
        let s = Self::of(Fleet::new().await, sabotage).await;
        until_status(&s.edge, "/", 200).await;
        s
    }

    pub(crate) async fn acknowledged(&self, revision: Revision) {
        self.fleet.acknowledged(&["gate-us-east-1", "edge"], revision).await;
    }

    /// Whether this stands in the numbers of the edge.
    pub(crate) async fn counted(&self, line: &str) -> bool {
        self.edge.admin("/metrics").await.1.contains(line)
    }

    /// Waits until one stream was ended because its cell moves: by whichever of its routers heard of it first, and
    /// perhaps by both.
    pub(crate) async fn one_ended(&self, kind: &str) {
        let line = format!("domicile_router_streams_ended_total{{kind=\"{kind}\",why=\"moved\"}} 1\n");
        let ended = || async {
            let (edge, gate) = (self.edge.admin("/metrics").await.1, self.gates[0].admin("/metrics").await.1);
            edge.contains(&line) || gate.contains(&line)
        };
        eventually(SOON, &line, ended).await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_websocket_is_told_to_come_back_and_a_move_does_not_wait_for_it() {
    let s = Stage::new(Sabotage::None).await;
    let mut client = Client::script("websocket_client.py", s.edge.listen);
    client.says("open us-east-1").await;
    client.says("heard east hello").await;
    s.edge.counts(r#"domicile_router_streams{kind="websocket"} 1"#).await;
    let held = s.fleet.hold(20_000).await;
    client.says("closed 1012").await;
    s.acknowledged(held).await;
    assert_eq!(*s.fleet.east.closes.lock().unwrap(), [1012], "the application was told as well");
    // One that comes while the cell is on hold waits, and is carried by the new region.
    let mut again = Client::script("websocket_client.py", s.edge.listen);
    eventually(SOON, "it waits", || s.counted("domicile_router_holding 1")).await.unwrap();
    s.fleet.close(20_000).await;
    s.fleet.serve("us-west-2").await;
    again.says("open us-west-2").await;
    again.says("heard west hello").await;
    s.one_ended("websocket").await;
}

#[tokio::test]
async fn without_that_rule_a_silent_websocket_would_keep_the_cell_from_moving() {
    let s = Stage::new(Sabotage::SilentStreamsStay).await;
    let mut client = Client::script("websocket_client.py", s.edge.listen);
    client.says("open us-east-1").await;
    client.says("heard east hello").await;
    let held = s.fleet.hold(20_000).await;
    let heard = eventually(SOON, "the gate has heard of the hold", || async {
        s.fleet.router_state("gate-us-east-1").await.is_some_and(|state| state.applied >= held)
    });
    heard.await.unwrap();
    let state = s.fleet.router_state("gate-us-east-1").await.unwrap();
    assert_eq!(state.busy.len(), 1, "it is in flight still");
}

#[tokio::test]
async fn a_forced_move_ends_streams_within_the_time_for_it() {
    let s = Stage::new(Sabotage::None).await;
    let mut socket = Client::script("websocket_client.py", s.edge.listen);
    let mut events = Client::events(s.edge.listen);
    socket.says("open us-east-1").await;
    socket.says("heard east hello").await;
    events.says("data: east").await;
    s.fleet.serve("us-west-2").await;
    socket.says("closed 1012").await;
    // Zero: the answer ended as answers end; 18 would be one that was cut.
    events.says("ended 0").await;
}

#[tokio::test]
async fn an_event_stream_ends_whole_at_the_hold() {
    let s = Stage::new(Sabotage::None).await;
    let mut events = Client::events(s.edge.listen);
    events.says("data: east").await;
    let held = s.fleet.hold(20_000).await;
    events.says("ended 0").await;
    s.acknowledged(held).await;
}

/// What asks for events and is not answered yet is a request in flight like any other: a hold waits for it.
#[tokio::test]
async fn what_has_not_begun_to_answer_is_not_ended_by_a_hold() {
    let s = Stage::new(Sabotage::None).await;
    let request =
        client().get(s.edge.url("/gated")).header("host", HOST).header("accept", "text/event-stream");
    let request = tokio::spawn(request.send());
    eventually(SOON, "it is in flight", || async { s.counted(r#"streams{kind="event-stream"} 1"#).await })
        .await
        .unwrap();
    let held = s.fleet.hold(20_000).await;
    eventually(SOON, "all have heard of the hold", || async {
        let edge = s.fleet.router_state("edge").await.is_some_and(|state| state.applied >= held);
        edge && s.fleet.router_state("gate-us-east-1").await.is_some_and(|state| state.applied >= held)
    })
    .await
    .unwrap();
    s.fleet.east.let_go();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    s.acknowledged(held).await;
}

#[tokio::test]
async fn a_silent_grpc_stream_ends_with_a_status() {
    let etcd = EtcdCluster::start(1).await.unwrap();
    let app = etcd.members()[0].direct();
    let s = Stage::of(Fleet::with(app, app).await, Sabotage::None).await;
    let mut watch = Client::script("grpc_watch.py", s.edge.listen);
    watch.says("open").await;
    let held = s.fleet.hold(20_000).await;
    watch.says("ended UNAVAILABLE").await;
    s.acknowledged(held).await;
    s.edge.counts(r#"domicile_router_streams{kind="grpc"} 0"#).await;
}

#[tokio::test]
async fn a_router_that_stops_tells_its_streams() {
    let s = Stage::new(Sabotage::None).await;
    let mut socket = Client::script("websocket_client.py", s.edge.listen);
    let mut events = Client::events(s.edge.listen);
    socket.says("open us-east-1").await;
    socket.says("heard east hello").await;
    events.says("data: east").await;
    s.edge.process.terminate();
    socket.says("closed 1012").await;
    events.says("ended 0").await;
    assert_eq!(s.edge.process.wait(SOON).await.unwrap().code(), Some(0));
}
