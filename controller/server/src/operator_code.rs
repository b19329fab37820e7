//! `muster-controller operator-code`: a login code from the controller's own machine, for when no operator can make one.
//!
//! Who can do this can read the operators' CA key, and so could make an operator anyway: it opens no new way in.

use crate::clock;
use crate::issuers::{IssueError, Issuers, IssuersError};
use crate::server::{BuildError, read_cluster, take};
use crate::settings::StateDir;
use muster_proto::name::OperatorName;
use muster_proto::token::{Token, TokenKind};
use muster_store::{NewOperator, OpenError, OperatorError, Store};
use std::time::Duration;

/// Time to start the controller and to log in.
pub const CODE_TTL: Duration = Duration::from_hours(1);

/// For whom, and where.
#[derive(Debug, Clone)]
pub struct OperatorCode {
    /// The state of a controller that is stopped: one process has its store open.
    pub state: StateDir,
    /// An operator who is not disabled, or a new one.
    pub operator: OperatorName,
    /// `HOST:PORT` under which that operator reaches the enrolment listener.
    pub address: String,
}

impl OperatorCode {
    /// Makes the code, good once and for [`CODE_TTL`]. It replaces one that was not used; the audit log has
    /// it as `operator.add` or `operator.renew` by `controller`.
    pub async fn run(self) -> Result<Token, OperatorCodeError> {
        let cluster = read_cluster(&self.state)?;
        let _lock = take(&self.state)?;
        let issuers = Issuers::load(&self.state.ca(), cluster)?;
        let code = issuers.token(TokenKind::Login, self.address)?;
        let now = clock::now();
        let operator = NewOperator {
            name: self.operator,
            code_hash: Token::hash(&code.secret),
            expires_at: now + CODE_TTL,
            at: now,
            actor: "controller".to_owned(),
        };
        let store = Store::open(self.state.path()).await?;
        let added = store.add_operator(operator).await;
        store.close().await;
        added?;
        Ok(code)
    }
}

/// No code was made.
#[derive(Debug, thiserror::Error)]
pub enum OperatorCodeError {
    /// The state is not there, not ours, or a controller runs on it.
    #[error(transparent)]
    State(#[from] BuildError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The name.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The issuers.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// The secret.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Init;
    use std::path::Path;

    fn request(dir: &Path, operator: &str) -> OperatorCode {
        let (state, address) = (StateDir::new(dir.join("state")), "c.example:7445".to_owned());
        OperatorCode { state, operator: operator.parse().expect("a name"), address }
    }

    async fn init(dir: &Path) {
        let init = Init {
            state: StateDir::new(dir.join("state")),
            operator: "ada".parse().expect("a name"),
            operator_validity: Duration::from_hours(1),
            config: dir.join("config.toml"),
            context: "default".to_owned(),
            address: "127.0.0.1:7444".to_owned(),
        };
        init.run().await.expect("a cluster");
    }

    #[tokio::test]
    async fn the_only_operator_gets_in_again() {
        let dir = tempfile::tempdir().expect("a directory");
        init(dir.path()).await;
        let unused = request(dir.path(), "ada").run().await.expect("a code");
        let code = request(dir.path(), "ada").run().await.expect("another code");
        assert_eq!((code.kind, &code.address[..]), (TokenKind::Login, "c.example:7445"));
        let stranger = request(dir.path(), "bob").run().await.expect("a code for somebody new");

        let store = Store::open(&dir.path().join("state")).await.expect("a store");
        let login = |code: &Token, at| store.login(Token::hash(&code.secret), [9; 32], at);
        assert!(login(&unused, clock::now()).await.is_err(), "the newer code replaces the older one");
        assert!(login(&code, clock::now() + CODE_TTL).await.is_err(), "it expires");
        assert_eq!(login(&code, clock::now()).await.expect("logged in").as_str(), "ada");
        assert_eq!(login(&stranger, clock::now()).await.expect("logged in").as_str(), "bob");
        let audit = store.audit(0, 10).await.expect("records");
        let actions: Vec<_> = audit.iter().map(|record| &record.entry.action[..]).collect();
        let renewed = ["operator.register", "operator.renew", "operator.renew", "operator.add"];
        assert_eq!(actions[..4], renewed);
        assert_eq!(audit[1].entry.actor, "controller");
    }

    #[tokio::test]
    async fn a_state_in_use_and_a_disabled_name_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = request(dir.path(), "ada").run().await.expect_err("nothing is there");
        assert!(matches!(error, OperatorCodeError::State(BuildError::NotInitialised(_))), "{error}");
        init(dir.path()).await;
        let lock = take(&request(dir.path(), "ada").state).expect("ours");
        let error = request(dir.path(), "ada").run().await.expect_err("a controller runs");
        assert!(error.to_string().contains("end it first"), "{error}");
        drop(lock);

        let store = Store::open(&dir.path().join("state")).await.expect("a store");
        let (at, actor, detail) = (clock::now(), String::new(), String::new());
        let audit = muster_store::AuditEntry { at, actor, action: "operator.disable".to_owned(), detail };
        store.disable_operator("ada".parse().expect("a name"), at, audit).await.expect("disabled");
        store.close().await;
        let error = request(dir.path(), "ada").run().await.expect_err("disabled");
        assert!(matches!(error, OperatorCodeError::Operator(OperatorError::NameTaken(_))), "{error}");
    }
}
