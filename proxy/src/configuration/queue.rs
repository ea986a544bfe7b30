//! What waits to be applied. Ten thousand clusters take half a second, and an endpoint that has gone must not be used
//! so long: so updates are applied a slice at a time, and between two slices it can be the turn of endpoints, which
//! clusters in force take at once. All else keeps its order, and is in force as a whole when its last slice is applied.

use std::collections::VecDeque;

use outrigger_engine::xds::{Kind, Rejection};
use tokio::sync::oneshot;

use super::apply::Progress;
use super::channel::{Content, Push};

/// Something to apply.
#[derive(Debug)]
pub(super) enum Job {
    /// As it came.
    Push(Push),
    /// Begun, and where its outcome goes.
    Begun(Progress, oneshot::Sender<Vec<Rejection>>),
}

impl Job {
    fn kind(&self) -> Kind {
        match self {
            Job::Push(Push { content: Content::Update(update, _), .. }) => update.kind,
            Job::Push(Push { content: Content::Failure { kind, .. }, .. }) => *kind,
            Job::Begun(progress, _) => progress.kind(),
        }
    }
}

/// See the module. A source brings the next update of a kind after the outcome of the one before, and says once of each
/// name that it cannot be had: this holds no more than there are names.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In turn, so that a large one holds up no small one of another source.
    endpoints: VecDeque<Job>,
    /// One after the other.
    others: VecDeque<Job>,
    /// One of those is with somebody who makes a piece of it, and will be put back.
    is_away: bool,
    /// Endpoints had the last turn.
    had_turn: bool,
}

impl Queue {
    /// Something came.
    pub(super) fn add(&mut self, push: Push) {
        let job = Job::Push(push);
        match job.kind() {
            Kind::Endpoints => self.endpoints.push_back(job),
            Kind::Cluster | Kind::Listener | Kind::Routes => self.others.push_back(job),
        }
    }

    /// Of what was taken out, a part is left.
    pub(super) fn put_back(&mut self, job: Job) {
        match job.kind() {
            Kind::Endpoints => self.endpoints.push_back(job),
            Kind::Cluster | Kind::Listener | Kind::Routes => {
                self.others.push_front(job);
                self.is_away = false;
            }
        }
    }

    /// What was taken out last, which is not endpoints, comes back later: what is behind it waits.
    pub(super) fn wait(&mut self) {
        self.is_away = true;
    }

    fn has_others(&self) -> bool {
        !self.is_away && !self.others.is_empty()
    }

    /// Whose turn it is: that of endpoints, and after each of theirs that of the others.
    pub(super) fn next(&mut self) -> Option<Job> {
        self.had_turn = !self.endpoints.is_empty() && (!self.had_turn || !self.has_others());
        match self.had_turn {
            true => self.endpoints.pop_front(),
            false if self.has_others() => self.others.pop_front(),
            false => None,
        }
    }

    /// Whether there is nothing to be taken out.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && !self.has_others()
    }
}
