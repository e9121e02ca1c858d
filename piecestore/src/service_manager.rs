//! What the service manager that started the process is told, by systemd's protocol (`man sd_notify`).
//!
//! A unit with `Type=notify` counts as started once its nodes are in the network. Without a manager all of this does nothing.

use sd_notify::{NotifyState, notify};

/// All nodes have begun: they serve, or say that they are busy, or have said why they cannot.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// What `systemctl status` shows.
pub(crate) fn status(sentence: &str) {
    tell(&[NotifyState::Status(sentence)]);
}

/// The process ends: running requests may finish.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
