//! The executable of the sort job.

fn main() -> std::process::ExitCode {
    shardmill::main::<sort::Sort>()
}
