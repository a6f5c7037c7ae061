//! The images of a recovery point. Every state is one, the machine's configuration too: what is kept,
//! checked and counted of a point is what its images need.

use strongroom_format::Manifest;
use strongroom_image::Image;

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

/// What to call an image that is damaged.
pub(crate) fn title(name: &str) -> String {
    if name == CONFIGURATION { "the configuration".to_owned() } else { format!("disk {name}") }
}
