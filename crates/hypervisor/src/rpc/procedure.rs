//! The calls that we make, with their numbers in `remote_protocol.x` and `qemu_protocol.x`.

/// Program of `remote_protocol.x`.
const REMOTE: u32 = 0x2000_8086;
/// Program of `qemu_protocol.x`.
const QEMU: u32 = 0x2000_8087;

macro_rules! procedures {
    ($($name:ident = $program:ident $number:literal,)*) => {
        /// A call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Procedure { $($name),* }

        impl Procedure {
            /// The program that it belongs to.
            pub(super) const fn program(self) -> u32 {
                match self { $(Self::$name => $program),* }
            }

            /// Its number in that program.
            pub(super) const fn number(self) -> u32 {
                match self { $(Self::$name => $number),* }
            }
        }
    };
}

procedures! {
    ConnectOpen = REMOTE 1,
    ConnectGetVersion = REMOTE 4,
    ConnectGetCapabilities = REMOTE 7,
    ConnectGetHostname = REMOTE 59,
    AuthList = REMOTE 66,
    AuthPolkit = REMOTE 70,
    ConnectGetLibVersion = REMOTE 157,
    ConnectListAllDomains = REMOTE 273,
    ConnectListAllStoragePools = REMOTE 281,
    ConnectListAllNetworks = REMOTE 283,
    ConnectGetDomainCapabilities = REMOTE 342,
    ConnectCompareHypervisorCpu = REMOTE 393,
    DomainCreateXml = REMOTE 10,
    DomainGetXmlDesc = REMOTE 14,
    DomainGetAutostart = REMOTE 15,
    DomainLookupByName = REMOTE 23,
    DomainLookupByUuid = REMOTE 24,
    DomainResume = REMOTE 28,
    DomainSetAutostart = REMOTE 29,
    DomainShutdown = REMOTE 33,
    DomainSuspend = REMOTE 34,
    DomainIsPersistent = REMOTE 151,
    DomainAbortJob = REMOTE 164,
    DomainHasManagedSaveImage = REMOTE 183,
    DomainSnapshotGetXmlDesc = REMOTE 186,
    DomainGetBlockInfo = REMOTE 194,
    DomainCreateWithFlags = REMOTE 196,
    DomainScreenshot = REMOTE 211,
    DomainGetState = REMOTE 212,
    DomainUndefineFlags = REMOTE 231,
    DomainDestroyFlags = REMOTE 234,
    DomainBlockJobAbort = REMOTE 237,
    DomainGetBlockJobInfo = REMOTE 238,
    DomainListAllSnapshots = REMOTE 274,
    DomainGetJobStats = REMOTE 298,
    DomainBlockCopy = REMOTE 345,
    DomainDefineXmlFlags = REMOTE 350,
    DomainCheckpointCreateXml = REMOTE 411,
    DomainCheckpointGetXmlDesc = REMOTE 412,
    DomainListAllCheckpoints = REMOTE 413,
    DomainCheckpointDelete = REMOTE 417,
    DomainBackupBegin = REMOTE 421,
    DomainBackupGetXmlDesc = REMOTE 422,
    NetworkCreateXml = REMOTE 40,
    NetworkDestroy = REMOTE 42,
    NetworkGetXmlDesc = REMOTE 43,
    StoragePoolRefresh = REMOTE 83,
    StoragePoolLookupByName = REMOTE 84,
    StoragePoolGetXmlDesc = REMOTE 88,
    StorageVolLookupByName = REMOTE 95,
    StorageVolGetInfo = REMOTE 98,
    StorageVolGetPath = REMOTE 100,
    SecretLookupByUuid = REMOTE 141,
    SecretDefineXml = REMOTE 142,
    SecretGetXmlDesc = REMOTE 143,
    SecretSetValue = REMOTE 144,
    SecretGetValue = REMOTE 145,
    SecretUndefine = REMOTE 146,
    SecretLookupByUsage = REMOTE 147,
    QemuDomainAgentCommand = QEMU 3,
}
