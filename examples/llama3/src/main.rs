//! A recipe of a user.

fn main() {}
