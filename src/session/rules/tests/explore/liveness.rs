//! The properties that each state leads to, if nothing more is requested.

use super::checks::{Broken, By};
use super::world::{Act, Known, KnownState, Landing, World};
use crate::error::ErrorKind;
use crate::provider::LogoutEnds;
use crate::session::rules::{Event, TokenEnd};
use crate::session::rules::{JobKind, Launch, LogoutOutcome};

/// The most jobs that it takes.
const JOBS: usize = 8;

/// Leads a world to where it shows whether a property holds.
type Property = fn(&mut World);

/// Returns the first property that does not hold.
pub(super) fn violated(world: &World) -> Option<Broken> {
    let properties: [(Property, Option<Act>); 6] = [
        (waiters, None),
        (unlucky_waiters, None),
        (recovery, Some(Act::Token)),
        (logout, Some(Act::Logout)),
        (close, Some(Act::Close)),
        (abandoned, None),
    ];
    properties.into_iter().find_map(|(lead, act)| {
        let mut later = world.clone();
        lead(&mut later);
        let by = By::Liveness(act);
        later.broken.map(|broken| Broken { by, ..broken })
    })
}

/// Each waiter gets a result, if all goes well.
fn waiters(world: &mut World) {
    for _ in 0..JOBS {
        if !world.is_waited_for() || world.broken.is_some() {
            return;
        }
        if world.job.is_none() {
            return world.fail(2, "somebody waits for nothing".into());
        }
        land_well(world);
    }
    world.fail(2, "somebody waits for ever".into());
}

/// Each waiter gets an error, if each login fails.
fn unlucky_waiters(world: &mut World) {
    for _ in 0..JOBS {
        if !world.is_waited_for() || world.broken.is_some() {
            return;
        }
        match &world.job {
            None => return world.fail(2, "somebody waits for nothing".into()),
            Some(under_way) if matches!(under_way.launch, Launch::Job(JobKind::Login { .. })) => {
                world.act(Act::Land(Landing::Failed(ErrorKind::Unavailable, None)));
            }
            Some(_) => land_well(world),
        }
    }
    world.fail(2, "somebody waits for ever in vain".into());
}

/// A session gets a token again once the login system is well.
fn recovery(world: &mut World) {
    let over = world.closed || world.logged_out;
    let for_good = world.refused.is_some() && !world.setup.settings.has_source;
    if over || for_good {
        return;
    }
    world.users.clear();
    world.pending_call = None;
    for _ in 0..JOBS {
        if world.broken.is_some() {
            return;
        }
        world.act(Act::Token);
        if world.users.iter().any(|user| user.held().is_some()) {
            return;
        }
        match world.job.is_some() {
            true => land_well(world),
            false => {
                let Some(next) = world.rules.next_attempt() else {
                    return world.fail(15, "a session that nothing keeps from a login".into());
                };
                world.now = world.now.max(next);
            }
        }
        if world.users.iter().any(|user| user.held().is_some()) {
            return;
        }
        world.users.clear();
    }
    world.fail(15, "a session that does not come back".into());
}

/// A logout ends each token, in use or not.
fn logout(world: &mut World) {
    world.act(Act::Logout);
    for _ in 0..JOBS {
        if world.job.is_none() && world.background_logout.is_none() || world.broken.is_some() {
            break;
        }
        land_well(world);
    }
    if world.rules.logout_result().is_none() {
        world.fail(20, "a logout that does not end".into());
    }
    if !world.rules.ending().is_empty() {
        world.fail(20, "a logout leaves tokens that it could have ended".into());
    }
    all_ended(world);
}

/// A session that is closed comes to rest.
fn close(world: &mut World) {
    world.act(Act::Close);
    world.users.clear();
    for _ in 0..3 * JOBS {
        world.timer();
        let is_busy = world.job.is_some() || world.background_logout.is_some();
        if world.broken.is_some() || !is_busy && world.rules.has_settled_replaced() {
            break;
        }
        match world.rules.wake() {
            _ if is_busy => land_well(world),
            Some(wake) => world.now = world.now.max(wake),
            None => break,
        }
    }
    // `close` does not wait for a token that is presumed dead. The logout of the session
    // ends it.
    let waits_for_nothing = |token: &Known| {
        let is_retired = token.state == KnownState::Retired && token.dead_at.is_none();
        is_retired && token.succeeded && !token.was_to_end
    };
    if !world.rules.has_settled_replaced() || world.tokens.iter().any(waits_for_nothing) {
        world.fail(19, "a replaced token waits for nothing".into());
    }
}

/// After the last handle was dropped, each token has ended in some way.
fn abandoned(world: &mut World) {
    world.rules.abandon();
    let expected = match world.setup.settings.logout_ends {
        LogoutEnds::Nothing => TokenEnd::Discarded,
        LogoutEnds::Token | LogoutEnds::User => TokenEnd::Abandoned,
    };
    for event in world.rules.take_events() {
        if let Event::TokenEnded { generation, end } = event {
            let is_new = world.known(generation).is_some_and(|token| {
                let was_ended = matches!(token.state, KnownState::Ended(_));
                token.state = KnownState::Ended(end);
                !was_ended
            });
            if !is_new || end != expected {
                world.fail(19, format!("token {generation} is abandoned after its end"));
            }
        }
    }
    all_ended(world);
}

fn all_ended(world: &mut World) {
    let left = world
        .tokens
        .iter()
        .find(|token| !matches!(token.state, KnownState::Ended(_)));
    if let Some(left) = left {
        let generation = left.generation;
        world.fail(19, format!("token {generation} is forgotten"));
    }
}

/// Lands the running job or background logout with success. A logout of the session
/// waits for the background logout.
fn land_well(world: &mut World) {
    let Some(under_way) = world.background_logout.as_ref().or(world.job.as_ref()) else {
        return;
    };
    let landing = match under_way.launch {
        Launch::Job(JobKind::Login { .. }) => Landing::NewToken {
            lives: 0,
            continues: false,
        },
        Launch::Job(JobKind::Logout) => Landing::Ended,
        Launch::BackgroundLogout { .. } => Landing::BackgroundLogout(LogoutOutcome::Done),
        Launch::Job(JobKind::ChangePassword) => Landing::Changed,
    };
    world.act(Act::Land(landing));
}
