//! How large a mail may be.

/// How many recipients one mail may have: `to`, `cc` and `bcc` together. RFC 5321 section 4.5.3.1.8 lets every server
/// take 100 in one transaction.
pub const MAX_RECIPIENTS: usize = 100;

/// How large a composed message may be, in bytes: with files of 25 MiB in base64. Servers say how much they take (SIZE);
/// many take 25 to 35 MB.
pub const MAX_MESSAGE: usize = 36 * 1024 * 1024;

/// How large the JSON of a mail may be, in bytes.
pub const MAX_PAYLOAD: usize = 36 * 1024 * 1024;
