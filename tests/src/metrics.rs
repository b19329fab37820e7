//! What a fleet's controller has counted, as its operators see it.

use crate::Fleet;

impl Fleet {
    /// A number of `muster status`: of this metric, with these labels; 0 if there is none.
    pub fn counted(&self, metric: &str, labels: &[&str]) -> u64 {
        let status = self.muster(["status", "-o", "json"]).json();
        let number = labels.iter().fold(&status["metrics"][metric], |value, label| &value[*label]);
        number.as_u64().unwrap_or_default()
    }
}
