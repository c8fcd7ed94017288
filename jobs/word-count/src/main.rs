//! The executable of the word-count job.

fn main() -> std::process::ExitCode {
    shardmill::main::<word_count::WordCount>()
}
