//! A machine's name and identities.

use roxmltree::Node;
use strongroom_base::{Entropy, EntropyExt as _};

use super::{Changes, Editor};
use crate::{
    Uuid,
    xml::{at, attribute, child, children},
};

impl Uuid {
    /// A new identity (version 4 of RFC 9562).
    pub fn random(entropy: &dyn Entropy) -> Self {
        let number = u128::from_be_bytes(entropy.array());
        let (version, variant) = (0xf_u128 << 76, 0b11_u128 << 62);
        let number = number & !version & !variant | 4 << 76 | 0b10 << 62;
        Self(number.to_be_bytes())
    }
}

pub(super) fn edit(
    editor: &mut Editor<'_>,
    root: Node<'_, '_>,
    changes: &Changes,
    entropy: &dyn Entropy,
) {
    let name = child(root, "name");
    if let (Some(node), Some(new)) = (name, &changes.name) {
        editor.set_text(node, new);
    }
    match (&changes.title, child(root, "title"), name) {
        (Some(new), Some(node), _) => editor.set_text(node, new),
        (Some(new), None, Some(name)) => {
            let title = format!("<title>{}</title>", editor.escaped(new));
            editor.insert_after(name, &title);
        }
        _ => {}
    }
    if let (Some(node), true) = (child(root, "genid"), changes.new_generation) {
        editor.set_text(node, &Uuid::random(entropy).to_string());
    }
    if let Some(uuid) = changes.uuid {
        set_uuid(editor, root, uuid);
    }
}

/// The identity, and the copy of it that the guest's firmware shows: libvirt refuses a machine
/// where they differ.
fn set_uuid(editor: &mut Editor<'_>, root: Node<'_, '_>, uuid: Uuid) {
    let text = uuid.to_string();
    if let Some(node) = child(root, "uuid") {
        editor.set_text(node, &text);
    }
    let Some(system) = at(root, &["sysinfo", "system"]) else { return };
    for entry in children(system, "entry") {
        if attribute(entry, "name").as_deref() == Some("uuid") {
            editor.set_text(entry, &text);
        }
    }
}
