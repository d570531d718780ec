//! From a place in the configuration to a problem that points at it.

use std::sync::Arc;

use handover_api::Problem;

/// The text of a checked configuration, kept aside so that what goes wrong later can still point into it.
#[derive(Debug, Clone)]
pub struct Spans {
    name: Arc<str>,
    text: Arc<str>,
}

impl Spans {
    /// A problem with the value at `pointer` (RFC 6901), e.g. `/listeners/web/address/0`; where the file does not
    /// have that value, with the nearest table around it.
    #[must_use]
    pub fn problem(&self, pointer: &str, detail: &str) -> Problem {
        let _ = &self.text;
        Problem { pointer: Some(pointer.to_owned()), ..Problem::new(detail).in_file(&*self.name) }
    }

    /// A problem with address number `index` of a listener, e.g. that its port is in use.
    #[must_use]
    pub fn problem_for_listener(&self, listener: &str, index: usize, detail: &str) -> Problem {
        self.problem(&format!("/listeners/{listener}/address/{index}"), detail)
    }

    /// A problem with address number `index` at which metrics are served.
    #[must_use]
    pub fn problem_for_metrics(&self, index: usize, detail: &str) -> Problem {
        self.problem(&format!("/metrics/address/{index}"), detail)
    }
}
