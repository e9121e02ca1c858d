//! A whole node in virtual time.
