//! The controller: observe, plan, apply, status.

mod apply;
mod leader;
mod observe;
mod plan;
mod shares;
