//! The operator's configuration: which controllers there are, and who the user is there.
//!
//! One TOML file holds it all, keys included, so it is written with mode 0600. `muster-controller init` writes the
//! first context, `muster login` the others. Here is the form only; reading and writing files is left to the binaries.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The context that is used unless another is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All contexts by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// A controller, and an operator's identity there. `Debug` hides the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `HOST:PORT` of the operator listener.
    pub controller: String,
    /// The cluster's id.
    pub cluster: String,
    /// The operator's name.
    pub operator: String,
    /// The operator's certificate, PEM.
    pub certificate: String,
    /// The operator's key, PKCS#8 PEM: for TLS and for signing jobs.
    pub key: String,
    /// The CA of the cluster's controllers, PEM.
    pub controller_ca: String,
    /// The CA of the cluster's operators, PEM: signed jobs are verified before they are signed anew.
    pub operator_ca: String,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({} at {})", self.operator, self.controller)
    }
}

impl Config {
    /// Reads `config.toml`.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Writes `config.toml`.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

/// Where a running controller listens: `addresses.toml` in its state directory, written once all are bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// For agents.
    pub agents: std::net::SocketAddr,
    /// For operators.
    pub operators: std::net::SocketAddr,
    /// For enrolment and login.
    pub enrolment: std::net::SocketAddr,
}

impl Addresses {
    /// Reads `addresses.toml`.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Writes `addresses.toml`.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}
