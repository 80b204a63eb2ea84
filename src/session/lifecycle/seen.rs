//! What the explorer sees of the rules that nobody else needs to.

use super::*;
use crate::session::explore::canon::{Canon, Canonical};

impl Lifecycle {
    /// The flight under way.
    pub(in crate::session) fn under_way(&self) -> Option<Flight> {
        self.flight.map(|under_way| under_way.flight)
    }

    pub(in crate::session) fn is_retired(&self, generation: u64) -> bool {
        self.retirement.contains(generation)
    }

    /// Until when no login is made, since the last one failed.
    pub(in crate::session) fn fails_until(&self) -> Option<Moment> {
        match self.trouble.as_deref()? {
            Trouble::Failing { until, .. } => Some(*until),
            Trouble::Refused { .. } => None,
        }
    }

    /// Makes each random choice to come the same as the first one was.
    pub(in crate::session) fn settle_jitter(&mut self, seed: u64) {
        self.jitter = Jitter::new(seed);
    }
}

impl Canonical for Lifecycle {
    fn write(&self, to: &mut Canon) {
        // Named one by one, so that a new field cannot be forgotten here.
        let Self {
            settings: _,
            phase,
            closed,
            current,
            flight,
            launch,
            issued,
            missing,
            trouble,
            backoff,
            cooldowns,
            jitter: _,
            renewed,
            owed,
            logouts: _,
            ending,
            retirement,
            held_up,
            rested,
            events: _,
        } = self;
        assert!(!launch, "taken by the event that left it");
        to.number(match phase {
            Phase::Open => 0,
            Phase::LoggedOut(Ok(())) => 1,
            Phase::LoggedOut(Err(_)) => 2,
        });
        to.flag(*closed);
        to.option(current.as_ref(), |to, current| {
            let Current {
                generation,
                lifespan,
                standing,
            } = current;
            to.generation(*generation);
            lifespan.write(to);
            match standing {
                Standing::Good => to.number(0),
                Standing::Suspended(None) => to.number(1),
                Standing::Suspended(Some(target)) => to.target(*target),
            }
        });
        // Since when it is under way only says how long it took.
        to.option(*flight, |to, UnderWay { flight, since: _ }| match flight {
            Flight::Login { reason, attempt } => {
                to.number(3 + reason as u64);
                to.number(attempt as u64);
            }
            Flight::Logout => to.number(0),
            Flight::Retire { generation } => {
                to.number(1);
                to.generation(generation);
            }
            Flight::ChangePassword => to.number(2),
        });
        to.generation(*issued);
        to.number(*missing as u64);
        // What a login failed with is told and never looked at.
        to.option(trouble.as_deref(), |to, trouble| match trouble {
            Trouble::Failing { error: _, until } => {
                to.number(0);
                to.moment(*until);
            }
            Trouble::Refused { error: _, recheck } => {
                to.number(1);
                to.moment(*recheck);
            }
        });
        to.number(backoff.failures().into());
        cooldowns.write(to);
        to.moment(*renewed + BRIEFLY);
        to.option(*owed, |to, (generation, target)| {
            to.generation(generation);
            to.option(target, Canon::target);
        });
        to.each(ending, |to, Unused { generation, ends }| {
            to.generation(*generation);
            to.option(*ends, Canon::moment);
        });
        retirement.write(to);
        to.flag(*held_up);
        to.moment(*rested);
    }
}
