//! Macaroons `SMC1`: bearer tokens that anybody can narrow and nobody can widen (docs/format.md,
//! section 5).
//!
//! [`token`] is the HMAC chain and its bytes, [`caveat`] what a caveat says and how it is written,
//! [`authority`] whether a request is allowed. There are no third-party caveats, and an unknown
//! caveat denies: it is refused when parsed, also with the optional bit set, since to skip a caveat
//! is to widen the token.
//!
//! The satellite calls [`Macaroon::authorize`] in one place for every request.

pub mod authority;
pub mod caveat;
pub mod token;

pub use authority::{Action, Denied, Operation};
pub use caveat::{Caveat, Operations};
pub use token::{Macaroon, MacaroonError};

#[cfg(test)]
mod tests;
