//! Looks at every state of the modelled protocol at the larger sizes, or at those whose names contain the argument.

use holdfast_integration::model::Protocol;
use holdfast_integration::model::sizes::{LARGE, SIZES};

fn main() -> anyhow::Result<()> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let threads = std::thread::available_parallelism()?.get();
    let mut looked_at = 0;
    for size in SIZES.into_iter().chain(LARGE).filter(|size| size.name.contains(&wanted)) {
        looked_at += 1;
        let verdict = Protocol { size, mutation: None }.verify(threads);
        println!(
            "{}: {} states, {} steps, depth {}, {:.1} s",
            size.name,
            verdict.states,
            verdict.steps,
            verdict.depth,
            verdict.took.as_secs_f64()
        );
        for (name, way) in &verdict.broken {
            println!("  broken: {name}");
            for step in way {
                println!("    {step:?}");
            }
        }
        for name in &verdict.unreached {
            println!("  never happens: {name}");
        }
        anyhow::ensure!(
            verdict.broken.is_empty() && verdict.unreached.is_empty(),
            "{} does not hold",
            size.name
        );
    }
    anyhow::ensure!(looked_at > 0, "no size is called {wanted:?}");
    Ok(())
}
