//! The sidecar: `outrigger-proxy -c bootstrap.yaml`.

fn main() -> std::process::ExitCode {
    outrigger_proxy::run(std::env::args_os())
}
