//! What an operator reads in the control plane's own log while a move goes on.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use domicile_api::moves::MoveKind;
use tracing_subscriber::fmt::MakeWriter;

use super::happy::{begin, lead, warm_up};
use super::simulate;
use crate::Options;
use crate::testkit::{Ended, Fault, Sim, end_of};

/// A log in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[test]
fn every_edge_of_a_move_is_a_line_and_what_went_wrong_a_warning() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
    let _told = tracing::subscriber::set_default(subscriber);
    let view = simulate(async {
        let sim = Sim::start().await;
        sim.world().faults = vec![("settle".to_owned(), Fault::Refused)];
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Switchover).await;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
        view
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let of_this: Vec<&str> =
        text.lines().filter(|l| l.contains(&view.id.to_string()) && l.contains("event=")).collect();
    assert_eq!(of_this.len(), view.log.len(), "{text}");
    for (line, entry) in of_this.iter().zip(&view.log) {
        assert!(line.contains(&format!("step=\"{}\"", entry.step)), "{entry:?}: {line}");
        assert!(line.contains(&format!("event={:?}", entry.event)), "{entry:?}: {line}");
        assert!(line.contains("cell=mercy-health") && line.contains("kind=Switchover"), "{line}");
    }
    let warned: Vec<&&str> = of_this.iter().filter(|l| l.contains("WARN")).collect();
    assert!(warned.len() == 1 && warned[0].contains("was refused"), "{warned:?}");
}
