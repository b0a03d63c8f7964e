use lowbit_acme as _; // links the backend
fn main() -> std::process::ExitCode {
    lowbit::main()
}
