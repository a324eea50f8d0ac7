//! The program `grouse`.

fn main() -> std::process::ExitCode {
    grouse::cli::main()
}
