//! `--interval-stats`: a block of lines for each interval of time, with a line for each target of which a probe ended in
//! it. The blocks add up to the lines at the end.

use super::text::{Figures, Text};
use muster_proto::ping::Sample;
use std::time::Duration;

/// The probes since the last block.
#[derive(Debug)]
pub struct Blocks {
    intervals: Vec<Interval>,
}

/// Those of one target.
#[derive(Debug, Clone, Copy, Default)]
struct Interval {
    figures: Figures,
    total: Duration,
}

impl Blocks {
    /// For so many targets.
    pub fn new(targets: usize) -> Self {
        Self { intervals: vec![Interval::default(); targets] }
    }

    /// Takes one more probe of the target in this place.
    pub fn add(&mut self, place: usize, sample: &Sample) {
        let Some(Interval { figures, total }) = self.intervals.get_mut(place) else { return };
        figures.sent += 1;
        if let Ok(rtt) = sample.answer {
            figures.received += 1;
            *total += rtt;
            let [min, _, max] = figures.rtt.unwrap_or([rtt; 3]);
            figures.rtt = Some([min.min(rtt), *total / figures.received, max.max(rtt)]);
        }
    }

    /// The block that ends at this time of the day; `None` if no probe ended in it.
    pub fn take(&mut self, text: &Text, time: &str) -> Option<String> {
        let mut out = format!("[{time}]\n");
        let head = out.len();
        for (place, interval) in self.intervals.iter_mut().enumerate().filter(|(_, interval)| interval.figures.sent > 0)
        {
            text.figures(&mut out, place, &std::mem::take(interval).figures);
        }
        (out.len() > head).then_some(out)
    }
}
