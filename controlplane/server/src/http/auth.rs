//! Who calls, and whether that one may do this.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domicile_api::problem::Problem;
use http::header;

use crate::app::App;
use crate::http::problem::Refusal;
use crate::operators::{Operator, Role, Roles};

/// Lets only operators through, and says to the handlers who it is.
pub(crate) async fn operator(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let token = given.and_then(|v| v.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    let operators = app.roster.now();
    let why = match token {
        None => "no operator token came with the request (`Authorization: Bearer …`)",
        Some((_, token)) => match operators.whose(token.trim()) {
            Some((operator, roles)) => {
                request.extensions_mut().insert(operator);
                request.extensions_mut().insert(roles);
                request.extensions_mut().insert(operators);
                return next.run(request).await;
            }
            None => "the operator token that came with the request is not known here",
        },
    };
    app.metrics.unauthorized.inc();
    let problem = Problem::new(
        "unauthorized",
        "Not authorized",
        401,
        format!("{why}; control plane {}", app.name),
    )
    .hint(
        "compare its SHA-256 (printf %s \"$TOKEN\" | sha256sum) with the file that this control plane was given as --tokens; \
         the file is read again when it changes",
    );
    Refusal::from(problem).into_response()
}

/// Lets only those through who may change things. Asked where the change is made: the leader's file decides.
pub(crate) async fn changes(request: Request, next: Next) -> Response {
    needs(Role::Operator, request, next).await
}

/// Lets only those through who may approve.
pub(crate) async fn approves(request: Request, next: Next) -> Response {
    needs(Role::Approver, request, next).await
}

/// Lets only those through who may learn where lost rows lie.
pub(crate) async fn reads_losses(request: Request, next: Next) -> Response {
    needs(Role::Losses, request, next).await
}

/// Lets only routers through, who tell facts.
pub(crate) async fn tells(request: Request, next: Next) -> Response {
    needs(Role::Router, request, next).await
}

/// Lets everybody through but those who are routers and nothing else: they may not look.
pub(crate) async fn people(request: Request, next: Next) -> Response {
    if request.extensions().get::<Roles>().is_some_and(|roles| roles.is_only(Role::Router)) {
        return needs(Role::Viewer, request, next).await;
    }
    next.run(request).await
}

async fn needs(role: Role, request: Request, next: Next) -> Response {
    if request.extensions().get::<Roles>().is_some_and(|roles| roles.has(role)) {
        return next.run(request).await;
    }
    let who = request.extensions().get::<Operator>().map_or("nobody", |o| &*o.0);
    let problem =
        Problem::new("forbidden", "Not allowed", 403, format!("{who} may not do this: it takes the role `{role}`"))
            .hint(format!(
                "whoever keeps the operators' file (--tokens) can give it: `{who} SHA-256 {role}`; several roles are joined by commas"
            ));
    Refusal::from(problem).into_response()
}
