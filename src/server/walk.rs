//! Walks over a worker's tunnels for an operator: in slices, so that frames are relayed in between.

use std::rc::Rc;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::control::{
    Figures, Kick, Listed, Listing, Order, Ranked, Ranks, Registry, Standing, Whom,
};

/// Tells of the tunnels that a listing wants, as many as it takes.
pub async fn list(registry: Rc<Registry>, listing: Listing, reply: oneshot::Sender<Vec<Listed>>) {
    let mut listed = Vec::new();
    let mut next = Some(listing.from);
    while let Some(from) = next.filter(|_| listed.len() < listing.limit && !reply.is_closed()) {
        let (standing, after) = registry.slice(from);
        let wanted = standing.iter().filter(|one| listing.wants(&one.about)).map(told);
        listed.extend(wanted.take(listing.limit - listed.len()));
        next = after;
        yield_now().await;
    }
    // Who asked may have gone.
    let _ = reply.send(listed);
}

fn told(one: &Standing) -> Listed {
    one.about.listed(one.id)
}

/// Tells of the tunnels that stand out by one measure or another, `limit` of each.
pub async fn rank(registry: Rc<Registry>, limit: usize, reply: oneshot::Sender<Ranks>) {
    let [mut loudest, mut slowest, mut fullest] = [(); 3].map(|()| Highest::new(limit));
    let mut next = Some(0);
    while let Some(from) = next.filter(|_| !reply.is_closed()) {
        let now = Instant::now();
        next = registry.look(from, |id, about| {
            let bytes_per_second = about.bytes_per_second(now);
            let Figures { rtt, waiting, .. } = about.progress.figures();
            let ranked = || Ranked { tunnel: about.listed(id), bytes_per_second };
            loudest.consider(bytes_per_second, ranked);
            slowest.consider(rtt.unwrap_or_default().as_secs_f64(), ranked);
            fullest.consider(waiting.iter().sum::<usize>() as f64, ranked);
        });
        yield_now().await;
    }
    let [loudest, slowest, fullest] = [loudest, slowest, fullest].map(Highest::into_tunnels);
    let _ = reply.send(Ranks { loudest, slowest, fullest });
}

/// The highest of many, by a number over zero.
struct Highest {
    limit: usize,
    /// The highest first.
    kept: Vec<(f64, Ranked)>,
}

impl Highest {
    fn new(limit: usize) -> Highest {
        Highest { limit, kept: Vec::with_capacity(limit + 1) }
    }

    fn consider(&mut self, measure: f64, ranked: impl FnOnce() -> Ranked) {
        let place = self.kept.partition_point(|(kept, _)| *kept >= measure);
        if measure > 0.0 && place < self.limit {
            self.kept.insert(place, (measure, ranked()));
            self.kept.truncate(self.limit);
        }
    }

    fn into_tunnels(self) -> Vec<Ranked> {
        self.kept.into_iter().map(|(_, ranked)| ranked).collect()
    }
}

/// Ends the tunnels that are meant, and says how many they were.
pub async fn kick(registry: Rc<Registry>, kick: Kick, reply: oneshot::Sender<usize>) {
    let (mut kicked, mut next) = (0, Some(0));
    while let Some(from) = next {
        let (standing, after) = registry.slice(from);
        for one in standing.iter().filter(|one| is_meant(one, &kick.whom)) {
            one.mailbox.post(Order::Expel(kick.ending, kick.words.clone()));
            kicked += 1;
        }
        next = after;
        yield_now().await;
    }
    let _ = reply.send(kicked);
}

fn is_meant(one: &Standing, whom: &Whom) -> bool {
    match whom {
        Whom::Connection(id) => one.id == *id,
        Whom::Subject(subject) => one.about.subject.as_ref() == Some(subject),
    }
}
