//! How many retries may run or wait at the same time.

/// Retries in flight or waiting as a share of the requests in flight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    pub ratio: f64,
    /// Always allowed, so that a quiet service can retry at all.
    pub min: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { ratio: 0.2, min: 3 }
    }
}

impl Budget {
    /// Whether one more retry may start. `retrying` counts the waiting ones too: those in a back-off would
    /// otherwise escape the budget and come all at once.
    pub fn allows(&self, in_flight: u32, retrying: u32) -> bool {
        let share = (f64::from(in_flight) * self.ratio) as u32;
        retrying < share.max(self.min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_what_is_in_flight_but_never_less_than_the_minimum() {
        let b = Budget::default();
        for (in_flight, retrying, allowed) in
            [(0, 2, true), (0, 3, false), (10, 3, false), (100, 19, true), (100, 20, false)]
        {
            assert_eq!(b.allows(in_flight, retrying), allowed, "{in_flight} {retrying}");
        }
        assert!(!Budget { ratio: 0.0, min: 0 }.allows(1_000, 0));
    }
}
