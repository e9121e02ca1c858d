//! The piece store alone, on a simulated disk.
