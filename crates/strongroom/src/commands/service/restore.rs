//! `restore` through the service.

use strongroom_api::Restore;

use crate::{context::Context, error::Failure, values::Point};

use super::{
    common::{find_item, restore_words},
    point::find_point,
};

/// Begins a restore.
pub(crate) fn restore(
    context: &Context,
    (item, vault): (&str, Option<&str>),
    point: Point,
    restore: &Restore,
    wait: bool,
) -> Result<(), Failure> {
    let client = context.client()?;
    let item = find_item(&client, item, vault)?;
    let point = find_point(&client, &item, point)?;
    let begun = client.restore(&item, &point, restore)?;
    context.out.say(&format!("The server restores {}", restore_words(restore)));
    context.begun(&client, &begun, wait)
}
