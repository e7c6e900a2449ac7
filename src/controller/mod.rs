//! The controller: observe, plan, apply, status.
