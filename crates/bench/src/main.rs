//! `handover-bench`: load with faults counted by kind, and handover beside nginx and HAProxy.
//!
//! - `origin`: the server behind all of them;
//! - `load`: a mix of clients against any address;
//! - `compare`: requests per second and CPU per request, alternating between the proxies;
//! - `reloads`: failures of any kind while each proxy is reloaded (or upgraded) once a second under the mix;
//! - `latency`: from asking for a reload to the first new answer, and old answers after it;
//! - `renewals`: one certificate of many renewed: from asking to a handshake that shows it, and memory afterwards;
//! - `moves`: upgrades with many idle connections: how long they stand still, when the old process is gone;
//! - `pauses`: how much longer answers take during an upgrade, at half the capacity;
//! - `programs`: programs restarted, swapped and deployed under load, and what it costs to supervise many;
//! - `memory`: memory and processes during reloads with WebSockets held.
//!
//! The proxies' configurations are in `bench/peers/`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod compare;
mod failure;
mod latency;
mod load;
mod memory;
mod moves;
mod origin;
mod pauses;
mod peers;
mod programs;
mod reloads;
mod renewals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What goes wrong is told as text: nobody decides by it.
type Result<T> = std::result::Result<T, Error>;
/// See [`Result`].
type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(name = "handover-bench", about = "Load with faults counted by kind, and proxies side by side")]
struct Arguments {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run the origin until the process is ended.
    Origin(origin::Options),
    /// Put a mix of load on one address.
    Load(load::Mix),
    /// Compare requests per second and CPU per request.
    Compare(compare::Options),
    /// Count failures while each proxy is reloaded once a second under the mix.
    Reloads(reloads::Options),
    /// Measure the time from asking for a reload to the first new answer, and look for old answers after it.
    Latency(latency::Options),
    /// Renew one certificate of many, and measure the time until a handshake shows it.
    Renewals(renewals::Options),
    /// Upgrade the binary while many connections are idle.
    Moves(moves::Options),
    /// Measure how much longer answers take while the binary is upgraded, at half the capacity.
    Pauses(pauses::Options),
    /// Restart, swap and deploy programs under load; supervise many.
    Programs(programs::Options),
    /// Watch memory and processes during reloads with WebSockets held.
    Memory(memory::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handover-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Origin(options) => {
            origin::start(options)?;
            println!("origin at {}", options.listen);
            loop {
                std::thread::park();
            }
        }
        What::Load(mix) => {
            let report = load::run(mix)?;
            if arguments.json {
                return print_json(&report);
            }
            println!("{report}");
            Ok(())
        }
        What::Compare(options) => compare::run(options, arguments.json),
        What::Reloads(options) => reloads::run(options, arguments.json),
        What::Latency(options) => latency::run(options, arguments.json),
        What::Renewals(options) => renewals::run(options, arguments.json),
        What::Moves(options) => moves::run(options, arguments.json),
        What::Pauses(options) => pauses::run(options, arguments.json),
        What::Programs(options) => programs::run(options, arguments.json),
        What::Memory(options) => memory::run(options, arguments.json),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
