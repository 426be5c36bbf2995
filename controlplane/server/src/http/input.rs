//! What comes in: bounded, and refused with a sentence.

use axum::body::Body;
use domicile_api::problem::Problem;
use serde::de::DeserializeOwned;

use crate::http::problem::{Refusal, bad};

/// Largest body of an ordinary request, in bytes.
pub(crate) const SMALL: usize = 64 << 10;
/// Largest body of `apply`, in bytes: JSON around a file of at most 32 MiB.
pub(crate) const FILE: usize = 40 << 20;

/// The whole body.
pub(crate) async fn bytes(body: Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    axum::body::to_bytes(body, limit).await.map(Into::into).map_err(|e| {
        let too_large = std::error::Error::source(&e).is_some_and(|s| s.to_string().contains("length limit"));
        if too_large {
            Refusal::from(
                Problem::new("too-large", "Too large", 413, format!("the body is larger than {limit} bytes"))
                    .hint("send less"),
            )
        } else {
            bad("the body broke off")
        }
    })
}

/// The body as JSON.
pub(crate) async fn json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Refusal> {
    let bytes = bytes(body, limit).await?;
    serde_json::from_slice(&bytes).map_err(|e| bad(format!("the body is not what this path takes: {e}")))
}
