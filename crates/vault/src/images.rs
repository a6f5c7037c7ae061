//! The images of a recovery point. Every state is one, the machine's configuration too: what is kept,
//! checked and counted of a point is what its images need.

use std::collections::HashMap;

use strongroom_format::Manifest;
use strongroom_image::{Error, Image, NodeReader, Visitor, visit_new};

use crate::{VaultError, error::Result};

/// The configuration among the names of disks, of which none is empty.
pub const CONFIGURATION: &str = "";

/// The images of a point with the names of their disks; the configuration's comes last.
pub fn images(point: &Manifest) -> Result<Vec<(&str, Image)>> {
    let disks = point.disks.iter().map(|disk| (disk.name.as_str(), disk.size_bytes, disk.root));
    let configuration =
        point.configuration.iter().map(|it| (CONFIGURATION, it.image_size(), it.root));
    let image = |(name, size, root)| {
        let image = Image::new(size, root);
        let image = image.map_err(|_| VaultError::Bug("a manifest with an impossible size"))?;
        Ok((name, image))
    };
    disks.chain(configuration).map(image).collect()
}

/// Visits what the images of a point have and their namesakes among `before` have not; then the images are
/// those of `before`. So the points of an item, one after the other, cost their distinct nodes.
pub(crate) fn visit_images(
    point: &Manifest,
    before: &mut HashMap<String, Image>,
    reader: &impl NodeReader<Error = VaultError>,
    visitor: &mut impl Visitor<VaultError>,
) -> Result<()> {
    for (name, image) in images(point)? {
        let old = before.insert(name.to_owned(), image);
        visit_new(old, image, reader, visitor).map_err(|error| match error {
            Error::Store(error) => error,
            _ => VaultError::Lost {
                digest: image.root(),
                reason: format!("the tree of {} is damaged", title(name)),
            },
        })?;
    }
    Ok(())
}

/// What to call an image that is damaged.
pub(crate) fn title(name: &str) -> String {
    if name == CONFIGURATION { "the configuration".to_owned() } else { format!("disk {name}") }
}
