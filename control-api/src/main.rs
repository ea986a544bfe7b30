//! The control plane and its command line: `outrigger serve`, `outrigger apply -f policy.yaml`.

fn main() -> std::process::ExitCode {
    outrigger_control::run(std::env::args_os())
}
