//! The relay's spec, as far as people edit it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    cluster::{ALIAS, SERVER},
    plan::{Edit, Plan},
};

/// What of the relay's spec changes.
#[derive(Clone, Debug)]
pub struct Spec {
    pub budget_name: Option<&'static str>,
    host: &'static str,
    port: u16,
    pub max: u32,
    session_timeout: Duration,
}

impl Spec {
    pub fn new(plan: &Plan) -> Self {
        Self { budget_name: None, host: SERVER, port: 25, max: plan.budget, session_timeout: plan.session_timeout }
    }

    /// The pool that it draws on.
    pub fn pool(&self) -> &'static str {
        self.budget_name.unwrap_or(self.host)
    }

    /// Changes it, or takes the change back.
    pub fn edit(&mut self, edit: Edit, plan: &Plan) {
        let other = |is: bool| !is;
        match edit {
            Edit::BudgetName => self.budget_name = self.budget_name.is_none().then_some("shared"),
            Edit::Host => self.host = if other(self.host == SERVER) { SERVER } else { ALIAS },
            Edit::Port => self.port = if other(self.port == 25) { 25 } else { 587 },
            Edit::MaxConnections => {
                self.max = if other(self.max == plan.budget) { plan.budget } else { plan.budget.div_ceil(2) };
            }
            Edit::SessionTimeout => {
                let short = other(self.session_timeout == plan.session_timeout);
                self.session_timeout = if short { plan.session_timeout } else { plan.session_timeout * 2 };
            }
        }
    }

    pub fn servers(&self, plan: &Plan) -> Value {
        let mut server = json!({
            "name": "primary", "host": self.host, "port": self.port, "tls": "None", "maxConnections": self.max,
            "sessionTimeout": format!("{}s", self.session_timeout.as_secs()),
            "maxMessagesPerConnection": plan.per_session,
            "closeGrace": format!("{}s", plan.close_grace.as_secs()),
        });
        if let Some(name) = self.budget_name {
            server["budgetName"] = json!(name);
        }
        json!([server])
    }
}
