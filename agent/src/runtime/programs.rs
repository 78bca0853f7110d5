//! What hooks and `exec` checks have in common: where their programs are found, and the end of what they say.

/// Where programs and the programs that they call are found.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The end of a stream.
pub(super) struct Tail {
    bytes: Vec<u8>,
    most: usize,
    cut: bool,
}

impl Tail {
    /// Keeps `most` bytes.
    pub(super) fn new(most: usize) -> Tail {
        Tail { bytes: Vec::new(), most, cut: false }
    }

    pub(super) fn add(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        if let Some(surplus) = self.bytes.len().checked_sub(self.most).filter(|surplus| *surplus > 0) {
            self.bytes.drain(..surplus);
            self.cut = true;
        }
    }

    /// All that is kept, with a mark where something was before it; what is no UTF-8 is replaced.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim_end();
        if self.cut { format!("… {text}") } else { text.to_owned() }
    }

    /// The last line that says something, without a mark.
    pub(super) fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
    }
}
