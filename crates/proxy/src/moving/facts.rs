//! What TLS connections have agreed on, each once: ten thousand connections of the same clients share a handful.
//!
//! ```text
//!   table:  count(varint)  then each: length(varint) bytes of `Facts::write`
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use handover_tls::Facts;

use super::bytes::{Damaged, Input, put_bytes, put_varint};

/// The table while it is made.
#[derive(Debug, Default)]
pub(crate) struct FactsOut {
    numbers: HashMap<Facts, u32, foldhash::fast::RandomState>,
    bytes: Vec<u8>,
    scratch: Vec<u8>,
}

impl FactsOut {
    /// The number of these facts.
    pub(crate) fn number(&mut self, facts: &Facts) -> u32 {
        if let Some(number) = self.numbers.get(facts) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        self.scratch.clear();
        facts.write(&mut self.scratch);
        put_bytes(&mut self.bytes, &self.scratch);
        self.numbers.insert(facts.clone(), number);
        number
    }

    /// Appends the table.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.numbers.len() as u64);
        out.extend_from_slice(&self.bytes);
    }
}

/// The table that was read.
#[derive(Debug, Default)]
pub(crate) struct FactsIn(Vec<Arc<Facts>>);

impl FactsIn {
    /// What [`FactsOut::write`] wrote.
    ///
    /// # Errors
    /// Bytes that are not that.
    pub(crate) fn read(input: &mut Input<'_>) -> Result<Self, Damaged> {
        let count = input.count()?;
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Arc::new(Facts::read(input.bytes()?).map_err(|_| Damaged)?));
        }
        Ok(Self(all))
    }

    /// The facts of this number.
    pub(crate) fn get(&self, number: u32) -> Option<Arc<Facts>> {
        self.0.get(number as usize).cloned()
    }
}
