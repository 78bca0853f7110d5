//! Every way in which the API says no, with its status code, its stable word, and what to do.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_store::admin::AdminError;
use holdfast_store::apply::Refusal;
use holdfast_store::archive::Missing;
use holdfast_store::backend::WriteError;

use crate::node::event::Declined;
use crate::runtime::archives::ArchiveError;
use crate::runtime::recorder::RecordError;

/// Why a request was not answered as asked. Sorted by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    // The caller asks for something that does not exist.
    #[error("there is nothing under this path")]
    UnknownPath,
    #[error("this path exists, but not for this method; reading is GET, changing is POST")]
    WrongMethod,
    #[error("this version of Holdfast does not offer this yet")]
    NotInThisVersion,
    #[error("a witness has no log")]
    NoLog,
    #[error(
        "this member has no store: it is a witness, or `store {{ root_access_key }}` is missing in its configuration"
    )]
    NoStore,
    #[error("{0}")]
    NoSuchMember(String),

    // The caller must write the request differently.
    #[error("{0}")]
    BadRequest(String),
    #[error("a request body has at most {} bytes here", super::MAX_BODY_BYTES)]
    BodyTooLarge,

    // The caller may not do this, or not from there.
    #[error(
        "this is for operators and needs the API token: send `Authorization: Bearer TOKEN` (holdfast --token-file FILE); the token is in the `api` block of the agent's configuration"
    )]
    TokenWanted,
    #[error("{0}")]
    Forbidden(String),

    // The member refuses, and says what to do instead.
    #[error("{}", .0.message)]
    Declined(Declined),

    #[error("as many checks as may be run at a time are under way; ask again in some seconds")]
    Checking,

    #[error("{0}")]
    NotRecorded(#[from] RecordError),
    #[error("{0}")]
    Store(#[from] AdminError),
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    #[error("{0}")]
    NotOrdered(String),

    // The member is not well, or about to end.
    #[error("the agent is shutting down")]
    Ending,
    #[error("the agent's core did not answer within {within:?}; see its log: journalctl -u holdfast")]
    CoreSilent { within: Duration },
    #[error("the order was given, but its outcome is not known after {within:?}; see: holdfast ha status")]
    OutcomeUnknown { within: Duration },
    #[error("the audit trail cannot be checked: {0}")]
    TrailUnreadable(std::io::Error),
    #[error("the request was not complete within {within:?}")]
    TooSlow { within: Duration },
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            ApiError::UnknownPath | ApiError::NoLog | ApiError::NoStore | ApiError::NoSuchMember(_) => {
                StatusCode::NOT_FOUND
            }
            ApiError::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::NotInThisVersion => StatusCode::NOT_IMPLEMENTED,
            ApiError::BadRequest(_) => StatusCode::BAD_REQUEST,
            ApiError::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::TokenWanted => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden(_) => StatusCode::FORBIDDEN,
            ApiError::Declined(_) | ApiError::Checking | ApiError::NotRecorded(RecordError::Off) => {
                StatusCode::CONFLICT
            }
            ApiError::NotRecorded(RecordError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::NotRecorded(RecordError::Io { .. })
            | ApiError::TrailUnreadable(_)
            | ApiError::NotOrdered(_) => StatusCode::INTERNAL_SERVER_ERROR,
            ApiError::Ending | ApiError::CoreSilent { .. } | ApiError::OutcomeUnknown { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ApiError::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            ApiError::Archive(error) => match error {
                ArchiveError::Unknown(_) | ArchiveError::NoObject { .. } => StatusCode::NOT_FOUND,
                ArchiveError::Invalid(_) => StatusCode::BAD_REQUEST,
                ArchiveError::Busy(_) | ArchiveError::NoRoot | ArchiveError::Missing(Missing::Lost(_)) => {
                    StatusCode::CONFLICT
                }
                ArchiveError::Missing(Missing::Failed(_)) | ArchiveError::Io(_) => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
                ArchiveError::Ending => StatusCode::SERVICE_UNAVAILABLE,
            },
            ApiError::Store(error) => match error {
                AdminError::Invalid(_) => StatusCode::BAD_REQUEST,
                AdminError::Refused(Refusal::NoSuchUser | Refusal::NoSuchBucket) => StatusCode::NOT_FOUND,
                AdminError::Refused(_) | AdminError::NotServing(_) => StatusCode::CONFLICT,
                AdminError::Write(WriteError::DiskFull) => StatusCode::INSUFFICIENT_STORAGE,
                AdminError::Write(_) => StatusCode::SERVICE_UNAVAILABLE,
                AdminError::Index(_) | AdminError::NoRandom => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    fn code(&self) -> &'static str {
        match self {
            ApiError::UnknownPath => "unknown_path",
            ApiError::WrongMethod => "wrong_method",
            ApiError::NotInThisVersion => "not_in_this_version",
            ApiError::NoLog => "no_log",
            ApiError::BadRequest(_) => "bad_request",
            ApiError::BodyTooLarge => "body_too_large",
            ApiError::TokenWanted => "token_wanted",
            ApiError::Forbidden(_) => "forbidden",
            ApiError::Declined(declined) => declined.code,
            ApiError::Checking => "checking",
            ApiError::NotRecorded(RecordError::Off) => "recorder_off",
            ApiError::NotRecorded(RecordError::Busy) => "recorder_busy",
            ApiError::NotRecorded(RecordError::Io { .. }) => "recording_failed",
            ApiError::Ending => "ending",
            ApiError::CoreSilent { .. } => "core_silent",
            ApiError::OutcomeUnknown { .. } => "outcome_unknown",
            ApiError::TrailUnreadable(_) => "trail_unreadable",
            ApiError::TooSlow { .. } => "too_slow",
            ApiError::NotOrdered(_) => "not_ordered",
            ApiError::NoStore => "no_store",
            ApiError::NoSuchMember(_) => "no_such_member",
            ApiError::Archive(error) => match error {
                ArchiveError::Unknown(_) => "no_such_archive",
                ArchiveError::NoObject { .. } => "no_such_object",
                ArchiveError::Invalid(_) => "bad_request",
                ArchiveError::Busy(_) => "restoring",
                ArchiveError::NoRoot => "no_store",
                ArchiveError::Missing(_) => "not_readable",
                ArchiveError::Io(_) => "internal",
                ArchiveError::Ending => "ending",
            },
            ApiError::Store(error) => match error {
                AdminError::Invalid(_) => "bad_request",
                AdminError::Refused(Refusal::NoSuchUser) => "no_such_user",
                AdminError::Refused(Refusal::NoSuchBucket) => "no_such_bucket",
                AdminError::Refused(_) => "refused",
                AdminError::NotServing(_) => "not_primary",
                AdminError::Write(_) => "outcome_unknown",
                AdminError::Index(_) | AdminError::NoRandom => "internal",
            },
        }
    }
}

impl From<Declined> for ApiError {
    fn from(declined: Declined) -> ApiError {
        // The handle's own word for a core that is gone: nothing was weighed and refused.
        if declined.code == "ending" { ApiError::Ending } else { ApiError::Declined(declined) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"error": {"code": self.code(), "message": self.to_string()}});
        let mut response = (self.status(), Json(body)).into_response();
        if let ApiError::TokenWanted = self {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
