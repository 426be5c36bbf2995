//! The command line: nouns and verbs over the HTTP API.
//!
//! Parse → build → run are three functions. `serve` and `agent` are only parsed here and handed to the binary, so that
//! this crate needs neither store nor database. Data goes to stdout, talk to stderr; exit codes are [`exit::Exit`].

pub mod apply;
pub mod archive;
pub mod args;
mod asking;
pub mod audit;
pub mod cell;
pub mod check;
pub mod client;
pub mod exit;
mod exit_codes;
pub mod fail;
pub mod failover;
pub mod freeze;
pub mod key;
pub mod losses;
pub mod out;
pub mod region;
pub mod registry;
pub mod report;
pub mod status;
pub mod tenant;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;
use domicile_api::moves::{ReasonRequest, RetryRequest};

use args::{
    AgentArgs, ArchiveVerb, CellVerb, Cli, Command, FailoverVerb, LossesVerb, RegionVerb, ReportVerb,
    ServeArgs, ServiceArgs, SuperviseArgs, TenantVerb,
};
use client::Client;
use exit::Exit;
use fail::Failure;
use failover::verbs::{self, Verb};
use out::Out;
use registry::RegistryVerb;

/// What the command line asks for.
pub enum Asked {
    /// A command of this crate: [`run`] it.
    Client(Box<Cli>),
    /// The registry itself; true if data is to be printed as JSON.
    Registry(Box<RegistryVerb>, bool),
    /// A control plane.
    Serve(Box<ServeArgs>),
    /// An agent.
    Agent(AgentArgs),
    /// The agent's supervisor.
    Supervise(SuperviseArgs),
    /// Help, version or a mistake: already said.
    Over(Exit),
}

/// Reads the command line. Help goes to stdout, mistakes to stderr.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Asked {
    match Cli::try_parse_from(args) {
        Ok(cli) => match cli.command {
            Command::Registry(verb) => Asked::Registry(verb, cli.global.json),
            Command::Serve(args) => Asked::Serve(args),
            Command::Agent(args) => Asked::Agent(args),
            Command::AgentSupervise(args) => Asked::Supervise(args),
            _ => Asked::Client(Box::new(cli)),
        },
        Err(error) => {
            let exit = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
                _ => Exit::Usage,
            };
            // Nothing sensible is left to do when even this can't be written.
            drop(error.print());
            Asked::Over(exit)
        }
    }
}

/// Runs a command, says on stderr why it failed if it did, and returns its exit code.
pub async fn run(cli: &Cli, out: &mut Out) -> Exit {
    match dispatch(cli, out).await {
        Ok(exit) => exit,
        Err(failure) => {
            if failure.exit != Exit::Ok {
                drop(out.stderr.write_all(failure.render().as_bytes()));
            }
            failure.exit
        }
    }
}

async fn dispatch(cli: &Cli, out: &mut Out) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Check { file } => return check::run(file, out),
        Command::ExitCodes => return exit_codes::run(out),
        Command::Losses(LossesVerb::Decrypt { file, key }) => return losses::decrypt(file, key, out),
        Command::Losses(LossesVerb::Keygen { file }) => return losses::keygen(file, out),
        Command::Archive(ArchiveVerb::Verify { dir, keys, head }) => {
            return archive::verify::run(dir, keys.as_deref(), head.as_deref(), out);
        }
        _ => {}
    }
    let client = Client::new(&cli.global)?;
    let ended = ask(cli, &client, out).await;
    // After the data, so that a person reads it last.
    for note in client.notes() {
        out.say(&note)?;
    }
    ended
}

async fn ask(cli: &Cli, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Apply(args) => apply::run(args, client, out).await,
        Command::Status => status::run(client, out).await,
        Command::Region(RegionVerb::List) => region::list::run(client, out).await,
        Command::Cell(CellVerb::List) => cell::list::run(client, out).await,
        Command::Cell(CellVerb::Show { cell }) => cell::show::run(cell, client, out).await,
        Command::Cell(CellVerb::TrustAgent { cell, region, key, reason }) => {
            let request = domicile_api::views::TrustRequest {
                region: region.clone(),
                key: key.clone(),
                reason: reason.clone(),
            };
            cell::trust_agent::run(cell, &request, client, out).await
        }
        Command::Cell(CellVerb::Close { cell, reason, how }) => {
            service(false, cell, None, reason, *how, client, out).await
        }
        Command::Cell(CellVerb::Open { cell, region, reason, how }) => {
            service(true, cell, region.as_ref(), reason, *how, client, out).await
        }
        Command::Cell(CellVerb::Witnesses { cell, what }) => {
            cell::witnesses::run(cell, what, client, out).await
        }
        Command::Cell(CellVerb::Reprotect { cell }) => cell::reprotect::run(cell, client, out).await,
        Command::Tenant(TenantVerb::List) => tenant::list::run(client, out).await,
        Command::Tenant(TenantVerb::Show { tenant }) => tenant::show::run(tenant, client, out).await,
        Command::Tenant(TenantVerb::Route { tenant }) => tenant::route::run(tenant, client, out).await,
        Command::Failover(verb) => failover(verb, client, out).await,
        Command::Key(verb) => key::run(verb, client, out).await,
        Command::Freeze(verb) => freeze::run(verb, client, out).await,
        Command::Report(ReportVerb::Rto { id, tenant, csv }) => {
            report::rto::run(*id, tenant.as_ref(), *csv, client, out).await
        }
        Command::Report(ReportVerb::Sla(args)) => report::sla::run(args, client, out).await,
        Command::Archive(ArchiveVerb::Status) => archive::status::run(client, out).await,
        Command::Archive(ArchiveVerb::Run { dry_run }) => archive::run::run(*dry_run, client, out).await,
        Command::Audit(args) => audit::run(args, client, out).await,
        Command::Losses(LossesVerb::Locate { id, tenant, reason, .. }) => {
            losses::locate(*id, tenant.as_ref(), reason, client, out).await
        }
        Command::Check { .. }
        | Command::ExitCodes
        | Command::Losses(_)
        | Command::Archive(ArchiveVerb::Verify { .. })
        | Command::Registry(_)
        | Command::Serve(_)
        | Command::Agent(_)
        | Command::AgentSupervise(_) => {
            Err(Failure::new(Exit::Internal, "this command is not one that asks a control plane"))
        }
    }
}

async fn service(
    opens: bool,
    cell: &domicile_model::CellId,
    region: Option<&domicile_model::RegionId>,
    reason: &str,
    how: ServiceArgs,
    client: &Client,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let ServiceArgs { dry_run, yes, wait } = how;
    cell::service::run(
        &cell::service::Wanted { opens, cell, region, reason, dry_run, yes, wait },
        client,
        out,
    )
    .await
}

fn because(reason: &str) -> ReasonRequest {
    ReasonRequest { reason: reason.to_owned() }
}

async fn failover(verb: &FailoverVerb, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    match verb {
        FailoverVerb::Plan(args) => failover::plan::run(args, client, out).await,
        FailoverVerb::Start(args) => failover::start::run(args, client, out).await,
        FailoverVerb::Watch { id } => failover::watch::run(*id, client, out).await,
        FailoverVerb::Show { id } => failover::show::run(*id, client, out).await,
        FailoverVerb::List => failover::list::run(client, out).await,
        FailoverVerb::Retry { id, accept_loss, accept_unknown, destroyed, reason, yes } => {
            let consent = RetryRequest {
                accept_loss: *accept_loss,
                accept_unknown: *accept_unknown,
                destroyed: destroyed.iter().cloned().collect(),
                reason: reason.clone().unwrap_or_default(),
            };
            if !destroyed.is_empty() {
                let names: Vec<&str> = destroyed.iter().map(domicile_model::RouterId::as_str).collect();
                let question = format!(
                    "Are the machines of {} destroyed for certain? If one lives and is cut off, two regions may write",
                    names.join(", ")
                );
                out.confirm(&question, *yes)?;
            }
            verbs::run(Verb::Retry(consent), *id, client, out).await
        }
        FailoverVerb::Rollback { id } => verbs::run(Verb::Rollback, *id, client, out).await,
        FailoverVerb::Skip { id, reason } => verbs::run(Verb::Skip(because(reason)), *id, client, out).await,
        FailoverVerb::Pause { id, reason } => {
            verbs::run(Verb::Pause(because(reason)), *id, client, out).await
        }
        FailoverVerb::Resume { id } => verbs::run(Verb::Resume, *id, client, out).await,
        FailoverVerb::Approve { id, hash, reason, dry_run, yes } => {
            let how = failover::approve::How { hash: hash.as_deref(), reason, dry_run: *dry_run, yes: *yes };
            failover::approve::run(*id, &how, client, out).await
        }
        FailoverVerb::Reject { id, reason } => {
            verbs::run(Verb::Reject(because(reason)), *id, client, out).await
        }
        FailoverVerb::StopAll { reason } => failover::stop::stop(reason, client, out).await,
        FailoverVerb::AllowAll => failover::stop::allow(client, out).await,
        FailoverVerb::Losses { id } => failover::losses::run(*id, client, out).await,
    }
}
