//! A counting SMTP server.
