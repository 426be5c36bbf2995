//! The description of the API, for people and generators.

use axum::Json;
use domicile_api::problem::CONTENT_TYPE;
use serde_json::{Map, Value, json};

/// Method, path, what it does, body, and whether the leader answers.
const OPERATIONS: [(&str, &str, &str, Option<&str>); 42] = [
    ("get", "/v1/status", "Who serves what now.", None),
    ("get", "/v1/regions", "All regions.", None),
    ("get", "/v1/cells", "All cells.", None),
    ("get", "/v1/cells/{id}", "One cell.", None),
    ("post", "/v1/cells/{id}/reprotect", "Builds the cell's standby: attached, rewound or anew.", None),
    (
        "post",
        "/v1/cells/{id}/close",
        "Takes a cell out of service where it is. Safe to repeat with an Idempotency-Key.",
        Some("CloseRequest"),
    ),
    (
        "post",
        "/v1/cells/{id}/open",
        "Puts a closed cell back into service, where its newest data is. Safe to repeat with an Idempotency-Key.",
        Some("OpenRequest"),
    ),
    (
        "post",
        "/v1/cells/{id}/trust-agent",
        "Believes the word of a cell's agent by the key that it shows now.",
        Some("TrustRequest"),
    ),
    ("get", "/v1/cells/{id}/witnesses", "Who vouches for a cell's holder, and what is wanted instead.", None),
    (
        "post",
        "/v1/cells/{id}/witnesses",
        "Wants other witnesses, named as soon as that is safe. Safe to repeat.",
        Some("RenewRequest"),
    ),
    ("delete", "/v1/cells/{id}/witnesses", "Wants no other witnesses any more.", None),
    ("get", "/v1/keys", "The keys that agents sign handovers with, and those that were revoked.", None),
    (
        "post",
        "/v1/keys/{id}/revoke",
        "Takes no handover any more that this key signed.",
        Some("ReasonRequest"),
    ),
    ("get", "/v1/tenants", "All tenants.", None),
    ("get", "/v1/tenants/{id}", "One tenant.", None),
    ("get", "/v1/tenants/{id}/route", "Where a request of the tenant goes now, and why.", None),
    (
        "post",
        "/v1/apply",
        "Brings the registry to what a regions.toml says. Moves nothing.",
        Some("ApplyRequest"),
    ),
    ("get", "/v1/archive", "What has left the registry, and who holds it.", None),
    (
        "get",
        "/v1/audit",
        "The audit log, newest first, what has left the registry included and checked. Query: limit, before, by, action.",
        None,
    ),
    ("post", "/v1/archive", "Lets what may leave the registry leave it now.", Some("ArchiveRequest")),
    ("post", "/v1/moves/plan", "What a move would do. Changes nothing.", Some("MoveRequest")),
    ("post", "/v1/moves", "Starts a move. Safe to repeat with an Idempotency-Key.", Some("MoveRequest")),
    ("get", "/v1/moves", "All moves, newest first.", None),
    ("get", "/v1/moves/{id}", "One move with its log and what was measured.", None),
    (
        "get",
        "/v1/moves/{id}/events",
        "Server-sent events: the move after each change, until it is over.",
        None,
    ),
    ("post", "/v1/moves/{id}/retry", "Lets a stuck move try its step again.", Some("RetryRequest")),
    ("post", "/v1/moves/{id}/rollback", "Turns a move back, before its intent to promote.", None),
    (
        "post",
        "/v1/moves/{id}/skip",
        "Ends a move whose new region serves, without the rest.",
        Some("ReasonRequest"),
    ),
    ("post", "/v1/moves/{id}/pause", "Stops a move before its next calm step.", Some("ReasonRequest")),
    ("post", "/v1/moves/{id}/resume", "Lets a paused move go on.", None),
    (
        "post",
        "/v1/moves/{id}/approve",
        "Approves what a move waits for, as its hash names it. Takes the role approver.",
        Some("ApproveRequest"),
    ),
    (
        "post",
        "/v1/moves/{id}/reject",
        "Ends a move that waits for approval. Takes the role approver.",
        Some("ReasonRequest"),
    ),
    ("post", "/v1/stop", "Emergency stop: no move starts or goes on.", Some("ReasonRequest")),
    ("delete", "/v1/stop", "Lifts the emergency stop.", None),
    ("post", "/v1/freezes", "No planned move of these cells in this window.", Some("FreezeRequest")),
    ("delete", "/v1/freezes/{id}", "Ends a freeze early.", None),
    (
        "post",
        "/v1/facts",
        "Takes a batch of what a router saw. Takes the role router, and the router's id as the name. Safe to repeat.",
        None,
    ),
    (
        "get",
        "/v1/facts/clock",
        "The time here, for routers that compare their clocks. Takes the role router.",
        None,
    ),
    (
        "get",
        "/v1/reports/rto",
        "What a move cost each tenant, by what routers saw. Query: move, tenant.",
        None,
    ),
    (
        "get",
        "/v1/reports/sla",
        "Service levels of a month, by what routers saw. Query: month, tenant, objective, until.",
        None,
    ),
    ("get", "/v1/moves/{id}/losses", "The transactions that a forced move lost.", None),
    (
        "post",
        "/v1/moves/{id}/losses/locate",
        "Where the lost rows of one tenant lie, encrypted. Takes the role losses, and is in the audit log.",
        Some("LocateRequest"),
    ),
];

/// The document.
pub(crate) async fn document() -> Json<Value> {
    Json(build())
}

fn build() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for (method, path, summary, body) in OPERATIONS {
        let mut operation = json!({
            "summary": summary,
            "responses": {
                "2XX": { "description": "Done, or what was asked for.", "content": { "application/json": {} } },
                "default": {
                    "description": "What went wrong, and what to do next.",
                    "content": { CONTENT_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
            },
        });
        if path.contains("{id}") {
            operation["parameters"] = json!([
                { "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }
            ]);
        }
        if let Some(body) = body {
            let schema = format!("#/components/schemas/{body}");
            operation["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": { "$ref": schema } } } });
        }
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Domicile control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Reads are answered by every control plane, changes are passed on to the leader. \
                503 means that nothing was done, 504 that it may have been; 507 that the registry's last room is kept for moves. Answers about the fleet carry Domicile-Age-Ms, \
                the age of the look at the registry that they rest on, and Domicile-Leader where a leader is known.",
        },
        "security": [{ "operator": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "operator": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let flag = json!({ "type": "boolean", "default": false });
    let count = json!({ "type": ["integer", "null"], "minimum": 0 });
    json!({
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": text, "title": text, "status": { "type": "integer" }, "detail": text, "hint": text,
                "mistakes": { "type": "array", "items": {
                    "type": "object",
                    "properties": { "line": { "type": ["integer", "null"] }, "what": text, "hint": text },
                } },
            },
        },
        "ApplyRequest": {
            "type": "object",
            "required": ["file", "text"],
            "properties": { "file": text, "text": text, "dry_run": flag, "prune": flag },
        },
        "ArchiveRequest": { "type": "object", "properties": { "dry_run": flag } },
        "MoveRequest": {
            "type": "object",
            "required": ["cell", "to"],
            "properties": {
                "cell": text, "to": text, "force": flag, "accept_loss": count, "accept_unknown": flag,
                "tenants": { "type": "array", "items": text }, "reason": text,
            },
        },
        "CloseRequest": {
            "type": "object",
            "required": ["reason"],
            "properties": { "reason": text, "dry_run": flag },
        },
        "OpenRequest": {
            "type": "object",
            "required": ["reason"],
            "properties": { "reason": text, "region": { "type": ["string", "null"] }, "dry_run": flag },
        },
        "ApproveRequest": {
            "type": "object",
            "required": ["hash"],
            "properties": { "hash": text, "reason": text },
        },
        "ReasonRequest": { "type": "object", "required": ["reason"], "properties": { "reason": text } },
        "FreezeRequest": {
            "type": "object",
            "required": ["until", "reason"],
            "properties": {
                "from": { "type": ["string", "null"], "format": "date-time" },
                "until": { "type": "string", "format": "date-time" },
                "cells": { "type": "array", "items": text }, "reason": text,
            },
        },
        "TrustRequest": {
            "type": "object",
            "required": ["region", "key"],
            "properties": { "region": text, "key": text, "reason": text },
        },
        "LocateRequest": {
            "type": "object",
            "required": ["reason"],
            "properties": { "tenant": { "type": ["string", "null"] }, "reason": text },
        },
        "RetryRequest": {
            "type": "object",
            "properties": {
                "accept_loss": count, "accept_unknown": flag,
                "destroyed": { "type": "array", "items": text }, "reason": text,
            },
        },
        "RenewRequest": {
            "type": "object",
            "required": ["reason"],
            "properties": {
                "without": { "type": "array", "items": text },
                "wait": flag, "reason": text, "dry_run": flag,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_api::moves::{
        ApproveRequest, CloseRequest, MoveRequest, OpenRequest, ReasonRequest, RetryRequest,
    };
    use domicile_api::views::{ApplyRequest, FreezeRequest, LocateRequest, TrustRequest};

    fn names(value: &Value) -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn the_document_names_every_field_that_is_taken() {
        let schemas = schemas();
        let apply = ApplyRequest { file: String::new(), text: String::new(), dry_run: false, prune: false };
        let start = MoveRequest {
            cell: "c".parse().unwrap(),
            to: "r".parse().unwrap(),
            force: false,
            accept_loss: None,
            accept_unknown: false,
            tenants: Vec::new(),
            reason: String::new(),
        };
        let freeze = FreezeRequest {
            from: None,
            until: jiff::Timestamp::UNIX_EPOCH,
            cells: [].into(),
            reason: String::new(),
        };
        let trust = TrustRequest { region: "r".parse().unwrap(), key: String::new(), reason: String::new() };
        let approve = ApproveRequest { hash: String::new(), reason: String::new() };
        for (name, value) in [
            (
                "CloseRequest",
                serde_json::to_value(CloseRequest { reason: String::new(), dry_run: false }).unwrap(),
            ),
            (
                "OpenRequest",
                serde_json::to_value(OpenRequest { reason: String::new(), region: None, dry_run: false })
                    .unwrap(),
            ),
            ("ApproveRequest", serde_json::to_value(approve).unwrap()),
            (
                "ArchiveRequest",
                serde_json::to_value(domicile_api::archive::ArchiveRequest::default()).unwrap(),
            ),
            ("TrustRequest", serde_json::to_value(trust).unwrap()),
            (
                "LocateRequest",
                serde_json::to_value(LocateRequest { tenant: None, reason: String::new() }).unwrap(),
            ),
            ("ApplyRequest", serde_json::to_value(apply).unwrap()),
            ("MoveRequest", serde_json::to_value(start).unwrap()),
            ("ReasonRequest", serde_json::to_value(ReasonRequest { reason: String::new() }).unwrap()),
            ("FreezeRequest", serde_json::to_value(freeze).unwrap()),
            ("RetryRequest", serde_json::to_value(RetryRequest::default()).unwrap()),
            (
                "RenewRequest",
                serde_json::to_value(domicile_api::witnesses::RenewRequest {
                    without: [].into(),
                    wait: false,
                    reason: String::new(),
                    dry_run: false,
                })
                .unwrap(),
            ),
        ] {
            assert_eq!(names(&schemas[name]["properties"]), names(&value), "{name}");
        }
    }
}
