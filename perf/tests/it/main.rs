//! End-to-end tests of the real programs as processes, and the house rules.

mod bad_input;
mod crash;
mod demo;
mod stop;
mod support;
mod tidy;
mod transfer;
