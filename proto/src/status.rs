//! How a controller is: its alarms, and its numbers as named metrics that people, scripts and collectors read alike.

use crate::id::ClusterId;
use crate::time::Timestamp;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Version of the controller.
    pub version: String,
    /// The installation.
    pub cluster: ClusterId,
    /// When the controller began; its counters begin with it.
    pub started_at: Timestamp,
    /// What somebody has to see to, a line each.
    pub alarms: Vec<String>,
    /// The numbers.
    pub metrics: Vec<Metric>,
}

/// A family of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// As Prometheus names it: `muster_...`, lower case letters and underscores, with the unit at the end.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// What it counts, in a sentence.
    pub help: String,
    /// How it changes.
    pub kind: MetricKind,
    /// One number, or one for each kind.
    pub samples: Vec<Sample>,
}

/// How a metric changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only ever rises while the controller runs.
    Counter,
    /// Rises and falls.
    Gauge,
}

/// A number with what tells it from others of its metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Keys and values, from the widest to the narrowest; all samples of a metric have the same keys.
    pub labels: Vec<(String, String)>,
    /// The number.
    pub value: u64,
}
