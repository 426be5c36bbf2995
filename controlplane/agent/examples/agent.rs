//! The agent as a process of its own, for the tests: `agent CONFIG.toml`, or `agent agent-supervise …`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let first = args.next().ok_or("usage: agent CONFIG.toml")?;
    if first == "agent-supervise" {
        std::process::exit(domicile_agent::supervise::run(args));
    }
    let config = domicile_agent::AgentConfig::load(first.as_ref())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(domicile_agent::run(config))?;
    Ok(())
}
