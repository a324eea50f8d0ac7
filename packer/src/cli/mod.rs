//! The command line: one file per subcommand, all after the contract in the README.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod accelerator;
mod bench;
mod board_test;
mod boards;
mod classify;
mod demo;
mod embed;
mod eval;
mod fit;
mod flash;
mod heal;
mod inspect;
mod output;
mod pack;
mod prune;
mod pull;
mod run;
mod run_all;
mod self_test;
mod shrink;
mod texts;
mod tokenize;

/// Group-sparse BERT encoders on small devices: prune, pack, run.
#[derive(Debug, Parser)]
#[command(name = "grouse", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(pull::Args),
    Prune(Box<prune::Args>),
    Heal(heal::Args),
    Pack(pack::Args),
    Inspect(inspect::Args),
    Tokenize(tokenize::Args),
    Embed(embed::Args),
    Classify(classify::Args),
    Eval(eval::Args),
    SelfTest(self_test::Args),
    Bench(bench::Args),
    Boards(boards::Args),
    Fit(fit::Args),
    Flash(flash::Args),
    Run(run::Args),
    Demo(demo::Args),
}

/// Parses the arguments, runs the command and turns its error into text and exit code 1.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Pull(args) => pull::run(args),
        Command::Prune(args) => prune::run(*args),
        Command::Heal(args) => heal::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Eval(args) => eval::run(args),
        Command::SelfTest(args) => self_test::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Boards(args) => boards::run(args),
        Command::Fit(args) => fit::run(args),
        Command::Flash(args) => flash::run(args),
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            ExitCode::FAILURE
        }
    }
}

/// Prints `value` as one JSON document on standard output.
fn print_json(value: &impl serde::Serialize) -> crate::Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| crate::Error::input(format!("cannot print the result: {e}"), "report this"))?;
    output::say!("{text}");
    Ok(())
}
