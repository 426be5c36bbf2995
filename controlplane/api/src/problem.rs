//! Errors as RFC 9457 problem details, `application/problem+json`.

use serde::{Deserialize, Serialize};

/// The media type.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// What went wrong, where, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, thiserror::Error)]
#[error("{title}: {detail}")]
pub struct Problem {
    /// Stable, for programs: `https://domicile.dev/problems/<kind>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short, the same for every problem of this type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, in a sentence.
    pub detail: String,
    /// What to do next, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// All mistakes of an input, when there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<Mistake>,
}

/// One mistake in a file that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Mistake {
    /// Line, from 1; none if the mistake has no place.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Problem {
    /// Where the types of problems live.
    pub const BASE: &str = "https://domicile.dev/problems/";

    /// A problem of this kind (the last part of its type).
    #[must_use]
    pub fn new(kind: &str, title: &str, status: u16, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{}{kind}", Self::BASE),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            hint: None,
            mistakes: Vec::new(),
        }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
