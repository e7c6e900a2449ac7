//! What a pool was driven to when nothing was left to do.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    controller::plan::{PoolPlan, Standing},
    lease::BootTime,
};

/// What was so when nothing was left to do; while it is, the pool needs no look.
pub struct Settled {
    /// Its plan.
    pub plan: Arc<PoolPlan>,
    /// How it stood towards the others.
    pub standing: Standing,
    /// Whose shares were lent.
    pub lent: BTreeSet<String>,
    /// When a look is due all the same.
    pub until: BootTime,
}
