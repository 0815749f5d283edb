//! The command line: one file per command. Names and flags are the public contract.
//!
//! Exit codes: 0 good, 1 an error (on standard error, saying what to do about it), 2 "ran, and found
//! something wrong".

mod bench;
mod chaos;
mod client;
mod down;
mod latency;
mod migrate;
mod output;
mod payment_simulator;
mod reconcile;
mod region;
mod replay;
mod routing;
#[cfg(test)]
mod runbooks;
mod seed;
mod serve;
mod sim;
mod status;
mod target;
mod token;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An order management system that runs active-active in several regions.
#[derive(Debug, Parser)]
#[command(name = "entrepot", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    Serve(serve::Args),
    Migrate(migrate::Args),
    Token(token::Args),
    Seed(seed::Args),
    Replay(replay::Args),
    Bench(bench::Args),
    Regions(region::ListArgs),
    Region(region::Args),
    Routing(routing::Args),
    Reconcile(reconcile::Args),
    Chaos(chaos::Args),
    PaymentSimulator(payment_simulator::Args),
    Sim(sim::Args),
}

/// Parses the arguments, runs the command on a fresh runtime and turns its result into an exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody can be told that telling failed.
            drop(error.print());
            return ExitCode::from(parse_code(&error));
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: cannot start the async runtime: {error}"));
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            output::note(&format!("error: {error:#}"));
            ExitCode::from(1)
        }
    }
}

/// clap's own code for a wrong argument is 2, which here says "ran, and found something wrong".
fn parse_code(error: &clap::Error) -> u8 {
    u8::from(error.use_stderr())
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Down(args) => down::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Token(args) => token::run(&args),
        Command::Seed(args) => seed::run(args).await,
        Command::Replay(args) => replay::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Regions(args) => region::list(args).await,
        Command::Region(args) => region::run(args).await,
        Command::Routing(args) => routing::run(args).await,
        Command::Reconcile(args) => reconcile::run(args).await,
        Command::Chaos(args) => chaos::run(args).await,
        Command::PaymentSimulator(args) => payment_simulator::run(args).await,
        Command::Sim(args) => sim::run_command(args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_argument_is_an_error_and_help_is_none() {
        for (arguments, code) in [
            (["entrepot", "--help"].as_slice(), 0),
            (&["entrepot", "status", "--help"], 0),
            (&["entrepot", "--version"], 0),
            (&["entrepot"], 1),
            (&["entrepot", "fly"], 1),
            (&["entrepot", "status", "--colour"], 1),
            (&["entrepot", "region", "drain"], 1),
        ] {
            let error = Cli::try_parse_from(arguments).unwrap_err();
            assert_eq!(parse_code(&error), code, "{arguments:?}");
        }
    }
}
