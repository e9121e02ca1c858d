//! AES-GCM on vectors of two blocks, VAES and VPCLMULQDQ without AVX-512, with keys of 256 bits or 128; and AES by itself, which QUIC
//! protects headers with.
//!
//! Sixteen blocks at a time: their counters go through the cipher's rounds while the hash of
//! sixteen others is summed up between the rounds, since both have units of their own. A block is
//! hashed as POLYVAL does it, with its bytes reversed and the hash key times x (RFC 8452, appendix
//! A), so that products need no bit reversal. Sixteen products, with the key's powers, are summed
//! before one reduction; each is three multiplications without carry (Karatsuba). The reduction is
//! Montgomery's, which divides by x^128 and so asks for the polynomial's high half alone:
//!
//! ```text
//! (low, middle, high) = sum of the products of blocks and powers
//! middle += swap(low) + low[0] p      high += swap(middle) + middle[0] p      p = x^63 + x^62 + x^57
//! ```
//!
//! What is left after whole batches is one more batch, at whose end it lies: zeros before it add nothing to a sum of products.
//!
//! **Source:** S. Gueron, M. Kounavis, "Intel Carry-Less Multiplication Instruction and its Usage
//! for Computing the GCM Mode", 2014; NIST SP 800-38D for the mode.

use core::arch::x86_64::*;

use zeroize::Zeroize;

use crate::level::{Level, Tier};

const BLOCK_BYTES: usize = 16;
const VECTORS: usize = 8;
/// Bytes of sixteen blocks.
const BATCH_BYTES: usize = VECTORS * 2 * BLOCK_BYTES;
/// Keys of the rounds of AES-256, and one before the first.
pub(crate) const ROUND_KEYS_256: usize = 15;
/// The same of AES-128.
pub(crate) const ROUND_KEYS_128: usize = 11;

/// Proof that this CPU has the instructions, and that its own level allows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vaes(());

impl Vaes {
    /// Whether this process runs these kernels.
    pub fn of_process() -> Option<Self> {
        Level::of_process().ok().and_then(Self::at)
    }

    /// Whether a level runs these kernels on this CPU.
    pub fn at(level: Level) -> Option<Self> {
        let allows = !matches!(level.tier(), Tier::Scalar | Tier::Ssse3);
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq");
        (allows && has).then_some(Self(()))
    }
}

/// Keys of the rounds, each in both lanes. Wiped when dropped.
pub(crate) struct Rounds<const ROUND_KEYS: usize> {
    keys: [__m256i; ROUND_KEYS],
    _vaes: Vaes,
}

/// An expanded key of AES-GCM. Wiped when dropped.
pub(crate) struct Key<const ROUND_KEYS: usize> {
    rounds: Rounds<ROUND_KEYS>,
    /// The hash key's powers, those of the first blocks first: 16 and 15, 14 and 13, to 2 and 1.
    powers: [__m256i; VECTORS],
    /// Both halves of each power added up, in the low half.
    sums: [__m256i; VECTORS],
}

impl<const ROUND_KEYS: usize> Drop for Rounds<ROUND_KEYS> {
    fn drop(&mut self) {
        self.keys.zeroize();
    }
}

impl<const ROUND_KEYS: usize> Drop for Key<ROUND_KEYS> {
    fn drop(&mut self) {
        self.powers.zeroize();
        self.sums.zeroize();
    }
}

impl Rounds<ROUND_KEYS_256> {
    pub(crate) fn of_256(vaes: Vaes, key: &[u8; 32]) -> Self {
        // SAFETY: the proof says that the CPU has the instructions.
        unsafe { expand_256(vaes, key) }
    }
}

impl Rounds<ROUND_KEYS_128> {
    pub(crate) fn of_128(vaes: Vaes, key: &[u8; 16]) -> Self {
        // SAFETY: the proof says that the CPU has the instructions.
        unsafe { expand_128(vaes, key) }
    }
}

impl<const ROUND_KEYS: usize> Rounds<ROUND_KEYS> {
    /// One block through the cipher.
    pub(crate) fn encipher(&self, block: &[u8; BLOCK_BYTES]) -> [u8; BLOCK_BYTES] {
        // SAFETY: the keys hold a proof of the instructions.
        unsafe { encipher(self, block) }
    }
}

impl<const ROUND_KEYS: usize> Key<ROUND_KEYS> {
    pub(crate) fn new(rounds: Rounds<ROUND_KEYS>) -> Self {
        // SAFETY: the keys hold a proof of the instructions.
        unsafe { with_powers(rounds) }
    }

    /// Enciphers `plain` into `sealed` and returns the tag of that.
    ///
    /// # Panics
    ///
    /// If their lengths differ.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        plain: &[u8],
        sealed: &mut [u8],
    ) -> [u8; 16] {
        self.crypt_into::<true>(nonce, aad, plain, sealed)
    }

    /// Deciphers `sealed` into `plain` and returns the tag that `sealed` should have.
    ///
    /// # Panics
    ///
    /// If their lengths differ.
    pub(crate) fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> [u8; 16] {
        self.crypt_into::<false>(nonce, aad, sealed, plain)
    }

    /// As [`Key::seal`], in place.
    pub(crate) fn seal_in_place(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8]) -> [u8; 16] {
        let (bytes, len) = (body.as_mut_ptr(), body.len());
        // SAFETY: every byte is read before it is written, and hashed after that; the key is a proof of the instructions.
        unsafe { crypt::<ROUND_KEYS, true>(self, nonce, aad, bytes, bytes, len) }
    }

    /// As [`Key::open`], in place.
    pub(crate) fn open_in_place(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8]) -> [u8; 16] {
        let (bytes, len) = (body.as_mut_ptr(), body.len());
        // SAFETY: every byte is read before it is written; the key is a proof of the instructions.
        unsafe { crypt::<ROUND_KEYS, false>(self, nonce, aad, bytes, bytes, len) }
    }

    fn crypt_into<const SEALS: bool>(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        from: &[u8],
        to: &mut [u8],
    ) -> [u8; 16] {
        assert_eq!(from.len(), to.len());
        let (from, to, len) = (from.as_ptr(), to.as_mut_ptr(), from.len());
        // SAFETY: both have so many bytes and do not overlap; the key is a proof of the instructions.
        unsafe { crypt::<ROUND_KEYS, SEALS>(self, nonce, aad, from, to, len) }
    }
}

#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq")]
fn expand_256(vaes: Vaes, key: &[u8; 32]) -> Rounds<ROUND_KEYS_256> {
    let mut rounds = [_mm_setzero_si128(); ROUND_KEYS_256];
    let (halves, _) = key.as_chunks();
    for (round, half) in rounds.iter_mut().zip(halves) {
        *round = load_block(half);
    }
    // From the round before and the one before that: in turns with a constant and without one.
    macro_rules! round_key {
        ($at:literal, $constant:literal) => {
            let assist = _mm_aeskeygenassist_si128::<$constant>(rounds[$at - 1]);
            rounds[$at] = next_round(rounds[$at - 2], _mm_shuffle_epi32::<0xff>(assist));
        };
        ($at:literal) => {
            let assist = _mm_aeskeygenassist_si128::<0>(rounds[$at - 1]);
            rounds[$at] = next_round(rounds[$at - 2], _mm_shuffle_epi32::<0xaa>(assist));
        };
    }
    round_key!(2, 0x01);
    round_key!(3);
    round_key!(4, 0x02);
    round_key!(5);
    round_key!(6, 0x04);
    round_key!(7);
    round_key!(8, 0x08);
    round_key!(9);
    round_key!(10, 0x10);
    round_key!(11);
    round_key!(12, 0x20);
    round_key!(13);
    round_key!(14, 0x40);
    in_both_lanes(vaes, rounds)
}

#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq")]
fn expand_128(vaes: Vaes, key: &[u8; 16]) -> Rounds<ROUND_KEYS_128> {
    let mut rounds = [_mm_setzero_si128(); ROUND_KEYS_128];
    rounds[0] = load_block(key);
    macro_rules! round_key {
        ($at:literal, $constant:literal) => {
            let assist = _mm_aeskeygenassist_si128::<$constant>(rounds[$at - 1]);
            rounds[$at] = next_round(rounds[$at - 1], _mm_shuffle_epi32::<0xff>(assist));
        };
    }
    round_key!(1, 0x01);
    round_key!(2, 0x02);
    round_key!(3, 0x04);
    round_key!(4, 0x08);
    round_key!(5, 0x10);
    round_key!(6, 0x20);
    round_key!(7, 0x40);
    round_key!(8, 0x80);
    round_key!(9, 0x1b);
    round_key!(10, 0x36);
    in_both_lanes(vaes, rounds)
}

#[target_feature(enable = "avx2")]
fn in_both_lanes<const ROUND_KEYS: usize>(
    vaes: Vaes,
    mut rounds: [__m128i; ROUND_KEYS],
) -> Rounds<ROUND_KEYS> {
    let mut keys = [_mm256_setzero_si256(); ROUND_KEYS];
    for (wide, round) in keys.iter_mut().zip(&rounds) {
        *wide = _mm256_broadcastsi128_si256(*round);
    }
    rounds.zeroize();
    Rounds { keys, _vaes: vaes }
}

#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq")]
fn with_powers<const ROUND_KEYS: usize>(rounds: Rounds<ROUND_KEYS>) -> Key<ROUND_KEYS> {
    let zeros = encipher_block(&rounds, _mm_setzero_si128());
    let hash_key = times_x(_mm_shuffle_epi8(zeros, reverse_block()));
    let mut key = Key {
        rounds,
        powers: [_mm256_setzero_si256(); VECTORS],
        sums: [_mm256_setzero_si256(); VECTORS],
    };
    let mut power = hash_key;
    for at in (0..VECTORS).rev() {
        let next = multiply(power, hash_key);
        // The earlier block, in the low lane, has the higher power.
        key.powers[at] = _mm256_set_m128i(power, next);
        key.sums[at] =
            _mm256_xor_si256(key.powers[at], _mm256_shuffle_epi32::<0x4e>(key.powers[at]));
        power = multiply(next, hash_key);
    }
    key
}

#[inline]
#[target_feature(enable = "avx2")]
fn next_round(before: __m128i, assist: __m128i) -> __m128i {
    let mut sum = before;
    sum = _mm_xor_si128(sum, _mm_slli_si128::<4>(sum));
    sum = _mm_xor_si128(sum, _mm_slli_si128::<8>(sum));
    _mm_xor_si128(sum, assist)
}

/// A block times x, as POLYVAL has its bits.
#[inline]
#[target_feature(enable = "avx2")]
fn times_x(block: __m128i) -> __m128i {
    let carries = _mm_srli_epi64::<63>(block);
    let shifted = _mm_or_si128(_mm_slli_epi64::<1>(block), _mm_slli_si128::<8>(carries));
    // All ones where x^127 was there.
    let overflow = _mm_srai_epi32::<31>(_mm_shuffle_epi32::<0xff>(block));
    let polynomial = _mm_set_epi64x(0xc200_0000_0000_0000_u64.cast_signed(), 1);
    _mm_xor_si128(shifted, _mm_and_si128(overflow, polynomial))
}

/// `plain` to `sealed` or back, and the tag of the sealed bytes.
///
/// # Safety
///
/// `len` bytes are readable at `from` and writable at `to`, which are the same place or do not overlap. The CPU has the instructions.
#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq")]
unsafe fn crypt<const ROUND_KEYS: usize, const SEALS: bool>(
    key: &Key<ROUND_KEYS>,
    nonce: &[u8; 12],
    aad: &[u8],
    from: *const u8,
    to: *mut u8,
    len: usize,
) -> [u8; 16] {
    let mut first = [0; BLOCK_BYTES];
    first[..12].copy_from_slice(nonce);
    first[15] = 1;
    let first = load_block(&first);
    let mut hash = _mm_setzero_si128();
    for block in aad.chunks(BLOCK_BYTES) {
        hash = hash_padded(key, hash, block);
    }

    // Counters in the CPU's order of bytes; the first vector has 2 and 3.
    let counter = _mm256_broadcastsi128_si256(_mm_shuffle_epi8(first, reverse_block()));
    let mut counter = _mm256_add_epi32(counter, _mm256_set_epi32(0, 0, 0, 2, 0, 0, 0, 1));
    let batches_len = len / BATCH_BYTES * BATCH_BYTES;
    let mut at = 0;
    if SEALS && batches_len > 0 {
        // SAFETY: the first batch lies in the caller's bytes; nothing is hashed yet.
        unsafe { batch::<ROUND_KEYS, false>(key, &mut counter, from, to, from, &mut hash) };
        at = BATCH_BYTES;
    }
    while at < batches_len {
        let (from, to) = (from.wrapping_add(at), to.wrapping_add(at));
        let hashed = if SEALS {
            to.wrapping_sub(BATCH_BYTES).cast_const()
        } else {
            from
        };
        // SAFETY: this batch lies in the caller's bytes, and the one before it when sealing.
        unsafe { batch::<ROUND_KEYS, true>(key, &mut counter, from, to, hashed, &mut hash) };
        at += BATCH_BYTES;
    }
    if SEALS && batches_len > 0 {
        // SAFETY: the last batch that was sealed lies in the caller's bytes.
        hash = unsafe { hash_batch(key, hash, to.wrapping_add(batches_len - BATCH_BYTES)) };
    }

    if at < len {
        let (from, to) = (from.wrapping_add(at), to.wrapping_add(at));
        // SAFETY: so many bytes are left of the caller's, fewer than a batch.
        unsafe { last_batch::<ROUND_KEYS, SEALS>(key, counter, from, to, len - at, &mut hash) };
    }

    let bits = |len: usize| (len as u64 * 8).cast_signed();
    // As the reversed block of u64be(bits of aad) || u64be(bits of body).
    let lengths = _mm_set_epi64x(bits(aad.len()), bits(len));
    hash = multiply(_mm_xor_si128(hash, lengths), hash_key(key));
    let tag = _mm_xor_si128(
        _mm_shuffle_epi8(hash, reverse_block()),
        encipher_block(&key.rounds, first),
    );
    store_block(tag)
}

/// Sixteen blocks through the cipher, and sixteen others, or the same before they are overwritten, into the hash.
///
/// # Safety
///
/// [`BATCH_BYTES`] are readable at `from` and, if it hashes, at `hashed`, and writable at `to`.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq")]
unsafe fn batch<const ROUND_KEYS: usize, const HASHES: bool>(
    key: &Key<ROUND_KEYS>,
    counter: &mut __m256i,
    from: *const u8,
    to: *mut u8,
    hashed: *const u8,
    hash: &mut __m128i,
) {
    let mut states = counters(key, counter);
    let mut sum = Product::zero();
    let mut round = 1;
    while round < ROUND_KEYS - 1 {
        for state in &mut states {
            *state = _mm256_aesenc_epi128(*state, key.rounds.keys[round]);
        }
        if HASHES && round <= VECTORS {
            // SAFETY: the caller's bytes.
            unsafe { sum.add(key, round - 1, hashed, *hash) };
        }
        round += 1;
    }
    if HASHES {
        *hash = sum.reduced();
    }
    for (at, state) in states.into_iter().enumerate() {
        let offset = at * 2 * BLOCK_BYTES;
        // SAFETY: the caller's bytes; `loadu` asks nothing of alignment.
        let bytes = unsafe { _mm256_loadu_si256(from.wrapping_add(offset).cast()) };
        // The last round ends in the addition of its key, here with the bytes in it.
        let last = _mm256_xor_si256(bytes, key.rounds.keys[ROUND_KEYS - 1]);
        let sum = _mm256_aesenclast_epi128(state, last);
        // SAFETY: the caller's bytes; `storeu` asks nothing of alignment.
        unsafe { _mm256_storeu_si256(to.wrapping_add(offset).cast(), sum) };
    }
}

/// The next counters, with the key before the first round added.
#[inline]
#[target_feature(enable = "avx2")]
fn counters<const ROUND_KEYS: usize>(
    key: &Key<ROUND_KEYS>,
    counter: &mut __m256i,
) -> [__m256i; VECTORS] {
    let two = _mm256_set_epi32(0, 0, 0, 2, 0, 0, 0, 2);
    let mut states = [_mm256_setzero_si256(); VECTORS];
    for state in &mut states {
        let block = _mm256_shuffle_epi8(*counter, reverse_blocks());
        *state = _mm256_xor_si256(block, key.rounds.keys[0]);
        *counter = _mm256_add_epi32(*counter, two);
    }
    states
}

/// What is left behind whole batches, as the end of one more.
///
/// # Safety
///
/// `len` bytes, from 1 to less than [`BATCH_BYTES`], are readable at `from` and writable at `to`.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq")]
unsafe fn last_batch<const ROUND_KEYS: usize, const SEALS: bool>(
    key: &Key<ROUND_KEYS>,
    counter: __m256i,
    from: *const u8,
    to: *mut u8,
    len: usize,
    hash: &mut __m128i,
) {
    let start = BATCH_BYTES - len.next_multiple_of(BLOCK_BYTES);
    let mut before = [_mm256_setzero_si256(); VECTORS];
    let place = before.as_mut_ptr().cast::<u8>().wrapping_add(start);
    // SAFETY: the caller's bytes; so many fit into the batch from `start` on.
    unsafe { core::ptr::copy_nonoverlapping(from, place, len) };
    // Counters of the zeros before them are nobody's, and so is what those are enciphered to.
    let skipped = (start / BLOCK_BYTES) as i32;
    let skipped = _mm256_set_epi32(0, 0, 0, skipped, 0, 0, 0, skipped);
    let mut states = counters(key, &mut _mm256_sub_epi32(counter, skipped));
    for round in 1..ROUND_KEYS - 1 {
        for state in &mut states {
            *state = _mm256_aesenc_epi128(*state, key.rounds.keys[round]);
        }
    }
    let mut after = [_mm256_setzero_si256(); VECTORS];
    for ((after, before), state) in after.iter_mut().zip(&before).zip(states) {
        let last = _mm256_xor_si256(*before, key.rounds.keys[ROUND_KEYS - 1]);
        *after = _mm256_aesenclast_epi128(state, last);
    }
    let place = after.as_ptr().cast::<u8>().wrapping_add(start);
    // SAFETY: the caller's bytes; they came from so many of the batch.
    unsafe { core::ptr::copy_nonoverlapping(place, to, len) };

    let sealed = if SEALS { &mut after } else { &mut before };
    let bytes = sealed.as_mut_ptr().cast::<u8>();
    if SEALS {
        let end = start + len;
        // SAFETY: both ranges lie in the batch.
        unsafe { bytes.write_bytes(0, start) };
        // SAFETY: as above.
        unsafe { bytes.wrapping_add(end).write_bytes(0, BATCH_BYTES - end) };
    }
    // The hash so far goes into the first block that counts.
    let first = bytes.wrapping_add(start).cast::<__m128i>();
    let earlier = _mm_shuffle_epi8(*hash, reverse_block());
    // SAFETY: a block lies there, since `len` is not 0; `loadu` asks nothing of alignment.
    let block = unsafe { _mm_loadu_si128(first) };
    let block = _mm_xor_si128(block, earlier);
    // SAFETY: as above.
    unsafe { _mm_storeu_si128(first, block) };
    let none = _mm_setzero_si128();
    // SAFETY: the array is a batch long.
    *hash = unsafe { hash_batch(key, none, bytes.cast_const()) };
    let plain = if SEALS { &mut before } else { &mut after };
    plain.zeroize();
}

/// # Safety
///
/// [`BATCH_BYTES`] are readable at `hashed`.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq")]
unsafe fn hash_batch<const ROUND_KEYS: usize>(
    key: &Key<ROUND_KEYS>,
    hash: __m128i,
    hashed: *const u8,
) -> __m128i {
    let mut sum = Product::zero();
    for at in 0..VECTORS {
        // SAFETY: the caller's bytes.
        unsafe { sum.add(key, at, hashed, hash) };
    }
    sum.reduced()
}

/// A sum of products before its reduction; a lane of each vector for every second block.
struct Product {
    low: __m256i,
    /// Of the sums of halves: `low` and `high` are still to be taken away.
    middle: __m256i,
    high: __m256i,
}

impl Product {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self {
            low: zero,
            middle: zero,
            high: zero,
        }
    }

    /// Adds two blocks of a batch, each times its power; the first two with the hash so far.
    ///
    /// # Safety
    ///
    /// [`BATCH_BYTES`] are readable at `hashed`.
    #[inline]
    #[target_feature(enable = "avx2,vpclmulqdq")]
    unsafe fn add<const ROUND_KEYS: usize>(
        &mut self,
        key: &Key<ROUND_KEYS>,
        at: usize,
        hashed: *const u8,
        hash: __m128i,
    ) {
        // SAFETY: the caller's bytes; `loadu` asks nothing of alignment.
        let bytes = unsafe { _mm256_loadu_si256(hashed.wrapping_add(at * 2 * BLOCK_BYTES).cast()) };
        let mut blocks = _mm256_shuffle_epi8(bytes, reverse_blocks());
        if at == 0 {
            blocks = _mm256_xor_si256(blocks, _mm256_zextsi128_si256(hash));
        }
        let power = key.powers[at];
        let sums = _mm256_xor_si256(blocks, _mm256_shuffle_epi32::<0x4e>(blocks));
        let low = _mm256_clmulepi64_epi128::<0x00>(blocks, power);
        let high = _mm256_clmulepi64_epi128::<0x11>(blocks, power);
        let middle = _mm256_clmulepi64_epi128::<0x00>(sums, key.sums[at]);
        self.low = _mm256_xor_si256(self.low, low);
        self.high = _mm256_xor_si256(self.high, high);
        self.middle = _mm256_xor_si256(self.middle, middle);
    }

    #[inline]
    #[target_feature(enable = "avx2,pclmulqdq")]
    fn reduced(&self) -> __m128i {
        let lanes = |wide: __m256i| {
            _mm_xor_si128(
                _mm256_castsi256_si128(wide),
                _mm256_extracti128_si256::<1>(wide),
            )
        };
        let (low, high) = (lanes(self.low), lanes(self.high));
        let middle = _mm_xor_si128(lanes(self.middle), _mm_xor_si128(low, high));
        reduce(low, middle, high)
    }
}

/// The product of two blocks, as POLYVAL's.
#[inline]
#[target_feature(enable = "avx2,pclmulqdq")]
fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let low = _mm_clmulepi64_si128::<0x00>(a, b);
    let high = _mm_clmulepi64_si128::<0x11>(a, b);
    let middle = _mm_xor_si128(
        _mm_clmulepi64_si128::<0x01>(a, b),
        _mm_clmulepi64_si128::<0x10>(a, b),
    );
    reduce(low, middle, high)
}

#[inline]
#[target_feature(enable = "avx2,pclmulqdq")]
fn reduce(low: __m128i, middle: __m128i, high: __m128i) -> __m128i {
    let polynomial = _mm_set_epi64x(0, 0xc200_0000_0000_0000_u64.cast_signed());
    let fold = |half: __m128i| {
        _mm_xor_si128(
            _mm_shuffle_epi32::<0x4e>(half),
            _mm_clmulepi64_si128::<0x00>(half, polynomial),
        )
    };
    let middle = _mm_xor_si128(middle, fold(low));
    _mm_xor_si128(high, fold(middle))
}

/// The hash after a block, or part of one that zeros fill up.
#[inline]
#[target_feature(enable = "avx2,pclmulqdq")]
fn hash_padded<const ROUND_KEYS: usize>(
    key: &Key<ROUND_KEYS>,
    hash: __m128i,
    part: &[u8],
) -> __m128i {
    let mut block = [0; BLOCK_BYTES];
    block[..part.len()].copy_from_slice(part);
    let block = _mm_shuffle_epi8(load_block(&block), reverse_block());
    multiply(_mm_xor_si128(hash, block), hash_key(key))
}

/// The first power, which is the last block's.
#[inline]
#[target_feature(enable = "avx2")]
fn hash_key<const ROUND_KEYS: usize>(key: &Key<ROUND_KEYS>) -> __m128i {
    _mm256_extracti128_si256::<1>(key.powers[VECTORS - 1])
}

#[target_feature(enable = "avx2,aes")]
fn encipher<const ROUND_KEYS: usize>(
    rounds: &Rounds<ROUND_KEYS>,
    block: &[u8; BLOCK_BYTES],
) -> [u8; BLOCK_BYTES] {
    store_block(encipher_block(rounds, load_block(block)))
}

#[inline]
#[target_feature(enable = "avx2,aes")]
fn encipher_block<const ROUND_KEYS: usize>(rounds: &Rounds<ROUND_KEYS>, block: __m128i) -> __m128i {
    let round = |at: usize| _mm256_castsi256_si128(rounds.keys[at]);
    let mut state = _mm_xor_si128(block, round(0));
    for at in 1..ROUND_KEYS - 1 {
        state = _mm_aesenc_si128(state, round(at));
    }
    _mm_aesenclast_si128(state, round(ROUND_KEYS - 1))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_block(bytes: &[u8; BLOCK_BYTES]) -> __m128i {
    // SAFETY: the reference covers 16 readable bytes; `loadu` asks nothing of alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_block(block: __m128i) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    // SAFETY: the array has 16 bytes; `storeu` asks nothing of alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), block) };
    bytes
}

#[inline]
#[target_feature(enable = "avx2")]
fn reverse_block() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

#[inline]
#[target_feature(enable = "avx2")]
fn reverse_blocks() -> __m256i {
    _mm256_broadcastsi128_si256(reverse_block())
}
