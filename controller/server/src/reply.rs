//! What strangers learn of errors: from ours to gRPC status codes, here and nowhere else.
//!
//! The command line turns `InvalidArgument`, `NotFound`, `AlreadyExists` and `FailedPrecondition` into "the request is
//! wrong" (exit status 2), everything else into "the controller is unavailable or refused" (6).

use crate::engine::EngineError;
use crate::groups::{ChangeError, SourceError, WhoError};
use crate::issuers::{IssueError, RequestError};
use crate::schedules::{MakeError, StandingsError};
use muster_core::target::{PingPlanError, SelectionError};
use muster_proto::seal::SealError;
use muster_proto::wire::WireError;
use muster_store::{
    AcceptError, AgentError, ApproveError, BlobError, EnrolError, GroupError, LoginError, OperatorError, PendingError,
    ResolveError, ScheduleError, StoreError,
};
use tonic::{Code, Status};
use tracing::error;

/// An error as a caller sees it. The texts are whole: our errors name what was wrong and what to do.
pub trait Reply {
    /// The status for it.
    fn reply(self) -> Status;
}

impl Reply for WireError {
    fn reply(self) -> Status {
        Status::invalid_argument(self.to_string())
    }
}

impl Reply for SelectionError {
    fn reply(self) -> Status {
        Status::invalid_argument(self.to_string())
    }
}

impl Reply for PingPlanError {
    fn reply(self) -> Status {
        Status::invalid_argument(self.to_string())
    }
}

impl Reply for WhoError {
    fn reply(self) -> Status {
        match self {
            Self::Selection(error) => error.reply(),
            Self::Ping(error) => error.reply(),
            Self::Parse(_) | Self::Resolve(_) => Status::invalid_argument(self.to_string()),
            Self::Source(SourceError::NoSources(_) | SourceError::Unknown { .. }) => {
                Status::invalid_argument(self.to_string())
            }
            Self::Source(_) | Self::Slow => Status::failed_precondition(self.to_string()),
            Self::Interrupted => Status::unavailable(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for ChangeError {
    fn reply(self) -> Status {
        match self {
            Self::Meaning(error) => error.reply(),
            Self::Unknown(_) => Status::invalid_argument(self.to_string()),
            Self::Used { .. } => Status::failed_precondition(self.to_string()),
            Self::Group(GroupError::Unknown(_)) => Status::not_found(self.to_string()),
            Self::Group(GroupError::TooMany | GroupError::TooLarge) => Status::failed_precondition(self.to_string()),
            Self::Group(GroupError::Store(error)) => error.reply(),
        }
    }
}

impl Reply for SealError {
    fn reply(self) -> Status {
        Status::permission_denied(self.to_string())
    }
}

impl Reply for RequestError {
    fn reply(self) -> Status {
        Status::invalid_argument(self.to_string())
    }
}

impl Reply for IssueError {
    fn reply(self) -> Status {
        error!(error = %self, "a certificate could not be issued");
        Status::internal("the certificate could not be issued: see the controller's log")
    }
}

impl Reply for StoreError {
    fn reply(self) -> Status {
        if !matches!(self, Self::Closed) {
            error!(error = %self, cause = ?std::error::Error::source(&self), "the store failed");
        }
        match self {
            // Nobody needs to try again.
            Self::Damaged(_) => Status::data_loss(self.to_string()),
            _ => Status::unavailable(self.to_string()),
        }
    }
}

impl Reply for EngineError {
    fn reply(self) -> Status {
        match self {
            Self::NoSuchJob(_) => Status::not_found(self.to_string()),
            Self::NotPausable(..) => Status::failed_precondition(self.to_string()),
            Self::Stopped(_) | Self::Waiting(_) => Status::unavailable(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for AcceptError {
    fn reply(self) -> Status {
        match self {
            Self::Duplicate => Status::already_exists(self.to_string()),
            Self::BlobGone => Status::failed_precondition(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for BlobError {
    fn reply(self) -> Status {
        let code = match self {
            Self::TooLarge | Self::DigestMismatch => Code::InvalidArgument,
            Self::Io(_) => Code::Unavailable,
        };
        Status::new(code, self.to_string())
    }
}

impl Reply for AgentError {
    fn reply(self) -> Status {
        match self {
            Self::Unknown(_) => Status::not_found(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for ResolveError {
    fn reply(self) -> Status {
        match self {
            Self::Unknown(_) => Status::not_found(self.to_string()),
            Self::NotQuarantined(_) | Self::Foreign => Status::failed_precondition(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for ApproveError {
    fn reply(self) -> Status {
        match self {
            Self::Unknown => Status::not_found(self.to_string()),
            Self::NameTaken(_) => Status::already_exists(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for EnrolError {
    fn reply(self) -> Status {
        match self {
            Self::NameTaken => Status::already_exists(self.to_string()),
            Self::TokenInvalid | Self::NotApproved => Status::permission_denied(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for PendingError {
    fn reply(self) -> Status {
        match self {
            Self::Full => Status::resource_exhausted(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for OperatorError {
    fn reply(self) -> Status {
        match self {
            Self::NameTaken(_) => Status::already_exists(self.to_string()),
            Self::Unknown(_) => Status::not_found(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for LoginError {
    fn reply(self) -> Status {
        match self {
            Self::CodeInvalid => Status::permission_denied(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for ScheduleError {
    fn reply(self) -> Status {
        match self {
            Self::Exists(_) => Status::already_exists(self.to_string()),
            Self::Unknown(_) => Status::not_found(self.to_string()),
            Self::TooMany => Status::failed_precondition(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}

impl Reply for MakeError {
    fn reply(self) -> Status {
        match self {
            Self::Every | Self::Endless | Self::Long(_) | Self::Pairs(_) => Status::invalid_argument(self.to_string()),
            Self::Plan(error) => error.reply(),
            Self::Schedule(error) => error.reply(),
        }
    }
}

impl Reply for StandingsError {
    fn reply(self) -> Status {
        match self {
            Self::Unknown(error) => error.reply(),
            Self::TooMany(_) => Status::invalid_argument(self.to_string()),
            Self::Store(error) => error.reply(),
        }
    }
}
