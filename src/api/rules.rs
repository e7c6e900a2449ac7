//! The rules of the definitions, judged without the API server: an object may have been stored before a rule existed.

use std::sync::LazyLock;

use kube::{
    CustomResourceExt, ResourceExt,
    core::cel::{CompiledSchema, Validator, compile_schema},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{MailRelay, MailServer};

static OF_RELAYS: LazyLock<Rules> = LazyLock::new(Rules::of::<MailRelay>);
static OF_SERVERS: LazyLock<Rules> = LazyLock::new(Rules::of::<MailServer>);

/// The rules of one kind. To compile them takes several times as long as to judge an object by them, and a new leader judges
/// all there are.
struct Rules {
    validator: Validator,
    schema: CompiledSchema,
}

impl Rules {
    fn of<K: CustomResourceExt>() -> Self {
        let schemas = K::crd().spec.versions.into_iter().find_map(|version| version.schema?.open_api_v3_schema);
        let schema = schemas.map_or(Value::Null, |schema| json!(schema));
        Self { validator: Validator::new(), schema: compile_schema(&schema) }
    }

    fn objection(&self, name: &str, spec: &impl Serialize) -> Option<String> {
        // What else an object has is the API server's or our own.
        let object = json!({ "metadata": { "name": name }, "spec": spec });
        self.validator.validate_compiled(&self.schema, &object, None).err().map(|errors| errors.to_string())
    }
}

impl MailRelay {
    /// The sentences of the rules that it breaks, each with the field; `None` when it breaks none.
    pub fn objection(&self) -> Option<String> {
        OF_RELAYS.objection(&self.name_any(), &self.spec)
    }
}

impl MailServer {
    /// The sentences of the rules that it breaks, each with the field; `None` when it breaks none.
    pub fn objection(&self) -> Option<String> {
        OF_SERVERS.objection(&self.name_any(), &self.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(name: &str, server: &Value) -> MailRelay {
        let object = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": { "name": name, "namespace": "n" }, "spec": { "servers": [server] },
        });
        serde_json::from_value(object).expect("a relay")
    }

    fn server(name: &str, spec: &Value) -> MailServer {
        let object = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailServer", "metadata": { "name": name }, "spec": spec,
        });
        serde_json::from_value(object).expect("a server")
    }

    #[test]
    fn an_object_is_judged_as_kube_judges_it() {
        let (host, endpoints) =
            (json!({ "name": "primary", "host": "mx" }), json!({ "endpoints": [{ "host": "mx" }] }));
        let long = "x".repeat(64);
        let relays = [
            relay("r", &host),
            relay(&long, &host),
            relay("r", &json!({ "name": "primary", "host": "mx", "closeGrace": "1h" })),
            relay("r", &json!({ "name": "primary" })),
        ];
        let by_kube = relays.each_ref().map(|relay| relay.validate_cel().err().map(|errors| errors.to_string()));
        assert_eq!(relays.each_ref().map(MailRelay::objection), by_kube);
        assert_eq!(by_kube.each_ref().map(Option::is_some), [false, true, true, true]);
        let servers = [
            server("s", &endpoints),
            server(&long, &endpoints),
            server("s", &json!({ "endpoints": [{ "host": "mx" }], "closeGrace": "1h" })),
        ];
        let by_kube = servers.each_ref().map(|server| server.validate_cel().err().map(|errors| errors.to_string()));
        assert_eq!(servers.each_ref().map(MailServer::objection), by_kube);
        assert_eq!(by_kube.each_ref().map(Option::is_some), [false, true, true]);
    }
}
