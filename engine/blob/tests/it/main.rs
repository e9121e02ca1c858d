//! The store on a simulated disk, from outside.

mod basics;
mod crash;
mod support;
