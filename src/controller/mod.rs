//! The controller: observe, plan, apply, status.

mod observe;
mod plan;
