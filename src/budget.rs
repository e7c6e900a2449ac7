//! Divides a budget among members. Pure: std only.
