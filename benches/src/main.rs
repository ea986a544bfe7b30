//! Outrigger beside nginx, HAProxy and Envoy on one machine, so that a claim about cost is one command away from its
//! proof. The proxy under test has a core of its own; load generators and upstreams share another one.
//!
//! - `peers`: throughput, CPU per request, latency at a fixed rate, memory under load;
//! - `memory`: what a proxy weighs when idle, with 2,000 clusters, and after each of them was used;
//! - `xds`: what a configuration that comes by delta xDS costs while Outrigger serves.
//!
//! Peers that are not installed are named and left out.

mod h2load;
mod machine;
mod memory;
mod peer;
mod peers;
mod process;
mod report;
mod tcp;
mod template;
mod xds;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "outrigger-bench", about = "Outrigger beside its peers")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Throughput, CPU per request and latency of every proxy, in interleaved rounds
    Peers(peers::Options),
    /// Resident memory of Envoy and Outrigger, idle and with many clusters
    Memory(memory::Options),
    /// Memory, CPU and latency of Outrigger while its configuration comes by delta xDS
    Xds(xds::Options),
    /// The load of the TCP row, run by `peers` in a process of its own
    #[command(hide = true)]
    TcpLoad(tcp::LoadOptions),
    /// The upstream of the TCP row, run by `peers` in a process of its own
    #[command(hide = true)]
    TcpUpstream(tcp::UpstreamOptions),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Peers(options) => peers::run(&options).await,
        Command::Memory(options) => memory::run(&options).await,
        Command::Xds(options) => xds::run(&options).await,
        Command::TcpLoad(options) => tcp::load(&options).await,
        Command::TcpUpstream(options) => tcp::upstream(&options).await,
    }
}
