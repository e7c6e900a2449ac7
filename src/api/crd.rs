//! The definitions of the resources as files: what `mailrelay crd` prints and the folder `crds` holds.

use kube::{CustomResourceExt, Resource};

use super::{MailRelay, MailServer};

/// The definition of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The resource's name in the plural, such as `mailrelays`.
    pub plural: String,
    /// YAML.
    pub yaml: String,
}

/// The definitions of all resources, generated from the types of this module.
///
/// # Errors
/// When a definition cannot be written as YAML, which a test rules out.
pub fn definitions() -> Result<Vec<Definition>, serde_saphyr::ser::Error> {
    Ok(vec![definition::<MailRelay>()?, definition::<MailServer>()?])
}

fn definition<K: CustomResourceExt + Resource<DynamicType = ()>>() -> Result<Definition, serde_saphyr::ser::Error> {
    let definition = serde_json::to_value(K::crd()).map_err(|error| {
        <serde_saphyr::ser::Error as serde::ser::Error>::custom(format!("the definition is not JSON: {error}"))
    })?;
    Ok(Definition { plural: K::plural(&()).into_owned(), yaml: serde_saphyr::to_string(&definition)? })
}
