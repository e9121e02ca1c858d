//! One piece on its way to one node: asked, admitted, sent, acknowledged.
//!
//! The task reports what happens as [`Event`]s and never decides anything: when to send the body
//! comes through `go`, and who drops the task resets the stream with `CANCELLED` (the transport
//! does so for every unfinished exchange).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use strand_protocol::limits::{NODE_FRAME_BYTES_MAX, RECEIPT_TIMEOUT};
use strand_protocol::pb::{node_request, node_response};
use strand_protocol::{Code, NodeId, Receipt, pb};
use strand_transport::{Exchange, StreamError};
use tokio::sync::{mpsc, oneshot};

use super::plan::{Refusal, Ticket};
use super::stripes::Stripes;
use crate::session::Session;

/// Where a piece goes, and the permission for it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) node: NodeId,
    pub(super) address: String,
    pub(super) limit: Vec<u8>,
}

/// What happened to a piece.
pub(super) enum Event {
    Admitted(Ticket),
    Receipt(Ticket, Vec<u8>),
    Failed(Ticket, Refusal, String),
}

/// Puts one piece. Ends with a receipt or a failure event, whatever happens.
pub(super) async fn send_piece(
    session: Arc<Session>,
    target: Target,
    ticket: Ticket,
    stripes: Arc<Stripes>,
    admission: Duration,
    go: oneshot::Receiver<()>,
    events: mpsc::UnboundedSender<Event>,
) {
    let outcome = put(&session, &target, ticket, &stripes, admission, go, &events).await;
    let event = match outcome {
        Ok(Some(receipt)) => Event::Receipt(ticket, receipt),
        Ok(None) => return,
        Err((refusal, reason)) => {
            Event::Failed(ticket, refusal, format!("node {}: {reason}", target.node))
        }
    };
    // Fails only if nobody is interested any more.
    let _ = events.send(event);
}

type Failure = (Refusal, String);

async fn put(
    session: &Session,
    target: &Target,
    ticket: Ticket,
    stripes: &Stripes,
    admission: Duration,
    mut go: oneshot::Receiver<()>,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<Option<Vec<u8>>, Failure> {
    let ask = ask(session, target);
    let Ok(asked) = tokio::time::timeout(admission, ask).await else {
        // Connected and silent: stopped or overwhelmed. The next segments do without it for a
        // while.
        session.nodes().rest(target.node, "it does not answer");
        return Err((Refusal::Gone, "no answer in time".to_owned()));
    };
    let mut exchange = asked?;
    let _ = events.send(Event::Admitted(ticket));
    // The node may take its room back while it waits.
    tokio::select! {
        gone = answer(&mut exchange) => {
            let out_of_turn = || (Refusal::Gone, "it answered out of turn".to_owned());
            return Err(gone.err().unwrap_or_else(out_of_turn));
        }
        went = &mut go => if went.is_err() { return Ok(None) },
    }
    send_body(&mut exchange, ticket.index, stripes).await?;
    let answered = tokio::time::timeout(RECEIPT_TIMEOUT, answer(&mut exchange)).await;
    match answered.map_err(|_| (Refusal::Gone, "no receipt in time".to_owned()))?? {
        node_response::Answer::PutReceipt(receipt)
            if is_receipt_of(target.node, &receipt.receipt) =>
        {
            Ok(Some(receipt.receipt))
        }
        node_response::Answer::PutReceipt(_) => {
            Err((Refusal::Gone, "its receipt is none of its own".to_owned()))
        }
        _ => Err((
            Refusal::Gone,
            "it answered put with something else".to_owned(),
        )),
    }
}

/// Only the satellite can check its MAC; this keeps one confused node from spoiling the commit.
fn is_receipt_of(node: NodeId, bytes: &[u8]) -> bool {
    Receipt::parse(bytes).is_ok_and(|receipt| receipt.node() == node)
}

async fn ask(session: &Session, target: &Target) -> Result<Exchange, Failure> {
    let connection = session
        .nodes()
        .connect(target.node, &target.address)
        .await
        .map_err(|error| (Refusal::Gone, error.reason))?;
    let mut exchange = connection.open().await.map_err(|error| refused(&error))?;
    let put = pb::PutRequest {
        limit: target.limit.clone(),
    };
    let request = pb::NodeRequest {
        verb: Some(node_request::Verb::Put(put)),
    };
    let sent = exchange.send.frame(&request).await;
    match answer(&mut exchange).await? {
        node_response::Answer::PutAdmitted(_) => {
            sent.map_err(|error| refused(&error))?;
            Ok(exchange)
        }
        _ => Err((
            Refusal::Gone,
            "it answered put with something else".to_owned(),
        )),
    }
}

async fn send_body(exchange: &mut Exchange, index: u8, stripes: &Stripes) -> Result<(), Failure> {
    let cancelled = || (Refusal::Gone, "cancelled".to_owned());
    let mut stripe = 0;
    while stripe < stripes.shape().share_count() {
        let made_count = stripes.more_than(stripe).await.ok_or_else(cancelled)?;
        while stripe < made_count {
            let share = stripes.share(stripe, index).ok_or_else(cancelled)?;
            let len = share.len() as u64;
            send(exchange, share).await?;
            stripes.sent_bytes.fetch_add(len, Ordering::Relaxed);
            stripe += 1;
        }
    }
    let tree = stripes.tree().await.ok_or_else(cancelled)?;
    let commit = pb::PutCommit {
        commitment: tree.commitment().to_vec(),
        path: tree.path(index).concat(),
    };
    send(
        exchange,
        Bytes::from(strand_protocol::encode_frame(&commit)),
    )
    .await?;
    exchange.send.finish();
    Ok(())
}

/// Sends; a refusal that the node sent says more than a broken stream. No time-out: how long is too
/// long only the others' pace can say, and the plan knows that.
async fn send(exchange: &mut Exchange, bytes: Bytes) -> Result<(), Failure> {
    let Err(error) = exchange.send.bytes(bytes).await else {
        return Ok(());
    };
    match tokio::time::timeout(LAST_WORD_TIMEOUT, answer(exchange)).await {
        Ok(Err(failure)) => Err(failure),
        _ => Err(refused(&error)),
    }
}

async fn answer(exchange: &mut Exchange) -> Result<node_response::Answer, Failure> {
    let answer: pb::NodeResponse = exchange
        .recv
        .answer(NODE_FRAME_BYTES_MAX)
        .await
        .map_err(|error| refused(&error))?;
    answer
        .answer
        .ok_or_else(|| (Refusal::Gone, "its answer is empty".to_owned()))
}

fn refused(error: &StreamError) -> Failure {
    let refusal = match error.code() {
        Code::Busy => Refusal::Busy,
        _ => Refusal::Gone,
    };
    (refusal, error.to_string())
}

/// How long a refusal is waited for when a stream broke.
const LAST_WORD_TIMEOUT: Duration = Duration::from_millis(200);
