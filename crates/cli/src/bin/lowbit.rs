//! The `lowbit` program.
fn main() -> std::process::ExitCode {
    lowbit::main()
}
