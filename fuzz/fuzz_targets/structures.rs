//! Every canonical TLV structure: no input panics a parser, and what is accepted has one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strand_protocol::{Grant, Invitation, Limit, Macaroon, ObjectHeader, Receipt};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(macaroon) = Macaroon::parse(bytes) {
        assert_eq!(macaroon.as_bytes(), bytes);
    }
    if let Ok(header) = ObjectHeader::decode(bytes)
        && let Ok(encoded) = header.encode()
    {
        assert!(ObjectHeader::decode(&encoded).is_ok());
    }
    let _ = Limit::parse(bytes);
    let _ = Receipt::parse(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Invitation::from_text(text);
        let _ = Grant::from_text(text);
    }
});
