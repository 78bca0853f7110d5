//! smoke
use holdfast_integration::sim::run::run_seed;

fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|s| s.parse().unwrap()).collect();
    let (from, to) = (args[0], args.get(1).copied().unwrap_or(args[0]));
    let begun = std::time::Instant::now();
    let mut simulated = 0;
    let mut bad = 0;
    std::panic::set_hook(Box::new(|_| {}));
    for seed in from..=to {
        let verdict = run_seed(seed, None);
        simulated += verdict.simulated;
        if let Some(v) = &verdict.violation {
            bad += 1;
            println!("seed {seed}: {} at {} ms: {}", v.rule, v.at / 1_000_000, v.what.lines().next().unwrap_or(""));
            if from == to {
                println!("{}\n{}\n{}", verdict.plan, verdict.timeline, v.what);
            }
        } else if from == to {
            println!("{verdict:?}");
        }
    }
    println!("{} of {} bad; {} simulated s in {:?}; {:.1} h/min/core", bad, to - from + 1, simulated / 1_000_000_000, begun.elapsed(), simulated as f64 / 1e9 / 3600.0 / (begun.elapsed().as_secs_f64() / 60.0));
}
