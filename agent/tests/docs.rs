//! What the documents say in words that the code has too, so that neither can change alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use holdfast_agent::node::transition::diagram;

/// The changes of role in a diagram in Mermaid's state notation, each `(from, to)` once.
fn edges(diagram: &str) -> BTreeSet<(String, String)> {
    let edge = |line: &str| {
        let (from, rest) = line.split_once("-->")?;
        let to = rest.split(':').next()?;
        Some((from.trim().to_owned(), to.trim().to_owned()))
    };
    diagram.lines().filter_map(edge).collect()
}

#[test]
fn the_diagram_of_roles_in_the_documents_is_that_of_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture.md");
    let text = fs::read_to_string(&file).unwrap();
    let mut drawn = text.split("```mermaid\nstateDiagram-v2\n").skip(1);
    let drawn = drawn.next().and_then(|rest| rest.split("```").next()).expect("the document has the diagram");
    let (drawn, table) = (edges(drawn), edges(&diagram()));
    assert!(!table.is_empty());
    let missing: Vec<_> = table.difference(&drawn).collect();
    let invented: Vec<_> = drawn.difference(&table).collect();
    assert!(missing.is_empty(), "{} lacks {missing:?}", file.display());
    assert!(invented.is_empty(), "{} draws {invented:?}, which no row allows", file.display());
}
