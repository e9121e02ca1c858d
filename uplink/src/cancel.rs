//! A request to stop, passed down to transfers: the caller keeps a [`Canceller`], the transfer
//! watches a [`Cancel`].

use tokio::sync::watch;

/// Asks to stop.
#[derive(Debug)]
pub struct Canceller(watch::Sender<bool>);

/// Hears that it should stop.
#[derive(Clone, Debug)]
pub struct Cancel(Option<watch::Receiver<bool>>);

/// A pair of both.
#[must_use]
pub fn cancel_pair() -> (Canceller, Cancel) {
    let (sender, receiver) = watch::channel(false);
    (Canceller(sender), Cancel(Some(receiver)))
}

impl Canceller {
    /// Asks all holders of the other half to stop, now and later.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Cancel {
    /// Never asks to stop.
    #[must_use]
    pub fn never() -> Self {
        Self(None)
    }

    /// Returns when it is asked to stop; never, if nobody can ask any more.
    pub async fn cancelled(&self) {
        if let Some(receiver) = &self.0
            && receiver
                .clone()
                .wait_for(|is_cancelled| *is_cancelled)
                .await
                .is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}
