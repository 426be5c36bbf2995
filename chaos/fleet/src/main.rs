//! `domicile-chaos`: a whole fleet on one machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use domicile_chaos::control::{Control, LinkAct, RegionAct, UnitAct};
use domicile_chaos::fleet::FleetFile;
use domicile_chaos::{app, demo, soak, supervisor, verbs};

/// A whole fleet on one machine: real etcd, real PostgreSQL, a fault proxy on every link.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Where the fleet keeps fleet.json and its logs. Default: `fleet` in the target directory of this program.
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start the fleet of the example regions.toml, apply that at this machine's addresses, and leave it running.
    Up {
        /// FENCE in milliseconds, if not the product's own.
        #[arg(long)]
        fence_ms: Option<u64>,
    },
    /// End the fleet. Leaves nothing behind but its logs.
    Down,
    /// What runs, and which links are not healthy.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The whole story: switchover, failover, outage; measured. Two to three minutes.
    Demo,
    /// Many moves in a row under load, forced ones after random faults, each judged; target/soak/summary.json. With its
    /// defaults less than 40 minutes.
    Soak {
        #[command(flatten)]
        course: soak::Course,
        /// Where summary.json goes. Default: `soak` beside the fleet's directory.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Break or heal links.
    Link {
        #[command(subcommand)]
        act: Link,
    },
    /// Break or heal a whole region.
    Region {
        #[command(subcommand)]
        act: Region,
    },
    /// SIGSTOP a process (by name, or all of a kind).
    Pause {
        /// As `status` lists them.
        process: String,
    },
    /// SIGCONT a process.
    Resume {
        /// As `status` lists them.
        process: String,
    },
    /// SIGKILL a process and everything below it.
    Kill {
        /// As `status` lists them.
        process: String,
    },
    /// SIGTERM a process and wait for its end.
    Terminate {
        /// As `status` lists them.
        process: String,
    },
    /// Start a process again.
    Start {
        /// As `status` lists them.
        process: String,
        /// What to add to its own arguments this time, after `--`: `-- --failpoint promote:after-effect=exit`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// The clinic application.
    #[command(hide = true)]
    App(app::Options),
    /// The process that owns the fleet.
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        fence_ms: Option<u64>,
    },
}

/// Both sides of a link: each a process (`gate-us-east-1`; of a cell: `database-clinics-us-east-1`), a region, or a kind
/// (etcd, control, agent, database, app, gate, edge).
#[derive(Debug, clap::Args)]
struct Ends {
    /// One side: a process as `status` lists it, a region or a kind.
    from: String,
    /// The other side.
    to: String,
    /// Only what FROM sends to TO.
    #[arg(long)]
    one_way: bool,
}

#[derive(Debug, Subcommand)]
enum Link {
    /// Reset connections and refuse new ones; one way: let bytes vanish.
    Cut(#[command(flatten)] Ends),
    /// Let bytes arrive later.
    Delay {
        #[command(flatten)]
        ends: Ends,
        /// By how much each way, in milliseconds.
        #[arg(long, default_value_t = 200)]
        ms: u64,
    },
    /// Let nothing move, and lose nothing.
    Stall(#[command(flatten)] Ends),
    /// Let only so much through.
    Limit {
        #[command(flatten)]
        ends: Ends,
        /// Bytes a second each way.
        #[arg(long)]
        bytes: u64,
    },
    /// As if nothing had been.
    Heal(#[command(flatten)] Ends),
}

#[derive(Debug, Subcommand)]
enum Region {
    /// Cut every link in and out.
    Cut {
        /// The region.
        region: String,
    },
    /// Heal every link in and out.
    Heal {
        /// The region.
        region: String,
    },
    /// SIGKILL everything that stands in it, of every cell, at once.
    Kill {
        /// The region.
        region: String,
    },
    /// Start what is not running in it, and heal its links.
    Start {
        /// The region.
        region: String,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn,domicile_chaos=info"))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("domicile-chaos: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("domicile-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let dir = options.dir.unwrap_or_else(verbs::default_dir);
    let control = || Control::new(&FleetFile::read(&dir)?);
    let touched = match options.verb {
        Verb::Up { fence_ms } => {
            return demo::up(&dir, fence_ms.map(Duration::from_millis)).await.map(|_| ());
        }
        Verb::Down => {
            let was = verbs::down(&dir).await?;
            eprintln!("{}", if was { "the fleet is down" } else { "no fleet was running" });
            return Ok(());
        }
        Verb::Status { json } => return demo::status(&dir, json).await,
        Verb::Demo => return demo::run(&dir).await,
        Verb::App(options) => return app::run(options).await,
        Verb::Soak { course, out } => {
            let out = match out {
                Some(out) => out,
                None => dir.parent().context("the fleet's directory lies in another one")?.join("soak"),
            };
            return soak::run(&dir, &out, &course).await;
        }
        Verb::Supervise { fence_ms } => {
            return supervisor::run(&dir, fence_ms.map(Duration::from_millis)).await;
        }
        Verb::Link { act } => {
            let (act, ends) = match act {
                Link::Cut(ends) => (LinkAct::Cut, ends),
                Link::Delay { ends, ms } => (LinkAct::Delay { ms }, ends),
                Link::Stall(ends) => (LinkAct::Stall, ends),
                Link::Limit { ends, bytes } => (LinkAct::Limit { bytes_per_s: bytes }, ends),
                Link::Heal(ends) => (LinkAct::Heal, ends),
            };
            control()?.link(act, &ends.from, &ends.to, ends.one_way).await?
        }
        Verb::Region { act } => {
            let (act, region) = match act {
                Region::Cut { region } => (RegionAct::Cut, region),
                Region::Heal { region } => (RegionAct::Heal, region),
                Region::Kill { region } => (RegionAct::Kill, region),
                Region::Start { region } => (RegionAct::Start, region),
            };
            control()?.region(act, &region).await?
        }
        Verb::Pause { process } => control()?.unit(UnitAct::Pause, &process).await?,
        Verb::Resume { process } => control()?.unit(UnitAct::Resume, &process).await?,
        Verb::Kill { process } => control()?.unit(UnitAct::Kill, &process).await?,
        Verb::Terminate { process } => control()?.unit(UnitAct::Terminate, &process).await?,
        Verb::Start { process, args } => {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            control()?.start_with(&process, &args).await?
        }
    };
    eprintln!("done, {touched} touched");
    Ok(())
}
