//! The choice of an endpoint, and of the next when that one cannot be had.
//!
//! Who may be chosen comes first: primaries that are usable and not full, then backups that are.
//! The affinity cookie's endpoint goes before all of them, a backup too: the session lives there.
//! Only when no endpoint is usable are the unhealthy ones tried, since to try costs less than to
//! turn everybody away. Among those who may, the upstream's `balance` decides.
//!
//! Nothing is sorted and nothing is allocated: each choice is one walk over the list (two where the
//! load is bounded), and the next one is another. Only a failed dial is noted down.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::hashing::{Key, Seed, Weight};
use super::{Endpoint, Endpoints, Lease, Standing, Wish};
use crate::config;

/// How the endpoints of one upstream share the load.
#[derive(Debug)]
pub(super) struct Balancer {
    kind: Kind,
    seed: Seed,
}

#[derive(Debug)]
enum Kind {
    Hash {
        /// In millionths.
        bounded_load: Option<u64>,
    },
    LeastConnections,
    /// Held while all turns move. The workers share it, for a burst over all of them would else
    /// begin at the same endpoint in each.
    RoundRobin(Mutex<()>),
}

/// An endpoint that may be chosen.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    index: usize,
    endpoint: &'a Endpoint,
    weight: Weight,
}

impl Balancer {
    pub fn new(balance: &config::Balance, seed: Seed) -> Balancer {
        let kind = match balance {
            config::Balance::Hash { bounded_load, .. } => {
                Kind::Hash { bounded_load: *bounded_load }
            }
            config::Balance::LeastConnections => Kind::LeastConnections,
            config::Balance::RoundRobin => Kind::RoundRobin(Mutex::new(())),
        };
        Balancer { kind, seed }
    }

    /// The best of the candidates; `random` decides between equals.
    fn best<'a>(
        &self,
        candidates: impl Iterator<Item = Candidate<'a>> + Clone,
        key: Option<Key>,
        random: u64,
    ) -> Option<usize> {
        match (&self.kind, key) {
            (Kind::Hash { bounded_load }, Some(key)) => {
                let within = bounded_load.and_then(|factor| {
                    let bound = Bound::of(candidates.clone(), factor);
                    self.first_in_rank(candidates.clone().filter(|it| bound.admits(it)), key)
                });
                within.or_else(|| self.first_in_rank(candidates, key))
            }
            (Kind::RoundRobin(turns), _) => next_in_turn(candidates, turns),
            (Kind::Hash { .. } | Kind::LeastConnections, _) => {
                self.least_connections(candidates, random)
            }
        }
    }

    fn first_in_rank<'a>(
        &self,
        candidates: impl Iterator<Item = Candidate<'a>>,
        key: Key,
    ) -> Option<usize> {
        let score = |it: &Candidate<'_>| self.seed.score(it.endpoint.mark(), key, it.weight);
        candidates.max_by_key(score).map(|best| best.index)
    }

    /// The fewest connections for its weight. Between equals it is by chance, in the ratio of their
    /// weights: an idle upstream shares too, and edges that start together do not all begin at one.
    fn least_connections<'a>(
        &self,
        candidates: impl Iterator<Item = Candidate<'a>>,
        random: u64,
    ) -> Option<usize> {
        let chance = self.seed.key(&random.to_le_bytes());
        let load = |it: &Candidate<'_>| {
            let load = Load { connections: it.endpoint.connections(), weight: it.weight };
            (Reverse(load), self.seed.score(it.endpoint.mark(), chance, it.weight))
        };
        candidates.max_by_key(load).map(|best| best.index)
    }
}

/// Connections for a weight, compared without a division.
#[derive(Clone, Copy)]
struct Load {
    connections: usize,
    weight: Weight,
}

impl Ord for Load {
    fn cmp(&self, other: &Load) -> std::cmp::Ordering {
        let scaled = |load: &Load, by: Weight| load.connections as u128 * u128::from(by.parts());
        scaled(self, other.weight).cmp(&scaled(other, self.weight))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Load) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Load) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Load {}

/// How many connections an endpoint may have, by its share of the weights.
struct Bound {
    /// In millionths.
    factor: u128,
    connections: u128,
    weights: u128,
}

impl Bound {
    const WHOLE: u128 = 1_000_000;

    fn of<'a>(candidates: impl Iterator<Item = Candidate<'a>>, factor: u64) -> Bound {
        let mut bound = Bound { factor: factor.into(), connections: 0, weights: 0 };
        for it in candidates {
            bound.connections += it.endpoint.connections() as u128;
            bound.weights += u128::from(it.weight.parts());
        }
        bound
    }

    /// One connection more is no more than ⌈factor × (all + 1) × its share of the weights⌉.
    fn admits(&self, it: &Candidate<'_>) -> bool {
        let share = self.factor * (self.connections + 1) * u128::from(it.weight.parts());
        let most = share.div_ceil((Bound::WHOLE * self.weights).max(1));
        (it.endpoint.connections() as u128) < most
    }
}

/// Smooth weighted round robin, as nginx has it: each moves up by its weight, the foremost is
/// chosen and goes back by all of them. Weights 5, 1, 1 give a a b a c a a, and no burst to a.
fn next_in_turn<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    turns: &Mutex<()>,
) -> Option<usize> {
    let _held = turns.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = 0;
    let mut foremost: Option<(i64, Candidate<'_>)> = None;
    for it in candidates {
        let weight = i64::try_from(it.weight.parts()).unwrap_or(i64::MAX);
        all += weight;
        let turn = it.endpoint.turn().advance(weight);
        if foremost.is_none_or(|(other, _)| turn > other) {
            foremost = Some((turn, it));
        }
    }
    let (_, chosen) = foremost?;
    chosen.endpoint.turn().advance(-all);
    Some(chosen.index)
}

/// The choice for one connection: one endpoint after the other until one can be had.
pub struct Choice<'a> {
    balancer: &'a Balancer,
    endpoints: Arc<Endpoints>,
    wish: &'a Wish,
    random: u64,
    /// Those that could not be dialled, by their place in the list; empty until one could not.
    failed: Vec<bool>,
    last: usize,
}

impl<'a> Choice<'a> {
    pub(super) fn new(
        balancer: &'a Balancer,
        endpoints: Arc<Endpoints>,
        wish: &'a Wish,
        random: u64,
    ) -> Choice<'a> {
        Choice { balancer, endpoints, wish, random, failed: Vec::new(), last: 0 }
    }

    /// A place at the best endpoint that may be had.
    pub fn next(&mut self, now: Instant) -> Option<Lease> {
        loop {
            let index = self.pick(now)?;
            // Between the look and the take another may have had the last place: look again.
            if let Some(lease) = Lease::take(&self.endpoints[index]) {
                self.last = index;
                return Some(lease);
            }
        }
    }

    /// The endpoint given last could not be dialled.
    pub fn failed(&mut self) {
        self.failed.resize(self.endpoints.len(), false);
        self.failed[self.last] = true;
    }

    fn pick(&self, now: Instant) -> Option<usize> {
        if let Some(index) = self.pick_standing(now, Standing::Usable) {
            return Some(index);
        }
        let usable = |(index, endpoint): (usize, &Arc<Endpoint>)| {
            !self.has_failed(index) && endpoint.standing(now) == Standing::Usable
        };
        // Those who are left and usable are full.
        if self.endpoints.iter().enumerate().any(usable) {
            return None;
        }
        self.pick_standing(now, Standing::Unhealthy)
    }

    fn pick_standing(&self, now: Instant, standing: Standing) -> Option<usize> {
        let open = |index: usize, endpoint: &Endpoint| {
            !self.has_failed(index) && !endpoint.is_full() && endpoint.standing(now) == standing
        };
        if let Some(affinity) = &self.wish.affinity {
            let at = self.endpoints.iter().position(|endpoint| Arc::ptr_eq(endpoint, affinity));
            if let Some(index) = at.filter(|index| open(*index, affinity)) {
                return Some(index);
            }
        }
        let all = self.endpoints.iter().enumerate();
        let candidates = |backup: bool| {
            let fits = move |(index, endpoint): &(usize, &Arc<Endpoint>)| {
                endpoint.is_backup() == backup && open(*index, endpoint)
            };
            all.clone().filter(fits).map(|(index, endpoint)| Candidate {
                index,
                endpoint,
                weight: endpoint.weight(now),
            })
        };
        let best = |backup| self.balancer.best(candidates(backup), self.wish.key, self.random);
        best(false).or_else(|| best(true))
    }

    fn has_failed(&self, index: usize) -> bool {
        self.failed.get(index).is_some_and(|failed| *failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Balance, EndpointAddress};

    const HASH: Balance = Balance::Hash { keys: Vec::new(), bounded_load: None };
    /// May have a quarter more than its share.
    const BOUNDED: Balance = Balance::Hash { keys: Vec::new(), bounded_load: Some(1_250_000) };

    fn seed() -> Seed {
        Seed::default()
    }

    fn endpoint(number: u16) -> config::Endpoint {
        EndpointAddress::Name { host: "chat".into(), port: number }.into()
    }

    fn fleet(endpoints: impl IntoIterator<Item = config::Endpoint>) -> Arc<Endpoints> {
        let endpoints = endpoints
            .into_iter()
            .map(|it| Endpoint::new(&it, seed().mark(&it.identity()).into(), &[]));
        Arc::new(endpoints.collect())
    }

    fn weighted(weights: &[u32]) -> Arc<Endpoints> {
        let numbers = 1..;
        fleet(
            numbers
                .zip(weights)
                .map(|(number, weight)| config::Endpoint { weight: *weight, ..endpoint(number) }),
        )
    }

    /// The lease that `random` and a key come to.
    fn take(
        balancer: &Balancer,
        fleet: &Arc<Endpoints>,
        wish: &Wish,
        random: u64,
    ) -> Option<Lease> {
        Choice::new(balancer, fleet.clone(), wish, random).next(Instant::now())
    }

    fn place(fleet: &Endpoints, lease: &Lease) -> usize {
        let own = |endpoint: &Arc<Endpoint>| Arc::ptr_eq(endpoint, lease.endpoint());
        fleet.iter().position(own).expect("one of the fleet")
    }

    fn wish(key: u32) -> Wish {
        Wish { affinity: None, key: Some(seed().key(&key.to_le_bytes())) }
    }

    /// The places that a choice comes to when no dial succeeds.
    fn order(balancer: &Balancer, fleet: &Arc<Endpoints>, wish: &Wish) -> Vec<usize> {
        let mut choice = Choice::new(balancer, fleet.clone(), wish, 0);
        let mut order = Vec::new();
        while let Some(lease) = choice.next(Instant::now()) {
            order.push(place(fleet, &lease));
            choice.failed();
        }
        order
    }

    #[test]
    fn a_failed_dial_goes_on_by_rank_and_to_each_endpoint_once() {
        let balancer = Balancer::new(&HASH, seed());
        let fleet = weighted(&[1, 2, 3, 4, 5]);
        for key in 0..50 {
            let wish = wish(key);
            let score = |at: &usize| {
                let endpoint = &fleet[*at];
                let weight = endpoint.weight(Instant::now());
                seed().score(endpoint.mark(), wish.key.expect("a key"), weight)
            };
            let mut ranked: Vec<usize> = (0..5).collect();
            ranked.sort_by_key(|at| Reverse(score(at)));
            assert_eq!(order(&balancer, &fleet, &wish), ranked);
        }
    }

    #[test]
    fn a_full_endpoint_is_passed_over_and_when_all_are_there_is_none() {
        for balance in [HASH, BOUNDED, Balance::LeastConnections, Balance::RoundRobin] {
            let balancer = Balancer::new(&balance, seed());
            let places = [2, 3, 1].into_iter().zip(1..);
            let fleet = fleet(places.map(|(places, number)| config::Endpoint {
                max_connections: Some(places),
                ..endpoint(number)
            }));
            let taken: Vec<Lease> =
                (0..6).filter_map(|key| take(&balancer, &fleet, &wish(7), key)).collect();
            let counts: Vec<usize> = fleet.iter().map(|endpoint| endpoint.connections()).collect();
            assert_eq!((taken.len(), counts), (6, vec![2, 3, 1]), "{balance:?}");
            assert!(take(&balancer, &fleet, &wish(7), 0).is_none());
        }
    }

    #[test]
    fn backups_are_used_when_no_primary_is_usable() {
        let balancer = Balancer::new(&HASH, seed());
        let fleet = fleet(
            (1..=5).map(|number| config::Endpoint { backup: number > 3, ..endpoint(number) }),
        );
        for key in 0..50 {
            let order = order(&balancer, &fleet, &wish(key));
            assert!(order.len() == 5 && order[..3].iter().all(|at| *at < 3), "{order:?}");
        }
    }

    #[test]
    fn the_cookies_endpoint_goes_before_the_key_until_it_is_full() {
        let balancer = Balancer::new(&HASH, seed());
        let fleet = fleet((1..=3).map(|number| config::Endpoint {
            max_connections: Some(1),
            backup: number == 3,
            ..endpoint(number)
        }));
        let wish = Wish { affinity: Some(fleet[2].clone()), ..wish(1) };
        let first = take(&balancer, &fleet, &wish, 0).expect("all are free");
        assert_eq!(place(&fleet, &first), 2);
        let second = take(&balancer, &fleet, &wish, 0).expect("two are free");
        assert_ne!(place(&fleet, &second), 2);
    }

    #[test]
    fn a_cookie_of_another_list_chooses_nothing() {
        let balancer = Balancer::new(&HASH, seed());
        let (own, others) = (weighted(&[1, 1, 1]), weighted(&[1, 1, 1]));
        let wish = Wish { affinity: Some(others[0].clone()), ..wish(1) };
        assert!(take(&balancer, &own, &wish, 0).is_some());
        assert_eq!(others[0].connections(), 0);
    }

    #[test]
    fn a_bound_holds_and_the_first_in_rank_gets_what_all_refuse() {
        let balancer = Balancer::new(&BOUNDED, seed());
        let fleet = weighted(&[1, 1, 2]);
        // All by one key: without a bound they would be at one endpoint.
        let leases: Vec<Lease> =
            (0..100).filter_map(|random| take(&balancer, &fleet, &wish(3), random)).collect();
        assert_eq!(leases.len(), 100);
        for (endpoint, share) in fleet.iter().zip([25, 25, 50]) {
            // ⌈1.25 × 100 × its share⌉
            let most = (share * 5_usize).div_ceil(4);
            assert!(endpoint.connections() <= most, "{} of {most}", endpoint.connections());
        }
        let first = order(&Balancer::new(&HASH, seed()), &fleet, &wish(3))[0];
        assert_eq!(fleet[first].connections(), if first == 2 { 63 } else { 32 });
    }

    #[test]
    fn least_connections_fill_up_by_weight_and_idle_ones_share_by_chance() {
        let balancer = Balancer::new(&Balance::LeastConnections, seed());
        let fleet = weighted(&[1, 1, 2]);
        let mut idle = [0_u32; 3];
        for random in 0..3000 {
            let lease = take(&balancer, &fleet, &Wish::default(), random).expect("all are free");
            idle[place(&fleet, &lease)] += 1;
        }
        // Four standard deviations about 750 and 1500.
        assert!(idle[0].abs_diff(750) < 95 && idle[2].abs_diff(1500) < 110, "{idle:?}");
        let leases: Vec<Lease> = (0..80)
            .filter_map(|random| take(&balancer, &fleet, &Wish::default(), random))
            .collect();
        let counts: Vec<usize> = fleet.iter().map(|endpoint| endpoint.connections()).collect();
        assert_eq!((leases.len(), counts), (80, vec![20, 20, 40]));
    }

    #[test]
    fn a_key_is_nothing_to_least_connections() {
        let balancer = Balancer::new(&Balance::LeastConnections, seed());
        let fleet = weighted(&[1, 1]);
        let leases: Vec<Lease> =
            (0..10).filter_map(|random| take(&balancer, &fleet, &wish(1), random)).collect();
        assert_eq!((leases.len(), fleet[0].connections()), (10, 5));
    }

    #[test]
    fn round_robin_is_smooth() {
        let balancer = Balancer::new(&Balance::RoundRobin, seed());
        let fleet = weighted(&[5, 1, 1]);
        let turns: Vec<usize> = (0..14)
            .filter_map(|_| take(&balancer, &fleet, &Wish::default(), 0))
            .map(|lease| place(&fleet, &lease))
            .collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn no_endpoint_gives_no_lease() {
        for balance in [BOUNDED, Balance::LeastConnections, Balance::RoundRobin] {
            let balancer = Balancer::new(&balance, seed());
            assert!(take(&balancer, &fleet([]), &wish(1), 0).is_none());
        }
    }
}
