//! smoke
use holdfast_integration::sim::s3::workload::Workload;
use holdfast_integration::sim::world::World;
use holdfast_integration::sim::world::network::S;
use holdfast_integration::sim::world::shape::Shape;

fn main() {
    let begun = std::time::Instant::now();
    let mut world = World::new(Shape::default(), 7);
    for h in 0..world.hosts.len() {
        world.start(h);
    }
    let workload = Workload::draw(&mut world.dice);
    world.add_clients(3, &workload);
    let until: u64 = std::env::args().nth(1).map_or(60, |s| s.parse().unwrap());
    world.run_until(until * S);
    let names: Vec<String> = world.hosts.iter().map(|h| h.name.clone()).collect();
    println!("{}", world.story.timeline(&names));
    println!("{:?} digest {:016x} history {} violation {:?}", world.counts, world.story.digest(), world.history.len(), world.checkers.as_ref().and_then(|c| c.violation().cloned()));
    println!("{:?}", begun.elapsed());
}
