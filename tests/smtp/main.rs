//! SMTP against the counting sink and a real Postfix.

mod corners;
mod early;
mod mails;
mod postfix;
mod resets;
mod sessions;
mod slow;
mod support;
