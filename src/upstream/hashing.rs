//! Weighted rendezvous hashing: which endpoint a key goes to, the same in every process.
//!
//! Each endpoint has a [`Score`] for a key, made of nothing but its identity, its weight, the key
//! and the seed, and the key goes to the best one. So who has the same file agrees without
//! talking: when an endpoint goes, its keys alone move, each to its second best, and they come
//! home when it returns; a weight moves keys only to or from its own endpoint.
//!
//! With weights the best is the least −log₂(u) ÷ weight, u being the hash as a fraction: then each
//! wins by its share (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005). The
//! logarithm of the platform's libm may differ in its last bit from machine to machine, and one
//! bit is a key that goes astray. So it is computed here in integers, and compared by multiplying
//! across: every step is exact, and `the_same_on_every_machine` holds it to figures that another
//! program computed.

use std::cmp::Ordering;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// What hashes are keyed with; the same on every replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(u64);

/// An endpoint's identity, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// What a request is known by, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Seed {
    pub fn new(secret: &[u8]) -> Seed {
        Seed(xxh3_64(secret))
    }

    pub fn mark(self, identity: &str) -> Mark {
        Mark(xxh3_64_with_seed(identity.as_bytes(), self.0))
    }

    pub fn key(self, bytes: &[u8]) -> Key {
        Key(xxh3_64_with_seed(bytes, self.0))
    }

    /// How good this endpoint is for this key.
    pub fn score(self, mark: Mark, key: Key, weight: Weight) -> Score {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&mark.0.to_le_bytes());
        pair[8..].copy_from_slice(&key.0.to_le_bytes());
        let hash = xxh3_64_with_seed(&pair, self.0);
        Score { cost: minus_log2(hash), weight, hash, mark }
    }
}

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
        let scaled = u128::from(self.0) * u128::from(part.min(whole)) / u128::from(whole.max(1));
        Weight(u64::try_from(scaled).unwrap_or(self.0).max(1))
    }

    /// In parts of which every weight has a whole number; 48 bits at most.
    pub fn parts(self) -> u64 {
        self.0
    }
}

/// How good an endpoint is for a key: the greatest gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    cost: u64,
    weight: Weight,
    hash: u64,
    mark: Mark,
}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> Ordering {
        let scaled = |score: &Score, by: Weight| u128::from(score.cost) * u128::from(by.0);
        let by_cost = scaled(other, self.weight).cmp(&scaled(self, other.weight));
        by_cost.then(self.hash.cmp(&other.hash)).then(self.mark.cmp(&other.mark))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Bits behind the point of a logarithm.
const FRACTION: u32 = 56;
/// Bits of a number, below its first, that say where in [`LOGARITHMS`] it stands.
const STEP: u32 = 8;
const STEPS: usize = 1 << STEP;

/// 1 − log₂(1 + i ÷ 256) for each i up to 256.
const LOGARITHMS: [u64; STEPS + 1] = {
    let mut table = [0; STEPS + 1];
    let mut i = 0;
    while i < STEPS {
        table[i] = (1 << FRACTION) - log2((STEPS + i) as u64, STEP);
        i += 1;
    }
    table
};

/// log₂ of a number from 1 to 2 with so many bits behind the point, rounded down: bit by bit, each
/// by squaring what is left.
const fn log2(number: u64, point: u32) -> u64 {
    let mut left = number << (63 - point);
    let mut logarithm = 0;
    let mut bit = 0;
    while bit < FRACTION {
        let squared = (left as u128 * left as u128) >> 63;
        let carry = (squared >> 64) as u32;
        left = (squared >> carry) as u64;
        logarithm = logarithm << 1 | carry as u64;
        bit += 1;
    }
    logarithm
}

/// −log₂(hash ÷ 2⁶⁴), above 0 and at most 64: a straight line between the table's entries, which
/// is never off by more than 3 millionths, and falls as the hash rises.
fn minus_log2(hash: u64) -> u64 {
    const REST: u32 = 63 - STEP;
    let hash = hash | 1;
    let zeros = hash.leading_zeros();
    let mantissa = hash << zeros;
    let step = (mantissa >> REST) as usize & (STEPS - 1);
    let rest = mantissa & ((1 << REST) - 1);
    let drop = LOGARITHMS[step] - LOGARITHMS[step + 1];
    // Both factors together have under 105 bits, and the product shifted is no more than `drop`.
    let drop = ((u128::from(drop) * u128::from(rest)) >> REST) as u64;
    (u64::from(zeros) << FRACTION) + LOGARITHMS[step] - drop
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: &str = "a longer key, of more than sixteen bytes";

    /// Endpoints by number, with their weights.
    type Fleet = Vec<(u16, u32)>;

    fn best(fleet: &[(u16, u32)], key: &[u8]) -> Option<u16> {
        let seed = Seed::default();
        let key = seed.key(key);
        let score = |&(number, weight): &(u16, u32)| {
            seed.score(seed.mark(&address(number)), key, Weight::whole(weight))
        };
        fleet.iter().max_by_key(|endpoint| score(endpoint)).map(|(number, _)| *number)
    }

    fn address(number: u16) -> String {
        format!("10.0.0.1:{number}")
    }

    fn fleet() -> impl Strategy<Value = Fleet> {
        let endpoints = prop::collection::btree_map(1_u16.., 1_u32..100, 2..12);
        endpoints.prop_map(|endpoints| endpoints.into_iter().collect())
    }

    proptest! {
        #[test]
        fn only_the_keys_of_an_endpoint_that_goes_move(fleet in fleet(), gone: prop::sample::Index) {
            let gone = gone.index(fleet.len());
            let mut less = fleet.clone();
            let (gone, _) = less.remove(gone);
            for key in 0..200_u32 {
                let key = key.to_le_bytes();
                let (before, after) = (best(&fleet, &key), best(&less, &key));
                prop_assert!(before == after || before == Some(gone));
            }
        }

        #[test]
        fn a_weight_moves_keys_only_to_or_from_its_own_endpoint(
            fleet in fleet(),
            changed: prop::sample::Index,
            weight in 1_u32..200,
        ) {
            let changed = changed.index(fleet.len());
            let mut other = fleet.clone();
            let (number, old) = std::mem::replace(&mut other[changed], (fleet[changed].0, weight));
            for key in 0..200_u32 {
                let key = key.to_le_bytes();
                let (before, after) = (best(&fleet, &key), best(&other, &key));
                let gained = weight >= old && after == Some(number);
                let lost = weight <= old && before == Some(number);
                prop_assert!(before == after || gained || lost);
            }
        }

        #[test]
        fn the_order_of_a_list_does_not_matter(fleet in fleet(), key: u64) {
            let reversed: Fleet = fleet.iter().rev().copied().collect();
            prop_assert_eq!(best(&fleet, &key.to_le_bytes()), best(&reversed, &key.to_le_bytes()));
        }

        #[test]
        fn the_logarithm_falls_and_is_close(hash: u64, further: u64) {
            let exact = 64.0 - ((hash | 1) as f64).log2();
            let computed = minus_log2(hash) as f64 / (1_u64 << FRACTION) as f64;
            prop_assert!((computed - exact).abs() < 3e-6, "{} {}", computed, exact);
            prop_assert!(minus_log2(hash.saturating_add(further)) <= minus_log2(hash));
        }
    }

    #[test]
    fn the_logarithm_has_no_zero() {
        assert_eq!(minus_log2(u64::MAX), 1);
        assert_eq!(minus_log2(1 << 63), 1 << FRACTION);
        assert_eq!(minus_log2(0), 64 << FRACTION);
    }

    /// The sum of (seen − due)² ÷ due over the endpoints. Keys are numbered, so that it is the same
    /// each time.
    fn chi_square(fleet: &[(u16, u32)], keys: u32) -> f64 {
        let mut seen = vec![0_u32; fleet.len()];
        for key in 0..keys {
            let number = best(fleet, format!("session-{key}").as_bytes());
            let index = fleet.iter().position(|(own, _)| Some(*own) == number);
            seen[index.expect("one of the fleet")] += 1;
        }
        let whole: u32 = fleet.iter().map(|(_, weight)| weight).sum();
        let parts = fleet.iter().zip(seen).map(|((_, weight), seen)| {
            let due = f64::from(keys) * f64::from(*weight) / f64::from(whole);
            (f64::from(seen) - due).powi(2) / due
        });
        parts.sum()
    }

    /// Computed by python-xxhash 3 and logarithms of fifty digits, with no line of this crate.
    #[test]
    fn the_same_on_every_machine() {
        let fleet = [
            ("10.0.0.1:9001", 1),
            ("10.0.0.2:9001", 2),
            ("[2001:db8::1]:9001", 3),
            ("chat-3", 1),
            ("unix:/run/chat.sock", 5),
        ];
        let long = "x".repeat(300);
        let table: [(Seed, &str, [usize; 5], u64); 16] = [
            (Seed::default(), "", [1, 4, 2, 3, 0], 0x5bbd_4679_de5b_8798),
            (Seed::default(), "a", [4, 3, 1, 2, 0], 0x96ef_bd8e_674f_bdfe),
            (Seed::default(), "session-1", [3, 4, 1, 2, 0], 0x553f_2b2c_cae9_192f),
            (Seed::default(), "anna@example.com", [1, 4, 0, 2, 3], 0xa237_6001_ef69_1cdb),
            (Seed::default(), LONG, [4, 2, 1, 3, 0], 0x3f63_27d8_c20f_1541),
            (Seed::default(), "ü", [2, 4, 0, 3, 1], 0xaa1c_2b21_522c_c94c),
            (Seed::default(), &long, [0, 4, 2, 3, 1], 0xf3c2_ae4b_6e21_c09d),
            (Seed::default(), "room=7", [2, 1, 3, 4, 0], 0x85b6_87a5_41bd_a9ea),
            (Seed::new(b"seed"), "", [3, 0, 4, 1, 2], 0xd8d2_301d_351a_f31e),
            (Seed::new(b"seed"), "a", [1, 4, 2, 3, 0], 0x426c_820b_a7ae_d417),
            (Seed::new(b"seed"), "session-1", [0, 1, 4, 2, 3], 0xdb96_3b45_0125_81cb),
            (Seed::new(b"seed"), "anna@example.com", [3, 1, 2, 4, 0], 0x5049_84fd_24e1_69da),
            (Seed::new(b"seed"), LONG, [2, 1, 4, 0, 3], 0x6193_58a6_6aa5_70a4),
            (Seed::new(b"seed"), "ü", [4, 2, 1, 0, 3], 0x98bd_7425_9b16_9b69),
            (Seed::new(b"seed"), &long, [2, 4, 3, 1, 0], 0x21fd_e762_5620_5335),
            (Seed::new(b"seed"), "room=7", [2, 0, 4, 1, 3], 0xe896_1de3_533e_1ed4),
        ];
        for (seed, key, ranked, hash) in table {
            let score = |at: &usize| {
                let (identity, weight) = fleet[*at];
                seed.score(seed.mark(identity), seed.key(key.as_bytes()), Weight::whole(weight))
            };
            let mut order: Vec<usize> = (0..fleet.len()).collect();
            order.sort_by_key(|at| std::cmp::Reverse(score(at)));
            assert_eq!((order, score(&0).hash), (ranked.to_vec(), hash), "{key:?}");
        }
    }

    #[test]
    fn keys_spread_as_chance_allows() {
        // With 7 degrees of freedom chance stays below 24.3 in 999 cases of 1,000.
        let even: Fleet = (9001..9009).map(|number| (number, 1)).collect();
        assert!(chi_square(&even, 100_000) < 24.3);
        let weighted: Fleet = (9001..9009).zip([1, 2, 3, 5, 8, 13, 40, 100]).collect();
        assert!(chi_square(&weighted, 100_000) < 24.3);
    }

    #[test]
    fn a_seed_makes_another_order() {
        let picks = |seed: Seed| {
            let score = |number, key| {
                seed.score(seed.mark(&address(number)), seed.key(&[key]), Weight::whole(1))
            };
            (0..32).map(|key| (1..9).max_by_key(|number| score(*number, key))).collect::<Vec<_>>()
        };
        assert_ne!(picks(Seed::new(b"one")), picks(Seed::new(b"two")));
        assert_eq!(picks(Seed::new(b"one")), picks(Seed::new(b"one")));
    }

    #[test]
    fn a_part_of_a_weight_is_never_nothing() {
        assert_eq!(Weight::whole(3).scaled(1, 2).parts(), 3 * Weight::ONE / 2);
        assert_eq!(Weight::whole(1).scaled(0, 10).parts(), 1);
        assert_eq!(Weight::whole(2).scaled(u32::MAX, u32::MAX), Weight::whole(2));
        assert_eq!(Weight::whole(u32::MAX).scaled(1, 0).parts(), 1);
    }
}
