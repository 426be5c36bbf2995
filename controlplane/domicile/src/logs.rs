//! Logs of the long-running commands: JSON lines on stderr.

use tracing_subscriber::EnvFilter;

/// Starts logging; `DOMICILE_LOG` says how much (`info` if unset).
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("DOMICILE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let started = tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_current_span(false)
        .try_init();
    if let Err(error) = started {
        eprintln!("logging can't be started: {error}");
    }
}
