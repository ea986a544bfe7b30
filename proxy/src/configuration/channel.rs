//! How a source of configuration (a management server's stream, a watched file) and the configuration task talk: pushes
//! go in, each with a way back for what was rejected; names that the configuration needs come out.

use outrigger_engine::config::config_source::Origin;
use outrigger_engine::xds::{Interest, Kind, Rejection, Update};
use tokio::sync::{mpsc, oneshot};

use super::builder::Builders;

/// Pushes that may wait before a source has to.
const WAITING: usize = 16;

/// An update, and where its outcome goes.
#[derive(Debug)]
pub struct Push {
    /// From where.
    pub origin: Origin,
    /// What came.
    pub content: Content,
    /// Gets what was not applied, once the rest is; empty if all was.
    pub outcome: oneshot::Sender<Vec<Rejection>>,
}

/// What a source has to say.
#[derive(Debug)]
pub enum Content {
    /// Resources, and those that came with them and could not be read at all.
    Update(Update, Vec<Rejection>),
    /// Nothing can be had at present.
    Failure {
        /// Of these resources.
        kind: Kind,
        /// Their names; an empty one stands for all.
        names: Vec<String>,
        /// Why.
        reason: String,
    },
}

/// The end of a source. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Feed {
    pushes: mpsc::Sender<Push>,
    builders: Builders,
}

impl Feed {
    /// Has an `update` from `origin` applied, and says what was rejected: resources of it, and those that came with it
    /// and were `unreadable`. Updates of one kind from one source are to be applied one after the other. `None` while
    /// the process ends.
    ///
    /// Endpoints do not wait for updates of other kinds that came before.
    ///
    /// An update without any resource counts too: it says that the source has answered, or that the wait for its first
    /// answer is over, which is what the start of the process waits for.
    ///
    /// For CDS and LDS the outcome is counted here (`update_success`, `update_rejected`, `update_time`,
    /// `update_duration`); attempts and failures are the source's to count.
    pub async fn apply(&self, origin: Origin, update: Update, unreadable: Vec<Rejection>) -> Option<Vec<Rejection>> {
        self.push(origin, Content::Update(update, unreadable)).await
    }

    /// Notes that the resources `names` of `kind` (an empty name: all of them) cannot be had from `origin` at present:
    /// it is counted (`update_failure`), logged, and shown with each of them until an update has it. What is in force
    /// stays, and who waits goes on waiting. `None` while the process ends.
    pub async fn fail(&self, origin: Origin, kind: Kind, names: Vec<String>, reason: String) -> Option<()> {
        self.push(origin, Content::Failure { kind, names, reason }).await.map(|_| ())
    }

    /// Where what takes long to read is read.
    pub(crate) fn builders(&self) -> &Builders {
        &self.builders
    }

    /// Whether a push waits to be looked at.
    pub(super) fn has_waiting(&self) -> bool {
        self.pushes.capacity() < self.pushes.max_capacity()
    }

    /// As if a push waited, as long as what comes back is kept.
    #[cfg(test)]
    pub(super) async fn waits(&self) -> mpsc::OwnedPermit<Push> {
        self.pushes.clone().reserve_owned().await.unwrap()
    }

    async fn push(&self, origin: Origin, content: Content) -> Option<Vec<Rejection>> {
        let (outcome, rejected) = oneshot::channel();
        self.pushes.send(Push { origin, content, outcome }).await.ok()?;
        rejected.await.ok()
    }
}

/// The channel of pushes: for sources, which have what takes long done by `builders`, and for the configuration task.
pub(crate) fn pushes(builders: Builders) -> (Feed, mpsc::Receiver<Push>) {
    let (pushes, receive) = mpsc::channel(WAITING);
    (Feed { pushes, builders }, receive)
}

/// The channel of interests: for the configuration task, and for the xDS client. Names come in the order in which they
/// are wanted; one that is not wanted any more and wanted again at once comes twice.
pub fn interests() -> (mpsc::UnboundedSender<Interest>, mpsc::UnboundedReceiver<Interest>) {
    mpsc::unbounded_channel()
}
