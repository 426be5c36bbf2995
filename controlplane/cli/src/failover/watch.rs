//! `domicile failover watch ID`: progress on stderr until the move is over.

use std::time::Duration;

use domicile_api::moves::{LogEvent, MoveStatus, MoveView};
use domicile_api::protection::Doing;
use domicile_model::MoveId;
use domicile_model::clock::{Clock, pause};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Until;
use crate::cell::show::progress;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::show::table;
use crate::failover::standing;
use crate::out::Out;

/// How long all servers may be silent before watching gives up. The move itself goes on without a watcher.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Longest quiet time of a stream: servers send a sign of life more often.
const QUIET: Duration = Duration::from_secs(30);
/// Largest event that is kept.
const LARGEST: usize = 16 << 20;

/// Runs it.
///
/// # Errors
/// When the move does not exist, or no control plane answers for a minute.
pub async fn run(id: MoveId, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let view = follow(id, Until::Done, client, out).await?;
    if out.json {
        out.data(&view)?;
    } else {
        table(&view, out)?;
    }
    Ok(crate::failover::exit(&view.status))
}

/// Follows a move until it is over, stuck, or as far as asked; returns it as last seen.
pub(crate) async fn follow(
    id: MoveId,
    until: Until,
    client: &Client,
    out: &mut Out,
) -> Result<MoveView, Failure> {
    let mut shown = Shown::new(out.live);
    let mut server = 0;
    let mut strangers = 0;
    let mut answered = Clock::Machine.now();
    loop {
        match client.events(&format!("/v1/moves/{id}/events"), server).await {
            Ok(stream) => {
                strangers = 0;
                if let Some(view) = read(stream, until, &mut shown, out, &mut answered).await? {
                    shown.end();
                    return Ok(view);
                }
            }
            Err(failure) if matches!(failure.exit, Exit::Unavailable | Exit::Temporary) => {
                if Clock::Machine.now().since(answered) > GIVE_UP {
                    return Err(failure.hint(format!(
                        "the move goes on without a watcher; look again with `domicile failover watch {id}`"
                    )));
                }
            }
            // Another server's file of operators may be newer, or this one is no control plane.
            Err(failure)
                if matches!(failure.exit, Exit::Permission | Exit::Internal)
                    && strangers + 1 < client.servers() =>
            {
                strangers += 1;
            }
            Err(failure) => return Err(failure),
        }
        server += 1;
        pause(Duration::from_millis(300)).await;
    }
}

async fn read(
    mut stream: reqwest::Response,
    until: Until,
    shown: &mut Shown,
    out: &mut Out,
    answered: &mut domicile_model::clock::BootTime,
) -> Result<Option<MoveView>, Failure> {
    let mut events = Events::default();
    // Whatever ends the stream, the next server continues it.
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(QUIET, stream.chunk()).await {
        *answered = Clock::Machine.now();
        for data in events.feed(&chunk) {
            let Ok(view) = serde_json::from_str::<MoveView>(&data) else { continue };
            shown.show(&view, out)?;
            if over(&view, until) {
                return Ok(Some(view));
            }
        }
    }
    Ok(None)
}

fn over(view: &MoveView, until: Until) -> bool {
    view.status.is_final()
        || matches!(view.status, MoveStatus::Stuck { .. })
        || (until == Until::Serving && view.facts.serving_epoch.is_some())
}

/// Splits a stream into the data of its events (WHATWG HTML, server-sent events).
#[derive(Default)]
struct Events {
    line: Vec<u8>,
    data: String,
}

impl Events {
    fn feed(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for &byte in chunk {
            if byte != b'\n' {
                if self.line.len() < LARGEST {
                    self.line.push(byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).trim_end_matches('\r').to_owned();
            self.line.clear();
            if line.is_empty() {
                if !self.data.is_empty() {
                    complete.push(std::mem::take(&mut self.data));
                }
            } else if let Some(data) = line.strip_prefix("data:")
                && self.data.len() + data.len() < LARGEST
            {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        complete
    }
}

/// What was already shown, so that nothing is said twice after a stream broke off.
struct Shown {
    entries: u64,
    status: String,
    /// What was done for the new standby.
    doing: Option<Doing>,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn new(live: bool) -> Self {
        let bar = live.then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {msg} [{bar:20}] {pos}/{len} {elapsed}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { entries: 0, status: String::new(), doing: None, bar }
    }

    fn show(&mut self, view: &MoveView, out: &mut Out) -> Result<(), Failure> {
        for entry in view.log.iter().filter(|e| e.n > self.entries) {
            let note = if entry.note.is_empty() { String::new() } else { format!(": {}", entry.note) };
            self.line(&format!("{:<12} {}{note}", entry.step, event(entry.event)), out)?;
        }
        self.entries = view.log.iter().map(|e| e.n).max().unwrap_or(0).max(self.entries);
        let now = standing(view);
        if now != self.status {
            self.line(&now, out)?;
            self.status = now;
        }
        let doing = view.building.as_ref().map(|building| building.doing);
        if let Some(building) = view.building.as_ref().filter(|_| doing != self.doing) {
            self.line(&progress(building), out)?;
        }
        self.doing = doing;
        if let Some(bar) = &self.bar {
            let at = view.steps.iter().position(|s| *s == view.step).unwrap_or(0);
            let done = if view.status.is_final() { view.steps.len() } else { at };
            bar.set_length(view.steps.len() as u64);
            bar.set_position(done as u64);
            let building = view.building.as_ref().map(progress);
            bar.set_message(
                building.map_or_else(|| view.step.clone(), |told| format!("{}: {told}", view.step)),
            );
        }
        Ok(())
    }

    fn line(&self, text: &str, out: &mut Out) -> Result<(), Failure> {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => out.say(text)?,
        }
        Ok(())
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// An event of the log, in a word.
pub(crate) const fn event(event: LogEvent) -> &'static str {
    match event {
        LogEvent::Intent => "begins",
        LogEvent::Done => "done",
        LogEvent::Failed => "failed",
        LogEvent::Unknown => "outcome unknown",
        LogEvent::UndoIntent => "turning back",
        LogEvent::Undone => "undone",
        LogEvent::Stuck => "stuck",
        LogEvent::Verb => "told by a person",
        LogEvent::Skipped => "skipped",
        LogEvent::Asked => "asks for approval",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_however_the_stream_is_cut() {
        let stream = b": alive\n\nevent: move\ndata: {\"a\":\ndata: 1}\n\ndata:x\r\n\r\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let found: Vec<String> = stream.chunks(size).flat_map(|c| events.feed(c)).collect();
            assert_eq!(found, ["{\"a\":\n1}", "x"], "{size}");
        }
    }
}
