//! The `smtp-direct` command: command line in, exit code out.

fn main() -> std::process::ExitCode {
    smtp_direct::cli::main()
}
