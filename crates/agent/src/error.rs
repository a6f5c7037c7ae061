//! Errors as they are sent.

use strongroom_api::ErrorBody;
use strongroom_base::{Coded, codes};

use crate::local::sources::Kind;

/// Any error of the catalog, to be sent.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn body<E: Coded + 'static>(error: E) -> Box<ErrorBody> {
    Box::new(ErrorBody::of(&error))
}

/// The error of work on a source: that the source itself is gone has a code of its own, and nothing
/// else has.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn of_source<E: Coded + 'static>(source: &dyn Kind, error: E) -> Box<ErrorBody> {
    let found = ErrorBody::of(&error);
    let code = error.code();
    let gone = [&codes::VM_NOT_FOUND, &codes::DISK_NOT_FOUND, &codes::BLOB_NOT_FOUND];
    if !gone.contains(&code) && *code != codes::CONTAINER_NOT_FOUND {
        return Box::new(found);
    }
    let mut missing = ErrorBody::from(source.gone(code));
    missing.causes.push(found.message);
    missing.causes.extend(found.causes);
    Box::new(missing)
}

#[cfg(test)]
mod tests {
    use strongroom_api::Source;
    use strongroom_disk::DiskError;
    use strongroom_hypervisor::HypervisorError;
    use strongroom_machine::MachineError;

    use super::*;

    #[test]
    fn only_what_is_gone_is_missing() {
        let machine = Source::Machine { uuid: String::new(), name: "web".to_owned() };
        let machine = crate::local::sources::of(&machine);
        let uri = "qemu:///system".to_owned();
        let gone = HypervisorError::NoDomain { uri: uri.clone(), name: "web".to_owned() };
        let gone = of_source(&*machine, MachineError::from(gone));
        assert_eq!(gone.code.as_str(), "source.missing");
        assert_eq!(gone.message, "machine web is not on this host any more");
        assert_eq!(gone.causes, ["qemu:///system has no machine \"web\""]);
        let disk = DiskError::NotFound { disk: "/a".to_owned() };
        let disk = of_source(&*machine, MachineError::from(disk));
        assert_eq!((disk.code.as_str(), disk.causes.len()), ("source.missing", 1));
        let silent = std::io::Error::from(std::io::ErrorKind::NotFound);
        let silent = HypervisorError::Connect { uri, source: silent };
        let silent = of_source(&*machine, silent);
        assert_eq!((silent.code.as_str(), silent.retryable), ("host.unavailable", true));
    }
}
