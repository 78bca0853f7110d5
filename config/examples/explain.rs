//! Prints what a configuration amounts to: `cargo run -p holdfast-config --example explain FILE`.

fn main() -> std::process::ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("which file?");
        return std::process::ExitCode::from(2);
    };
    match holdfast_config::Config::load(path) {
        Ok(loaded) => {
            print!("{}", holdfast_config::explain(&loaded));
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
