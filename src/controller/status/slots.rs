//! Numbers of slots as the API has them, whose integers are signed.

/// As a status shows it.
pub fn int(slots: u32) -> i32 {
    i32::try_from(slots).unwrap_or(i32::MAX)
}

/// As it is read back.
pub fn count(slots: i32) -> u32 {
    u32::try_from(slots).unwrap_or(0)
}
