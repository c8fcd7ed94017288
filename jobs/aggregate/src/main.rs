//! The executable of the aggregate job.

fn main() -> std::process::ExitCode {
    shardmill::main::<aggregate::Aggregate>()
}
