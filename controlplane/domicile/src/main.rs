//! The binary `domicile`: joins server, agent and command line.

mod logs;
mod serve;

use std::process::ExitCode;

use domicile_agent::{AgentConfig, supervise};
use domicile_cli::args::{AgentArgs, Cli};
use domicile_cli::exit::Exit;
use domicile_cli::out::Out;
use domicile_cli::{Asked, fail::Failure};

fn main() -> ExitCode {
    match domicile_cli::parse(std::env::args_os()) {
        Asked::Over(exit) => exit.into(),
        Asked::Client(cli) => client(&cli).into(),
        Asked::Registry(verb, json) => registry(&verb, json).into(),
        Asked::Serve(args) => finish(serve::run(&args)),
        Asked::Agent(args) => finish(agent(&args)),
        // Before any thread is started: it lives by signals.
        Asked::Supervise(args) => {
            let args = args.args.into_iter().map(|a| a.to_string_lossy().into_owned());
            u8::try_from(supervise::run(args)).map_or(Exit::Internal.into(), ExitCode::from)
        }
    }
}

fn client(cli: &Cli) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(domicile_cli::run(cli, &mut Out::of_process(cli.global.json))),
        Err(error) => {
            finish(Err(Failure::new(Exit::Io, format!("no runtime: {error}"))));
            Exit::Io
        }
    }
}

/// Works on the registry itself.
fn registry(verb: &domicile_cli::registry::RegistryVerb, json: bool) -> Exit {
    let done = serve::runtime()
        .and_then(|runtime| runtime.block_on(domicile_rescue::run(verb, &mut Out::of_process(json))));
    match done {
        Ok(exit) => exit,
        Err(failure) => {
            let exit = failure.exit;
            if exit != Exit::Ok {
                eprint!("{}", failure.render());
            }
            exit
        }
    }
}

/// Runs an agent until it fails or is told to stop.
fn agent(args: &AgentArgs) -> Result<(), Failure> {
    logs::start();
    let config = AgentConfig::load(&args.config).map_err(|e| {
        Failure::new(Exit::Usage, e.to_string()).hint("mend the agent's configuration file and start again")
    })?;
    serve::runtime()?.block_on(async {
        tokio::select! {
            ended = domicile_agent::run(config) => ended.map_err(|e| {
                let failure = Failure::new(Exit::Temporary, e.0.detail.clone());
                match &e.0.hint {
                    Some(hint) => failure.hint(hint.clone()),
                    None => failure,
                }
            }),
            told = serve::told_to_stop() => told,
        }
    })
}

/// Says why a process ended.
fn finish(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.render());
            failure.exit.into()
        }
    }
}
