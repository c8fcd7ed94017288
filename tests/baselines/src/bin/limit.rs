//! Runs one of the hand-written programs: `limit words|emit|groups|groups-parquet|sort ARGUMENTS…`; each says in its module
//! what they are.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() {
    use baselines::limits::{emit, groups, groups_parquet, sort, words};

    // What `groups` and `words` were compiled for, whatever runs them.
    let capable = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("pclmulqdq");
    if !capable {
        eprintln!("limit: needs a processor with AVX2, BMI2 and PCLMULQDQ");
        std::process::exit(1);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("words") => words::main(&arguments),
        Some("emit") => emit::main(&arguments),
        Some("groups") => groups::main(&arguments),
        Some("groups-parquet") => groups_parquet::main(&arguments),
        Some("sort") => sort::main(&arguments),
        _ => {
            eprintln!("usage: limit words|emit|groups|groups-parquet|sort ARGUMENTS…");
            std::process::exit(2);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    eprintln!("limit: the hand-written programs run on Linux on x86-64 alone");
    std::process::exit(1);
}
