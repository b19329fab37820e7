//! Operators and the tokens they hand out.

use super::{OperatorDoor, audit};
use crate::clock;
use crate::reply::Reply as _;
use muster_proto::fleet::OperatorInfo;
use muster_proto::name::OperatorName;
use muster_proto::token::{Token, TokenKind};
use muster_proto::wire;
use muster_store::{NewOperator, NewToken};
use std::time::Duration;
use tonic::Status;

/// A token lasts this long unless the operator says otherwise.
const TOKEN_TTL: Duration = Duration::from_hours(1);
/// The longest life of a token or code: whoever finds an old one must not get in.
const TTL_MAX: Duration = Duration::from_hours(24 * 30);

pub(super) fn who_am_i(door: &OperatorDoor, operator: &OperatorName) -> Result<wire::WhoAmIReply, Status> {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(wire::WhoAmIReply {
        cluster: door.issuers.cluster().as_bytes().to_vec().into(),
        operator: operator.to_string(),
        controller_version: env!("CARGO_PKG_VERSION").to_owned(),
        connected: count(door.sessions.len()),
        enrolled: count(door.roster.everybody().len()),
        operator_ca_on_controller: true,
    })
}

fn ttl(millis: u64) -> Result<Duration, Status> {
    match Duration::from_millis(millis) {
        Duration::ZERO => Ok(TOKEN_TTL),
        span if span > TTL_MAX => Err(Status::invalid_argument("the longest --ttl is 30 days")),
        span => Ok(span),
    }
}

fn token(door: &OperatorDoor, kind: TokenKind, address: String) -> Result<Token, Status> {
    let token = door.issuers.token(kind, address);
    token.map_err(|_| Status::unavailable("the system has no random numbers: try again"))
}

pub(super) async fn create_token(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::CreateTokenRequest,
) -> Result<wire::CreateTokenReply, Status> {
    let labels = wire::labels_of(&request.labels).map_err(|error| error.reply())?;
    let uses = request.uses.max(1);
    let expires_at = clock::now() + ttl(request.ttl_ms)?;
    let token = token(door, TokenKind::Join, String::new())?;
    let new = NewToken {
        hash: Token::hash(&token.secret),
        labels,
        uses,
        expires_at,
        operator: operator.clone(),
        audit: audit(operator, "token.create", format!("{uses} uses")),
    };
    door.store.create_token(new).await.map_err(|error| error.reply())?;
    Ok(wire::CreateTokenReply { token: token.to_string(), expires_at_ms: expires_at.as_millis() })
}

/// A new operator, or a new code for one who needs another key or certificate: a name stays with its person.
pub(super) async fn add_operator(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::AddOperatorRequest,
) -> Result<wire::AddOperatorReply, Status> {
    let name: OperatorName = request.name.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
    let expires_at = clock::now() + ttl(request.ttl_ms)?;
    // The host is where the operator reaches the controller; whoever hands out the code knows it.
    let code = token(door, TokenKind::Login, format!(":{}", door.enrolment_port))?;
    let new = NewOperator {
        name: name.clone(),
        code_hash: Token::hash(&code.secret),
        expires_at,
        at: clock::now(),
        actor: format!("operator/{operator}"),
    };
    door.store.add_operator(new).await.map_err(|error| error.reply())?;
    Ok(wire::AddOperatorReply { code: code.to_string(), expires_at_ms: expires_at.as_millis() })
}

pub(super) async fn list_operators(door: &OperatorDoor) -> Result<wire::ListOperatorsReply, Status> {
    let operators = door.store.operators().await.map_err(|error| error.reply())?;
    Ok(wire::ListOperatorsReply { operators: operators.into_iter().map(Into::into).collect() })
}

pub(super) async fn disable_operator(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::DisableOperatorRequest,
) -> Result<wire::DisableOperatorReply, Status> {
    let name: OperatorName = request.name.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
    keep_one(door, &name).await?;
    let record = audit(operator, "operator.disable", name.to_string());
    let (door, actor) = (door.clone(), record.actor.clone());
    // All of it, even if the caller does not wait: what is stored must also be done.
    let disabled = tokio::spawn(async move {
        door.store.disable_operator(name.clone(), clock::now(), record).await.map_err(|error| error.reply())?;
        door.dismiss(&name);
        door.engine.stop_jobs_of(&name, &actor).await;
        Ok(wire::DisableOperatorReply {})
    });
    disabled.await.unwrap_or_else(|_| Err(Status::internal("this was interrupted: repeat it")))
}

/// Somebody must remain who can sign: a slip must not lock everybody out.
async fn keep_one(door: &OperatorDoor, leaving: &OperatorName) -> Result<(), Status> {
    let operators = door.store.operators().await.map_err(|error| error.reply())?;
    let active = |operator: &&OperatorInfo| operator.login_at.is_some() && operator.disabled_at.is_none();
    let mut active = operators.iter().filter(active).map(|operator| &operator.name);
    if active.next() == Some(leaving) && active.next().is_none() {
        return Err(Status::failed_precondition(format!(
            "{leaving} is the last operator who can sign: add another first with `muster operator add`, and let them log in"
        )));
    }
    Ok(())
}
