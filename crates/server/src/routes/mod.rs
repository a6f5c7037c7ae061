//! The API's paths: thin handlers, each with its place in the description.
//!
//! A handler takes apart what was sent, asks [`strongroom_control::Control`], and hands on what it
//! says. The extension `x-operation` names what a request takes in the table of rights.

#![allow(unused_qualifications, reason = "the attribute that describes a path writes such code")]

mod access;
mod accounts;
mod audit;
mod files;
mod hosts;
mod items;
mod jobs;
mod points;
mod policies;
mod server;
mod vaults;

use utoipa_axum::router::OpenApiRouter;

use crate::state::App;

/// The paths that anybody may ask.
pub(crate) fn public() -> OpenApiRouter<App> {
    server::public().merge(access::public())
}

/// The paths that take a token.
pub(crate) fn signed_in() -> OpenApiRouter<App> {
    server::signed_in()
        .merge(access::signed_in())
        .merge(vaults::routes())
        .merge(policies::routes())
        .merge(hosts::routes())
        .merge(items::routes())
        .merge(points::routes())
        .merge(files::routes())
        .merge(jobs::routes())
        .merge(accounts::routes())
        .merge(audit::routes())
}
