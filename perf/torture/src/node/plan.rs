//! Which faults a seed has, how often, and when: rates are drawn once a seed, episodes of them follow each other.

use std::time::Duration;

use piecestore::quic::simulated::Weather;
use strand_blob::testing::Random;

/// A network on which nothing goes wrong.
pub(super) const FAIR: Weather = Weather {
    delay_min: Duration::from_millis(1),
    delay_max: Duration::from_millis(4),
    lost_permille: 0,
    damaged_permille: 0,
    doubled_permille: 0,
};

const DAY_MS: u64 = 86_400_000;

/// The worst that the episodes of one seed come to. Rates in parts of a thousand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    read_permille: u64,
    write_permille: u64,
    lost_permille: u64,
    delay_ms: u64,
    read_us: u64,
    write_us: u64,
    has_hangs: bool,
    has_full_disks: bool,
    has_poison: bool,
    has_rot: bool,
    has_wrong_clocks: bool,
    lost_read_permille: u64,
    lost_write_permille: u64,
    satellite_permille: u64,
    has_sleeps: bool,
    /// Sectors of a hundred that a crash takes of what was not synced; `None` leaves it to the disk.
    pub(super) torn_percent: Option<u64>,
    /// Whether a restarted node resets connections that it does not know.
    pub(super) keeps_reset_key: bool,
}

/// One stretch of time and what goes wrong in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Episode {
    pub(super) length: Duration,
    pub(super) weather: Weather,
    pub(super) read_permille: u64,
    pub(super) write_permille: u64,
    /// Longest time that a read takes, in microseconds; a write or sync.
    pub(super) read_us: u64,
    pub(super) write_us: u64,
    /// One write or sync fails for good.
    pub(super) is_poisonous: bool,
    /// The disk answers nothing for so long.
    pub(super) hang: Option<Duration>,
    /// The disk has room for so many bytes more.
    pub(super) room_bytes: Option<u64>,
    /// Bytes of a piece rot.
    pub(super) has_rot: bool,
    /// The machine's clock is set so far ahead, or back.
    pub(super) wall_ahead_ms: Option<i64>,
    /// Reads that bring what lies elsewhere, writes that go elsewhere.
    pub(super) lost_read_permille: u64,
    pub(super) lost_write_permille: u64,
    /// Requests that the satellite refuses, forgets or is slow to answer.
    pub(super) satellite_permille: u64,
    /// All machines sleep for so long.
    pub(super) sleep: Option<Duration>,
}

impl Plan {
    /// VOPR's ranges: reads and writes fail up to every tenth time, up to 30 % of datagrams are lost, a crash takes 80 to 100 % of
    /// the sectors in flight, reads take up to 100 ms and writes up to a second.
    pub(super) fn draw(random: &mut Random) -> Self {
        let mut up_to = |most: u64| random.below(most + 1);
        Self {
            read_permille: up_to(100),
            write_permille: up_to(100),
            lost_permille: up_to(300),
            delay_ms: 4 + up_to(150),
            read_us: 200 + up_to(100_000),
            write_us: 1_000 + up_to(1_000_000),
            has_hangs: up_to(1) == 1,
            has_full_disks: up_to(1) == 1,
            has_poison: up_to(1) == 1,
            has_rot: up_to(1) == 1,
            has_wrong_clocks: up_to(2) == 0,
            lost_read_permille: if up_to(1) == 0 { up_to(100) } else { 0 },
            lost_write_permille: if up_to(1) == 0 { up_to(100) } else { 0 },
            satellite_permille: up_to(500),
            has_sleeps: up_to(1) == 1,
            torn_percent: (up_to(1) == 1).then(|| 80 + up_to(20)),
            keeps_reset_key: up_to(1) == 1,
        }
    }

    /// The next episode; two of five are calm.
    pub(super) fn episode(&self, random: &mut Random) -> Episode {
        let length = Duration::from_millis(3_000 + random.below(12_000));
        let mut episode = Episode {
            length,
            ..Episode::calm()
        };
        if random.below(5) < 2 {
            return episode;
        }
        let mut one_in = |count: u64| random.below(count) == 0;
        let (reads, writes, network, slow) = (one_in(2), one_in(2), one_in(2), one_in(3));
        episode.is_poisonous = self.has_poison && one_in(6);
        episode.has_rot = self.has_rot && one_in(5);
        let (hangs, fills) = (
            self.has_hangs && one_in(6),
            self.has_full_disks && one_in(6),
        );
        let is_wrong = self.has_wrong_clocks && one_in(4);
        let (lost_reads, lost_writes) = (one_in(2), one_in(2));
        let (sulks, sleeps) = (one_in(3), self.has_sleeps && one_in(8));
        let mut up_to = |most: u64| random.below(most + 1);
        if reads {
            episode.read_permille = up_to(self.read_permille);
        }
        if writes {
            episode.write_permille = up_to(self.write_permille);
        }
        if network {
            episode.weather = Weather {
                delay_min: Duration::from_millis(1),
                delay_max: Duration::from_millis(1 + up_to(self.delay_ms)),
                lost_permille: up_to(self.lost_permille),
                damaged_permille: up_to(20),
                doubled_permille: up_to(50),
            };
        }
        if slow {
            (episode.read_us, episode.write_us) = (up_to(self.read_us), up_to(self.write_us));
        }
        if hangs {
            episode.hang = Some(Duration::from_millis(
                500 + up_to(length.as_millis() as u64),
            ));
        }
        if fills {
            episode.room_bytes = Some(up_to(64 << 10));
        }
        if is_wrong {
            let (days, is_behind) = (up_to(40), up_to(1) == 1);
            let ms = (days * DAY_MS + up_to(DAY_MS)) as i64;
            episode.wall_ahead_ms = Some(if is_behind { -ms } else { ms });
        }
        if lost_reads {
            episode.lost_read_permille = up_to(self.lost_read_permille);
        }
        if lost_writes {
            episode.lost_write_permille = up_to(self.lost_write_permille);
        }
        if sulks {
            episode.satellite_permille = up_to(self.satellite_permille);
        }
        if sleeps {
            episode.sleep = Some(Duration::from_millis(up_to(9 * DAY_MS)));
        }
        episode
    }
}

impl Episode {
    /// Nothing goes wrong.
    pub(super) fn calm() -> Self {
        Self {
            length: Duration::from_secs(10),
            weather: FAIR,
            read_permille: 0,
            write_permille: 0,
            read_us: 200,
            write_us: 1_000,
            is_poisonous: false,
            hang: None,
            room_bytes: None,
            has_rot: false,
            wall_ahead_ms: None,
            lost_read_permille: 0,
            lost_write_permille: 0,
            satellite_permille: 0,
            sleep: None,
        }
    }
}
