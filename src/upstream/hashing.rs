//! Weights, and soon the order of endpoints for a key. Pure.

/// An endpoint's part of the load, against the others'. Fixed-point, so that a part of a weight
/// (an endpoint that starts slowly) is exact, and the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u64);

impl Weight {
    const ONE: u64 = 1 << 16;

    /// A whole weight; 0 counts as 1.
    pub fn whole(weight: u32) -> Weight {
        Weight(u64::from(weight.max(1)) * Weight::ONE)
    }

    /// `part` of `whole` of this weight, never nothing.
    #[must_use]
    pub fn scaled(self, part: u32, whole: u32) -> Weight {
        Weight((self.0 * u64::from(part.min(whole)) / u64::from(whole.max(1))).max(1))
    }
}
