//! `domicile-router`: parse, build, run.

use std::process::ExitCode;

use clap::Parser;
use domicile_router::app::{build, run};
use domicile_router::config::{Given, parse};

/// Pingora reports every broken connection of every client as an error; what matters of them stands in the access log
/// and the metrics, with its cause, and mistakes of ours are logged apart.
const QUIET: &str = "info,pingora_core=warn,pingora_proxy=off";
/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let given = match Given::try_parse() {
        Ok(given) => given,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(QUIET));
    // Installs the bridge from the `log` crate, which Pingora speaks, too.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = match parse(given) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(USAGE);
        }
    };
    match build(config).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("domicile-router: {error}");
            ExitCode::FAILURE
        }
    }
}
