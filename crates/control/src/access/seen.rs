//! Lists and counts have what a caller sees: the one place that says in which columns a kind of document
//! names what it belongs to.

use strongroom_catalog::{Document, Filter};

use crate::{
    model::{AlertDoc, ItemDoc, JobDoc, VaultDoc},
    rights::Sight,
};

/// A kind of document that is seen by those who see its vault or its item.
pub(crate) trait InSight: Document {
    /// The column with the vault's id.
    const VAULT: &'static str;
    /// The column with the item's id; none: it is of no item.
    const ITEM: Option<&'static str>;
}

impl InSight for VaultDoc {
    const VAULT: &'static str = "id";
    const ITEM: Option<&'static str> = None;
}

impl InSight for ItemDoc {
    const VAULT: &'static str = "vault";
    const ITEM: Option<&'static str> = Some("id");
}

impl InSight for JobDoc {
    const VAULT: &'static str = "vault";
    const ITEM: Option<&'static str> = Some("item");
}

impl InSight for AlertDoc {
    const VAULT: &'static str = "vault";
    const ITEM: Option<&'static str> = Some("item");
}

/// The documents of a kind that a caller sees.
pub(crate) fn seen<D: InSight>(sight: &Sight) -> Filter {
    let Sight::Some { vaults, items } = sight else { return Filter::all() };
    let in_vaults = || Filter::all().one_of(D::VAULT, vaults.iter().map(ToString::to_string));
    let of_items = |column| Filter::all().one_of(column, items.iter().map(ToString::to_string));
    match D::ITEM {
        Some(column) if vaults.is_empty() => of_items(column),
        Some(column) if !items.is_empty() => Filter::all().any([in_vaults(), of_items(column)]),
        Some(_) | None => in_vaults(),
    }
}
