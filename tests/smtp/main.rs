//! SMTP against the counting sink and a real Postfix.

mod mails;
mod postfix;
mod sessions;
mod support;
