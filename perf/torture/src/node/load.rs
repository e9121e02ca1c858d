//! What clients ask, and whether the answers may be.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use piecestore::core::executor::{Clock, Executor};
use piecestore::serve::simulated::{self, Refusal, Segment};
use strand_codec::Shape;
use strand_protocol::permit::LimitAction;
use strand_protocol::{Code, NodeId};

use super::check::Excuses;
use super::client::Client;
use super::host::NODE;
use super::ledger::{Change, Found, State};
use super::moods::Faults;
use super::world::World;

/// Verbs under way at most.
const IN_FLIGHT_MAX: usize = 32;

/// Pieces that are kept, about.
const PIECES: usize = 120;

/// Pieces that the ledger remembers, gone ones among them.
const ENTRIES_MAX: usize = 400;

impl World {
    /// Verbs, one after another and side by side.
    pub(super) async fn load(self: Rc<Self>) {
        let gap_us = self.options.gap.as_micros() as u64;
        while self.is_loading.get() {
            let pause_us = self.below(2 * gap_us);
            self.executor.sleep(Duration::from_micros(pause_us)).await;
            if self.in_flight.get() >= IN_FLIGHT_MAX {
                continue;
            }
            let Some(client) = self.some_client() else {
                continue;
            };
            self.in_flight.set(self.in_flight.get() + 1);
            let asking = Rc::clone(&self);
            self.executor.spawn(async move {
                asking.ask_something(&client).await;
                asking.in_flight.set(asking.in_flight.get() - 1);
            });
        }
    }

    pub(super) fn some_client(&self) -> Option<Rc<Client>> {
        let clients = self.clients.borrow();
        let first = self.below(clients.len() as u64) as usize;
        let mut order = clients.iter().cycle().skip(first).take(clients.len());
        order.find(|client| client.is_connected()).cloned()
    }

    pub(super) async fn ask_something(&self, client: &Client) {
        let acked_count = self.ledger.borrow().acked_count();
        let chance = self.below(100);
        let now_ms = self.executor.now_ms();
        if chance < 4 {
            self.ping(client).await;
        } else if chance < 45 {
            if let Some(key) = self.some_key() {
                self.get(client, key).await;
            }
        } else if chance < 55 || (chance < 90 && acked_count > PIECES) {
            let key = self.some_key();
            let may = |key: &u64| {
                let ledger = self.ledger.borrow();
                ledger.may(*key, Change::Delete, self.boot.get(), now_ms)
            };
            if let Some(key) = key.filter(may) {
                self.delete(client, key).await;
            }
        } else if chance < 65 {
            let key = self.some_key();
            let may = |key: &u64| {
                let ledger = self.ledger.borrow();
                ledger.may(*key, Change::Put, self.boot.get(), now_ms)
            };
            if let Some(key) = key.filter(may) {
                self.put(client, key).await;
            }
        } else {
            let key = self.new_piece(true);
            self.put(client, key).await;
        }
    }

    /// Some piece; what nobody needs to remember is forgotten on the way.
    pub(super) fn some_key(&self) -> Option<u64> {
        let mut ledger = self.ledger.borrow_mut();
        let now_ms = self.executor.now_ms();
        if ledger.entries.len() > ENTRIES_MAX {
            let gone = ledger.entries.iter().find(|&(&entry_key, entry)| {
                let is_over = entry.expiry_ms != 0 && entry.expiry_ms + 60_000 < now_ms;
                let is_reserved = Some(entry_key) == self.reserved.get();
                let is_idle = !entry.is_busy && !is_reserved;
                is_idle && (entry.state == State::Deleted || is_over || entry.is_over)
            });
            if let Some(key) = gone.map(|(&key, _)| key) {
                ledger.forget(key);
            }
        }
        let from = self.below(ledger.next_key.max(1));
        let mut keys = ledger.entries.range(from..).map(|(&key, _)| key);
        keys.find(|&key| Some(key) != self.reserved.get())
    }

    pub(super) fn new_piece(&self, may_expire: bool) -> u64 {
        let random = &mut *self.random.borrow_mut();
        let most = [2_000, 2_000, 8_000, 40_000]
            [random.below(4).min(random.below(4)).min(random.below(4)) as usize];
        let required = 1 + random.below(2) as u8;
        let plain_len = (1 + random.below(most)) * u64::from(required);
        let total = required + 1 + random.below(3) as u8;
        let Ok(shape) = Shape::new(required, total, strand_codec::sealed_len(plain_len)) else {
            unreachable!("a small segment")
        };
        let mut body = vec![0; shape.piece_len() as usize];
        random.fill(&mut body);
        let index = random.below(u64::from(total)) as u8;
        let segment = Segment::draw(shape, index, Bytes::from(body), || random.next());
        let expires = may_expire && random.below(8) == 0;
        let expiry_ms = if expires {
            self.executor.now_ms() + 20_000 + random.below(100_000)
        } else {
            0
        };
        let now_ms = self.executor.now_ms();
        self.ledger.borrow_mut().add(segment, expiry_ms, now_ms)
    }

    /// The limit for a verb on a piece, and the piece.
    pub(super) fn permit(
        &self,
        action: LimitAction,
        key: u64,
        client: NodeId,
    ) -> Option<(Vec<u8>, Segment)> {
        let ledger = self.ledger.borrow();
        let entry = ledger.entries.get(&key)?;
        let mut random = self.random.borrow_mut();
        let serial = simulated::drawn(|| random.next());
        let now_ms = self.executor.now_ms();
        let mut fields = self
            .permits
            .fields(action, &entry.segment, client, serial, now_ms);
        fields.piece_expiry_ms = entry.expiry_ms;
        Some((self.permits.mint(&fields), entry.segment.clone()))
    }

    /// Notes how a verb ended; whether it was a success.
    pub(super) fn ended<T>(
        &self,
        verb: &str,
        key: u64,
        answer: &Result<T, Refusal>,
        before: Excuses,
    ) -> bool {
        let now = self.excuses();
        let faults = |of: fn(Faults) -> u64| of(before.faults) + of(now.faults) > 0;
        let code = match answer {
            Ok(_) => 0,
            Err(Refusal::Code(code)) => u64::from(u32::from(*code)),
            Err(Refusal::Lost) => 1_000,
            Err(Refusal::Garbled(_)) => 1_001,
        };
        self.executor.note(key << 16 | code);
        if code < 1_000 {
            self.count("sim_verbs", 1);
        }
        let is_explained = match answer {
            Ok(_) | Err(Refusal::Lost) => true,
            Err(Refusal::Garbled(_)) => false,
            Err(Refusal::Code(code)) => match code {
                Code::Busy
                | Code::StaleLimit
                | Code::Shutdown
                | Code::Cancelled
                | Code::Timeout => true,
                Code::Full => before.was_full || now.was_full || faults(|faults| faults.writes),
                Code::ReadOnly => faults(|faults| faults.poisonings) || before.boot != now.boot,
                Code::Internal => {
                    let all = |faults: Faults| faults.reads + faults.writes + faults.poisonings;
                    let is_hit = self.has_harmed_files();
                    faults(all) || before.was_full || before.boot != now.boot || is_hit
                }
                // The ledger judges those.
                Code::NotFound | Code::Corrupt => verb == "get",
                _ => false,
            },
        };
        let is_judged = matches!(answer, Err(Refusal::Code(Code::NotFound | Code::Corrupt)));
        let is_too_weak = self.is_strict.get() && answer.is_err() && !is_judged;
        if !is_explained || (is_too_weak && !self.ledger.borrow().is_hurt(key)) {
            let said = answer.as_ref().err();
            self.violate(format!("a {verb} of piece {key} ended with {said:?}"));
        }
        answer.is_ok()
    }

    pub(super) async fn ping(&self, client: &Client) -> bool {
        let before = self.excuses();
        let answer = client
            .ask(|mut send, mut recv| async move { simulated::ping(&mut send, &mut recv).await })
            .await;
        if answer.as_ref().is_ok_and(|id| *id != NODE) {
            self.violate("somebody else answered a ping");
        }
        self.ended("ping", 0, &answer, before)
    }

    pub(super) async fn put(&self, client: &Client, key: u64) -> bool {
        let before = self.excuses();
        let Some((limit, segment)) = self.permit(LimitAction::Put, key, client.id) else {
            return false;
        };
        self.ledger.borrow_mut().begin(key, Change::Put);
        let epoch_key = self.key.clone();
        let asking = |mut send, mut recv| async move {
            simulated::put(&mut send, &mut recv, limit, &segment, &epoch_key).await
        };
        let answer = client.ask(asking).await;
        let is_acked = answer.is_ok();
        let boot = self.boot.get();
        self.ledger
            .borrow_mut()
            .end(key, Change::Put, is_acked, boot);
        self.ended("put", key, &answer, before)
    }

    pub(super) async fn delete(&self, client: &Client, key: u64) -> bool {
        let excuses = self.excuses();
        let Some((limit, _)) = self.permit(LimitAction::Delete, key, client.id) else {
            return false;
        };
        let before = self.ledger.borrow().before(key);
        self.ledger.borrow_mut().begin(key, Change::Delete);
        let asking = |mut send, mut recv| async move {
            simulated::delete(&mut send, &mut recv, limit).await
        };
        let answer = client.ask(asking).await;
        // A piece that was acknowledged was there to be deleted. Who cannot read it, or finds it damaged, deletes it all the same, and does not know.
        self.take_harms();
        let could_read = self.excuses().faults.reads == 0 && !self.ledger.borrow().is_hurt(key);
        if let (Ok(false), Some(before), true) = (&answer, before, could_read) {
            let version = self.ledger.borrow().before(key).unwrap_or(before);
            let before = before.in_version_of(version);
            self.judge(key, before, Found::Absent, excuses, false);
        }
        // Of a piece that it could not read it may have found nothing to delete, and the next start finds it.
        let is_sure = could_read || !matches!(answer, Ok(false));
        let (is_acked, boot) = (answer.is_ok() && is_sure, self.boot.get());
        self.ledger
            .borrow_mut()
            .end(key, Change::Delete, is_acked, boot);
        self.ended("delete", key, &answer, excuses)
    }

    pub(super) async fn get(&self, client: &Client, key: u64) -> bool {
        let excuses = self.excuses();
        let before = self.ledger.borrow().before(key);
        let permitted = self.permit(LimitAction::Get, key, client.id);
        let (Some(before), Some((limit, segment))) = (before, permitted) else {
            return false;
        };
        let body = segment.body.clone();
        let asking = |mut send, mut recv| async move {
            simulated::get(&mut send, &mut recv, limit, &segment).await
        };
        let answer = client.ask(asking).await;
        let found = match &answer {
            Ok((bytes, fits)) if *fits && *bytes == body => Some(Found::Exact),
            Ok(_) => Some(Found::WrongBytes),
            Err(Refusal::Code(Code::NotFound)) => Some(Found::Absent),
            Err(Refusal::Code(Code::Corrupt)) => Some(Found::Damaged),
            Err(_) => None,
        };
        if let Some(found) = found {
            self.judge(key, before, found, excuses, false);
        }
        self.ended("get", key, &answer, excuses)
    }
}
