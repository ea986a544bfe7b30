//! RDS: which listeners take their routes from which configuration.

use std::sync::Arc;
use std::time::Instant;

use super::{Applied, Effect, Reference, Routes, Warmer, missing, rds_of};
use crate::config::config_source::ConfigSource;
use crate::config::listener::Listener;
use crate::route::RouteTable;
use crate::xds::Kind;

/// What RDS says under one name.
#[derive(Debug)]
pub(super) struct Configuration {
    source: Arc<ConfigSource>,
    /// Of the table in force or on its way there; `None`: there is none yet.
    version: Option<u64>,
    state: State,
    /// What workers look at.
    table: Arc<Routes>,
    /// How often listeners name it, those that wait and those in force.
    users: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known: listeners wait.
    Unknown,
    /// All that came was refused: only listeners that take another's place wait on. To the others every request gets
    /// 404.
    Refused,
    /// Nobody has one: every request gets 404.
    Absent,
    /// A table is in force.
    InForce,
}

impl Configuration {
    /// Whether a listener need not wait for it. `has_another`: one of the listener's name is in force.
    pub(super) fn is_settled(&self, has_another: bool) -> bool {
        match self.state {
            State::Unknown => false,
            State::Refused => !has_another,
            State::Absent | State::InForce => true,
        }
    }
}

impl Warmer {
    /// Whether a route table of this version is another than before, and some listener uses it.
    pub fn wants_routes(&self, routes: &Reference, version: u64) -> bool {
        self.configurations.get(routes).is_some_and(|configuration| configuration.version != Some(version))
    }

    /// The route table has this version: the one that `make` makes, which is called only if the table is wanted
    /// ([`Warmer::wants_routes`]).
    pub fn set_routes<E>(
        &mut self,
        routes: &Reference,
        version: u64,
        now: Instant,
        make: impl FnOnce() -> Result<Arc<RouteTable>, E>,
    ) -> Result<Applied, E> {
        let configuration = match self.configurations.get_mut(routes) {
            Some(configuration) if configuration.version != Some(version) => configuration,
            _ => return Ok(Applied::Unchanged),
        };
        let table = make()?;
        let known = configuration.version.replace(version);
        // One that takes the place of another that waits has no more time than that had: however often there is a new
        // one, one of them comes into force.
        let until = self.waiting_routes.get(routes).map_or_else(|| self.end_of_wait(now), |(_, until)| *until);
        self.waiting_routes.insert(routes.clone(), (table, until));
        Ok(known.map_or(Applied::Added, |_| Applied::Modified))
    }

    /// Nobody has the route table. Listeners that wait for it go on without routes; routes that are known stay, those
    /// that wait for clusters too.
    pub fn remove_routes(&mut self, routes: &Reference) {
        if let Some(configuration) = self.configurations.get_mut(routes)
            && matches!(configuration.state, State::Unknown | State::Refused)
            && configuration.version.is_none()
        {
            configuration.state = State::Absent;
        }
    }

    /// See [`Warmer::refuse`].
    pub(super) fn refuse_routes(&mut self, routes: &Reference) {
        if let Some(configuration) = self.configurations.get_mut(routes)
            && configuration.state == State::Unknown
            && configuration.version.is_none()
        {
            configuration.state = State::Refused;
        }
    }

    /// A listener is on its way into force.
    pub(super) fn take_routes(&mut self, listener: &Listener) {
        for rds in rds_of(listener) {
            let routes = Reference::new(&rds.name, &rds.source);
            if let Some(configuration) = self.configurations.get_mut(&routes) {
                configuration.users = configuration.users.saturating_add(1);
                // A chain that was in force before has it already, and it is the same.
                _ = rds.table.set(Arc::clone(&configuration.table));
                continue;
            }
            // One that nobody sends is empty.
            let table = Arc::new(Routes::from_pointee(RouteTable::empty(Arc::clone(&rds.name))));
            _ = rds.table.set(Arc::clone(&table));
            let source = Arc::clone(&rds.source);
            let configuration = Configuration { source, version: None, state: State::Unknown, table, users: 1 };
            self.configurations.insert(routes, configuration);
            self.subscribe(Kind::Routes, &rds.name, &rds.source, true);
        }
    }

    /// A listener has gone; with the last one, the interest in its routes goes too.
    pub(super) fn release_routes(&mut self, listener: &Listener) {
        for rds in rds_of(listener) {
            let routes = Reference::new(&rds.name, &rds.source);
            let Some(configuration) = self.configurations.get_mut(&routes) else { continue };
            configuration.users = configuration.users.saturating_sub(1);
            if configuration.users > 0 {
                continue;
            }
            if let Some(configuration) = self.configurations.remove(&routes) {
                self.waiting_routes.remove(&routes);
                self.subscribe(Kind::Routes, &rds.name, &configuration.source, false);
            }
        }
    }

    /// The tables that need not wait any longer come into force: a first one now, for no listener in force looks at it
    /// yet; the others by the effects that come back.
    pub(super) fn settle_routes(&mut self, now: Instant) -> Vec<Effect> {
        let Warmer { waiting_routes, snapshot, .. } = self;
        let ready = waiting_routes.extract_if(|_, (table, until)| {
            now >= *until || missing(table.cluster_names().cloned(), &snapshot.clusters).is_empty()
        });
        let mut ready: Vec<_> = ready.collect();
        ready.sort_unstable_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let mut effects = Vec::new();
        for (routes, (table, _)) in ready {
            let Some(configuration) = self.configurations.get_mut(&routes) else { continue };
            self.in_force.push((Kind::Routes, routes.name, Some(routes.origin)));
            match std::mem::replace(&mut configuration.state, State::InForce) {
                State::Unknown => configuration.table.store(table),
                State::Refused | State::Absent | State::InForce => {
                    effects.push(Effect::Exchange(Arc::clone(&configuration.table), table));
                }
            }
        }
        effects
    }
}
