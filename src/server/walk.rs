//! Walks over a worker's tunnels for an operator: in slices, so that frames are relayed in between.

use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::control::{Kick, Listed, Listing, Order, Registry, Standing, Whom};

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
    let about = &one.about;
    Listed {
        id: one.id,
        client: about.client,
        subject: about.subject.clone(),
        route: about.route.clone(),
        upstream: about.upstream.clone(),
        endpoint: about.address.clone(),
        began: about.began,
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
