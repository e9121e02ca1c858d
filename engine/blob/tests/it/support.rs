//! A store on a simulated disk, and pieces to put into it: the crate's own, which others use as well.

pub(crate) use strand_blob::testing::world::*;
