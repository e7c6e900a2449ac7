//! The definition of the resource as a file: what `mailrelay crd` prints and `crds/mailrelays.yaml` holds.

use kube::CustomResourceExt;

use super::MailRelay;

/// The definition of the resource `MailRelay` as YAML, generated from the types of this module.
///
/// # Errors
/// When the definition cannot be written as YAML, which a test rules out.
pub fn crd_yaml() -> Result<String, serde_saphyr::ser::Error> {
    let definition = serde_json::to_value(MailRelay::crd()).map_err(|error| {
        <serde_saphyr::ser::Error as serde::ser::Error>::custom(format!("the definition is not JSON: {error}"))
    })?;
    serde_saphyr::to_string(&definition)
}
