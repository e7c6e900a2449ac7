//! SMTP: one mail transaction at a time over a kept session.
